//! `vshmem run` refuses what the preload library would not reach, in one clear line, and has the statuses of a shell.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use support::{LIMIT, build_preload, err, finish, vshmem};

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Folder(tempfile::tempdir().expect("temporary folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).expect("written");
        mode(&path, 0o755);
        path
    }

    fn program(&self, options: &[&str]) -> Option<PathBuf> {
        let source = self.path("main.c");
        std::fs::write(&source, "int main(void) { return 0; }\n").expect("written");
        let program = self.path("program");
        support::cc(&source, &program, options)?;
        Some(program)
    }
}

fn mode(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
}

/// Runs a program and gives status and message. No daemon runs in the folder it is told.
fn refusal(folder: &Folder, program: &Path) -> (Option<i32>, String) {
    let output = finish(
        vshmem(&["run", "--runtime-dir"])
            .arg(folder.0.path())
            .arg("--")
            .arg(program),
        LIMIT,
    );
    (output.status.code(), err(&output))
}

fn assert_refused(folder: &Folder, program: &Path, words: &str) {
    let (status, message) = refusal(folder, program);
    assert_eq!(status, Some(125), "{message}");
    assert!(
        message.contains(words) && message.contains("--force"),
        "{message}"
    );
    let strict = !words.contains("32-bit");
    assert_eq!(message.contains("--strict"), strict, "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(
        message.starts_with(&format!("vshmem: {}", program.display())),
        "{message}"
    );
}

#[test]
fn static_programs_are_refused() {
    let folder = Folder::new();
    let Some(program) = folder.program(&["-static"]) else {
        return;
    };
    assert_refused(&folder, &program, "statically linked");
    let script = folder.script("script", &format!("#!{} -x\n", program.display()));
    assert_refused(&folder, &script, "statically linked");
}

#[test]
fn static_position_independent_programs_are_refused() {
    let folder = Folder::new();
    let Some(program) = folder.program(&["-static-pie"]) else {
        return;
    };
    assert_refused(&folder, &program, "statically linked");
}

#[test]
fn programs_of_musl_are_refused() {
    let folder = Folder::new();
    let Some(program) = folder.program(&["-Wl,--dynamic-linker=/lib/ld-musl-x86_64.so.1"]) else {
        return;
    };
    assert_refused(&folder, &program, "ld-musl-x86_64.so.1");
}

#[test]
fn programs_of_another_word_size_are_refused() {
    let folder = Folder::new();
    let Some(program) = folder.program(&[]) else {
        return;
    };
    let mut bytes = std::fs::read(&program).expect("read");
    bytes[4] = 1;
    std::fs::write(&program, bytes).expect("written");
    assert_refused(&folder, &program, "32-bit");
}

#[test]
fn set_uid_and_set_gid_programs_are_refused() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give a file to another user");
        return;
    }
    let folder = Folder::new();
    let Some(program) = folder.program(&[]) else {
        return;
    };
    std::os::unix::fs::chown(&program, Some(65534), Some(65534)).expect("chown");
    mode(&program, 0o4755);
    assert_refused(&folder, &program, "set-uid");
    mode(&program, 0o2755);
    assert_refused(&folder, &program, "set-gid");
}

#[test]
fn missing_and_unexecutable_programs_have_a_shells_statuses() {
    let folder = Folder::new();
    let (status, message) = refusal(&folder, Path::new("/no/such/program"));
    assert_eq!(status, Some(127), "{message}");
    let (status, message) = refusal(&folder, Path::new("no-such-program-in-path"));
    assert_eq!(status, Some(127), "{message}");
    let text = folder.script("text", "hello\n");
    mode(&text, 0o644);
    let (status, message) = refusal(&folder, &text);
    assert_eq!(status, Some(126), "{message}");
    let (status, message) = refusal(&folder, folder.0.path());
    assert_eq!(status, Some(126), "{message}");
}

#[test]
fn without_a_daemon_the_message_says_how_to_start_one() {
    build_preload();
    let folder = Folder::new();
    let (status, message) = refusal(&folder, Path::new("/bin/true"));
    assert_eq!(status, Some(125), "{message}");
    assert!(
        message.contains("vshmem serve &") && message.contains("--serve"),
        "{message}"
    );
    assert_eq!(message.lines().count(), 1, "{message}");
}

#[test]
fn without_the_library_the_message_says_where_it_should_be() {
    let folder = Folder::new();
    let output = finish(
        vshmem(&["run", "--", "/bin/true"]).env("VSHMEM_PRELOAD", folder.path("none.so")),
        LIMIT,
    );
    assert_eq!(output.status.code(), Some(125));
    assert!(
        err(&output).contains("none.so, which is no file"),
        "{}",
        err(&output)
    );
}
