//! Which keys and ids are Vshmem's and which are the kernel's.
//!
//! Keys: `VSHMEM_KEYS`, else what the daemon's configuration says for this domain, else all of them. See [`Keys`].
//!
//! Ids: those of Vshmem have bit 30 set, but the kernel's ids span the whole range too. So the kernel's are, of those with the bit, the ones that it gave
//! this process (or the ones it was forked from), and of those without it all but the ones that Vshmem was asked for (`shm_next_id`): the daemon knows them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use vshmem_runtime::keys::Keys;
use vshmem_runtime::{Result, Runtime};
use vshmem_wire::{ID_BIT, Kind};

static ROUTES: OnceLock<Keys> = OnceLock::new();

fn routes() -> Result<&'static Keys> {
    if let Some(known) = ROUTES.get() {
        return Ok(known);
    }
    let keys = match vshmem_runtime::config::keys() {
        Some(keys) => Some(keys),
        None => Runtime::global().connect()?.keys,
    };
    Ok(ROUTES.get_or_init(|| Keys::parse(keys.as_deref())))
}

/// Whether the key is Vshmem's.
pub(crate) fn key_is_ours(key: i32) -> Result<bool> {
    Ok(routes()?.contain(key))
}

/// Whether no key at all is the kernel's.
pub(crate) fn all_is_ours() -> bool {
    routes().is_ok_and(Keys::are_all)
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
    match id & ID_BIT != 0 {
        true => id >= 0 && (count == 0 || !is_kernels(kind, id, count)),
        false => id >= 0 && was_asked_for(kind, id),
    }
}

#[cold]
fn was_asked_for(kind: Kind, id: i32) -> bool {
    Runtime::global().has_low_id(kind, id)
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
    fn ids_of_the_kernel_are_remembered() {
        let id = ID_BIT | 77;
        assert!(id_is_ours(Kind::Sem, id));
        assert!(!id_is_ours(Kind::Sem, 77));
        kernel_gave(Kind::Sem, id);
        assert!(!id_is_ours(Kind::Sem, id));
        assert!(id_is_ours(Kind::Msg, id));
    }
}
