//! A request is carried out at most once, whatever is restarted.

use crate::group::*;
use vshmem_registry::{Command, Done};
use vshmem_wire::{Failure, Reply, Request};

#[test]
fn a_repeated_request_gets_the_first_answer_and_no_effects() {
    let mut g = Group::new();
    let p = g.process(1000);
    let get = Command::Request {
        client: p,
        seq: 1,
        body: Request::MsgGet {
            key: 0,
            flags: CREAT | 0o600,
        },
    };
    let first = g.apply(get.clone());
    assert!(!g.effects.is_empty());
    assert_eq!(g.apply(get), first);
    assert_eq!(g.effects, []);
    assert_eq!(g.registry.constructs().count(), 1);
}

#[test]
fn also_after_a_restart_and_also_a_failure() {
    let mut g = Group::new();
    let p = g.process(1000);
    let excl = Command::Request {
        client: p,
        seq: 2,
        body: Request::MsgGet {
            key: 7,
            flags: CREAT | EXCL | 0o600,
        },
    };
    let first = g.apply(excl.clone());
    assert!(first.is_ok());
    let snapshot = g.registry.snapshot().unwrap();
    g.registry = vshmem_registry::Registry::restore(&snapshot).unwrap();
    assert_eq!(g.apply(excl), first, "not EEXIST");
    let missing = Command::Request {
        client: p,
        seq: 3,
        body: Request::MsgGet { key: 8, flags: 0 },
    };
    assert_eq!(g.apply(missing.clone()).unwrap_err().errno, ENOENT);
    let q = g.process(1000);
    g.msgget(q, 8, CREAT | 0o600).unwrap();
    assert_eq!(g.apply(missing).unwrap_err().errno, ENOENT);
}

#[test]
fn an_older_number_is_an_error_and_gaps_are_fine() {
    let mut g = Group::new();
    let p = g.process(1000);
    let get = |seq| Command::Request {
        client: p,
        seq,
        body: Request::MsgGet { key: 0, flags: 0o600 },
    };
    assert_eq!(g.apply(get(0)).unwrap_err().errno, EINVAL);
    assert!(g.apply(get(5)).is_ok());
    assert_eq!(g.apply(get(4)).unwrap_err().errno, EINVAL);
    assert!(g.apply(get(9)).is_ok());
    assert!(g.apply(get(u64::MAX)).is_ok());
}

#[test]
fn resuming_tells_the_next_number() {
    let mut g = Group::new();
    let who = g.who(1000);
    let p = g.connect(1, who.clone());
    for _ in 0..3 {
        g.msgget(p, 0, 0o600).unwrap();
    }
    let connect = Command::Connect {
        domain: 1,
        who,
        resume: Some(p),
        fork: None,
    };
    match g.apply(connect).unwrap() {
        Done::Connected(numbers) => assert_eq!((numbers.client, numbers.next_seq), (p, 4)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_daemons_own_answer_replaces_the_registrys() {
    let mut g = Group::new();
    let p = g.process(1000);
    let get = Command::Request {
        client: p,
        seq: 1,
        body: Request::MsgGet { key: 0, flags: 0o600 },
    };
    g.apply(get.clone()).unwrap();
    let answered = |seq, verdict| Command::Answered {
        client: p,
        seq,
        verdict,
    };
    g.apply(answered(1, Err(Failure::errno(ENOMEM)))).unwrap();
    assert_eq!(g.apply(get.clone()).unwrap_err().errno, ENOMEM);
    g.apply(answered(1, Ok(Reply::Value(3)))).unwrap();
    g.apply(answered(2, Ok(Reply::Value(4)))).unwrap();
    assert_eq!(g.apply(get), Ok(Done::Reply(Reply::Value(3))));
}

#[test]
fn requests_that_change_nothing_need_no_number() {
    let mut g = Group::new();
    let p = g.process(1000);
    g.msgget(p, 0, 0o600).unwrap();
    let ping = Command::Request {
        client: p,
        seq: 0,
        body: Request::Info {
            kind: vshmem_wire::Kind::Msg,
        },
    };
    assert!(!ping.changes());
    let before = g.registry.clone();
    assert!(g.apply(ping).is_ok());
    assert_eq!(g.registry, before);
}
