//! Another process as a client: this test program, started again to do what it is told on its standard input, one line a command.

use crate::harness::{Client, Daemon, Mapped};
use rustix::fd::AsFd;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Reply, Request, Verdict};

const SOCKET: &str = "VSHMEM_TEST_HELPER_SOCKET";
const DOMAIN: &str = "VSHMEM_TEST_HELPER_DOMAIN";

/// A process that is a client. Dropping it kills it.
pub(crate) struct Helper {
    pub(crate) child: Child,
    from: BufReader<ChildStdout>,
    /// What its hello gave: its client number, or an errno.
    pub(crate) first: String,
}

impl Helper {
    pub(crate) fn start(daemon: &Daemon) -> Helper {
        Helper::start_at(&daemon.socket(), None, None)
    }

    pub(crate) fn start_as(daemon: &Daemon, uid: u32) -> Helper {
        Helper::start_at(&daemon.socket(), Some(uid), None)
    }

    pub(crate) fn start_at(socket: &Path, uid: Option<u32>, domain: Option<&str>) -> Helper {
        let mut program = std::env::current_exe().unwrap();
        if uid.is_some() {
            // This program may lie where only its owner can go, as in root's home.
            let copy = socket.ancestors().nth(2).unwrap().join("helper");
            if !copy.exists() {
                std::fs::copy(&program, &copy).unwrap();
            }
            program = copy;
        }
        let mut command = Command::new(program);
        command
            .args(["--exact", "helper::be_one", "--nocapture", "--test-threads=1"])
            .env(SOCKET, socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        if let Some(domain) = domain {
            command.env(DOMAIN, domain);
        }
        if let Some(uid) = uid {
            // The socket is in a folder of root's, which others may not enter.
            for folder in socket.ancestors().skip(1).take(2) {
                use std::os::unix::fs::PermissionsExt;
                std::fs::set_permissions(folder, std::fs::Permissions::from_mode(0o755)).unwrap();
            }
            command.uid(uid).gid(uid);
        }
        let mut child = command.spawn().unwrap();
        let from = BufReader::new(child.stdout.take().unwrap());
        let mut helper = Helper {
            child,
            from,
            first: String::new(),
        };
        helper.first = helper.hear();
        helper
    }

    /// Tells it something, and waits for what comes of it.
    pub(crate) fn say(&mut self, what: &str) -> String {
        writeln!(self.child.stdin.as_mut().unwrap(), "{what}").unwrap();
        self.hear()
    }

    fn hear(&mut self) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert!(self.from.read_line(&mut line).unwrap() > 0, "the helper ended");
            if let Some(answer) = line.trim_end().split("> ").nth(1) {
                return answer.to_owned();
            }
        }
    }

    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn said(verdict: Verdict) -> String {
    match verdict {
        Ok(Reply::Id(id)) => id.to_string(),
        Ok(_) => "done".into(),
        Err(failure) => format!("errno {}", failure.errno),
    }
}

/// The other process's part: nothing when it is run as a test.
#[test]
fn be_one() {
    let Some(socket) = std::env::var_os(SOCKET).map(PathBuf::from) else {
        return;
    };
    let domain = std::env::var(DOMAIN).ok();
    let (mut client, _) = match Client::hello_in(&socket, None, domain) {
        Ok(welcomed) => welcomed,
        Err(failure) => return println!("> errno {}", failure.errno),
    };
    let mut mapped = Vec::new();
    let mut forks = Vec::new();
    let mut became: Option<Child> = None;
    println!("> {}", client.welcome.client);
    for line in std::io::stdin().lock().lines() {
        let line = line.unwrap();
        let words: Vec<&str> = line.split(' ').collect();
        let number = |i: usize| words[i].parse::<i32>().unwrap();
        let answer = match words[0] {
            "ping" => said(client.ask(Request::Ping)),
            "shm" => client
                .shm_get(number(1), number(2) as u64)
                .map_or_else(|f| said(Err(f)), |id| id.to_string()),
            "attach" => {
                let request = Request::ShmAttach {
                    id: number(1),
                    read_only: false,
                    exec: false,
                };
                said(client.ask(request))
            }
            "undo" => {
                let (set, control) = client.open_set(number(1));
                let text = undo(&client, &set, control, number(2));
                mapped.push(set);
                text
            }
            "send" => {
                let operation = Behalf::Send {
                    mtype: 1,
                    text: vec![7; number(2) as usize],
                };
                said(client.ask(Request::OnBehalf {
                    id: number(1),
                    operation,
                }))
            }
            "value" => {
                let operation = Behalf::GetValue(0);
                match client.ask(Request::OnBehalf {
                    id: number(1),
                    operation,
                }) {
                    Ok(Reply::Value(value)) => value.to_string(),
                    other => said(other),
                }
            }
            "add" => {
                let operation = Behalf::SemOp(vec![(0, number(2) as i16, 0)]);
                said(client.ask(Request::OnBehalf {
                    id: number(1),
                    operation,
                }))
            }
            "bells" => {
                let mut bell = || client.ask(Request::Bell { wait: true });
                std::iter::from_fn(|| bell().ok()).count().to_string()
            }
            "bring-guest" => {
                let (ours, _theirs) = std::os::unix::net::UnixStream::pair().unwrap();
                let request = Request::AttachDomain {
                    name: words[1].into(),
                    port: "local".into(),
                };
                said(client.try_ask_with(request, &[ours.as_fd()]).unwrap().0)
            }
            "hang-up" => {
                let (a, _b) = std::os::unix::net::UnixStream::pair().unwrap();
                client.fd = a.into();
                "done".into()
            }
            "fork-prepare" => {
                let (ours, childs) = rustix::net::socketpair(
                    rustix::net::AddressFamily::UNIX,
                    rustix::net::SocketType::SEQPACKET,
                    rustix::net::SocketFlags::CLOEXEC,
                    None,
                )
                .unwrap();
                forks.push(childs);
                said(
                    client
                        .try_ask_with(Request::ForkPrepare, &[ours.as_fd()])
                        .unwrap()
                        .0,
                )
            }
            "child-says-hello-and-becomes" => {
                let childs = forks[0].try_clone().unwrap();
                became = Some(become_after_hello(childs, words[1]));
                "done".into()
            }
            "child-stats" => {
                let welcome = crate::harness::receive(&forks[0]).unwrap().0;
                assert!(matches!(welcome.body, Ok(Reply::Welcome(_))), "{welcome:?}");
                let which = vshmem_wire::request::Which::Id(number(1));
                let kind = vshmem_wire::Kind::Shm;
                crate::harness::send(&forks[0], 1, Request::Stat { kind, which }, &[]).unwrap();
                let verdict = crate::harness::receive(&forks[0]).unwrap().0.body;
                let mut child = became.take().unwrap();
                child.kill().unwrap();
                child.wait().unwrap();
                said(verdict)
            }
            "exec" => {
                let error = Command::new("/bin/sleep").arg("60").exec();
                format!("exec: {error}")
            }
            other => panic!("{other}"),
        };
        println!("> {answer}");
    }
}

/// A child that says hello on a fork's socket and executes a program right away.
#[allow(unsafe_code)] // What a child does between fork and exec.
fn become_after_hello(childs: rustix::fd::OwnedFd, program: &str) -> Child {
    let mut command = Command::new(program);
    command
        .arg("20")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let hello = crate::harness::hello_request(None);
    let bytes = vshmem_wire::encode(&vshmem_wire::Envelope { seq: 0, body: hello });
    // SAFETY: only a system call is made.
    unsafe { command.pre_exec(move || crate::socket::send_waiting(&childs, &bytes, &[])) };
    command.spawn().unwrap()
}

/// semop with SEM_UNDO of `change` on semaphore 0, as the client's own code would do it.
fn undo(client: &Client, set: &Mapped, control: u64, change: i32) -> String {
    use vshmem_ipc::sem::SemSet;
    use vshmem_ipc::sysv::{SEM_UNDO, SemBuf};
    let world = crate::harness::world(client);
    let op = SemBuf {
        num: 0,
        op: change as i16,
        flags: SEM_UNDO,
    };
    match SemSet::at(&set.words, 1).op(&world, vshmem_ipc::Control(control), &[op]) {
        Ok(()) => "done".into(),
        Err(e) => format!("{e:?}"),
    }
}
