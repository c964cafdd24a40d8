//! A descriptor for one mapping of granted pages: a gntdev of its own, in which every extent is prepared at the place that follows from the order.
//!
//! Opened for reading only where that is all that is allowed: then mmap and mprotect for writing give EACCES, whatever the grant would let a domain do.

use crate::devices::{self, DomId};
use crate::here::Here;
use anyhow::{Context, bail};
use rustix::fd::OwnedFd;
use vshmem_port::store::PAGE;
use vshmem_wire::{Memory, Window};

/// Opens one, and says in `memory` how to map it.
pub(crate) fn open(here: &Here, memory: &mut Memory) -> anyhow::Result<OwnedFd> {
    let Some(grants) = memory.grants.take() else {
        bail!("the back-end says nothing of grants: it serves a group of another kind of memory");
    };
    let from = DomId::try_from(grants.from).context("the domain that grants")?;
    if grants.len() != memory.bytes() / PAGE {
        bail!("{} grants for {} pages", grants.len(), memory.bytes() / PAGE);
    }
    let path = here.device("gntdev")?;
    let device =
        devices::open(&path, memory.writable).with_context(|| format!("opening {}", path.display()))?;
    let mut references = grants.references();
    let mut expected = 0;
    for extent in &memory.extents {
        let pages = (extent.bytes / PAGE) as usize;
        let own: Vec<u32> = references.by_ref().take(pages).collect();
        let at = devices::map_references(&device, from, &own)
            .with_context(|| format!("preparing {pages} pages"))?;
        if at != expected {
            bail!("gntdev prepared pages at {at:#x}, not {expected:#x}");
        }
        expected += extent.bytes;
    }
    memory.window = Window::InOrder;
    Ok(device)
}
