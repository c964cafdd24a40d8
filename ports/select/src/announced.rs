//! What the host announces to this machine by its port's own means, where it has any: constructs that the machine may see, with no daemon in between.

use anyhow::Context;
use std::collections::BTreeMap;
use vshmem_port_xen::directory;
use vshmem_port_xen::here::Here;
use vshmem_wire::Kind;

/// A construct as it is announced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Announced {
    /// What it is.
    pub kind: Kind,
    /// Its id.
    pub id: i32,
    /// What there is to say of it: `key`, `mode`, `uid`, `gid`, `domain`, `bytes`.
    pub said: BTreeMap<String, String>,
}

/// All that are announced to this machine.
///
/// # Errors
/// If this machine has no such means, or they do not answer.
pub fn announced() -> anyhow::Result<Vec<Announced>> {
    let here = Here::default();
    here.on_xen()
        .context("constructs are announced to guests of Xen alone")?;
    Ok(directory::read()?
        .iter()
        .filter_map(|(place, said)| understood(place, said))
        .collect())
}

/// Places and words that are not understood are left out: another version may have written them.
fn understood(place: &str, said: &str) -> Option<Announced> {
    let (kind, id) = directory::at(place)?;
    let words = said.split_whitespace().filter_map(|word| word.split_once('='));
    let said = words.map(|(name, value)| (name.to_owned(), value.to_owned()));
    Some(Announced {
        kind,
        id,
        said: said.collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_is_read_word_by_word() {
        let place = directory::place(Kind::Sem, 1 << 30 | 300);
        let found = understood(&place, "key=0x1234 mode=600 new").unwrap();
        assert_eq!((found.kind, found.id), (Kind::Sem, 1 << 30 | 300));
        assert_eq!(found.said["key"], "0x1234");
        assert_eq!(found.said.len(), 2);
        for wrong in ["", "sem", "sem/00/x", "file/00/7", "sem/00/7/8"] {
            assert_eq!(understood(wrong, "key=1"), None, "{wrong}");
        }
    }

    #[test]
    fn a_machine_without_such_means_is_told_so() {
        if Here::default().on_xen().is_err() {
            assert!(format!("{:#}", announced().unwrap_err()).contains("guests of Xen alone"));
        }
    }
}
