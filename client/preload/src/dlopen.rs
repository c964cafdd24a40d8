//! dlopen(3) without RTLD_DEEPBIND: a plug-in loaded with it binds to libc's functions and not to this library's.
//!
//! libc finds out who calls it (whose search path counts) by the return address, so this must be a jump and not a call.
#![allow(unsafe_code)] // Assembly; a C function by name.

use crate::next::Next;
use libc::c_void;

static DLOPEN: Next = Next::new(c"dlopen");

extern "C" fn next() -> *mut c_void {
    DLOPEN.address()
}

#[cfg(target_arch = "x86_64")]
#[unsafe(no_mangle)]
#[unsafe(naked)]
unsafe extern "C" fn dlopen() {
    core::arch::naked_asm!(
        "and esi, {mask}",
        "push rdi",
        "push rsi",
        "sub rsp, 8",
        "call {next}",
        "add rsp, 8",
        "pop rsi",
        "pop rdi",
        "jmp rax",
        mask = const !libc::RTLD_DEEPBIND,
        next = sym next,
    )
}
