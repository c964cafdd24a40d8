//! Memory that is taken out of the running machine while programs have it mapped, and memory that is theirs no more.
//!
//! Their mappings then lead nowhere, or, once something is plugged in at the same address, to what is there: no program can go on with them, and none of them can
//! be taken away from outside. So whoever has mapped the memory is killed, as by a fault on memory that has failed; the back-end hears of these deaths as
//! of any other and sets the constructs right. Then the front-end ends: what to do is in its last words.
//!
//! The same becomes of the programs of a machine that was restored from a snapshot with its memory in place, when its front-end is told that its session is over: they would
//! go on with constructs that are others' by now.

use super::Frontend;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

/// Between two of such looks: a killed process keeps its mappings for a moment.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// Seconds after which a process that does not die is left alone.
const LONGEST: u32 = 10;

/// How often processes are looked for that were made while others were killed.
const ROUNDS: usize = 5;

impl Frontend {
    /// Kills whoever has this domain's memory mapped: clients, their children, programs for which somebody stands in. Gives their number.
    pub(super) fn kill_clients(&self) -> usize {
        let clients = self.clients.kill_all();
        let mut users = 0;
        for round in 0..ROUNDS {
            let found: usize = self.port.mapped().iter().map(|mapped| kill_users(mapped)).sum();
            if round == 0 {
                users = found;
            }
            if found == 0 {
                break;
            }
            std::thread::sleep(PAUSE);
        }
        clients.max(users)
    }

    /// Once a second.
    pub(super) fn look_for_memory(&mut self) {
        let Some(pulled) = self.port.pulled() else {
            return;
        };
        let killed = kill_users(&pulled.mapped);
        if self.pulled_for.is_none() {
            tracing::error!(killed, "{}", pulled.why);
        }
        let seconds = self.pulled_for.map_or(0, |seconds| seconds + 1);
        self.pulled_for = Some(seconds);
        // The last deaths are told before the end.
        if seconds > 0 && (killed == 0 || seconds > LONGEST) {
            self.end = Some(Err(pulled.why));
        }
    }
}

/// Kills every process but this one that has mapped a file with this in its path; gives their number.
fn kill_users(mapped: &str) -> usize {
    let own = rustix::process::getpid();
    let all = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = all.filter_map(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?));
    others
        .filter(|pid| *pid != own)
        .filter(|&pid| {
            // The process that is looked at is the one that is killed.
            let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
                return false;
            };
            let maps = std::fs::read(format!("/proc/{pid}/maps")).unwrap_or_default();
            let uses = String::from_utf8_lossy(&maps).contains(mapped);
            uses && pidfd_send_signal(&process, Signal::KILL).is_ok()
        })
        .count()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    #[test]
    fn who_has_mapped_a_file_is_killed_and_nobody_else() {
        let folder = tempfile::tempdir().unwrap();
        let copy = folder.path().join("a-sleep-of-its-own");
        std::fs::copy("/bin/sleep", &copy).unwrap();
        let start = |program: &str| {
            let line = format!("echo here; exec {program} 60");
            let mut child = Command::new("sh")
                .args(["-c", &line])
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut said = String::new();
            BufReader::new(child.stdout.take().unwrap())
                .read_line(&mut said)
                .unwrap();
            child
        };
        let (mut user, mut other) = (start(copy.to_str().unwrap()), start("/bin/sleep"));
        let name = copy.to_str().unwrap().to_owned();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(30);
        // The shell may not have become the program yet.
        while kill_users(&name) == 0 {
            assert!(std::time::Instant::now() < until, "nobody uses {name}");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        let ended = user.wait().unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
        assert_eq!(kill_users(&name), 0);
        assert!(other.try_wait().unwrap().is_none(), "somebody else was killed");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}
