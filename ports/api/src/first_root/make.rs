//! The host's side: the archive, uncompressed cpio ("newc") in a file in memory.
//!
//! The program in it is the very executable that goes on in the guest afterwards, without what only debuggers read.

use super::{FOLDER, HOST, INIT, MODULES};
use anyhow::{Context, ensure};
use rustix::fd::OwnedFd;
use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long the dynamic linker may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// The archive: `init`, what it needs, and `modules`, to be loaded in this order.
///
/// # Errors
/// If one of the files cannot be read, or no memory is left.
pub fn make(modules: &[PathBuf], init: &Path) -> anyhow::Result<OwnedFd> {
    let mut archive = Archive::default();
    for folder in ["dev", "proc", HOST] {
        archive.folder(Path::new(folder));
    }
    // The kernel opens the first for the first process, which opens the other where that fails.
    archive.entry(Path::new("dev/console"), 0o20600, &[], (5, 1));
    archive.entry(Path::new("dev/null"), 0o20666, &[], (1, 3));
    let program = fs::read(init).with_context(|| init.display().to_string())?;
    for library in libraries(init, &program)? {
        let bytes = fs::read(&library).with_context(|| library.display().to_string())?;
        archive.file(&library, &bytes);
    }
    archive.file(Path::new("init"), loaded(&program));
    let folder = Path::new(FOLDER);
    archive.file(&folder.join(INIT), init.as_os_str().as_bytes());
    for (index, module) in modules.iter().enumerate() {
        let bytes = fs::read(module).with_context(|| module.display().to_string())?;
        let name = module.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&folder.join(MODULES).join(format!("{index:02}-{name}")), &bytes);
    }
    archive.entry(Path::new("TRAILER!!!"), 0, &[], (0, 0));
    let file = rustix::fs::memfd_create("vshmem-initramfs", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut file = fs::File::from(file);
    file.write_all(&archive.bytes)?;
    Ok(file.into())
}

/// The part of an executable that is loaded into memory: what only debuggers read lies behind it.
fn loaded(program: &[u8]) -> &[u8] {
    let end = headers(program).map(|header| header.end).max().unwrap_or(0);
    program
        .get(..end)
        .filter(|part| !part.is_empty())
        .unwrap_or(program)
}

/// What a program header says.
struct Header {
    is_interpreter: bool,
    start: usize,
    end: usize,
}

/// An ELF file's program headers; none in anything else.
fn headers(program: &[u8]) -> impl Iterator<Item = Header> {
    let half = |at: usize| {
        program
            .get(at..at + 2)
            .map_or(0, |b| usize::from(u16::from_le_bytes([b[0], b[1]])))
    };
    let long = |at: usize| {
        let bytes = program.get(at..at + 8).and_then(|b| b.try_into().ok());
        bytes.map_or(0, |b| usize::try_from(u64::from_le_bytes(b)).unwrap_or(0))
    };
    let is_elf = program.starts_with(b"\x7fELF");
    let (table, size, count) = (long(32), half(54), half(56));
    (0..if is_elf { count } else { 0 }).map(move |index| {
        let at = table.saturating_add(index * size);
        let start = long(at.saturating_add(8));
        Header {
            is_interpreter: half(at) == 3,
            start,
            end: start.saturating_add(long(at.saturating_add(32))),
        }
    })
}

/// The shared libraries that a program needs, and what loads them: as its dynamic linker tells.
fn libraries(path: &Path, program: &[u8]) -> anyhow::Result<BTreeSet<PathBuf>> {
    let interpreter = headers(program).find(|header| header.is_interpreter);
    let linker = interpreter.and_then(|header| {
        let name = program
            .get(header.start..header.end)?
            .split(|byte| *byte == 0)
            .next()?;
        Some(PathBuf::from(std::ffi::OsStr::from_bytes(name)))
    });
    let Some(linker) = linker else {
        return Ok(BTreeSet::new());
    };
    let mut command = Command::new(&linker);
    command.arg("--list").arg(path).env_clear();
    let said = bounded(&mut command).context("asking for the libraries of the first process")?;
    let said = String::from_utf8_lossy(&said).into_owned();
    let mut found: BTreeSet<PathBuf> = said
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(PathBuf::from)
        .collect();
    found.insert(linker);
    Ok(found)
}

/// Runs a command to its end, for some seconds at most; gives its standard output.
fn bounded(command: &mut Command) -> anyhow::Result<Vec<u8>> {
    let output = rustix::fs::memfd_create("vshmem-output", rustix::fs::MemfdFlags::CLOEXEC)?;
    let mut output = fs::File::from(output);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(Stdio::null())
        .spawn()?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > until {
            let _ = child.kill();
            let _ = child.wait();
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    ensure!(status.success(), "{status}");
    let mut all = Vec::new();
    output.rewind()?;
    output.read_to_end(&mut all)?;
    Ok(all)
}

/// A cpio archive under way.
#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    folders: BTreeSet<PathBuf>,
    entries: usize,
}

impl Archive {
    fn folder(&mut self, path: &Path) {
        if path.as_os_str().is_empty() || !self.folders.insert(path.to_owned()) {
            return;
        }
        if let Some(above) = path.parent() {
            self.folder(above);
        }
        self.entry(path, 0o40755, &[], (0, 0));
    }

    /// A file under the same path as here; its folders come first.
    fn file(&mut self, path: &Path, bytes: &[u8]) {
        let path = path.strip_prefix("/").unwrap_or(path);
        if let Some(above) = path.parent() {
            self.folder(above);
        }
        self.entry(path, 0o100_755, bytes, (0, 0));
    }

    fn entry(&mut self, path: &Path, mode: u32, bytes: &[u8], (major, minor): (u32, u32)) {
        let name = path.as_os_str().as_bytes();
        self.entries += 1;
        let fields = [
            self.entries,
            mode as usize,
            0,
            0,
            1,
            0,
            bytes.len(),
            0,
            0,
            major as usize,
            minor as usize,
            name.len() + 1,
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_cut_behind_what_is_loaded_and_its_libraries_are_found() {
        let own = std::env::current_exe().unwrap();
        let program = fs::read(&own).unwrap();
        let part = loaded(&program);
        assert!(!part.is_empty() && part.len() <= program.len());
        let found = libraries(&own, &program).unwrap();
        assert!(
            found
                .iter()
                .any(|path| path.to_string_lossy().contains("libc.so")),
            "{found:?}"
        );
        for nonsense in [&b""[..], b"\x7fELF", b"#!/bin/sh"] {
            assert_eq!(loaded(nonsense), nonsense);
        }
    }

    #[test]
    fn folders_come_before_what_is_in_them_and_once() {
        let mut archive = Archive::default();
        archive.file(Path::new("/a/b/c"), b"1");
        archive.file(Path::new("/a/b/d"), b"22");
        let text = String::from_utf8_lossy(&archive.bytes).into_owned();
        let place = |name: &str| text.find(&format!("{name}\0")).unwrap();
        assert!(place("a/b") < place("a/b/c") && place("a/b/c") < place("a/b/d"));
        assert_eq!(text.matches("a/b\0").count(), 1);
        assert_eq!(archive.bytes.len() % 4, 0);
    }
}
