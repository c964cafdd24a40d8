//! The root that a guest's kernel begins with, in memory: the guest's first process, the libraries it needs, and the modules by which the host's tree is reached.
//!
//! [`make`] is for the host, [`leave`] for the guest. Not for kernels that mount the host's tree by themselves.

mod leave;
mod make;

pub use leave::{is_here, leave};
pub use make::make;

/// The folder by which the first process knows that it is here.
const FOLDER: &str = "vshmem-boot";
/// In it: the host's path of the first process.
const INIT: &str = "init";
/// In it: modules, in the order of their names.
const MODULES: &str = "modules";
/// The folder where the host's tree is mounted.
const HOST: &str = "host";
