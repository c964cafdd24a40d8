//! semget(2).
#![allow(unsafe_code)] // A C function by name.

use crate::{kernel, routes};
use vshmem_abi::edge;
use vshmem_runtime::Runtime;
use vshmem_wire::Kind;

#[unsafe(no_mangle)]
extern "C" fn semget(key: i32, nsems: i32, flags: i32) -> i32 {
    edge::call_int(|| {
        if routes::key_is_ours(key)? {
            return Runtime::global().semget(key, nsems, flags);
        }
        let id = kernel::pass(
            libc::SYS_semget,
            [key as usize, nsems as usize, flags as usize, 0, 0],
        ) as i32;
        routes::kernel_gave(Kind::Sem, id);
        Ok(id)
    })
}
