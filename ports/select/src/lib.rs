//! The one crate that names the ports and picks among them.
//!
//! | module | what it holds |
//! |---|---|
//! | `announced` | constructs that the host announces to this machine by its port's own means |
//! | `bells` | the host's bells, where domains ring each other with nobody in between |
//! | `boot` | the ports that start machines of their own, by name |
//! | `device` | the ports whose machines somebody else may start |
//! | `guest` | the port of a front-end, by name or by looking around |
//! | `store` | where construct memory comes from |
//! | `survey` | which ports work here, and what to do about those that do not |

mod announced;
mod bells;
mod boot;
mod device;
mod guest;
mod store;
mod survey;

pub use announced::{Announced, announced};
pub use bells::{GRANTING, HOST_MACHINE, direct_bells, machine_named};
pub use boot::{BOOTABLE, LINED, boot, inside, joins_by, line, most_pools};
pub use device::{SERVED, STREAM_PORT, device_server, flags, port_of, readers, stream_server};
pub use guest::{GUESTS, STREAMS, guest, local_guest};
pub use store::{Ahead, file_store, grant_store, huge_page_sizes, huge_page_store, pool_store};
pub use survey::{Finding, devices, slow_memory, survey, vsock_for_machines, vsock_program};
