//! Which keys and ids are Vshmem's and which are the kernel's.
//!
//! Keys: `VSHMEM_KEYS`, else what the daemon's configuration says for this domain, else all of them. The text is a list of keys and ranges,
//! `0x1000-0x1fff,42,private`; IPC_PRIVATE is Vshmem's only if `private` is listed. `all` and `none` say what they say.
//!
//! Ids: every id of Vshmem has bit 30 set, but the kernel's ids span the whole range too. So ids without the bit are the kernel's, and of those with
//! it the ones that the kernel gave this process (or the ones it was forked from).

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use vshmem_runtime::{Result, Runtime};
use vshmem_wire::{ID_BIT, Kind};

#[derive(Debug, Default, PartialEq, Eq)]
struct Routes {
    all: bool,
    private: bool,
    ranges: Vec<(u32, u32)>,
}

static ROUTES: OnceLock<Routes> = OnceLock::new();

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text
            .parse::<i64>()
            .ok()
            .and_then(|n| u32::try_from(n).or(i32::try_from(n).map(|n| n as u32)).ok()),
    }
}

fn parse(text: &str) -> Routes {
    let mut routes = Routes::default();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        match part {
            "all" => {
                routes.all = true;
                routes.private = true;
            }
            "none" => {}
            "private" => routes.private = true,
            _ => {
                let range = match part.split_once('-').filter(|(low, _)| !low.is_empty()) {
                    Some((low, high)) => number(low).zip(number(high)),
                    None => number(part).map(|key| (key, key)),
                };
                match range {
                    Some(range) => routes.ranges.push(range),
                    None => {
                        vshmem_runtime::error!("keys: `{part}` is neither a key nor a range of keys: ignored")
                    }
                }
            }
        }
    }
    routes
}

fn everything() -> Routes {
    Routes {
        all: true,
        private: true,
        ranges: Vec::new(),
    }
}

fn routes() -> Result<&'static Routes> {
    if let Some(known) = ROUTES.get() {
        return Ok(known);
    }
    let keys = match vshmem_runtime::config::keys() {
        Some(keys) => Some(keys),
        None => Runtime::global().connect()?.keys,
    };
    let made = keys
        .filter(|keys| !keys.trim().is_empty())
        .map_or_else(everything, |keys| parse(&keys));
    Ok(ROUTES.get_or_init(|| made))
}

/// Whether the key is Vshmem's.
pub(crate) fn key_is_ours(key: i32) -> Result<bool> {
    let routes = routes()?;
    Ok(match key {
        libc::IPC_PRIVATE => routes.private,
        key => {
            routes.all
                || routes
                    .ranges
                    .iter()
                    .any(|&(low, high)| (low..=high).contains(&(key as u32)))
        }
    })
}

/// Whether no key at all is the kernel's.
pub(crate) fn all_is_ours() -> bool {
    routes().is_ok_and(|routes| routes.all)
}

// Ids of the kernel that look like ours: a list that only grows, read without a lock.

const MOST: usize = 256;
static COUNT: AtomicUsize = AtomicUsize::new(0);
static IDS: [AtomicU64; MOST] = [const { AtomicU64::new(0) }; MOST];

fn packed(kind: Kind, id: i32) -> u64 {
    (kind as u64 + 1) << 32 | u64::from(id as u32)
}

/// Whether the id is Vshmem's.
#[inline(always)]
pub(crate) fn id_is_ours(kind: Kind, id: i32) -> bool {
    let count = COUNT.load(Ordering::Acquire);
    id >= 0 && id & ID_BIT != 0 && (count == 0 || !is_kernels(kind, id, count))
}

#[cold]
fn is_kernels(kind: Kind, id: i32, count: usize) -> bool {
    let wanted = packed(kind, id);
    IDS[..count.min(MOST)]
        .iter()
        .any(|known| known.load(Ordering::Acquire) == wanted)
}

/// The kernel gave this id to the process.
pub(crate) fn kernel_gave(kind: Kind, id: i32) {
    if id < 0 || id & ID_BIT == 0 || is_kernels(kind, id, COUNT.load(Ordering::Acquire)) {
        return;
    }
    let at = COUNT.fetch_add(1, Ordering::AcqRel);
    match IDS.get(at) {
        Some(free) => free.store(packed(kind, id), Ordering::Release),
        None => vshmem_runtime::error!(
            "the kernel gave more than {MOST} ids that look like Vshmem's: {id} will be misunderstood"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_numbers_ranges_and_words() {
        let routes = parse("0x1000-0x1fff, 42,private, -1");
        assert_eq!(routes.ranges, [(0x1000, 0x1fff), (42, 42), (u32::MAX, u32::MAX)]);
        assert!(routes.private && !routes.all);
        assert_eq!(parse("all"), everything());
        assert_eq!(parse("none"), Routes::default());
    }

    #[test]
    fn ids_of_the_kernel_are_remembered() {
        let id = ID_BIT | 77;
        assert!(id_is_ours(Kind::Sem, id));
        assert!(!id_is_ours(Kind::Sem, 77));
        kernel_gave(Kind::Sem, id);
        assert!(!id_is_ours(Kind::Sem, id));
        assert!(id_is_ours(Kind::Msg, id));
    }
}
