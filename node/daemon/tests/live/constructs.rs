//! Constructs between two clients; quotas and a full pool.

use crate::harness::{Client, Daemon, IPC_CREAT, until, world};
use crate::helper::Helper;
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Reply, Request, Setting, StatBody};
use vshmem_words::{Ordering, Words};

#[test]
fn two_clients_share_a_segment() {
    let daemon = Daemon::serve();
    let mut here = daemon.client();
    let mut there = Helper::start(&daemon);
    let id = here.shm_get(0x1234, 10_000).unwrap();
    assert_eq!(there.say("shm 4660 10000"), id.to_string());
    assert_eq!(there.say(&format!("attach {id}")), "done");
    let mapped = here.attach(id);
    assert_eq!(mapped.words.len(), 12_288);
    mapped.words.store32(64, 77, Ordering::Relaxed);
    assert_eq!(here.nattch(id), 2);
    assert_eq!(here.ask(Request::ShmDetach { id }), Ok(Reply::Done));
    assert_eq!(here.nattch(id), 1);
    assert_eq!(here.ask(Request::Remove { kind: Kind::Shm, id }), Ok(Reply::Done));
    there.kill();
    crate::harness::until("the segment is gone", || here.stat(Kind::Shm, id).err());
}

#[test]
fn memory_comes_back_zeroed() {
    for config in ["", "[group]\nmemory = \"memfd\"\n"] {
        let daemon = Daemon::serve_with(&[], config);
        let mut client = daemon.client();
        for _ in 0..3 {
            let id = client.shm_get(0, 1 << 20).unwrap();
            let mapped = client.attach(id);
            assert!(
                (0..1 << 20)
                    .step_by(8)
                    .all(|at| mapped.words.load64(at, Ordering::Relaxed) == 0)
            );
            (0..1 << 20)
                .step_by(8)
                .for_each(|at| mapped.words.store64(at, 7, Ordering::Relaxed));
            assert_eq!(
                client.ask(Request::Remove { kind: Kind::Shm, id }),
                Ok(Reply::Done)
            );
            assert_eq!(client.ask(Request::ShmDetach { id }), Ok(Reply::Done));
        }
    }
}

#[test]
fn a_file_per_construct_shows_nothing_of_others() {
    let daemon = Daemon::serve_with(&[], "[group]\nmemory = \"memfd\"\n");
    let mut client = daemon.client();
    let (a, b) = (client.shm_get(1, 4096).unwrap(), client.shm_get(2, 4096).unwrap());
    let (a, b) = (client.attach(a), client.attach(b));
    a.words.store32(0, 1, Ordering::Relaxed);
    b.words.store32(0, 2, Ordering::Relaxed);
    assert_eq!(
        (
            a.words.load32(0, Ordering::Relaxed),
            b.words.load32(0, Ordering::Relaxed)
        ),
        (1, 2)
    );
}

#[test]
fn a_full_pool_is_enomem_or_enospc_and_harms_nobody() {
    let daemon = Daemon::serve_with(&["--pool", "4M"], "");
    let mut client = daemon.client();
    let kept = client.shm_get(1, 1 << 20).unwrap();
    let failure = client.shm_get(2, 4 << 20).unwrap_err();
    assert!(
        [libc::ENOMEM, libc::ENOSPC].contains(&failure.errno),
        "{failure:?}"
    );
    let mut made = 0;
    while client.shm_get(100 + made, 64 << 10).is_ok() {
        made += 1;
    }
    assert!(made > 30, "{made} segments fitted");
    client.attach(kept).words.store32(0, 1, Ordering::Relaxed);
    assert_eq!(
        client.ask(Request::Remove {
            kind: Kind::Shm,
            id: kept
        }),
        Ok(Reply::Done)
    );
    assert_eq!(client.ask(Request::ShmDetach { id: kept }), Ok(Reply::Done));
    assert!(
        client.shm_get(3, 1 << 20).is_ok(),
        "what was given back can be had again"
    );
}

#[test]
fn a_domain_over_its_quota_is_enospc_and_others_are_not() {
    let config = "[group.quota]\nconstructs = 3\n[[domain]]\nname = \"big\"\nquota = { constructs = 100, bytes = \"8M\" }\n";
    let daemon = Daemon::serve_with(&[], config);
    let mut client = daemon.client();
    for key in 1..=3 {
        client.shm_get(key, 4096).unwrap();
    }
    assert_eq!(client.shm_get(4, 4096).unwrap_err().errno, libc::ENOSPC);
    let (mut other, _) = Client::hello(&daemon.dir().join("domains/big.sock"), None).unwrap();
    assert_eq!(other.welcome.name, "big");
    for key in 10..20 {
        other.shm_get(key, 4096).unwrap();
    }
    let failure = other.shm_get(20, 16 << 20).unwrap_err();
    assert!(
        [libc::ENOMEM, libc::ENOSPC].contains(&failure.errno),
        "{failure:?}"
    );
}

#[test]
fn who_may_not_map_is_served_on_its_behalf() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::serve();
    let mut root = daemon.client();
    let mut other = Helper::start_as(&daemon, 65_534);
    let flags = IPC_CREAT | 0o602;
    let Ok(Reply::Id(queue)) = root.ask(Request::MsgGet { key: 1, flags }) else {
        panic!("no queue");
    };
    // More than a new queue has room for without growing.
    for _ in 0..20 {
        assert_eq!(other.say(&format!("send {queue} 700")), "done");
    }
    assert_eq!(
        other.say(&format!("send {queue} 9000")),
        format!("errno {}", libc::EINVAL)
    );
    for _ in 0..3 {
        other.say(&format!("send {queue} 700"));
    }
    assert_eq!(
        other.say(&format!("send {queue} 700")),
        format!("errno {}", libc::EAGAIN)
    );
    let StatBody::Msg {
        qnum, cbytes, lspid, ..
    } = root.stat(Kind::Msg, queue).unwrap().body
    else {
        panic!("no queue");
    };
    assert_eq!((qnum, cbytes), (23, 23 * 700));
    assert_eq!(lspid.pid, other.child.id());
    let flags = IPC_CREAT | 0o604;
    let Ok(Reply::Id(set)) = root.ask(Request::SemGet {
        key: 1,
        nsems: 1,
        flags,
    }) else {
        panic!("no set");
    };
    assert_eq!(other.say(&format!("value {set}")), "0");
    assert_eq!(
        other.say(&format!("add {set} 1")),
        format!("errno {}", libc::EACCES)
    );
}

fn queue(client: &mut Client, key: i32) -> i32 {
    let flags = IPC_CREAT | 0o600;
    match client.ask(Request::MsgGet { key, flags }) {
        Ok(Reply::Id(id)) => id,
        other => panic!("{other:?}"),
    }
}

#[test]
fn of_two_limits_of_a_queue_the_later_one_holds_however_long_it_was_in_use() {
    let daemon = Daemon::serve();
    let mut client = daemon.client();
    let id = queue(&mut client, 1);
    let (mapped, _) = client.open(Kind::Msg, id);
    let own = world(&client);
    let mut limit = |qbytes| {
        let (kind, mode, qbytes) = (Kind::Msg, 0o600, Some(qbytes));
        let (uid, gid) = (
            rustix::process::geteuid().as_raw(),
            rustix::process::getegid().as_raw(),
        );
        let set = Request::Set {
            kind,
            id,
            uid,
            gid,
            mode,
            qbytes,
        };
        assert_eq!(client.ask(set), Ok(Reply::Done));
    };
    // Somebody is at work in the queue for so long that the back-end tries again ever more rarely.
    let held = vshmem_ipc::lock::acquire(&mapped.words, &own).unwrap();
    limit(1000);
    std::thread::sleep(std::time::Duration::from_millis(120));
    drop(held);
    limit(2000);
    let now = || vshmem_ipc::msgq::Queue::at(&mapped.words).stat().qbytes;
    until("the limit is there", || (now() == 2000).then_some(()));
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert_eq!(now(), 2000, "an earlier limit came back");
}

#[test]
fn a_message_that_was_sent_before_msgmax_was_lowered_is_received_whole() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let daemon = Daemon::serve();
    let mut client = daemon.client();
    let id = queue(&mut client, 1);
    let text = vec![7; 5000];
    let operation = Behalf::Send {
        mtype: 3,
        text: text.clone(),
    };
    assert_eq!(client.ask(Request::OnBehalf { id, operation }), Ok(Reply::Done));
    let (setting, values) = (Setting::Msgmax, vec![100]);
    assert_eq!(client.ask(Request::SetLimit { setting, values }), Ok(Reply::Done));
    let (size, msgtyp, flags) = (8192, 0, 0);
    let operation = Behalf::Receive { size, msgtyp, flags };
    assert_eq!(
        client.ask(Request::OnBehalf { id, operation }),
        Ok(Reply::Message { mtype: 3, text })
    );
}
