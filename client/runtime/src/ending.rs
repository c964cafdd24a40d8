//! The end of a thread: its number and its wait page entry go to others.
#![allow(unsafe_code)] // A pthread key with a destructor.

use crate::{process, thread};
use std::ffi::c_void;
use std::sync::atomic::{AtomicU32, Ordering};

const NO_KEY: u32 = u32::MAX;
static KEY: AtomicU32 = AtomicU32::new(NO_KEY);

/// Has [`ended`] called when the calling thread ends. With the control lock held.
pub(crate) fn watch() {
    let mut key = KEY.load(Ordering::Relaxed);
    // SAFETY: plain pthread calls; the destructor is a function that stays loaded as long as the process uses this library.
    unsafe {
        if key == NO_KEY {
            if libc::pthread_key_create(&raw mut key, Some(ended)) != 0 {
                return; // Numbers of ended threads are then not used again.
            }
            KEY.store(key, Ordering::Relaxed);
        }
        libc::pthread_setspecific(key, std::ptr::without_provenance(1));
    }
}

unsafe extern "C" fn ended(_: *mut c_void) {
    let thread = thread::current();
    // Also where the process has become another user since the thread last did anything.
    if thread.number() != 0 {
        let mut state = process::lock();
        if thread.undo.get() != 0 {
            // What it did with SEM_UNDO since it left the process's list is undone now.
            let _ = state.leave_undo(false);
        }
        let (number, ticket, bell) = thread.tear_down();
        state.thread_ended(number, ticket, bell);
    }
}
