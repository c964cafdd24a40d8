//! Where construct memory comes from, by shape: the back-end's side.

use std::io;
use vshmem_port::store::Store;
use vshmem_port_local::{MemfdStore, PoolStore};

/// One sparse file of `bytes` bytes for all constructs of a group, which guests can be shown whole.
///
/// # Errors
/// If it cannot be made.
pub fn pool_store(bytes: u64) -> io::Result<Box<dyn Store>> {
    Ok(Box::new(PoolStore::new(bytes)?))
}

/// A file for each construct: processes of this kernel alone, each reaching only what it attached.
pub fn file_store() -> Box<dyn Store> {
    Box::new(MemfdStore::new())
}
