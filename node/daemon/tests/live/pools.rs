//! A pool for each of several groups, without a virtual machine: front-ends over socket pairs, pools as files of this kernel.

use crate::front_end::join_over;
use crate::harness::{Client, Daemon, Mapped, until};
use crate::machines::message;
use rustix::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use vshmem_wire::pool::{HEADER_BYTES, PoolHeader};
use vshmem_wire::{Failure, Reply, Request};
use vshmem_words::{Ordering, Words};

/// `both` is in two groups with a pool each, as the host is; `second` in the second alone; all others in the first.
const TWO_POOLS: &str = r#"
[group]
pool = "16M"
[[groups]]
name = "jobs"
pool = "4M"
[[groups]]
name = "files"
[[domain]]
name = "host"
groups = ["default", "jobs", "files"]
routes = { "0x5000-0x5fff" = "jobs", "0x6000" = "files" }
[[domain]]
name = "both"
port = "ivshmem"
groups = ["default", "jobs"]
routes = { "0x5000-0x5fff" = "jobs" }
[[domain]]
name = "second"
port = "ivshmem"
groups = ["jobs"]
"#;

/// Brings a domain in: its end of the stream and the pools.
fn bring_in(host: &mut Client, name: &str) -> Result<(OwnedFd, Vec<OwnedFd>), Failure> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let request = Request::AttachDomain {
        name: name.into(),
        port: "ivshmem".into(),
    };
    let (verdict, fds) = host
        .try_ask_with(request, &[&ours].map(std::os::fd::AsFd::as_fd))
        .unwrap();
    match verdict? {
        Reply::DomainReady { pools, .. } => {
            assert_eq!(pools.len(), fds.len());
            for (pool, fd) in pools.iter().zip(&fds) {
                assert_eq!(rustix::fs::fstat(fd).unwrap().st_size as u64, pool.bytes);
            }
            Ok((theirs.into(), fds))
        }
        other => panic!("{other:?}"),
    }
}

fn header(pool: &OwnedFd) -> Option<PoolHeader> {
    let mut bytes = [0; HEADER_BYTES];
    rustix::io::pread(pool, &mut bytes[..], 0).unwrap();
    PoolHeader::read(&bytes).ok()
}

/// Attaches the segment of a key in both clients, and sees that they have the same memory.
fn same(host: &mut Client, other: &mut Client, key: i32) -> (Mapped, Mapped) {
    let id = host.shm_get(key, 4096).unwrap();
    assert_eq!(other.shm_get(key, 4096), Ok(id));
    let (here, there) = (host.attach(id), other.attach(id));
    there.words.store32(64, key as u32, Ordering::Relaxed);
    assert_eq!(here.words.load32(64, Ordering::Relaxed), key as u32);
    (here, there)
}

#[test]
fn a_domain_in_two_groups_reaches_both_pools_in_whatever_order_it_was_given_them() {
    let daemon = Daemon::serve_with(&[], TWO_POOLS);
    let mut host = daemon.client();
    let (stream, mut pools) = bring_in(&mut host, "both").unwrap();
    assert_eq!(pools.len(), 2);
    pools.reverse();
    // And one that is nobody's.
    let strange = rustix::fs::memfd_create("strange", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::fs::ftruncate(&strange, 4 << 20).unwrap();
    pools.insert(1, strange);
    let front = join_over(&stream, &pools.iter().collect::<Vec<_>>(), &[]);
    let (mut both, _) = Client::hello(&front.socket(), None).unwrap();
    let _first = same(&mut host, &mut both, 0x42);
    let _second = same(&mut host, &mut both, 0x5042);
    let names = [&pools[2], &pools[0]].map(|pool| header(pool).unwrap().group);
    assert_eq!(names, ["default", "jobs"]);
    let used: Vec<(u64, u64)> = host
        .status()
        .groups
        .iter()
        .map(|g| (g.pool_bytes, g.used))
        .collect();
    assert_eq!(used, [(16 << 20, 4096), (4 << 20, 4096), (0, 0)]);
    daemon.kill();
    let mut host = daemon.client();
    let _again = same(&mut host, &mut both, 0x42);
    let _again = same(&mut host, &mut both, 0x5043);
}

#[test]
fn a_domain_is_given_the_pools_of_its_groups_and_no_other() {
    let daemon = Daemon::serve_with(&[], TWO_POOLS);
    let mut host = daemon.client();
    let (stream, pools) = bring_in(&mut host, "second").unwrap();
    let [pool] = &pools[..] else { panic!("{pools:?}") };
    assert_eq!(rustix::fs::fstat(pool).unwrap().st_size, 4 << 20);
    let front = join_over(&stream, &[pool], &[]);
    let (mut second, _) = Client::hello(&front.socket(), None).unwrap();
    // It has no routes: all its keys are those of its one group.
    let _shared = same(&mut host, &mut second, 0x5042);
    let id = host.shm_get(0x42, 4096).unwrap();
    let attach = Request::ShmAttach {
        id,
        read_only: true,
        exec: false,
    };
    assert!(second.ask(attach).is_err());
    assert_ne!(second.shm_get(0x42, 4096), Ok(id));
}

#[test]
fn rubbish_in_one_pool_is_nothing_to_the_other_not_even_at_its_head() {
    let daemon = Daemon::serve_with(&[], TWO_POOLS);
    let mut host = daemon.client();
    let (stream, pools) = bring_in(&mut host, "both").unwrap();
    let front = join_over(&stream, &pools.iter().collect::<Vec<_>>(), &[]);
    let (mut both, _) = Client::hello(&front.socket(), None).unwrap();
    let (first, _) = same(&mut host, &mut both, 0x42);
    let set = host.sem_get(0x43, 1);
    // Whoever reaches the second pool writes all over it, and calls it the first one as well as he can guess.
    let mut forged = header(&pools[1]).unwrap();
    forged.group = "default".into();
    forged.bytes = 16 << 20;
    rustix::io::pwrite(&pools[1], &vec![0xa5; 4 << 20], 0).unwrap();
    rustix::io::pwrite(&pools[1], &forged.write(), 0).unwrap();
    assert_eq!(first.words.load32(64, Ordering::Relaxed), 0x42);
    assert!(host.stat(vshmem_wire::Kind::Sem, set).is_ok());
    // A front-end that comes now finds its pools all the same.
    drop((both, front, stream));
    until("the domain is down", || {
        let domains = host.status().domains;
        domains.iter().any(|d| d.name == "both" && !d.up).then_some(())
    });
    let (stream, pools) = bring_in(&mut host, "both").unwrap();
    let front = join_over(&stream, &[&pools[1], &pools[0]], &[]);
    let (mut both, _) = Client::hello(&front.socket(), None).unwrap();
    let _first = same(&mut host, &mut both, 0x42);
    let _second = same(&mut host, &mut both, 0x5044);
}

#[test]
fn what_cannot_be_shown_is_refused_with_what_to_do() {
    let member = "[[groups]]\nname = \"files\"\nmembers = [\"db\"]\n";
    let daemon = Daemon::serve_with(&["--pool", "16M"], member);
    let why = bring_in(&mut daemon.client(), "db").unwrap_err();
    assert!(
        why.why.contains("group files") && why.why.contains("memory = \"pool\""),
        "{why:?}"
    );
    let two = Daemon::serve_with(
        &[],
        "[[groups]]\nname = \"jobs\"\npool = \"4M\"\nmembers = [\"u\"]\n",
    );
    let (stream, _theirs) = UnixStream::pair().unwrap();
    let request = Request::AttachDomain {
        name: "u".into(),
        port: "uml".into(),
    };
    let fds = [&stream].map(std::os::fd::AsFd::as_fd);
    let (refused, _) = two.client().try_ask_with(request, &fds).unwrap();
    let why = refused.unwrap_err();
    assert!(
        why.why.contains("2 groups") && why.why.contains("can be shown 1"),
        "{why:?}"
    );
}

#[test]
fn each_group_has_a_device_socket_and_a_pools_name_before_and_after_a_kill() {
    let mut daemon = Daemon::serve_with(&[], TWO_POOLS);
    let bytes = |device: &UnixStream| {
        let heard: Vec<_> = (0..3).map(|_| message(device).unwrap()).collect();
        let memory = heard[2].1.as_ref().unwrap();
        rustix::fs::fstat(memory).unwrap().st_size
    };
    let mut kept = Vec::new();
    for _ in 0..2 {
        for (domain, socket, wanted) in [
            ("both", "device", 16 << 20),
            ("both", "device-jobs", 4 << 20),
            ("second", "device-jobs", 4 << 20),
        ] {
            let device = UnixStream::connect(daemon.machine(domain, socket)).unwrap();
            assert_eq!(bytes(&device), wanted, "{domain} {socket}");
            kept.push(device);
        }
        assert!(!daemon.machine("second", "device").exists());
        for (name, wanted) in [("pool", 16 << 20), ("pool-jobs", 4 << 20)] {
            assert_eq!(std::fs::metadata(daemon.dir().join(name)).unwrap().len(), wanted);
        }
        daemon.kill();
        let _ready = daemon.client();
    }
    daemon.stop();
    assert!(!daemon.dir().exists(), "something is left behind");
}
