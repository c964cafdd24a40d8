//! Several groups in one daemon.

use crate::harness::{Client, Daemon, Mapped, until};
use crate::helper::Helper;
use rustix::fd::OwnedFd;
use vshmem_wire::{Kind, Reply, Request};
use vshmem_words::{Ordering, Words};

/// `a` is in both groups, with routes; `b` in the second one alone; the host in the first.
const TWO_GROUPS: &str = r#"
[group]
pool = "16M"
[[groups]]
name = "jobs"
memory = "memfd"
members = ["a", "b"]
[[domain]]
name = "a"
groups = ["default", "jobs"]
routes = { "0x5000-0x5fff" = "jobs", "private" = "jobs" }
[[domain]]
name = "b"
groups = ["jobs"]
"#;

const POOL: u64 = 16 << 20;

fn client_in(daemon: &Daemon, domain: &str) -> Client {
    let socket = daemon.dir().join("domains").join(format!("{domain}.sock"));
    let (client, _) = Client::hello(&socket, None).unwrap();
    assert_eq!(client.welcome.name, domain);
    client
}

/// Attaches a segment: its memory, and the descriptor that came along.
fn attach(client: &mut Client, id: i32) -> (Mapped, OwnedFd) {
    let request = Request::ShmAttach {
        id,
        read_only: false,
        exec: false,
    };
    match client.try_ask_with(request, &[]).unwrap() {
        (Ok(Reply::Attached { memory, .. }), mut fds) => {
            let mapped = Mapped::new(&fds[0], memory.extents[0].offset, memory.bytes());
            (mapped, fds.remove(0))
        }
        other => panic!("{other:?}"),
    }
}

fn length(fd: &OwnedFd) -> u64 {
    rustix::fs::fstat(fd).unwrap().st_size as u64
}

#[test]
fn a_domain_in_two_groups_finds_each_key_where_it_is_routed_also_after_a_kill() {
    let daemon = Daemon::serve_with(&[], TWO_GROUPS);
    let mut a = client_in(&daemon, "a");
    let mut host = daemon.client();
    let socket_of_b = daemon.dir().join("domains/b.sock");
    let mut b = Helper::start_at(&socket_of_b, None, None);

    let (in_jobs, in_default) = (a.shm_get(0x5001, 8192).unwrap(), a.shm_get(1, 8192).unwrap());
    let set = a.sem_get(0x5002, 1);
    assert_eq!(
        b.say("shm 20481 8192"),
        in_jobs.to_string(),
        "the same key, routed"
    );
    let of_b = b.say("shm 1 4096");
    assert_ne!(of_b, in_default.to_string(), "the same key in another group");
    assert_eq!(host.shm_get(1, 8192), Ok(in_default));
    let of_host = host.shm_get(0x5001, 4096).unwrap();
    assert_ne!(of_host, in_jobs);
    let refused = format!("errno {}", libc::EACCES);
    assert_eq!(b.say(&format!("attach {in_default}")), refused);
    assert_eq!(b.say(&format!("attach {in_jobs}")), "done");

    let (jobs, jobs_file) = attach(&mut a, in_jobs);
    let (pooled, pool) = attach(&mut a, in_default);
    assert_eq!(length(&pool), POOL);
    assert_eq!(length(&jobs_file), 8192, "a file of its own, not the pool");
    jobs.words.store32(0, 55, Ordering::Relaxed);
    pooled.words.store32(0, 66, Ordering::Relaxed);
    assert_eq!(b.say(&format!("undo {set} 3")), "done");
    let whole = Mapped::new(&pool, 0, POOL);
    let found = |what| {
        let same = |&at: &usize| whole.words.load32(at, Ordering::Relaxed) == what;
        (0..POOL as usize).step_by(4096).filter(same).count()
    };
    assert_eq!((found(66), found(55)), (1, 0));

    drop(b);
    for _ in 0..2 {
        daemon.kill();
    }
    let mut a = client_in(&daemon, "a");
    let mut b = Helper::start_at(&socket_of_b, None, None);
    assert_eq!(a.shm_get(0x5001, 8192), Ok(in_jobs));
    assert_eq!(a.shm_get(1, 8192), Ok(in_default));
    assert_eq!(b.say("shm 1 4096"), of_b);
    assert_eq!(b.say(&format!("attach {in_default}")), refused);
    let (jobs, jobs_file) = attach(&mut a, in_jobs);
    let (pooled, _) = attach(&mut a, in_default);
    assert_eq!(length(&jobs_file), 8192);
    assert_eq!(jobs.words.load32(0, Ordering::Relaxed), 55);
    assert_eq!(pooled.words.load32(0, Ordering::Relaxed), 66);
    until("the dead process's undo is applied in the second group", || {
        (b.say(&format!("value {set}")) == "0").then_some(())
    });
    assert_eq!(b.say(&format!("add {set} 2")), "done");
    for id in [in_jobs, in_default] {
        let kind = Kind::Shm;
        assert_eq!(a.ask(Request::Remove { kind, id }), Ok(Reply::Done));
    }
    daemon.kill();
    let mut a = client_in(&daemon, "a");
    let new = a.shm_get(0x5001, 4096).unwrap();
    assert_ne!(new, in_jobs);
    assert_eq!(attach(&mut a, new).0.words.load32(0, Ordering::Relaxed), 0);
}

#[test]
fn the_hosts_root_lists_every_group_and_brings_no_guest_into_one_it_cannot_reach() {
    let daemon = Daemon::serve_with(&[], TWO_GROUPS);
    let mut a = client_in(&daemon, "a");
    let mut host = daemon.client();
    let id = a.shm_get(0x5001, 4096).unwrap();
    let list = |client: &mut Client| match client.ask(Request::List {
        kind: Kind::Shm,
        from: 0,
    }) {
        Ok(Reply::List(stats, None)) => stats.into_iter().map(|s| s.id).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    let root = rustix::process::geteuid().is_root();
    assert_eq!(list(&mut host), if root { vec![id] } else { vec![] });
    assert_eq!(list(&mut a), [id]);
    let config = TWO_GROUPS.replace("[\"a\", \"b\"]", "[\"a\", \"b\", \"g\"]");
    let daemon = Daemon::serve_with(&[], &config);
    let mut helper = Helper::start(&daemon);
    assert_eq!(helper.say("bring-guest g"), format!("errno {}", libc::EOPNOTSUPP));
    assert_eq!(helper.say("bring-guest h"), "done");
}
