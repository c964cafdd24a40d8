//! munmap(2), mremap(2), mprotect(2), mmap(2) and remap_file_pages(2): where a segment is attached, nattch follows. Everywhere else the kernel is asked straight away.
//!
//! Not by way of libc: allocators call these before anything can be looked up.
#![allow(unsafe_code)] // C functions by name; the program's own mappings.

use libc::{c_int, c_void, off_t, size_t};
use vshmem_abi::edge;
use vshmem_runtime::{mappings, raw::call6};

fn given(result: isize) -> isize {
    if (-4095..0).contains(&result) {
        edge::set_errno(-result as i32);
        return -1;
    }
    result
}

#[unsafe(no_mangle)]
unsafe extern "C" fn munmap(at: *mut c_void, bytes: size_t) -> c_int {
    // SAFETY: the program's own arguments.
    given(unsafe {
        match mappings::touches(at as usize, bytes) {
            true => mappings::munmap(at as usize, bytes),
            false => call6(libc::SYS_munmap, at as usize, bytes, 0, 0, 0, 0),
        }
    }) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mprotect(at: *mut c_void, bytes: size_t, protection: c_int) -> c_int {
    // SAFETY: the program's own arguments.
    given(unsafe {
        match mappings::touches(at as usize, bytes) {
            true => mappings::mprotect(at as usize, bytes, protection),
            false => call6(
                libc::SYS_mprotect,
                at as usize,
                bytes,
                protection as usize,
                0,
                0,
                0,
            ),
        }
    }) as c_int
}

// Variadic in C; the address arrives where a fifth argument would, and is handed on whether it means anything or not.
#[unsafe(no_mangle)]
unsafe extern "C" fn mremap(
    old: *mut c_void,
    old_bytes: size_t,
    new_bytes: size_t,
    flags: c_int,
    new: *mut c_void,
) -> *mut c_void {
    let (from, to) = (old as usize, new as usize);
    let over = flags & libc::MREMAP_FIXED != 0 && mappings::touches(to, new_bytes);
    // SAFETY: the program's own arguments.
    given(unsafe {
        match over || mappings::touches(from, old_bytes) {
            true => mappings::mremap(from, old_bytes, new_bytes, flags, to),
            false => call6(
                libc::SYS_mremap,
                from,
                old_bytes,
                new_bytes,
                flags as usize,
                to,
                0,
            ),
        }
    }) as *mut c_void
}

#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn remap_file_pages(
    at: *mut c_void,
    bytes: size_t,
    protection: c_int,
    first: size_t,
    flags: c_int,
) -> c_int {
    let (at, kind) = (at as usize, protection as usize);
    // SAFETY: the program's own arguments.
    given(unsafe {
        match mappings::touches(at, bytes) {
            true => mappings::remap_file_pages(at, bytes, protection, first),
            false => call6(
                libc::SYS_remap_file_pages,
                at,
                bytes,
                kind,
                first,
                flags as usize,
                0,
            ),
        }
    }) as c_int
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap(
    at: *mut c_void,
    bytes: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    let arguments = [
        at as usize,
        bytes,
        protection as usize,
        flags as usize,
        file as usize,
        offset as usize,
    ];
    let [a, b, c, d, e, f] = arguments;
    // SAFETY: the program's own arguments.
    given(unsafe {
        match flags & libc::MAP_FIXED != 0 && mappings::touches(a, b) {
            true => mappings::mmap(arguments),
            false => call6(libc::SYS_mmap, a, b, c, d, e, f),
        }
    }) as *mut c_void
}

#[unsafe(no_mangle)]
unsafe extern "C" fn mmap64(
    at: *mut c_void,
    bytes: size_t,
    protection: c_int,
    flags: c_int,
    file: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the program's own arguments.
    unsafe { mmap(at, bytes, protection, flags, file, offset) }
}
