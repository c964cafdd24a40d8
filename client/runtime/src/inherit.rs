//! Segments whose mapping a forked child does not inherit: the child maps them anew, at the same addresses, before it runs on.
//!
//! The parent gets the descriptors before it forks, so that the child has nothing to ask anybody. What was attached whole, or cut into pieces that still lie side by
//! side, is mapped again with each piece's protection; of what has holes the child has nothing. A child that `_Fork` or a raw clone made has none of it either.
#![allow(unsafe_code)] // Maps memory over addresses.

use crate::control::State;
use crate::map;
use crate::pieces::Piece;
use rustix::fd::{AsFd, OwnedFd};
use rustix::mm::{MprotectFlags, ProtFlags};
use std::time::Duration;
use vshmem_wire::{Extent, Memory, Reply, Request};

/// How long the daemon may take for each descriptor.
const PATIENCE: Duration = Duration::from_secs(1);

/// One segment that a child is to map.
#[derive(Debug)]
pub(crate) struct Anew {
    pieces: Vec<Piece>,
    extents: Vec<Extent>,
    memory: Memory,
    from: OwnedFd,
}

impl State {
    /// Before a fork: descriptors for the child.
    pub(crate) fn prepare_mappings(&mut self) {
        self.childs_mappings.clear();
        if !self.not_inherited {
            return;
        }
        for pieces in self.segments.by_attachment() {
            let Some(first) = pieces.first().copied() else {
                continue;
            };
            let writable = pieces.iter().any(Piece::is_writable);
            let request = Request::ShmAgain {
                id: first.id,
                writable,
            };
            match self.request_for(&request, &[], Some(PATIENCE)) {
                Ok((Reply::Attached { memory, segsz }, mut descriptors)) => {
                    let needed = crate::shm::needed(memory, segsz);
                    if let (Ok((memory, bytes)), Some(from)) = (needed, descriptors.pop())
                        && Piece::are_whole(&pieces, bytes)
                    {
                        self.childs_mappings.push(Anew {
                            extents: memory.extents.clone(),
                            pieces,
                            memory,
                            from: crate::socket::high(from),
                        });
                    } else {
                        crate::debug!("segment {} has holes: a forked child does not have it", first.id);
                    }
                }
                Ok(_) => {}
                Err(failure) => crate::debug!(
                    "a forked child will not have segment {}: errno {} {}",
                    first.id,
                    failure.errno,
                    failure.why
                ),
            }
        }
    }

    /// In the child: maps them.
    pub(crate) fn map_anew(&mut self) {
        for anew in std::mem::take(&mut self.childs_mappings) {
            let Some(at) = anew.pieces.first().map(|piece| piece.at) else {
                continue;
            };
            let mut protection = ProtFlags::READ;
            protection.set(ProtFlags::WRITE, anew.memory.writable);
            let at = std::ptr::with_exposed_provenance_mut::<u8>(at);
            // SAFETY: the parent had the segment there, the child has nothing there, and nothing has run in the child that could have mapped anything.
            let mapped = unsafe {
                map::extents(
                    at,
                    &anew.extents,
                    anew.memory.window,
                    anew.from.as_fd(),
                    protection,
                )
            };
            if let Err(errno) = mapped {
                crate::error!("a segment is lost in a forked child: errno {}", errno.0);
                continue;
            }
            for piece in anew.pieces {
                if let Some(other) = piece.other_than(protection.bits() as i32) {
                    let wanted = MprotectFlags::from_bits_retain(other as u32);
                    // SAFETY: as it was in the parent.
                    let _ = unsafe {
                        rustix::mm::mprotect(
                            std::ptr::with_exposed_provenance_mut(piece.at),
                            piece.bytes,
                            wanted,
                        )
                    };
                }
            }
        }
    }
}
