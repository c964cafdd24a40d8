//! Where construct memory comes from, by shape: the back-end's side.

use std::io;
use std::os::fd::OwnedFd;
use vshmem_port::store::Store;
use vshmem_port_local::{MemfdStore, PoolStore};
use vshmem_port_xen::holder::GrantStore;

pub use vshmem_port_xen::holder::Ahead;

/// One sparse file of `bytes` bytes for all constructs of a group, which guests can be shown whole; with memory of a NUMA node, or of any.
///
/// # Errors
/// If it cannot be made, and if there is no such node.
pub fn pool_store(bytes: u64, node: Option<u32>) -> io::Result<Box<dyn Store>> {
    let pool = PoolStore::new(bytes)?;
    if let Some(node) = node {
        pool.bind(node)?;
    }
    Ok(Box::new(pool))
}

/// Pages of this machine that are granted to other machines one construct at a time: `bytes` bytes at most, or with a former life's `record` what it had.
///
/// # Errors
/// If this machine can grant nothing: the text says what is missing and what to do.
pub fn grant_store(bytes: u64, ahead: Ahead, record: Option<OwnedFd>) -> anyhow::Result<Box<dyn Store>> {
    Ok(Box::new(match record {
        Some(record) => GrantStore::again(record, ahead)?,
        None => GrantStore::new(bytes, ahead)?,
    }))
}

/// Sizes of this kernel's huge pages, as powers of two, the default first.
pub fn huge_page_sizes() -> Vec<u8> {
    vshmem_port_local::huge::page_sizes()
}

/// A file of huge pages, of two to the power of `huge` bytes each, for each construct: processes of this kernel alone.
pub fn huge_page_store(huge: u8) -> Box<dyn Store> {
    Box::new(MemfdStore::of_huge_pages(huge))
}

/// A file for each construct: processes of this kernel alone, each reaching only what it attached.
pub fn file_store() -> Box<dyn Store> {
    Box::new(MemfdStore::new())
}
