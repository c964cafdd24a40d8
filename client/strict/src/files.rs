//! Files below /proc that say something about System V IPC: which open(2) means one of them.
//!
//! A path counts if its last word is the name of such a file, and it leads there: through whatever folders, links and descriptors, in the program's own
//! root. (A link of another name that leads there is not looked at: every open of every program would have to be followed.) What is then opened is a
//! memory file with Vshmem's text; for writing, see [`crate::limits`].

use crate::memory;
use crate::notice::Notice;
use libc::c_long;
use rustix::fs::{CWD, Mode, OFlags};
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use vshmem_abi::proc_text::{self, Text};

/// The calls that open files.
pub(crate) const OPEN: [c_long; 4] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_creat,
];
/// The kernel takes no longer paths.
const LONGEST: usize = 4096;
/// PROC_SUPER_MAGIC.
const PROC: u32 = 0x9fa0;

/// One of those files, and how it is to be opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked {
    pub(crate) text: Text,
    pub(crate) flags: i32,
}

impl Asked {
    pub(crate) fn for_writing(self) -> bool {
        self.flags & libc::O_ACCMODE != libc::O_RDONLY
    }
}

/// Folder and path of a call that opens a file, if the path has the name of one of ours.
fn named<'a>(notice: &Notice, space: &'a mut [u8; LONGEST]) -> Option<(i32, &'a [u8])> {
    let (folder, at) = match i64::from(notice.number) {
        libc::SYS_open | libc::SYS_creat => (libc::AT_FDCWD, notice.word(0)),
        _ => (notice.int(0), notice.word(1)),
    };
    let path = memory::read_string(notice.thread, at, space)?;
    let name = path.rsplit(|&byte| byte == b'/').next()?;
    proc_text::is_name(name).then_some((folder, path))
}

/// Whether the path of a call that opens a file has the name of one of ours.
pub(crate) fn has_name(notice: &Notice) -> bool {
    named(notice, &mut [0; LONGEST]).is_some()
}

/// What a call that opens a file means, if it is one of ours.
pub(crate) fn asked(notice: &Notice) -> Option<Asked> {
    let mut space = [0; LONGEST];
    let (folder, path) = named(notice, &mut space)?;
    let flags = match i64::from(notice.number) {
        libc::SYS_open => notice.int(1),
        libc::SYS_openat => notice.int(2),
        libc::SYS_creat => libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC,
        _ => {
            let mut flags = [0; 8];
            memory::read(notice.thread, notice.word(2), &mut flags).ok()?;
            u64::from_le_bytes(flags) as i32
        }
    };
    let text = leads_to(notice.thread, folder, path, flags)?;
    Some(Asked { text, flags })
}

/// Where a path of a thread leads.
fn leads_to(thread: i32, folder: i32, path: &[u8], flags: i32) -> Option<Text> {
    let from = match (path.first(), folder) {
        (Some(b'/'), _) => format!("/proc/{thread}/root"),
        (_, libc::AT_FDCWD) => format!("/proc/{thread}/cwd"),
        _ => format!("/proc/{thread}/fd/{folder}"),
    };
    let its = [from.as_bytes(), &seen_by(thread, path)].join(&b'/');
    let mut how = OFlags::PATH | OFlags::CLOEXEC;
    if flags & libc::O_NOFOLLOW != 0 {
        how |= OFlags::NOFOLLOW;
    }
    let Ok(file) = rustix::fs::openat(CWD, std::ffi::OsStr::from_bytes(&its), how, Mode::empty()) else {
        // A kernel without this file, or without System V IPC.
        return proc_text::by_path(path);
    };
    if rustix::fs::fstatfs(&file).is_ok_and(|about| about.f_type as u32 == PROC) {
        let whole = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).ok()?;
        return proc_text::by_end(whole.as_os_str().as_bytes());
    }
    None
}

/// A path as another process has to say it: what is «self» in it is the thread that says it.
fn seen_by(thread: i32, path: &[u8]) -> Vec<u8> {
    let words = [
        (&b"/proc/self/"[..], format!("/proc/{thread}/")),
        (b"/proc/thread-self/", format!("/proc/{thread}/")),
    ];
    for (own, other) in words {
        if let Some(rest) = path.strip_prefix(own) {
            return [other.as_bytes(), rest].concat();
        }
    }
    path.to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vshmem_wire::{Kind, Setting};

    #[test]
    fn paths_are_followed_to_where_they_lead() {
        let own = std::process::id() as i32;
        let text = |path: &str| leads_to(own, libc::AT_FDCWD, path.as_bytes(), 0);
        let table = Some(Text::Table(Kind::Shm));
        let folder = std::env::temp_dir().join(format!("vshmem-files-{own}"));
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::symlink("/proc/sysvipc/shm", folder.join("shm")).unwrap();
        std::os::unix::fs::symlink("/proc", folder.join("p")).unwrap();
        std::fs::write(folder.join("sem"), "mine").unwrap();
        let below = |end: &str| text(&format!("{}/{end}", folder.display()));
        assert_eq!(below("shm"), table);
        assert_eq!(below("p/sysvipc/../sysvipc/shm"), table);
        assert_eq!(below("sem"), None);
        assert_eq!(below("no/shm"), None);
        std::fs::remove_dir_all(&folder).unwrap();
        assert_eq!(text("/proc/sysvipc/shm"), table);
        assert_eq!(text("/proc/self/root/proc//sysvipc/shm"), table);
        assert_eq!(text("/proc/thread-self/root/proc/sysvipc/shm"), table);
        let limit = Some(Text::Limit(Setting::Msgmax));
        assert_eq!(text("/proc/sys/kernel/msgmax"), limit);
        let open = std::fs::File::open("/proc/sys").unwrap();
        assert_eq!(leads_to(own, open.as_raw_fd(), b"kernel/msgmax", 0), limit);
    }
}
