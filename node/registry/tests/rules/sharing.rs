//! Which domains see a construct.

use crate::group::*;
use vshmem_registry::{Command, Done, Effect};
use vshmem_wire::request::Which;
use vshmem_wire::{Kind, Request};

fn share(g: &mut Group, client: u32, id: i32, domains: &[&str]) -> Result<(), i32> {
    let share = Request::Share {
        kind: Kind::Msg,
        id,
        domains: domains.iter().map(|d| d.to_string()).collect(),
    };
    g.request(client, share).map(|_| ())
}

fn unshare(g: &mut Group, client: u32, id: i32, domains: &[&str]) -> Result<(), i32> {
    let unshare = Request::Unshare {
        kind: Kind::Msg,
        id,
        domains: domains.iter().map(|d| d.to_string()).collect(),
    };
    g.request(client, unshare).map(|_| ())
}

#[test]
fn share_and_unshare_decide_who_sees_a_construct() {
    let mut g = Group::new();
    let (a, b, c) = (g.domain("a"), g.domain("b"), g.domain("c"));
    let owner = g.process_in(a, 1000);
    let (in_b, in_c) = (g.process_in(b, 1000), g.process_in(c, 1000));
    let id = g.msgget(owner, 7, CREAT | 0o666).unwrap();
    let sees = |g: &mut Group, client| g.stat(client, Kind::Msg, id).is_ok();
    let who = |g: &mut Group| (sees(g, owner), sees(g, in_b), sees(g, in_c));
    assert_eq!(who(&mut g), (true, true, true));
    share(&mut g, owner, id, &["b"]).unwrap();
    assert_eq!(who(&mut g), (true, true, false));
    share(&mut g, owner, id, &["c"]).unwrap();
    assert_eq!(who(&mut g), (true, true, true));
    unshare(&mut g, owner, id, &["b"]).unwrap();
    assert_eq!(who(&mut g), (true, false, true));
    unshare(&mut g, owner, id, &[]).unwrap();
    assert_eq!(who(&mut g), (true, false, false));
    share(&mut g, owner, id, &[]).unwrap();
    assert_eq!(who(&mut g), (true, true, true));
    unshare(&mut g, owner, id, &["c"]).unwrap();
    assert_eq!(who(&mut g), (true, true, false));
    assert_eq!(share(&mut g, owner, id, &["no such thing"]), Err(EINVAL));
}

#[test]
fn a_construct_that_is_not_shared_is_refused_whatever_its_mode() {
    let mut g = Group::new();
    let (a, b) = (g.domain("a"), g.domain("b"));
    let (owner, other) = (g.process_in(a, 1000), g.process_in(b, 0));
    let id = g.msgget(owner, 7, CREAT | 0o666).unwrap();
    g.open(other, Kind::Msg, id).unwrap();
    unshare(&mut g, owner, id, &[]).unwrap();
    assert!(
        g.effects
            .iter()
            .any(|e| matches!(e, Effect::Revoke { domain, .. } if *domain == b))
    );
    assert!(g.effects.iter().any(|e| matches!(e, Effect::Control { .. })));
    assert_eq!(g.msgget(other, 7, 0), Err(EACCES));
    assert_eq!(g.open(other, Kind::Msg, id), Err(EACCES));
    assert_eq!(g.stat_of(other, Kind::Msg, Which::AnyIndex(0)), Err(EINVAL));
    assert_eq!(g.remove(other, Kind::Msg, id), Err(EACCES));
    let list = Request::List {
        kind: Kind::Msg,
        from: 0,
    };
    assert!(matches!(g.request(other, list), Ok(Done::List { stats, .. }) if stats.is_empty()));
    g.close(other, Kind::Msg, id).unwrap();
}

#[test]
fn a_domain_that_has_it_still_is_admitted_anew_when_it_may_have_it_again() {
    let mut g = Group::new();
    let (a, b) = (g.domain("a"), g.domain("b"));
    let (owner, other) = (g.process_in(a, 1000), g.process_in(b, 1000));
    let id = g.msgget(owner, 7, CREAT | 0o666).unwrap();
    let admits = |g: &Group, domain: u16| {
        let of = |e: &&Effect| matches!(e, Effect::Admit { domain: d, writable: true, .. } if *d == domain);
        g.effects.iter().filter(of).count()
    };
    g.open(other, Kind::Msg, id).unwrap();
    assert_eq!(admits(&g, b), 1);
    unshare(&mut g, owner, id, &["b"]).unwrap();
    // A child has what its parent has, which lets nobody in.
    g.apply(Command::ForkPrepare {
        client: other,
        fork: 5,
    })
    .unwrap();
    assert_eq!(admits(&g, b), 0);
    assert_eq!(g.open(other, Kind::Msg, id), Err(EACCES));
    share(&mut g, owner, id, &["b"]).unwrap();
    let another = g.process_in(b, 1000);
    g.open(another, Kind::Msg, id).unwrap();
    assert_eq!(admits(&g, b), 1, "{:?}", g.effects);
    g.open(other, Kind::Msg, id).unwrap();
    assert_eq!(admits(&g, b), 0);
}

#[test]
fn only_the_owners_domain_shares() {
    let mut g = Group::new();
    let (a, b) = (g.domain("a"), g.domain("b"));
    let (owner, same_uid_there) = (g.process_in(a, 1000), g.process_in(b, 1000));
    let (other_here, root_there) = (g.process_in(a, 1001), g.process_in(b, 0));
    let host_root = g.process(0);
    let id = g.msgget(owner, 7, CREAT | 0o666).unwrap();
    for client in [same_uid_there, root_there, other_here] {
        assert_eq!(share(&mut g, client, id, &["b"]), Err(EPERM));
        assert_eq!(unshare(&mut g, client, id, &["b"]), Err(EPERM));
    }
    unshare(&mut g, owner, id, &[]).unwrap();
    share(&mut g, host_root, id, &["b"]).unwrap();
}

#[test]
fn only_members_join_a_group_that_has_a_list_of_them() {
    let mut config = config();
    config.members = Some(["host".to_string(), "a".to_string()].into());
    let mut g = Group::with(config);
    g.domain("a");
    for name in ["b", "", "a/b", "white space", &"long".repeat(100)] {
        let up = vshmem_registry::Command::DomainUp {
            name: name.into(),
            port: "test".into(),
            own_space: true,
        };
        assert_eq!(g.apply(up).unwrap_err().errno, EPERM);
    }
}

#[test]
fn what_a_domain_may_see_is_listed_for_it_and_for_nobody_else() {
    let mut g = Group::new();
    let (a, b) = (g.domain("a"), g.domain("b"));
    let owner = g.process_in(a, 1000);
    let id = g.msgget(owner, 7, CREAT | 0o640).unwrap();
    let by = |g: &Group| {
        g.registry
            .listed(0)
            .into_iter()
            .map(|l| (l.id, l.by))
            .collect::<Vec<_>>()
    };
    let there = g.registry.domains_of(0);
    assert!(there.contains(&a) && there.contains(&b));
    assert_eq!(by(&g), [(id, there.clone())]);
    let said = g.registry.listed(0).remove(0).what;
    assert!(said.starts_with("key=0x7 mode=640 uid=1000 "), "{said}");
    assert!(said.contains(" domain=a "), "{said}");
    unshare(&mut g, owner, id, &[]).unwrap();
    assert_eq!(by(&g), [(id, vec![a])]);
    share(&mut g, owner, id, &["b"]).unwrap();
    assert_eq!(by(&g), [(id, vec![a, b])]);
    assert!(g.registry.listed(1).is_empty());
    g.apply(Command::DomainDown { domain: b }).unwrap();
    assert_eq!(by(&g), [(id, vec![a])]);
}

#[test]
fn memory_is_not_given_again_where_the_construct_is_not_shared_any_more() {
    let mut g = Group::new();
    let (a, b) = (g.domain("a"), g.domain("b"));
    let (owner, other) = (g.process_in(a, 1000), g.process_in(b, 1000));
    let id = g.shmget(owner, 7, 4096, CREAT | 0o666).unwrap();
    g.attach(other, id).unwrap();
    let again = |g: &mut Group| {
        g.request(other, Request::ShmAgain { id, writable: true })
            .map(drop)
    };
    assert_eq!(again(&mut g), Ok(()));
    let unshare = Request::Unshare {
        kind: Kind::Shm,
        id,
        domains: vec!["b".into()],
    };
    g.request(owner, unshare).unwrap();
    assert_eq!(again(&mut g), Err(EACCES));
}

/// A front-end may say again what it said last whenever it likes.
#[test]
fn a_request_said_again_gives_no_memory_of_what_is_not_shared_any_more() {
    let mut g = Group::new();
    let (a, b) = (g.domain("a"), g.domain("b"));
    let (owner, other) = (g.process_in(a, 1000), g.process_in(b, 1000));
    let id = g.msgget(owner, 7, CREAT | 0o666).unwrap();
    let open = Command::Request {
        client: other,
        seq: g.next_seq(other),
        body: Request::Open { kind: Kind::Msg, id },
    };
    let with_memory = |g: &mut Group| {
        g.apply(open.clone())
            .map(|done| matches!(done, Done::WithMemory { .. }))
    };
    assert_eq!(with_memory(&mut g), Ok(true));
    assert_eq!(with_memory(&mut g), Ok(true));
    unshare(&mut g, owner, id, &["b"]).unwrap();
    for _ in 0..2 {
        assert_eq!(with_memory(&mut g).map_err(|failure| failure.errno), Err(EACCES));
    }
    assert_eq!(g.registry.holdings(other).count(), 0);
    // It asks anew, with a new number, once it may.
    share(&mut g, owner, id, &["b"]).unwrap();
    g.open(other, Kind::Msg, id).unwrap();
}
