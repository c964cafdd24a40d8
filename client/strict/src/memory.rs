//! The memory of another process, and what /proc says of its threads.
//!
//! Every address that a program passes is read and written by the kernel here, which says EFAULT where the program may not.
#![allow(unsafe_code)] // process_vm_readv(2) and process_vm_writev(2).

use rustix::fd::OwnedFd;
use std::fs::File;
use std::os::unix::fs::FileExt;

const EFAULT: i32 = libc::EFAULT;

/// Reads all of `into` from an address of a thread's process.
pub(crate) fn read(thread: i32, at: usize, into: &mut [u8]) -> Result<(), i32> {
    let len = into.len();
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: len,
    };
    let remote = libc::iovec {
        iov_base: at as *mut libc::c_void,
        iov_len: len,
    };
    // SAFETY: writes to `into` only.
    let got = unsafe { libc::process_vm_readv(thread, &raw const local, 1, &raw const remote, 1, 0) };
    whole(got, len)
}

/// Reads a string that ends with a zero. `None`: it cannot be read, or is too long.
pub(crate) fn read_string(thread: i32, at: usize, into: &mut [u8]) -> Option<&[u8]> {
    const PAGE: usize = 4096;
    const FIRST: usize = 128;
    let mut read_to = 0;
    while read_to < into.len() {
        let from = at.checked_add(read_to)?;
        // What lies on the next page may not be there; most are short.
        let most = if read_to == 0 { FIRST } else { PAGE };
        let bytes = (PAGE - from % PAGE).min(most).min(into.len() - read_to);
        let piece = &mut into[read_to..read_to + bytes];
        read(thread, from, piece).ok()?;
        if let Some(end) = piece.iter().position(|byte| *byte == 0) {
            return Some(&into[..read_to + end]);
        }
        read_to += bytes;
    }
    None
}

/// Writes all of `from` to an address of a thread's process.
pub(crate) fn write(thread: i32, at: usize, from: &[u8]) -> Result<(), i32> {
    let local = libc::iovec {
        iov_base: from.as_ptr().cast_mut().cast(),
        iov_len: from.len(),
    };
    let remote = libc::iovec {
        iov_base: at as *mut libc::c_void,
        iov_len: from.len(),
    };
    // SAFETY: reads from `from` only.
    let got = unsafe { libc::process_vm_writev(thread, &raw const local, 1, &raw const remote, 1, 0) };
    whole(got, from.len())
}

fn whole(got: isize, len: usize) -> Result<(), i32> {
    match usize::try_from(got) {
        Ok(got) if got == len => Ok(()),
        Ok(_) => Err(EFAULT),
        Err(_) => Err(match std::io::Error::last_os_error().raw_os_error() {
            // Whoever dies meanwhile will not read the answer.
            Some(libc::ESRCH) | None => libc::EINTR,
            Some(errno) => errno,
        }),
    }
}

/// The process that a thread belongs to.
pub(crate) fn process_of(thread: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Tgid:"));
    line.and_then(|number| number.trim().parse().ok())
}

/// A limit of a thread's process, by its name in /proc. `None`: there is none.
pub(crate) fn limit(thread: i32, name: &str) -> Option<u64> {
    let limits = std::fs::read_to_string(format!("/proc/{thread}/limits")).ok()?;
    soft_limit(&limits, name)
}

fn soft_limit(limits: &str, name: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Bytes of address space that a thread's process has.
pub(crate) fn address_space(thread: i32) -> u64 {
    let sizes = std::fs::read_to_string(format!("/proc/{thread}/statm")).unwrap_or_default();
    let pages = sizes
        .split_whitespace()
        .next()
        .and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0).saturating_mul(4096)
}

/// Whether anything of a thread's process is mapped from an address to another.
pub(crate) fn is_mapped(thread: i32, from: u64, to: u64) -> bool {
    mapped(thread)
        .into_iter()
        .any(|(first, after)| first < to && from < after)
}

/// What a thread's process has mapped, in the order of addresses: first, and behind the last.
pub(crate) fn mapped(thread: i32) -> Vec<(u64, u64)> {
    let maps = std::fs::read_to_string(format!("/proc/{thread}/maps")).unwrap_or_default();
    let range = |line: &str| {
        let (first, after) = line.split_once(' ')?.0.split_once('-')?;
        let address = |hex| u64::from_str_radix(hex, 16).ok();
        Some((address(first)?, address(after)?))
    };
    maps.lines().filter_map(range).collect()
}

/// How many threads the process of a thread has, as far as it matters.
pub(crate) fn threads_of(thread: i32) -> usize {
    std::fs::read_dir(format!("/proc/{thread}/task")).map_or(1, |tasks| tasks.take(2).count())
}

/// Whether a thread still is one of a process.
pub(crate) fn is_thread_of(thread: i32, process: i32) -> bool {
    // SAFETY: signal 0 is none.
    unsafe { libc::syscall(libc::SYS_tgkill, process, thread, 0) == 0 }
}

/// The process that has made another one, or has it for an orphan.
pub(crate) fn parent_of(process: i32) -> Option<i32> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("PPid:"));
    line.and_then(|number| number.trim().parse().ok())
}

/// Whether two processes have the same memory.
pub(crate) fn is_shared(one: i32, other: i32) -> bool {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: numbers.
    unsafe { libc::syscall(libc::SYS_kcmp, one, other, KCMP_VM, 0, 0) == 0 }
}

/// Whether a setns(2) enters an IPC namespace: without a kind, the descriptor tells it.
pub(crate) fn is_ipc_namespace(notice: &crate::notice::Notice) -> bool {
    let (file, kind) = (notice.int(0), notice.int(1));
    if kind != 0 {
        return kind & libc::CLONE_NEWIPC != 0;
    }
    std::fs::read_link(format!("/proc/{}/fd/{file}", notice.thread))
        .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"ipc:["))
}

/// Whether a thread counts as root.
pub(crate) fn is_root(thread: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    line.and_then(|line| line.split_whitespace().nth(1)) == Some("0")
}

/// A process's program, for people.
pub(crate) fn program_of(process: i32) -> String {
    std::fs::read_link(format!("/proc/{process}/exe"))
        .map_or_else(|_| "a program".to_owned(), |path| path.display().to_string())
}

/// A process to watch.
pub(crate) fn open(process: i32) -> std::io::Result<OwnedFd> {
    let pid = rustix::process::Pid::from_raw(process).ok_or(std::io::ErrorKind::NotFound)?;
    Ok(rustix::process::pidfd_open(
        pid,
        rustix::process::PidfdFlags::empty(),
    )?)
}

/// Kills the process behind a pidfd.
pub(crate) fn kill(pidfd: &OwnedFd) {
    let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
}

/// Whether something can be read from a descriptor, or its other end is closed; of a pidfd: whether the process has ended.
pub(crate) fn is_readable(descriptor: &OwnedFd, within: std::time::Duration) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let most = Timespec::try_from(within).ok();
    !matches!(
        poll(&mut [PollFd::new(descriptor, PollFlags::IN)], most.as_ref()),
        Ok(0)
    )
}

/// A process's memory as it is now: it ends when the process executes another program.
#[derive(Debug)]
pub(crate) struct Image(File);

impl Image {
    pub(crate) fn of(process: i32) -> std::io::Result<Image> {
        File::open(format!("/proc/{process}/mem")).map(Image)
    }

    /// Whether nobody has that memory any more. The kernel then reads nothing, wherever one asks; else it fails, as nothing is mapped there.
    pub(crate) fn ended(&self) -> bool {
        self.0.read_at(&mut [0], 0).is_ok_and(|bytes| bytes == 0)
    }
}

/// What /proc says of a thread, again and again.
#[derive(Debug)]
pub(crate) struct Status(File);

impl Status {
    pub(crate) fn of(process: i32, thread: i32) -> std::io::Result<Status> {
        File::open(format!("/proc/{process}/task/{thread}/status")).map(Status)
    }

    /// What signals the thread has.
    pub(crate) fn signals(&self) -> Signals {
        let mut text = [0; 4096];
        let bytes = self.0.read_at(&mut text, 0).unwrap_or(0);
        Signals::of(&String::from_utf8_lossy(&text[..bytes]))
    }
}

/// The signals of a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Signals {
    /// Those that it alone is to see to, and does not block.
    pub(crate) own: u64,
    /// Those that any thread of its process may see to, and this one does not block.
    pub(crate) shared: u64,
    /// Those that it blocks.
    pub(crate) blocked: u64,
    /// It is the only thread of its process.
    pub(crate) alone: bool,
}

impl Signals {
    fn of(status: &str) -> Signals {
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let mask = |name: &str| {
            let hex = field(name).and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
            hex.unwrap_or(0)
        };
        let blocked = mask("SigBlk:");
        Signals {
            own: mask("SigPnd:") & !blocked,
            shared: mask("ShdPnd:") & !blocked,
            blocked,
            alone: field("Threads:").is_some_and(|number| number.trim() == "1"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read_and_written_or_gives_efault() {
        let own = std::process::id() as i32;
        let (from, mut into) = ([7u8; 16], [0u8; 16]);
        read(own, from.as_ptr() as usize, &mut into).unwrap();
        assert_eq!(into, from);
        let mut target = [0u8; 4];
        write(own, target.as_mut_ptr() as usize, &[1, 2, 3, 4]).unwrap();
        assert_eq!(std::hint::black_box(target), [1, 2, 3, 4]);
        assert_eq!(read(own, 8, &mut into), Err(EFAULT));
        assert_eq!(write(own, 8, &from), Err(EFAULT));
        static CONSTANT: [u8; 16] = [1; 16];
        assert_eq!(write(own, CONSTANT.as_ptr() as usize, &from), Err(EFAULT));
    }

    #[test]
    fn strings_are_read_to_their_end() {
        let own = std::process::id() as i32;
        let long = [vec![b'x'; 5000], vec![0]].concat();
        let mut space = [0; 8192];
        let at = long.as_ptr() as usize;
        assert_eq!(read_string(own, at, &mut space), Some(&long[..5000]));
        assert_eq!(read_string(own, at + 5000, &mut space), Some(&b""[..]));
        assert_eq!(read_string(own, at, &mut space[..4096]), None);
        assert_eq!(read_string(own, 8, &mut space), None);
    }

    #[test]
    fn an_image_lasts_as_long_as_the_program() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let image = Image::of(child.id() as i32).unwrap();
        assert!(!image.ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(image.ended());
    }

    #[test]
    fn limits_are_read_by_name() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units     \n\
             Max locked memory         8192                 8388608              bytes     \n\
             Max address space         unlimited            unlimited            bytes     \n";
        assert_eq!(soft_limit(limits, "Max locked memory"), Some(8192));
        assert_eq!(soft_limit(limits, "Max address space"), None);
        let own = std::process::id() as i32;
        let here = limits.as_ptr() as u64;
        assert!(is_mapped(own, here, here + 1) && !is_mapped(own, 0, 1));
        assert!(address_space(own) > 4096);
    }

    #[test]
    fn signals_count_unless_blocked() {
        let status = |pending_, blocked| {
            format!(
                "Name:\tx\nThreads:\t1\nSigPnd:\t0000000000000001\nShdPnd:\t{pending_:016x}\nSigBlk:\t{blocked:016x}\n"
            )
        };
        let signals = |pending_, blocked| Signals::of(&status(pending_, blocked));
        assert_eq!((signals(0x200, 0).own, signals(0x200, 0).shared), (1, 0x200));
        assert_eq!((signals(0x200, 0x201).own, signals(0x200, 0x201).shared), (0, 0));
        assert!(signals(0, 2).alone && signals(0, 2).blocked == 2);
        let own = std::process::id() as i32;
        assert_eq!(process_of(own), Some(own));
        assert!(is_thread_of(own, own));
    }
}
