//! Giving memory back to the system that the allocator keeps for later: after many constructs or clients have gone, and when nothing goes on.
#![allow(unsafe_code)] // malloc_trim is a C function.

/// Things gone that are worth giving their memory back.
const MANY: u32 = 256;
/// So few within a second are nothing going on.
const FEW: u32 = 16;

/// Counts what has gone.
#[derive(Debug)]
pub(crate) struct Heap {
    gone: u32,
    before: u32,
}

impl Heap {
    /// As if much had gone: a start may have read a long log.
    pub(crate) fn new() -> Self {
        Heap {
            gone: MANY,
            before: 0,
        }
    }

    /// Something went.
    pub(crate) fn went(&mut self) {
        self.gone = self.gone.saturating_add(1);
    }

    /// Once a second. Gives back when enough went, and hardly anything did since the last time. Whether it did.
    pub(crate) fn second(&mut self) -> bool {
        let quiet = self.gone - self.before <= FEW;
        self.before = self.gone;
        if !quiet || self.gone < MANY {
            return false;
        }
        (self.gone, self.before) = (0, 0);
        #[cfg(target_env = "gnu")]
        // SAFETY: it may be called at any time; it touches only what the allocator has free.
        unsafe {
            libc::malloc_trim(0);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_given_back_when_much_has_gone_and_nothing_goes_any_more() {
        let mut heap = Heap::new();
        assert!(!heap.second() && heap.second());
        assert!(!heap.second() && !heap.second(), "nothing went");
        for _ in 0..MANY {
            heap.went();
        }
        assert!(!heap.second(), "it may go on");
        (0..=FEW).for_each(|_| heap.went());
        assert!(!heap.second(), "it went on");
        heap.went();
        assert!(heap.second());
    }
}
