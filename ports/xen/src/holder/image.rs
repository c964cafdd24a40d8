//! The kernel of a domain that never runs: the least that Xen's domain builder takes for a paravirtual one.
//!
//! An ELF file with one segment of two pages (a jump to itself, and a hypercall page that nobody calls) and the notes in which such a kernel describes itself.

const BASE: u64 = 0x10_0000;
const NOTES_AT: usize = 0x100;
const SEGMENT_AT: usize = 0x1000;
const SEGMENT_BYTES: usize = 0x2000;

/// `XEN_ELFNOTE_*`.
const ENTRY: u32 = 1;
const HYPERCALL_PAGE: u32 = 2;
const VIRT_BASE: u32 = 3;
const PADDR_OFFSET: u32 = 4;
const XEN_VERSION: u32 = 5;
const GUEST_OS: u32 = 6;
const LOADER: u32 = 8;
const PAE_MODE: u32 = 9;

fn note(kind: u32, value: &[u8], into: &mut Vec<u8>) {
    for word in [4, value.len() as u32, kind] {
        into.extend(word.to_le_bytes());
    }
    into.extend(b"Xen\0");
    into.extend(value);
    into.resize(into.len().next_multiple_of(4), 0);
}

fn notes() -> Vec<u8> {
    let mut notes = Vec::new();
    note(ENTRY, &BASE.to_le_bytes(), &mut notes);
    note(HYPERCALL_PAGE, &(BASE + 4096).to_le_bytes(), &mut notes);
    note(VIRT_BASE, &0u64.to_le_bytes(), &mut notes);
    note(PADDR_OFFSET, &0u64.to_le_bytes(), &mut notes);
    note(XEN_VERSION, b"xen-3.0\0", &mut notes);
    note(GUEST_OS, b"vshmem\0", &mut notes);
    note(LOADER, b"generic\0", &mut notes);
    note(PAE_MODE, b"yes\0", &mut notes);
    notes
}

/// A program header.
fn header(kind: u32, flags: u32, at: usize, address: u64, bytes: usize, align: u64) -> Vec<u8> {
    let mut header = Vec::new();
    header.extend(kind.to_le_bytes());
    header.extend(flags.to_le_bytes());
    for word in [at as u64, address, address, bytes as u64, bytes as u64, align] {
        header.extend(word.to_le_bytes());
    }
    header
}

/// The file.
pub(crate) fn kernel() -> Vec<u8> {
    let notes = notes();
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    // An executable for x86-64, version 1.
    for half in [2u16, 62] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    // Entry; program headers behind this one; no section headers.
    for word in [BASE, 64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    // This header's bytes; two program headers of 56; no sections.
    for half in [64u16, 56, 2, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    file.extend(header(1, 7, SEGMENT_AT, BASE, SEGMENT_BYTES, 4096));
    file.extend(header(4, 4, NOTES_AT, 0, notes.len(), 4));
    file.resize(NOTES_AT, 0);
    file.extend(notes);
    file.resize(SEGMENT_AT, 0);
    file.extend([0xeb, 0xfe]);
    file.resize(SEGMENT_AT + 4096, 0);
    file.resize(SEGMENT_AT + SEGMENT_BYTES, 0xc3);
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_laid_out_as_its_headers_say() {
        let file = kernel();
        assert_eq!(file.len(), SEGMENT_AT + SEGMENT_BYTES);
        assert_eq!(&file[..4], b"\x7fELF");
        let half = |at: usize| u16::from_le_bytes([file[at], file[at + 1]]);
        assert_eq!((half(52), half(54), half(56)), (64, 56, 2));
        assert_eq!(&file[NOTES_AT + 12..NOTES_AT + 16], b"Xen\0");
        assert_eq!(&file[SEGMENT_AT..SEGMENT_AT + 2], [0xeb, 0xfe]);
        assert!(NOTES_AT + notes().len() < SEGMENT_AT);
    }
}
