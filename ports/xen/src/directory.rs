//! Constructs in Xenstore, where every guest finds those that it may see.
//!
//! Each guest has a tree of its own, in the part of Xenstore that goes with it, which dom0 writes and it alone may read:
//!
//! ```text
//! /local/domain/NUMBER/vshmem/constructs/KIND/SLOTS/ID = "key=0x1234 mode=600 uid=0 gid=0 domain=a bytes=4096"
//! ```
//!
//! `KIND` is `shm`, `sem` or `msg`. `SLOTS` is the upper byte of the id's slot, in hexadecimal, so that no directory has more than 256 entries. It is written by a thread
//! of its own, a moment after what it tells of: nobody waits for Xenstore. Not for permission: whether somebody may use what he found, the back-end says.

use crate::devices::DomId;
use crate::here::Here;
use crate::xenstore::Xenstore;
use anyhow::{Context, bail};
use std::collections::BTreeMap;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use vshmem_wire::Kind;

/// Below a guest's own part.
const TREE: &str = "vshmem/constructs";
/// The longest value: Xenstore takes about 2 KB with its path.
const LONGEST: usize = 1024;

/// What one guest may see: place below its tree, and what stands there.
pub type Entries = BTreeMap<String, String>;

/// What all guests may see.
pub type Seen = BTreeMap<DomId, Entries>;

/// Where a construct stands.
#[must_use]
pub fn place(kind: Kind, id: i32) -> String {
    let kind = match kind {
        Kind::Shm => "shm",
        Kind::Sem => "sem",
        Kind::Msg => "msg",
    };
    format!("{kind}/{:02x}/{id}", (id as u32 >> 8) & 0x7f)
}

/// What stands at a place, if it is one.
#[must_use]
pub fn at(place: &str) -> Option<(Kind, i32)> {
    let (kind, rest) = place.split_once('/')?;
    let kind = match kind {
        "shm" => Kind::Shm,
        "sem" => Kind::Sem,
        "msg" => Kind::Msg,
        _ => return None,
    };
    let (_, id) = rest.split_once('/')?;
    Some((kind, id.parse().ok()?))
}

/// Writes what guests may see, in a thread of its own.
#[derive(Debug)]
pub struct Directory {
    /// One list at a time: whoever has a newer one comes again.
    lists: Option<SyncSender<Seen>>,
    writer: Option<JoinHandle<()>>,
}

impl Directory {
    /// Begins. What a former life wrote is found and brought up to date.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn start() -> anyhow::Result<Self> {
        let (lists, taken) = sync_channel(1);
        let writer = std::thread::Builder::new()
            .name("vshmem-names".into())
            .spawn(move || write_all(&taken))
            .context("a thread that writes names")?;
        Ok(Directory {
            lists: Some(lists),
            writer: Some(writer),
        })
    }

    /// Ends for good: what was written is taken away from guests that go on.
    pub fn end(&mut self) {
        if let Some(lists) = self.lists.take() {
            // Without a writer nobody can.
            let _ = lists.send(Seen::new());
        }
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }

    /// Has a list written, unless the writer is still at another one.
    #[must_use]
    pub fn write(&self, seen: Seen) -> bool {
        let Some(lists) = &self.lists else {
            return true;
        };
        match lists.try_send(seen) {
            // Without a writer there is nothing to come again for.
            Ok(()) | Err(TrySendError::Disconnected(_)) => true,
            Err(TrySendError::Full(_)) => false,
        }
    }
}

/// What stands in a guest's tree.
#[derive(Debug, Default)]
struct Written {
    /// The guest's name, by which another guest of that number is told from it.
    name: String,
    entries: Entries,
}

fn write_all(lists: &Receiver<Seen>) {
    let mut written: BTreeMap<DomId, Written> = BTreeMap::new();
    let mut failed = String::new();
    while let Ok(seen) = lists.recv() {
        let done = Xenstore::open(&Here::default()).and_then(|mut xenstore| {
            let left: Vec<DomId> = written
                .keys()
                .filter(|domain| !seen.contains_key(domain))
                .copied()
                .collect();
            for domain in left {
                let former = written.remove(&domain).unwrap_or_default();
                forget(&mut xenstore, domain, &former)?;
            }
            seen.iter()
                .map(|(&domain, entries)| {
                    write_one(&mut xenstore, domain, entries, written.entry(domain).or_default())
                })
                .fold(Ok(()), Result::and)
        });
        let why = done.err().map(|why| format!("{why:#}")).unwrap_or_default();
        if !why.is_empty() && why != failed {
            tracing::warn!("constructs cannot be listed in Xenstore; they work all the same: {why}");
        }
        failed = why;
    }
}

/// Takes away what was written for a guest that is in no group any more. By now its number may be another guest's, or another back-end may write there: only what
/// stands there as it was written.
fn forget(xenstore: &mut Xenstore, domain: DomId, written: &Written) -> anyhow::Result<()> {
    for (place, value) in &written.entries {
        let path = format!("/local/domain/{domain}/{TREE}/{place}");
        if xenstore.read(&path)?.as_ref() == Some(value) {
            xenstore.remove(&path)?;
        }
    }
    Ok(())
}

fn write_one(
    xenstore: &mut Xenstore,
    domain: DomId,
    entries: &Entries,
    written: &mut Written,
) -> anyhow::Result<()> {
    let home = format!("/local/domain/{domain}");
    // Nothing is written for a guest that is gone: it would stand there for ever.
    let Some(name) = xenstore.read(&format!("{home}/name"))? else {
        return Ok(());
    };
    let tree = format!("{home}/{TREE}");
    if written.name != name {
        // A tree of a former life, or none: begun anew, and nobody else's before anything stands in it.
        xenstore.remove(&tree)?;
        xenstore.write(&tree, "")?;
        xenstore.permit(&tree, &["n0", &format!("r{domain}")])?;
        *written = Written {
            name,
            entries: Entries::new(),
        };
    }
    let gone: Vec<String> = written
        .entries
        .keys()
        .filter(|place| !entries.contains_key(*place))
        .cloned()
        .collect();
    for place in gone {
        xenstore.remove(&format!("{tree}/{place}"))?;
        written.entries.remove(&place);
    }
    for (place, value) in entries {
        if written.entries.get(place) != Some(value) {
            let value: String = value.chars().take(LONGEST).collect();
            xenstore.write(&format!("{tree}/{place}"), &value)?;
            written.entries.insert(place.clone(), value);
        }
    }
    Ok(())
}

/// What dom0 lets this guest see.
///
/// # Errors
/// Xenstore's, or if there is none.
pub fn read() -> anyhow::Result<Entries> {
    let here = Here::default();
    if here.is_dom0().is_ok() {
        bail!("this is dom0, which announces constructs to guests and none to itself");
    }
    let mut xenstore = Xenstore::open(&here)?;
    let mut found = Entries::new();
    for kind in xenstore.list(TREE)? {
        for slots in xenstore.list(&format!("{TREE}/{kind}"))? {
            for id in xenstore.list(&format!("{TREE}/{kind}/{slots}"))? {
                let place = format!("{kind}/{slots}/{id}");
                // One that was removed since is none.
                if let Some(value) = xenstore.read(&format!("{TREE}/{place}"))? {
                    found.insert(place, value);
                }
            }
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn no_directory_has_more_entries_than_xenstore_takes() {
        let mut directories: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
        for slot in 0..1 << 15 {
            let id = 1 << 30 | 3 << 15 | slot;
            let place = place(Kind::Shm, id);
            let (directory, name) = place.rsplit_once('/').unwrap();
            assert_eq!(name, id.to_string());
            assert_eq!(at(&place), Some((Kind::Shm, id)));
            directories.entry(directory.to_owned()).or_default().insert(id);
        }
        assert_eq!(directories.len(), 128);
        assert!(directories.values().all(|ids| ids.len() == 256));
    }

    #[test]
    fn a_writer_that_is_busy_is_come_back_to() {
        let (lists, taken) = sync_channel(1);
        let directory = Directory {
            lists: Some(lists),
            writer: None,
        };
        assert!(directory.write(Seen::new()));
        assert!(!directory.write(Seen::new()));
        assert!(taken.recv().is_ok());
        assert!(directory.write(Seen::new()));
    }
}
