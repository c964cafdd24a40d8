//! Several groups: keys of their own, one space of ids, members, routes.

use crate::group::*;
use vshmem_registry::{
    Command, Done, Effect, GroupConfig, Membership, MoreGroup, Registry, Route, Store, Uids,
};
use vshmem_wire::request::Which;
use vshmem_wire::{Kind, Request};

/// Keys that the domain `both` looks for in the second group.
const ROUTED: i32 = 0x5000;

/// Two groups: `both` is in both, with routes; `second` in the second alone; all others in the first.
pub(crate) fn two_groups() -> GroupConfig {
    let mut config = config();
    config.more = vec![MoreGroup {
        name: "jobs".into(),
        store: Store::PerConstruct,
        uids: Uids::Shared,
    }];
    let route = |first, last| Route {
        first,
        last,
        group: 1,
    };
    let both = Membership {
        groups: vec![0, 1],
        routes: vec![route(0, 0), route(ROUTED as u32, 0x5fff)],
    };
    let second = Membership {
        groups: vec![1],
        routes: Vec::new(),
    };
    config.memberships = [("both".to_owned(), both), ("second".to_owned(), second)].into();
    config
}

/// A registry with processes of uid 1000 in `both`, in `second`, and in `first`, which is in the first group alone.
fn three() -> (Group, u32, u32, u32) {
    let mut g = Group::with(two_groups());
    let mut process = |name| {
        let domain = g.local_domain(name);
        g.process_in(domain, 1000)
    };
    let (both, second, first) = (process("both"), process("second"), process("first"));
    (g, both, second, first)
}

#[test]
fn the_same_key_in_two_groups_is_two_constructs() {
    let (mut g, both, second, first) = three();
    for kind in KINDS {
        let here = g.get(first, kind, ROUTED, CREAT | EXCL | 0o666).unwrap();
        let there = g.get(second, kind, ROUTED, CREAT | EXCL | 0o666).unwrap();
        assert_ne!(here, there);
        assert_eq!(g.get(both, kind, ROUTED, 0), Ok(there));
        assert_eq!(g.get(second, kind, ROUTED, 0), Ok(there));
        assert_eq!(g.get(first, kind, ROUTED, 0), Ok(here));
        g.remove(second, kind, there).unwrap();
        assert_eq!(g.get(both, kind, ROUTED, 0), Err(ENOENT));
        assert_eq!(g.get(first, kind, ROUTED, 0), Ok(here));
    }
}

#[test]
fn routes_choose_the_group_by_key_and_for_ipc_private() {
    let (mut g, both, second, first) = three();
    for kind in KINDS {
        for (key, group) in [
            (0, 1),
            (1, 0),
            (0x4fff, 0),
            (0x5000, 1),
            (0x5fff, 1),
            (0x6000, 0),
            (-1, 0),
        ] {
            let id = g.get(both, kind, key, CREAT | 0o666).unwrap();
            assert_eq!(
                g.registry.construct_by_id(kind, id).unwrap().group,
                group,
                "{key:#x}"
            );
            let (sees, not) = if group == 0 {
                (first, second)
            } else {
                (second, first)
            };
            assert!(g.stat(sees, kind, id).is_ok());
            assert_eq!(g.stat(not, kind, id), Err(EACCES));
        }
        let of_others = [(first, 0), (second, 1)];
        for (client, group) in of_others {
            let id = g.get(client, kind, 0, 0o600).unwrap();
            assert_eq!(g.registry.construct_by_id(kind, id).unwrap().group, group);
        }
    }
}

#[test]
fn a_domain_sees_nothing_of_a_group_that_it_is_not_in() {
    let (mut g, _, second, first) = three();
    let host_root = g.process(0);
    for kind in KINDS {
        let id = g.get(second, kind, 7, CREAT | 0o666).unwrap();
        assert_eq!(g.get(first, kind, 7, 0), Err(ENOENT));
        assert_eq!(g.stat(first, kind, id), Err(EACCES));
        assert_eq!(g.stat_of(first, kind, Which::Index(0)), Err(EACCES));
        assert_eq!(g.stat_of(first, kind, Which::AnyIndex(0)), Err(EINVAL));
        assert_eq!(g.remove(first, kind, id), Err(EACCES));
        if kind == Kind::Shm {
            assert_eq!(g.attach(first, id), Err(EACCES));
        } else {
            assert_eq!(g.open(first, kind, id), Err(EACCES));
        }
        let mut listed = |client| match g.request(client, Request::List { kind, from: 0 }) {
            Ok(Done::List { stats, .. }) => stats.len(),
            other => panic!("{other:?}"),
        };
        assert_eq!((listed(first), listed(second), listed(host_root)), (0, 1, 1));
        assert!(g.stat(host_root, kind, id).is_ok());
    }
}

#[test]
fn what_is_shared_is_shared_within_the_group() {
    let (mut g, both, second, _) = three();
    let id = g.msgget(second, 7, CREAT | 0o666).unwrap();
    let with = |name: &str| Request::Share {
        kind: Kind::Msg,
        id,
        domains: vec![name.into()],
    };
    assert_eq!(g.request(second, with("first")), Err(EINVAL));
    assert!(g.stat(both, Kind::Msg, id).is_ok());
    g.request(second, with("both")).unwrap();
    assert!(g.stat(both, Kind::Msg, id).is_ok());
}

#[test]
fn uids_count_as_the_constructs_group_says() {
    let mut config = two_groups();
    config.more[0].uids = Uids::Separate;
    let mut g = Group::with(config);
    let (a, b) = (g.local_domain("both"), g.local_domain("second"));
    let (a, b) = (g.process_in(a, 1000), g.process_in(b, 1000));
    let id = g.shmget(a, ROUTED, 100, CREAT | 0o600).unwrap();
    assert_eq!(g.attach(b, id), Err(EACCES));
    g.attach(a, id).unwrap();
}

#[test]
fn a_guest_is_in_no_group_whose_memory_it_cannot_reach() {
    let mut g = Group::with(two_groups());
    for name in ["both", "second"] {
        let up = Command::DomainUp {
            name: name.into(),
            port: "test".into(),
            own_space: true,
        };
        let refused = g.apply(up).unwrap_err();
        assert_eq!(refused.errno, EPERM);
        assert!(refused.why.contains("jobs"), "{}", refused.why);
    }
    g.domain("another");
}

#[test]
fn effects_say_which_store_the_memory_is_in() {
    let (mut g, both, ..) = three();
    for (key, group) in [(1, 0), (ROUTED, 1)] {
        let id = g.shmget(both, key, 5000, CREAT | 0o600).unwrap();
        let offset = if group == 0 { PAGE } else { 0 };
        match g.effects[..] {
            [
                Effect::Provide {
                    group: of, extent, ..
                },
            ] => assert_eq!((of, extent.offset), (group, offset)),
            ref other => panic!("{other:?}"),
        }
        g.attach(both, id).unwrap();
        assert!(matches!(g.effects[..], [Effect::Admit { group: of, .. }] if of == group));
        g.remove(both, Kind::Shm, id).unwrap();
        g.detach(both, id).unwrap();
        let released = [group, group];
        match g.effects[..] {
            [Effect::Revoke { group: a, .. }, Effect::Release { group: b, .. }] => {
                assert_eq!([a, b], released)
            }
            ref other => panic!("{other:?}"),
        }
    }
    assert_eq!(g.registry.bytes_used(), 0);
}

#[test]
fn the_pool_counts_only_what_is_in_it() {
    let (mut g, both, ..) = three();
    g.shmget(both, ROUTED, 2 * POOL, CREAT | 0o600).unwrap();
    let used = [0, 1].map(|group| g.registry.bytes_used_by(group));
    assert_eq!((g.registry.bytes_used(), used), (2 * POOL, [0, 2 * POOL]));
    assert_eq!(g.shmget(both, 1, 2 * POOL, CREAT | 0o600), Err(ENOMEM));
}

#[test]
fn every_group_may_have_a_pool_and_each_is_full_by_itself() {
    let mut config = two_groups();
    let bytes = 8 * PAGE;
    config.more[0].store = Store::Pool { bytes };
    let mut g = Group::with(config);
    let domain = g.domain("both");
    let both = g.process_in(domain, 1000);
    let id = g.shmget(both, ROUTED, 7 * PAGE, CREAT | 0o600).unwrap();
    assert!(matches!(g.effects[..], [Effect::Provide { group: 1, extent, .. }] if extent.offset == PAGE));
    assert_eq!(g.shmget(both, ROUTED + 1, PAGE, CREAT | 0o600), Err(ENOMEM));
    g.shmget(both, 1, PAGE, CREAT | 0o600).unwrap();
    let sizes = [0, 1].map(|group| (g.registry.pool_bytes(group), g.registry.bytes_used_by(group)));
    assert_eq!(sizes, [(POOL, PAGE), (bytes, 7 * PAGE)]);
    assert_eq!(g.attach(both, id).unwrap().group, 1);
}

#[test]
fn a_snapshot_keeps_groups_and_their_keys() {
    let (mut g, both, second, first) = three();
    let ids = [both, second, first].map(|client| g.semget(client, ROUTED, 1, CREAT | 0o666).unwrap());
    let restored = Registry::restore(&g.registry.snapshot().unwrap()).unwrap();
    assert_eq!(restored, g.registry);
    g.registry = restored;
    let again = [both, second, first].map(|client| g.semget(client, ROUTED, 1, 0).unwrap());
    assert_eq!(again, ids);
    assert_eq!(ids[0], ids[1]);
    assert_eq!(g.stat(first, Kind::Sem, ids[0]), Err(EACCES));
}
