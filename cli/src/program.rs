//! The program that `run` is asked to run: where it is, and whether the preload library will reach it.
//!
//! A program that the dynamic linker of glibc does not load, or loads in secure mode, ignores LD_PRELOAD without a word; its System V
//! calls would go to the kernel. Not for what happens after exec.

use crate::trouble::{NOT_EXECUTABLE, NOT_FOUND, OURS, Trouble};
use rustix::fs::{Access, AtFlags, CWD};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Interpreters of interpreters that are followed.
const DEPTH: usize = 5;

/// Why the preload library would not reach a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unreached {
    /// No dynamic linker.
    Static,
    /// Another word size.
    Bits32,
    /// Another processor.
    Machine(u16),
    /// A C library other than glibc.
    OtherLibc(String),
    /// It runs with rights that the caller lacks, so the linker ignores LD_PRELOAD.
    Privileged(&'static str),
}

impl Unreached {
    fn why(&self) -> String {
        match self {
            Unreached::Static => "it is statically linked, so no library can be loaded into it".to_owned(),
            Unreached::Bits32 => "it is a 32-bit program, and the preload library is a 64-bit one".to_owned(),
            Unreached::Machine(number) => format!("it is for another processor (ELF machine {number})"),
            Unreached::OtherLibc(linker) => {
                format!("its dynamic linker is {linker}, and the preload library needs glibc")
            }
            Unreached::Privileged(how) => {
                format!("it is {how}, so the dynamic linker ignores the preload library")
            }
        }
    }

    fn remedy(&self) -> &'static str {
        match self {
            Unreached::Static | Unreached::OtherLibc(_) => "`vshmem run --strict` serves its system calls",
            Unreached::Bits32 | Unreached::Machine(_) => "build it for this machine",
            Unreached::Privileged(_) => {
                "run it as the user whose rights it takes, or with `vshmem run --strict`, under which it gains none"
            }
        }
    }

    /// Whether `--strict` serves it all the same.
    fn is_reached_strictly(&self) -> bool {
        !matches!(self, Unreached::Bits32 | Unreached::Machine(_))
    }
}

/// The file that `name` means, as execvp(3) finds it.
pub(crate) fn find(name: &OsStr) -> Result<PathBuf, Trouble> {
    let missing = || Trouble::new(name.to_string_lossy(), "program not found").with_status(NOT_FOUND);
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match executable(&path) {
            Some(true) => Ok(path),
            Some(false) => Err(not_executable(name)),
            None => Err(missing()),
        };
    }
    let search = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/local/bin:/usr/bin:/bin"));
    let mut denied = false;
    for folder in std::env::split_paths(&search) {
        let path = if folder.as_os_str().is_empty() {
            Path::new(".").join(name)
        } else {
            folder.join(name)
        };
        match executable(&path) {
            Some(true) => return Ok(path),
            Some(false) => denied = true,
            None => {}
        }
    }
    Err(if denied {
        not_executable(name)
    } else {
        missing().remedy("check the name and PATH")
    })
}

fn not_executable(name: &OsStr) -> Trouble {
    Trouble::new(name.to_string_lossy(), "not an executable file")
        .remedy("`chmod +x` it, or name the program that runs it")
        .with_status(NOT_EXECUTABLE)
}

/// Whether an existing file can be executed; None if there is none.
fn executable(path: &Path) -> Option<bool> {
    let metadata = std::fs::metadata(path).ok()?;
    let allowed = rustix::fs::accessat(CWD, path, Access::EXEC_OK, AtFlags::EACCESS).is_ok();
    Some(metadata.is_file() && allowed)
}

/// Refuses a program that would not be reached: by the preload library, or with `--strict` by the supervisor. Gives what the user should know of
/// one that would.
pub(crate) fn check(path: &Path, strict: bool) -> Result<Option<String>, Trouble> {
    let (file, why) = match unreached(path, DEPTH) {
        Ok(None) => return Ok(None),
        Ok(Some(found)) => found,
        // What cannot be read can still be executed; its kind is not known then.
        Err(_) => return Ok(None),
    };
    if strict && why.is_reached_strictly() {
        let Unreached::Privileged(how) = why else {
            return Ok(None);
        };
        return Ok(Some(format!(
            "{}: it is {how}, and gains no rights by that under --strict",
            file.display()
        )));
    }
    let what = if file == path {
        path.display().to_string()
    } else {
        format!("{} (run by {})", path.display(), file.display())
    };
    Err(Trouble::new(
        what,
        format!("{}: its System V IPC would go to the kernel", why.why()),
    )
    .remedy(format!("{}, or use --force to run it all the same", why.remedy()))
    .with_status(OURS))
}

/// Whether the preload library would reach a program, as far as one can tell.
pub(crate) fn is_reached(path: &Path) -> bool {
    !matches!(
        unreached(path, DEPTH),
        Ok(Some((_, Unreached::Static | Unreached::OtherLibc(_))))
    )
}

/// The file that is the trouble, and the trouble; follows `#!` lines.
fn unreached(path: &Path, depth: usize) -> std::io::Result<Option<(PathBuf, Unreached)>> {
    let file = File::open(path)?;
    let mut head = [0u8; 512];
    let bytes = file.read_at(&mut head, 0)?;
    let head = &head[..bytes];
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
        return match interpreter(line).filter(|_| depth > 0) {
            Some(next) => unreached(&next, depth - 1),
            None => Ok(None),
        };
    }
    let found = if head.starts_with(b"\x7fELF") {
        match elf(&file, head)? {
            Some(why) => Some(why),
            None => privileged(path, &file)?,
        }
    } else {
        // Not a program by itself: execvp(3) gives it to the shell.
        None
    };
    Ok(found.map(|why| (path.to_owned(), why)))
}

/// The program that a `#!` line ends up with: through `env`, the one that it looks up.
fn interpreter(line: &[u8]) -> Option<PathBuf> {
    let mut words = line
        .split(|byte| matches!(byte, b' ' | b'\t' | b'\r'))
        .filter(|word| !word.is_empty());
    let first = PathBuf::from(OsStr::from_bytes(words.next()?));
    if first.file_name() != Some(OsStr::new("env")) {
        return Some(first);
    }
    let named = words.find(|word| !word.starts_with(b"-") && !word.contains(&b'='))?;
    find(OsStr::from_bytes(named)).ok()
}

/// What an ELF file's header and program headers say.
fn elf(file: &File, head: &[u8]) -> std::io::Result<Option<Unreached>> {
    let word = |at: usize| {
        head.get(at..at + 2)
            .map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
    };
    if head.get(4) == Some(&1) {
        return Ok(Some(Unreached::Bits32));
    }
    let machine = word(18);
    if machine != MACHINE {
        return Ok(Some(Unreached::Machine(machine)));
    }
    let offset = head
        .get(32..40)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes);
    let (size, count) = (usize::from(word(54)).max(56), usize::from(word(56)).min(256));
    let mut headers = vec![0u8; size * count];
    file.read_exact_at(&mut headers, offset)?;
    for header in headers.chunks_exact(size) {
        let long = |at: usize| {
            header
                .get(at..at + 8)
                .and_then(|b| b.try_into().ok())
                .map_or(0, u64::from_le_bytes)
        };
        if header.starts_with(&PT_INTERP.to_le_bytes()) {
            let mut name = vec![0u8; long(32).min(4096) as usize];
            file.read_exact_at(&mut name, long(8))?;
            name.retain(|byte| *byte != 0);
            let linker = String::from_utf8_lossy(&name).into_owned();
            let base = linker.rsplit('/').next().unwrap_or_default();
            let glibc =
                base.starts_with("ld-linux") || base.starts_with("ld64.so") || base.starts_with("ld.so");
            return Ok((!glibc).then_some(Unreached::OtherLibc(linker)));
        }
    }
    // A program's dynamic linker may itself be started as a program; it has no interpreter and loads libraries all the same.
    let linker = has_name(file, "ld-linux");
    Ok((!linker).then_some(Unreached::Static))
}

const PT_INTERP: u32 = 3;
#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;

fn has_name(file: &File, start: &str) -> bool {
    use std::os::fd::AsRawFd;
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).unwrap_or_default();
    link.file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(start))
}

/// Whether executing the file gives rights that the caller lacks: AT_SECURE.
fn privileged(path: &Path, file: &File) -> std::io::Result<Option<Unreached>> {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    let metadata = file.metadata()?;
    let mode = metadata.mode();
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    let euid = if mode & 0o4000 != 0 {
        metadata.uid()
    } else {
        geteuid().as_raw()
    };
    let egid = if mode & 0o2010 == 0o2010 {
        metadata.gid()
    } else {
        getegid().as_raw()
    };
    if euid != uid {
        return Ok(Some(Unreached::Privileged("set-uid")));
    }
    if egid != gid {
        return Ok(Some(Unreached::Privileged("set-gid")));
    }
    let mut value = [0u8; 64];
    if uid != 0 && rustix::fs::getxattr(path, "security.capability", &mut value).is_ok_and(|bytes| bytes > 0)
    {
        return Ok(Some(Unreached::Privileged("given capabilities of its own")));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_test_program_itself_is_reached() {
        let own = std::env::current_exe().expect("own path");
        assert_eq!(unreached(&own, DEPTH).expect("readable"), None);
    }

    #[test]
    fn interpreters_are_followed() {
        assert_eq!(interpreter(b" /bin/sh -e"), Some(PathBuf::from("/bin/sh")));
        let found = interpreter(b"/usr/bin/env -S LANG=C sh -e").expect("sh is in PATH");
        assert_eq!(found.file_name(), Some(OsStr::new("sh")));
        assert_eq!(interpreter(b"  "), None);
    }

    #[test]
    fn headers_that_lie_are_no_panic() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let path = folder.path().join("lying");
        let mut bytes = std::fs::read("/bin/sh").expect("sh")[..512].to_vec();
        bytes[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        bytes[54..56].copy_from_slice(&u16::MAX.to_le_bytes());
        bytes[56..58].copy_from_slice(&u16::MAX.to_le_bytes());
        std::fs::write(&path, &bytes).expect("written");
        assert!(unreached(&path, DEPTH).is_err());
        std::fs::write(&path, b"\x7fELF").expect("written");
        assert!(unreached(&path, DEPTH).is_ok());
    }

    #[test]
    fn missing_and_unexecutable_programs_have_their_statuses() {
        assert_eq!(
            find(OsStr::new("/nowhere/prog")).expect_err("missing").status(),
            NOT_FOUND
        );
        assert_eq!(
            find(OsStr::new("/etc/passwd")).expect_err("no program").status(),
            NOT_EXECUTABLE
        );
        assert_eq!(
            find(OsStr::new("no-such-program-at-all"))
                .expect_err("missing")
                .status(),
            NOT_FOUND
        );
    }
}
