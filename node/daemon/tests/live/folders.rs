//! The runtime directory, where it is one that others use, too.

use crate::harness::{Daemon, until};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

/// A daemon in a directory that was there before.
fn serve_in(dir: tempfile::TempDir) -> Daemon {
    let mut command = Daemon::command();
    command
        .args(["serve", "--pool", "64M", "--runtime-dir"])
        .arg(dir.path().join("run"));
    Daemon::start(command, dir)
}

#[test]
fn what_others_have_in_the_runtime_directory_stays() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let theirs = [
        "machines/a/letter.txt",
        "machines/list",
        "pool-party.txt",
        "lock",
        "domains/x",
    ];
    for path in theirs.map(|path| run.join(path)) {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, "mine").unwrap();
    }
    // As /tmp is: for everybody, and nobody takes away what is another's.
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o1777)).unwrap();
    let mut daemon = serve_in(dir);
    assert_eq!(mode(&run), 0o1777);
    let open = crate::machines::open(&mut daemon.client(), "a").unwrap();
    assert!(std::fs::metadata(&open.control).unwrap().file_type().is_socket());
    assert_eq!(daemon.stop(), Some(0));
    for path in theirs.map(|path| run.join(path)) {
        assert_eq!(
            std::fs::read_to_string(&path).ok().as_deref(),
            Some("mine"),
            "{}",
            path.display()
        );
    }
    for ours in [
        "vshmem.sock",
        "pool",
        "machines/a/control.sock",
        "machines/a/device.sock",
    ] {
        assert!(!run.join(ours).exists(), "{ours}");
    }
    assert_eq!(mode(&run), 0o1777);
}

#[test]
fn a_directory_of_ones_own_is_opened_for_passing_through_alone() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::set_permissions(&run, PermissionsExt::from_mode(0o700)).unwrap();
    let _daemon = serve_in(dir);
    assert_eq!(mode(&run), 0o711);
}

#[test]
fn a_file_in_the_sockets_place_is_not_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    std::fs::create_dir(&run).unwrap();
    std::fs::write(run.join("vshmem.sock"), "mine").unwrap();
    let mut command = Daemon::command();
    command
        .args(["serve", "--runtime-dir"])
        .arg(&run)
        .stderr(std::process::Stdio::piped());
    let mut daemon = command.spawn().unwrap();
    let status = until("it gives up", || daemon.try_wait().unwrap());
    let mut said = String::new();
    std::io::Read::read_to_string(&mut daemon.stderr.take().unwrap(), &mut said).unwrap();
    assert!(
        !status.success() && said.contains("vshmem.sock is in the way"),
        "{said}"
    );
    let left = std::fs::read_to_string(run.join("vshmem.sock"));
    assert_eq!(left.ok().as_deref(), Some("mine"));
}

#[test]
fn sizes_of_a_pool_that_cannot_be_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vshmem.toml");
    for (size, memory, words) in [
        ("5000", "pool", "--pool is 5000 bytes"),
        ("0", "pool", "--pool is 0 bytes"),
        ("64M", "memfd", "a file each"),
    ] {
        std::fs::write(&file, format!("[group]\nmemory = \"{memory}\"\n")).unwrap();
        let mut command = Daemon::command();
        command
            .args(["serve", "--pool", size, "--runtime-dir"])
            .arg(dir.path().join("run"));
        let output = command.arg("--config").arg(&file).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words), "{size}: {said}");
    }
}
