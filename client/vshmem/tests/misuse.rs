//! What a program may do wrong with the crate's values: use them after a fork, ask for more than there is. Each test runs itself again as a program of its own,
//! with a back-end of its own.
#![allow(unsafe_code)] // fork is a C function.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vshmem::{CollectiveError, Error, Key, Queue, SemaphoreSet, Team};

const RUNTIME: &str = "VSHMEM_RUNTIME_DIR";
/// Says that a process is the program of a test.
const INSIDE: &str = "VSHMEM_MISUSE_TEST";

/// The daemon's program, built if need be.
fn daemon_program() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let built = test.parent().and_then(Path::parent).unwrap();
    let program = built.join("vshmem-daemon");
    if !program.exists() {
        let cargo = std::env::var_os("CARGO").unwrap_or("cargo".into());
        let built = Command::new(cargo)
            .args(["build", "-q", "-p", "vshmem-daemon"])
            .status();
        assert!(built.unwrap().success());
    }
    program
}

struct Daemon(Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(
            rustix::process::Pid::from_child(&self.0),
            rustix::process::Signal::TERM,
        );
        let _ = self.0.wait();
    }
}

/// Runs `work` in a process that is served by a back-end of its own.
fn served(name: &str, work: fn()) {
    if std::env::var_os(INSIDE).is_some() {
        return work();
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(daemon_program());
    command
        .args(["serve", "--pool", "64M", "--runtime-dir"])
        .arg(folder.path())
        .stdin(Stdio::null());
    let _daemon = Daemon(command.spawn().unwrap());
    let until = Instant::now() + Duration::from_secs(60);
    while !folder.path().join("vshmem.sock").exists() {
        assert!(Instant::now() < until, "the daemon does not start");
        std::thread::sleep(Duration::from_millis(5));
    }
    let mut again = Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", name, "--nocapture", "--test-threads", "1"]);
    let output = again
        .env(RUNTIME, folder.path())
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Runs `work` in a forked child; whether it said yes.
fn in_a_child(work: impl FnOnce() -> bool) -> bool {
    // SAFETY: the child runs `work` and ends, without returning into the test's machinery.
    match unsafe { libc::fork() } {
        0 => {
            let yes = work();
            // SAFETY: ends the process.
            unsafe { libc::_exit(i32::from(!yes)) }
        }
        child => {
            let child = rustix::process::Pid::from_raw(child).expect("a child");
            let waited = rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty());
            waited
                .unwrap()
                .is_some_and(|(_, status)| status.exit_status() == Some(0))
        }
    }
}

#[test]
fn a_forked_child_gives_nothing_back_that_its_parent_holds() {
    served("a_forked_child_gives_nothing_back_that_its_parent_holds", || {
        let set = SemaphoreSet::options().create(true).semaphores(1).open().unwrap();
        set.set_value(0, 1).unwrap();
        let held = set.hold(0).unwrap();
        let mut held = Some(held);
        let unchanged = in_a_child(|| {
            drop(held.take());
            set.value(0) == Ok(0)
        });
        assert!(unchanged, "the child let somebody else in");
        assert_eq!(set.value(0), Ok(0));
        drop(held);
        assert_eq!(set.value(0), Ok(1));
        set.remove().unwrap();
    });
}

#[test]
fn a_forked_child_is_not_in_the_team_and_patience_may_be_without_end() {
    served(
        "a_forked_child_is_not_in_the_team_and_patience_may_be_without_end",
        || {
            let options = Team::options(Key::new(0x7ea0)).parties(1).patience(Duration::MAX);
            let mut team = options.join().unwrap();
            team.barrier().unwrap();
            let mut inherited = Some(team);
            let refused = in_a_child(|| {
                let mut team = inherited.take().expect("a copy");
                team.barrier() == Err(CollectiveError::Inherited)
                    && team.broadcast(0, &mut [1]) == Err(CollectiveError::Inherited)
                    && team.disband() == Err(CollectiveError::Inherited)
            });
            assert!(refused);
            let mut team = inherited.expect("this process is in it");
            team.barrier().unwrap();
            team.disband().unwrap();
        },
    );
}

#[test]
fn room_for_a_message_that_nobody_has_is_an_error() {
    served("room_for_a_message_that_nobody_has_is_an_error", || {
        let queue = Queue::options().create(true).open().unwrap();
        queue.send(1, b"hello").unwrap();
        assert_eq!(queue.receive(usize::MAX), Err(Error::NoRoom));
        assert_eq!(queue.receive(100).unwrap().text, b"hello");
        queue.remove().unwrap();
    });
}
