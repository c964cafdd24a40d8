//! Starting and ending daemons, and a client that speaks the protocol by hand.

use crate::socket;
use rustix::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_wire::request::Welcome;
use vshmem_wire::request::Which;
use vshmem_wire::{
    Answer, Envelope, Failure, Kind, Reply, Request, Stat, StatBody, Status, VERSION, Verdict,
};

/// No wait of a test is longer.
pub(crate) const LONG: Duration = Duration::from_secs(60);
pub(crate) const LAYOUT: u32 = vshmem_ipc::header::LAYOUT;
pub(crate) const IPC_CREAT: i32 = 0o1000;

/// Tries until it works, or time is up.
pub(crate) fn until<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + LONG;
    loop {
        if let Some(value) = attempt() {
            return value;
        }
        assert!(Instant::now() < end, "it never came to this: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A daemon with its keeper. Dropping it ends both.
pub(crate) struct Daemon {
    pub(crate) keeper: Child,
    dir: tempfile::TempDir,
}

impl Daemon {
    pub(crate) fn command() -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vshmem-daemon"));
        command.stdin(Stdio::null()).env("VSHMEM_LOG", "info");
        command
    }

    /// A back-end with these further options, and a configuration file where `config` is not empty.
    pub(crate) fn serve_with(options: &[&str], config: &str) -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let mut command = Daemon::command();
        command
            .arg("serve")
            .arg("--runtime-dir")
            .arg(dir.path().join("run"))
            .args(options);
        if !config.is_empty() {
            let file = dir.path().join("vshmem.toml");
            std::fs::write(&file, config).unwrap();
            command.arg("--config").arg(file);
        }
        Daemon::start(command, dir)
    }

    pub(crate) fn serve() -> Daemon {
        Daemon::serve_with(&["--pool", "64M"], "")
    }

    pub(crate) fn start(mut command: Command, dir: tempfile::TempDir) -> Daemon {
        let keeper = command.spawn().unwrap();
        let daemon = Daemon { keeper, dir };
        until("the daemon listens", || connect(&daemon.socket()).ok());
        daemon
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir().join("vshmem.sock")
    }

    pub(crate) fn client(&self) -> Client {
        Client::hello(&self.socket(), None).unwrap().0
    }

    /// Kills the daemon (not the keeper), as hard as can be, and waits until the next one serves.
    pub(crate) fn kill(&self) {
        let before = self.client().status();
        kill(before.pid, rustix::process::Signal::KILL);
        until("the daemon is back", || {
            let (mut client, _) = Client::hello(&self.socket(), None).ok()?;
            let Ok(Reply::Status(now)) = client.try_ask(Request::Status)? else {
                return None;
            };
            (now.pid != before.pid && now.restarts == before.restarts + 1).then_some(())
        });
    }

    /// Ends it as Ctrl-C does; gives its exit status.
    pub(crate) fn stop(&mut self) -> Option<i32> {
        kill(self.keeper.id(), rustix::process::Signal::TERM);
        until("the keeper ends", || self.keeper.try_wait().unwrap()).code()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if matches!(self.keeper.try_wait(), Ok(None)) {
            self.stop();
        }
    }
}

pub(crate) fn kill(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub(crate) fn connect(path: &Path) -> std::io::Result<OwnedFd> {
    let fd = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )?;
    rustix::net::connect(&fd, &SocketAddrUnix::new(path)?)?;
    Ok(fd)
}

/// A hello of the right version.
pub(crate) fn hello_request(resume: Option<u32>) -> Request {
    Request::Hello {
        version: VERSION,
        layout: LAYOUT,
        resume,
        domain: None,
    }
}

/// Receives within a bounded time. None: the end, or time is up.
pub(crate) fn receive(fd: &OwnedFd) -> Option<(Answer, Vec<OwnedFd>)> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let time = Timespec {
        tv_sec: LONG.as_secs() as _,
        tv_nsec: 0,
    };
    let mut wait = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut wait, Some(&time)).unwrap();
    let mut buffer = vec![0; vshmem_wire::MAX_MESSAGE];
    let got = socket::receive(fd, &mut buffer).ok()??;
    let answer = vshmem_wire::decode(&buffer[..got.bytes]).unwrap();
    Some((answer, got.descriptors))
}

pub(crate) fn send(fd: &OwnedFd, seq: u64, body: Request, fds: &[BorrowedFd<'_>]) -> std::io::Result<()> {
    socket::send_waiting(fd, &vshmem_wire::encode(&Envelope { seq, body }), fds)
}

/// A client that has said hello.
pub(crate) struct Client {
    pub(crate) fd: OwnedFd,
    pub(crate) welcome: Welcome,
    pub(crate) seq: u64,
}

impl Client {
    /// Says hello on a fresh connection; gives the descriptors that came with the welcome.
    pub(crate) fn hello(path: &Path, resume: Option<u32>) -> Result<(Client, Vec<OwnedFd>), Failure> {
        Client::hello_in(path, resume, None)
    }

    pub(crate) fn hello_in(
        path: &Path,
        resume: Option<u32>,
        domain: Option<String>,
    ) -> Result<(Client, Vec<OwnedFd>), Failure> {
        let lost = |_| Failure::errno(libc::ECONNREFUSED);
        let fd = connect(path).map_err(lost)?;
        let mut hello = hello_request(resume);
        if let Request::Hello { domain: wanted, .. } = &mut hello {
            *wanted = domain;
        }
        send(&fd, 0, hello, &[]).map_err(lost)?;
        let (answer, fds) = receive(&fd).ok_or(Failure::errno(libc::ECONNRESET))?;
        match answer.body? {
            Reply::Welcome(welcome) => {
                map_time(&fds[0]);
                let seq = welcome.next_seq;
                Ok((Client { fd, welcome, seq }, fds))
            }
            other => panic!("no welcome: {other:?}"),
        }
    }

    /// Asks; None if the connection ends instead.
    pub(crate) fn try_ask_with(
        &mut self,
        request: Request,
        fds: &[BorrowedFd<'_>],
    ) -> Option<(Verdict, Vec<OwnedFd>)> {
        let seq = self.seq;
        self.seq += 1;
        send(&self.fd, seq, request, fds).ok()?;
        let (answer, fds) = receive(&self.fd)?;
        assert_eq!(answer.seq, seq);
        Some((answer.body, fds))
    }

    pub(crate) fn try_ask(&mut self, request: Request) -> Option<Verdict> {
        self.try_ask_with(request, &[]).map(|(verdict, _)| verdict)
    }

    pub(crate) fn ask(&mut self, request: Request) -> Verdict {
        self.try_ask(request).expect("an answer")
    }

    pub(crate) fn status(&mut self) -> Status {
        match self.ask(Request::Status) {
            Ok(Reply::Status(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn shm_get(&mut self, key: i32, size: u64) -> Result<i32, Failure> {
        let flags = IPC_CREAT | 0o600;
        match self.ask(Request::ShmGet { key, size, flags })? {
            Reply::Id(id) => Ok(id),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn sem_get(&mut self, key: i32, nsems: i32) -> i32 {
        let flags = IPC_CREAT | 0o600;
        match self.ask(Request::SemGet { key, nsems, flags }) {
            Ok(Reply::Id(id)) => id,
            other => panic!("{other:?}"),
        }
    }

    /// Attaches a segment and maps its first extent.
    pub(crate) fn attach(&mut self, id: i32) -> Mapped {
        let request = Request::ShmAttach {
            id,
            read_only: false,
            exec: false,
        };
        match self.try_ask_with(request, &[]).unwrap() {
            (Ok(Reply::Attached { memory, .. }), fds) => {
                Mapped::new(&fds[0], memory.extents[0].offset, memory.bytes())
            }
            other => panic!("{other:?}"),
        }
    }

    /// Opens a set and maps it.
    pub(crate) fn open_set(&mut self, id: i32) -> (Mapped, u64) {
        self.open(Kind::Sem, id)
    }

    /// Opens a set or a queue and maps it.
    pub(crate) fn open(&mut self, kind: Kind, id: i32) -> (Mapped, u64) {
        match self.try_ask_with(Request::Open { kind, id }, &[]).unwrap() {
            (
                Ok(Reply::Opened {
                    memory: Some(memory),
                    control,
                    ..
                }),
                fds,
            ) => {
                let mapped = Mapped::new(&fds[0], memory.extents[0].offset, memory.bytes());
                (mapped, control)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn stat(&mut self, kind: Kind, id: i32) -> Result<Stat, Failure> {
        let which = Which::Id(id);
        match self.ask(Request::Stat { kind, which })? {
            Reply::Stat(stat) => Ok(stat),
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn nattch(&mut self, id: i32) -> u64 {
        match self.stat(Kind::Shm, id).unwrap().body {
            StatBody::Shm { nattch, .. } => nattch,
            other => panic!("{other:?}"),
        }
    }
}

/// Maps a client's time page for ever, as every client does: that it is mapped shows that the program is still the same.
#[allow(unsafe_code)] // Mapping shared memory.
fn map_time(fd: &OwnedFd) {
    use rustix::mm::{MapFlags, ProtFlags, mmap};
    // SAFETY: a fresh mapping that nobody looks into.
    unsafe {
        mmap(
            std::ptr::null_mut(),
            4096,
            ProtFlags::READ,
            MapFlags::SHARED,
            fd,
            0,
        )
    }
    .unwrap();
}

/// Construct memory, mapped into the test.
pub(crate) struct Mapped {
    pub(crate) words: vshmem_words::Mapping,
}

impl Mapped {
    #[allow(unsafe_code)] // Mapping shared memory, as a client does.
    pub(crate) fn new(fd: impl AsFd, offset: u64, bytes: u64) -> Mapped {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        let prot = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a fresh mapping, which is never unmapped, and of which no reference is made.
        let words = unsafe {
            let base = mmap(
                std::ptr::null_mut(),
                bytes as usize,
                prot,
                MapFlags::SHARED,
                fd,
                offset,
            )
            .unwrap();
            vshmem_words::Mapping::new(base.cast(), bytes as usize)
        };
        Mapped { words }
    }
}

/// A socket pair that a child process can inherit one end of.
pub(crate) fn inheritable(fd: &OwnedFd) -> String {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::empty()).unwrap();
    fd.as_raw_fd().to_string()
}

/// A client as the algorithms see it; it never waits.
pub(crate) struct ClientWorld(vshmem_ipc::Me);

pub(crate) fn world(client: &Client) -> ClientWorld {
    ClientWorld(vshmem_ipc::Me {
        client: client.welcome.client,
        thread: 1,
        domain: client.welcome.domain,
        pid: client.welcome.pid,
        undo: client.welcome.undo,
        space: client.welcome.space,
        ticket: 0,
        place: vshmem_ipc::Me::NOWHERE,
    })
}

impl vshmem_ipc::World for ClientWorld {
    fn me(&self) -> vshmem_ipc::Me {
        self.0
    }
    fn seconds(&self) -> u64 {
        1
    }
    fn spin(&self, _: u32, _: u16) -> vshmem_ipc::Spin {
        vshmem_ipc::Spin::Enough
    }
    fn lock_wait(&self, _: vshmem_ipc::Owner, _: u32) -> vshmem_ipc::LockWait {
        vshmem_ipc::LockWait::Busy
    }
    fn sleep(&self, _: usize, _: u32) -> vshmem_ipc::Slept {
        vshmem_ipc::Slept::TimedOut
    }
    fn wake(&self, _: vshmem_ipc::Sleeper) {}
}
