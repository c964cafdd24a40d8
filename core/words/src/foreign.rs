//! Memory that a program says is there: read and written so that a wrong address is an answer and not a crash.
//!
//! The accesses are a few instructions of assembly. Whoever runs the process may install a handler for SIGSEGV and SIGBUS that asks [`landing`] where a fault
//! among them goes on: behind the copy, which then says that it failed. Without such a handler, and on processors for which the assembly is not written, a
//! wrong address is what it is to any program.
//!
//! Not for construct memory, which is always there: [`crate::Mapping`] copies between the two.
#![allow(unsafe_code)] // Raw addresses; assembly.

/// Some bytes at an address, which may be wrong.
#[derive(Debug, Clone, Copy)]
pub struct Foreign {
    at: *mut u8,
    bytes: usize,
}

impl Foreign {
    /// `bytes` bytes at `at`.
    ///
    /// # Safety
    /// Nothing of this library's own lies there, and what is written over there is the program's to say.
    pub const unsafe fn new(at: *mut u8, bytes: usize) -> Self {
        Foreign { at, bytes }
    }

    /// How many bytes.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// The first `bytes` bytes of it, or all if there are fewer.
    pub fn first(&self, bytes: usize) -> Foreign {
        Foreign {
            at: self.at,
            bytes: self.bytes.min(bytes),
        }
    }

    /// Copies the first bytes into `into`, which is not longer. `false`: it cannot be read, `into` holds whatever came so far.
    #[inline]
    pub fn read(&self, into: &mut [u8]) -> bool {
        // SAFETY: the destination is ours; about the source the caller of `new` has promised what can be.
        into.len() <= self.bytes && unsafe { copy(self.at, into.as_mut_ptr(), into.len()) }
    }

    /// Copies `from`, which is not longer, to its beginning. `false`: it cannot be written, or not all of it.
    #[inline]
    pub fn write(&self, from: &[u8]) -> bool {
        // SAFETY: as above, the other way round.
        from.len() <= self.bytes && unsafe { copy(from.as_ptr(), self.at, from.len()) }
    }

    /// Whether all of it can be read now.
    #[inline]
    pub fn readable(&self) -> bool {
        match (self.at as usize).checked_add(self.bytes) {
            None => false,
            Some(_) if self.bytes == 0 => true,
            // SAFETY: only reads.
            Some(end) => unsafe { touch(self.at, end - 1) },
        }
    }

    /// Copies `bytes` bytes from `from` to here.
    ///
    /// # Safety
    /// `from` is readable for so many bytes.
    #[inline]
    pub(crate) unsafe fn take(&self, from: *const u8, bytes: usize) -> bool {
        // SAFETY: promised by the caller.
        bytes <= self.bytes && unsafe { copy(from, self.at, bytes) }
    }

    /// Copies all of it to `to`.
    ///
    /// # Safety
    /// `to` is writable for so many bytes.
    #[inline]
    pub(crate) unsafe fn give(&self, to: *mut u8) -> bool {
        // SAFETY: promised by the caller.
        unsafe { copy(self.at, to, self.bytes) }
    }

    /// What lies behind the first `bytes` bytes.
    pub(crate) fn behind(&self, bytes: usize) -> Foreign {
        let bytes = bytes.min(self.bytes);
        Foreign {
            at: self.at.wrapping_add(bytes),
            bytes: self.bytes - bytes,
        }
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
core::arch::global_asm!(
    ".hidden vshmem_foreign_copy",
    ".hidden vshmem_foreign_touch",
    ".hidden vshmem_foreign_end",
    ".hidden vshmem_foreign_fault",
    ".globl vshmem_foreign_copy, vshmem_foreign_touch, vshmem_foreign_end, vshmem_foreign_fault",
    // (to, from, bytes) -> 0, or 1 after a fault. No frame: a fault goes on at `vshmem_foreign_fault` with the stack as it is.
    "vshmem_foreign_copy:",
    "cmp rdx, 128",
    "ja 5f",
    "mov rcx, rdx",
    "shr rcx, 5",
    "jz 9f",
    "10:",
    "mov rax, [rsi]",
    "mov r8, [rsi + 8]",
    "mov [rdi], rax",
    "mov [rdi + 8], r8",
    "mov rax, [rsi + 16]",
    "mov r8, [rsi + 24]",
    "mov [rdi + 16], rax",
    "mov [rdi + 24], r8",
    "add rsi, 32",
    "add rdi, 32",
    "dec rcx",
    "jnz 10b",
    "test dl, 31",
    "jz 4f",
    "9:",
    "mov ecx, edx",
    "and ecx, 24",
    "jz 2f",
    "1:",
    "mov rax, [rsi]",
    "mov [rdi], rax",
    "add rsi, 8",
    "add rdi, 8",
    "sub ecx, 8",
    "jnz 1b",
    "2:",
    "test dl, 4",
    "jz 3f",
    "mov eax, [rsi]",
    "mov [rdi], eax",
    "add rsi, 4",
    "add rdi, 4",
    "3:",
    "and edx, 3",
    "jz 4f",
    "6:",
    "movzx eax, byte ptr [rsi]",
    "mov [rdi], al",
    "inc rsi",
    "inc rdi",
    "dec edx",
    "jnz 6b",
    "4:",
    "xor eax, eax",
    "ret",
    "5:",
    "mov rcx, rdx",
    "rep movsb",
    "xor eax, eax",
    "ret",
    // (first byte, last byte) -> the same. A byte of each page.
    "vshmem_foreign_touch:",
    "7:",
    "movzx eax, byte ptr [rdi]",
    "or rdi, 4095",
    "inc rdi",
    "jz 8f",
    "cmp rdi, rsi",
    "jbe 7b",
    "8:",
    "xor eax, eax",
    "ret",
    "vshmem_foreign_end:",
    "vshmem_foreign_fault:",
    "mov eax, 1",
    "ret",
);

#[cfg(all(target_arch = "x86_64", not(miri)))]
unsafe extern "C" {
    fn vshmem_foreign_copy(to: *mut u8, from: *const u8, bytes: usize) -> u32;
    fn vshmem_foreign_touch(first: *const u8, last: usize) -> u32;
    static vshmem_foreign_end: u8;
    static vshmem_foreign_fault: u8;
}

/// Where a fault of the instruction at `at` goes on, if that is one of those above.
pub fn landing(at: usize) -> Option<usize> {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let begin = vshmem_foreign_copy as *const () as usize;
        let end = &raw const vshmem_foreign_end as usize;
        (begin..end)
            .contains(&at)
            .then_some(&raw const vshmem_foreign_fault as usize)
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let _ = at;
        None
    }
}

/// # Safety
/// One of the two sides is the caller's for `bytes` bytes, the other may be anything that is not this library's.
#[inline]
unsafe fn copy(from: *const u8, to: *mut u8, bytes: usize) -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: promised by the caller; clobbers only what a C function may, the direction flag is clear by the ABI.
    unsafe {
        vshmem_foreign_copy(to, from, bytes) == 0
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    // SAFETY: promised by the caller; a wrong address faults.
    unsafe {
        crate::mapping::copy_bytes(from, to, bytes);
        true
    }
}

/// # Safety
/// Only reads, but may fault.
#[inline]
unsafe fn touch(first: *const u8, last: usize) -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: as above.
    unsafe {
        vshmem_foreign_touch(first, last) == 0
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    {
        let _ = (first, last);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use alloc::vec::Vec;

    #[test]
    fn every_length_is_copied_whole_and_nothing_beside() {
        for len in 0..300 {
            let data: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
            let mut room = vec![0u8; len + 16];
            // SAFETY: inside the vector, which nobody uses meanwhile.
            let foreign = unsafe { Foreign::new(room.as_mut_ptr().wrapping_add(8), len) };
            assert!(foreign.write(&data) && foreign.readable());
            let mut back = vec![0; len];
            assert!(foreign.read(&mut back));
            assert_eq!(back, data);
            assert!(!foreign.write(&vec![0; len + 1]));
            assert!(room[..8].iter().chain(&room[len + 8..]).all(|&byte| byte == 0));
        }
    }

    #[test]
    fn only_faults_of_its_own_instructions_land() {
        assert_eq!(landing(0), None);
        assert_eq!(landing(landing as *const () as usize), None);
        // SAFETY: never used.
        let beyond = unsafe { Foreign::new(core::ptr::without_provenance_mut(usize::MAX - 3), 8) };
        assert!(!beyond.readable());
    }
}
