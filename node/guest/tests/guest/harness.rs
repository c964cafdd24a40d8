//! Starting the runner, watching it, and finding what belongs to it: for the tests of every port.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::PORT;

/// No test may take longer than this. A guest of Xen is most often one of an emulated machine.
const LIMIT: Duration = Duration::from_secs(match PORT.as_bytes() {
    b"xen" => 600,
    _ => 180,
});

/// The runner with `options`; `None` (said aloud) where it cannot work.
pub(crate) fn guest(test: &str, options: &[&str]) -> Option<Command> {
    let able =
        vshmem_port_select::boot(PORT).and_then(|boot| Ok(boot.check().and_then(|()| boot.prepare())?));
    if let Err(why) = able {
        println!("skipped: {test}: {why}");
        return None;
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_vshmem-guest"));
    command
        .args(["--port", PORT])
        .args(options)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Some(command)
}

/// A guest at work, with its output collected as it comes.
pub(crate) struct Job {
    pub(crate) child: Child,
    outputs: [std::thread::JoinHandle<Vec<u8>>; 2],
    started: Instant,
}

/// How it ended.
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Ended {
    pub(crate) fn stdout(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

pub(crate) fn start(command: &mut Command) -> Job {
    let mut child = command.spawn().expect("the runner starts");
    let collect = |mut from: Box<dyn Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).expect("reading output");
            bytes
        })
    };
    let stdout: Box<dyn Read + Send> = match child.stdout.take() {
        Some(stdout) => Box::new(stdout),
        None => Box::new(std::io::empty()),
    };
    let outputs = [
        collect(stdout),
        collect(Box::new(child.stderr.take().expect("stderr"))),
    ];
    Job {
        child,
        outputs,
        started: Instant::now(),
    }
}

impl Job {
    /// Waits for its end, for a bounded time.
    pub(crate) fn finish(mut self) -> Ended {
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("waiting") {
                break Some(status);
            }
            if self.started.elapsed() > LIMIT {
                self.child.kill().expect("ending a runner that hangs");
                self.child.wait().expect("waiting");
                break None;
            }
            std::thread::sleep(Duration::from_millis(10));
        };
        let [stdout, stderr] = self.outputs.map(|thread| thread.join().expect("output thread"));
        let stderr = String::from_utf8_lossy(&stderr).into_owned();
        let status = status.unwrap_or_else(|| panic!("it did not end within {LIMIT:?}; stderr:\n{stderr}"));
        assert_eq!(
            status.signal(),
            None,
            "the runner itself was killed; stderr:\n{stderr}"
        );
        Ended {
            code: status.code(),
            stdout,
            stderr,
        }
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.child), signal)
            .expect("signalling");
    }
}

pub(crate) fn run(command: &mut Command) -> Ended {
    start(command).finish()
}

/// Feeds `input` to the job from a thread of its own.
pub(crate) fn feed(job: &mut Job, input: Vec<u8>) -> std::thread::JoinHandle<()> {
    let mut stdin = job.child.stdin.take().expect("stdin");
    // A program that reads no more makes this fail, which is its right.
    std::thread::spawn(move || drop(stdin.write_all(&input)))
}

/// Waits until `found` gives something.
pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(it) = found() {
            return it;
        }
        assert!(started.elapsed() < LIMIT, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Every live process below `root`, by what `/proc` says of parents, and of sessions for those whose parent is gone.
pub(crate) fn family(root: u32) -> Vec<u32> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
            continue;
        };
        let pid: u32 = stat
            .split(' ')
            .next()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_default();
        let rest: Vec<_> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .collect();
        if rest[0] != "Z" {
            all.push((pid, rest[1].parse::<u32>().unwrap_or_default()));
        }
    }
    let mut family = vec![root];
    loop {
        let more: Vec<_> = all
            .iter()
            .filter(|(pid, parent)| family.contains(parent) && !family.contains(pid))
            .map(|(pid, _)| *pid)
            .collect();
        if more.is_empty() {
            family.retain(|&pid| pid != root);
            return family;
        }
        family.extend(more);
    }
}

pub(crate) fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        !matches!(
            stat.rsplit(')')
                .next()
                .unwrap_or_default()
                .trim_start()
                .chars()
                .next(),
            Some('Z' | 'X')
        )
    })
}
