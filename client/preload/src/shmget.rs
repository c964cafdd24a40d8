//! shmget(2).
#![allow(unsafe_code)] // A C function by name.

use crate::{kernel, routes};
use vshmem_abi::edge;
use vshmem_runtime::Runtime;
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
extern "C" fn shmget(key: i32, size: usize, flags: i32) -> i32 {
    edge::call_int(|| {
        if routes::key_is_ours(key)? {
            return Runtime::global().shmget(key, size, flags);
        }
        let id = kernel::pass(libc::SYS_shmget, [key as usize, size, flags as usize, 0, 0]) as i32;
        routes::kernel_gave(Kind::Shm, id);
        Ok(id)
    })
}
