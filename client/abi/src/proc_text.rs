//! The texts of `/proc/sysvipc/*` and `/proc/sys/kernel/{shmmax,sem,…}`, column for column as Linux writes them.
//!
//! Not for hearing of who opens them: that is the preload library's, and the supervisor's of `run --strict`.

use crate::{layouts, settings};
use rustix::fd::OwnedFd;
use rustix::fs::{MemfdFlags, Mode, OFlags, SeekFrom, memfd_create, seek};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use vshmem_runtime::{Errno, Result, Runtime};
use vshmem_wire::{Kind, Limits, Reply, Request, Setting, Stat, StatBody};

const SHM: &str = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n";
const SEM: &str = "       key      semid perms      nsems   uid   gid  cuid  cgid      otime      ctime\n";
const MSG: &str = "       key      msqid perms      cbytes       qnum lspid lrpid   uid   gid  cuid  cgid      stime      rtime      ctime\n";

/// A file of which Vshmem has its own text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Text {
    /// A table of constructs.
    Table(Kind),
    /// A limit.
    Limit(Setting),
}

/// The text that an absolute path names.
pub fn by_path(path: &[u8]) -> Option<Text> {
    Some(match path {
        b"/proc/sysvipc/shm" => Text::Table(Kind::Shm),
        b"/proc/sysvipc/sem" => Text::Table(Kind::Sem),
        b"/proc/sysvipc/msg" => Text::Table(Kind::Msg),
        _ => Text::Limit(settings::by_name(path.strip_prefix(b"/proc/sys/kernel/")?)?),
    })
}

/// The text of the file of /proc to which a path leads, wherever that is mounted.
pub fn by_end(path: &[u8]) -> Option<Text> {
    const DEPTHS: [usize; 2] = [2, 3];
    let behind = |depth| {
        let mut slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
        slashes.nth(depth - 1).map(|(at, _)| &path[at..])
    };
    let mut ends = DEPTHS.into_iter().filter_map(behind);
    ends.find_map(|end| by_path(&[b"/proc", end].concat()))
}

/// Whether any of the files has this name.
pub fn is_name(name: &[u8]) -> bool {
    matches!(name, b"shm" | b"sem" | b"msg") || settings::by_name(name).is_some()
}

fn limit_text(setting: Setting, l: &Limits) -> String {
    match setting {
        Setting::Shmmax => l.shmmax.to_string(),
        Setting::Shmall => l.shmall.to_string(),
        Setting::Shmmni => l.shmmni.to_string(),
        Setting::Sem => format!("{}\t{}\t{}\t{}", l.semmsl, l.semmns, l.semopm, l.semmni),
        Setting::Msgmax => l.msgmax.to_string(),
        Setting::Msgmnb => l.msgmnb.to_string(),
        Setting::Msgmni => l.msgmni.to_string(),
        Setting::ShmRmidForced => u8::from(l.shm_rmid_forced).to_string(),
        Setting::NextId(kind) => l.next_ids[kind as usize].to_string(),
    }
}

impl Text {
    /// The text as it is now.
    pub fn write(self) -> Result<String> {
        let runtime = Runtime::global();
        match self {
            Text::Limit(setting) => {
                let limits = runtime.info(Kind::Shm)?.limits;
                Ok(format!("{}\n", limit_text(setting, &limits)))
            }
            Text::Table(kind) => table(runtime, kind),
        }
    }

    /// A memory file with the text; of a table also the kernel's own constructs, if wanted.
    pub fn file(self, and_kernels: bool, close_on_exec: bool) -> Result<OwnedFd> {
        let mut words = self.write()?;
        if let Text::Table(kind) = self
            && and_kernels
        {
            words.push_str(&kernels_lines(kind));
        }
        let flags = if close_on_exec {
            MemfdFlags::CLOEXEC
        } else {
            MemfdFlags::empty()
        };
        let file = memfd_create(c"vshmem", flags)?;
        let mut left = words.as_bytes();
        while !left.is_empty() {
            let written = rustix::io::write(&file, left)?;
            left = left.get(written..).ok_or(Errno::EIO)?;
        }
        seek(&file, SeekFrom::Start(0))?;
        Ok(file)
    }
}

/// The kernel's own constructs, without the heading. By system calls: libc's functions may be the preload library's.
fn kernels_lines(kind: Kind) -> String {
    let path = match kind {
        Kind::Shm => c"/proc/sysvipc/shm",
        Kind::Sem => c"/proc/sysvipc/sem",
        Kind::Msg => c"/proc/sysvipc/msg",
    };
    let read = || -> rustix::io::Result<Vec<u8>> {
        let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut text = Vec::new();
        loop {
            let mut piece = [0; 4096];
            match rustix::io::read(&file, &mut piece)? {
                0 => return Ok(text),
                bytes => text.extend_from_slice(&piece[..bytes]),
            }
        }
    };
    let text = String::from_utf8(read().unwrap_or_default()).unwrap_or_default();
    text.split_once('\n')
        .map(|(_, lines)| lines.to_owned())
        .unwrap_or_default()
}

fn table(runtime: &Runtime, kind: Kind) -> Result<String> {
    let domain = runtime.domain()?;
    let mut text = String::from(match kind {
        Kind::Shm => SHM,
        Kind::Sem => SEM,
        Kind::Msg => MSG,
    });
    let mut from = Some(0);
    while let Some(first) = from {
        let (reply, _) = runtime
            .request(&Request::List { kind, from: first })
            .map_err(|f| Errno(f.errno))?;
        let Reply::List(stats, next) = reply else {
            return Err(Errno::EPROTO);
        };
        for stat in &stats {
            line(&mut text, stat, domain).ok_or(Errno::EPROTO)?;
        }
        // A list that does not go on would go on for ever.
        from = next.filter(|&next| next > first);
    }
    Ok(text)
}

fn line(text: &mut String, stat: &Stat, domain: u16) -> Option<()> {
    let perm = &stat.perm;
    let (key, id, mode) = (perm.key, stat.id, perm.mode);
    let owners = format!("{:5} {:5} {:5} {:5}", perm.uid, perm.gid, perm.cuid, perm.cgid);
    let written = match stat.body.kind() {
        Kind::Shm => {
            let s = layouts::shmid_ds(stat, domain)?;
            let StatBody::Shm { rss, .. } = stat.body else {
                return None;
            };
            writeln!(
                text,
                "{key:10} {id:10}  {mode:4o} {:21} {:5} {:5}  {:5} {owners} {:10} {:10} {:10} {rss:21} {:21}",
                s.segsz, s.cpid, s.lpid, s.nattch, s.atime, s.dtime, s.ctime, 0
            )
        }
        Kind::Sem => {
            let s = layouts::semid_ds(stat)?;
            writeln!(
                text,
                "{key:10} {id:10}  {mode:4o} {:10} {owners} {:10} {:10}",
                s.nsems, s.otime, s.ctime
            )
        }
        Kind::Msg => {
            let s = layouts::msqid_ds(stat, domain)?;
            writeln!(
                text,
                "{key:10} {id:10}  {mode:4o}  {:10} {:10} {:5} {:5} {owners} {:10} {:10} {:10}",
                s.cbytes, s.qnum, s.lspid, s.lrpid, s.stime, s.rtime, s.ctime
            )
        }
    };
    written.ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use vshmem_wire::{Perm, Pid};

    #[test]
    fn a_line_is_as_the_kernel_writes_it() {
        let here = Pid { domain: 3, pid: 8522 };
        let stat = Stat {
            id: 3,
            perm: Perm {
                key: 69,
                mode: 0o600,
                ..Perm::default()
            },
            ctime: 1_795_360_599,
            domain: 3,
            body: StatBody::Shm {
                segsz: 4096,
                atime: 0,
                dtime: 1_795_360_599,
                cpid: here,
                lpid: Pid { domain: 4, pid: 1 },
                nattch: 0,
                rss: 4096,
            },
        };
        let mut text = String::new();
        line(&mut text, &stat, 3).unwrap();
        assert_eq!(
            text,
            "        69          3   600                  4096  8522     0      0     0     0     0     0          0 1795360599 1795360599                  4096                     0\n"
        );
    }

    #[test]
    fn only_these_files_are_ours() {
        assert!(by_path(b"/proc/sysvipc/sem").is_some());
        assert!(by_path(b"/proc/sysvipc/semx").is_none());
        assert!(by_path(b"/proc/sys/kernel/hostname").is_none());
        assert_eq!(by_end(b"/x/sysvipc/shm"), Some(Text::Table(Kind::Shm)));
        assert_eq!(
            by_end(b"/proc/sys/kernel/msgmax"),
            Some(Text::Limit(Setting::Msgmax))
        );
        assert!(by_end(b"/x/net/shm").is_none() && by_end(b"shm").is_none() && by_end(b"").is_none());
    }
}
