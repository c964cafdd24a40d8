//! What a front-end inside a domain needs of its port.

use crate::direct::DirectBells;
use rustix::fd::OwnedFd;
use vshmem_wire::pool::PoolHeader;
use vshmem_wire::{Memory, Window};

/// Lines of their own for waking, beside the stream, so that neither the waker's front-end nor the sleeper's stands in the way.
#[derive(Debug)]
pub struct Bells {
    /// Clients get this to write rings to (`vshmem_wire::bell`), which the back-end reads. Raw, for writing, non-blocking. Nothing comes in by it.
    /// Whatever clients do to it, rings of others may at worst get lost.
    pub ring: OwnedFd,
    /// Bells 1, 2, …: the back-end writes a byte to ring one. Raw, for reading, non-blocking. The front-end alone has these; clients get an epoll instance
    /// that has one in it.
    pub lines: Vec<OwnedFd>,
}

/// Memory that was there and is not there any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// What was pulled, and what to do.
    pub why: String,
    /// Stands in the paths of its mappings, in `/proc/PID/maps`, and in no others'.
    pub mapped: String,
}

/// A port, seen from inside a domain.
pub trait GuestPort: Send {
    /// The port's name.
    fn name(&self) -> &'static str;
    /// Whether this machine is a domain of this port; the error says what is missing and what to do about it.
    fn detect(&self) -> anyhow::Result<()>;
    /// The byte stream to the back-end, raw and non-blocking.
    fn stream(&self) -> anyhow::Result<OwnedFd>;
    /// Whether the stream is a connection that ends when nobody has it open, and not a device that is opened again: then the front-end's keeper holds it, too.
    fn stream_ends_with_its_holder(&self) -> bool {
        false
    }
    /// The domain's bells, if it has any; called once, by a front-end that does not have them from a former life. A port without bells keeps this default:
    /// its domains are rung by the stream.
    ///
    /// # Errors
    /// If the machine was given bells that cannot be used.
    fn bells(&self) -> anyhow::Result<Option<Bells>> {
        Ok(None)
    }
    /// Bells by which this domain and others ring each other with nobody in between, if the port has such; with `former`, those that a former life of the front-end
    /// had ([`DirectBells::descriptors`]).
    ///
    /// # Errors
    /// If they cannot be had: what is missing and what to do.
    fn direct_bells(&self, former: Vec<OwnedFd>) -> anyhow::Result<Option<Box<dyn DirectBells>>> {
        drop(former);
        Ok(None)
    }
    /// Told once the back-end has said which pools those of the domain's groups are: finds each among the memories that this machine was given. A port that
    /// can have only one keeps this default.
    ///
    /// # Errors
    /// If one of them is not there: the text says what there is and what to do.
    fn choose(&mut self, pools: &[PoolHeader]) -> anyhow::Result<()> {
        match pools {
            [] | [_] => Ok(()),
            several => {
                let names: Vec<&str> = several.iter().map(|pool| pool.group.as_str()).collect();
                anyhow::bail!(
                    "this domain is in groups {}, and a guest of port {} is shown one pool: have the configuration name one group for it",
                    names.join(", "),
                    self.name()
                )
            }
        }
    }
    /// Memory that was chosen and has been taken out of the running machine since. Asked again and again. A port whose memory stays as long as the machine runs keeps
    /// this default.
    fn pulled(&self) -> Option<Pulled> {
        None
    }
    /// What stands in the paths of mappings of this domain's memory, in `/proc/PID/maps`, and in no others'. Nothing where other mappings of this kernel look the same.
    fn mapped(&self) -> Vec<String> {
        Vec::new()
    }
    /// A pool as this domain reaches it, for a client, open for writing or not, and how to map it: the one at this place among those that were told. Before any
    /// was told, 0 is the only one there is.
    fn window(&self, pool: usize, writable: bool) -> anyhow::Result<(OwnedFd, Window)>;
    /// Whether clients are given windows. Else each mapping has a descriptor of its own, by [`GuestPort::open`], and there are none.
    fn has_window(&self) -> bool {
        true
    }
    /// A descriptor for one mapping of what the back-end granted, and in `memory` how to map it.
    ///
    /// # Errors
    /// If there is none to be had.
    fn open(&self, memory: &mut Memory) -> anyhow::Result<OwnedFd> {
        let (descriptor, window) = self.window(0, memory.writable)?;
        memory.window = window;
        memory.grants = None;
        Ok(descriptor)
    }
}
