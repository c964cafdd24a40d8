//! Keys and ids.

use crate::group::*;
use vshmem_registry::Done;
use vshmem_wire::request::Which;
use vshmem_wire::{ID_BIT, Kind, Request, slot_of};

#[test]
fn ipc_private_is_always_new() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in KINDS {
        let a = g.get(p, kind, 0, 0o600).unwrap();
        let b = g.get(p, kind, 0, 0o600).unwrap();
        let c = g.get(p, kind, 0, CREAT | EXCL | 0o600).unwrap();
        assert!(a != b && b != c && a != c);
        assert_eq!(g.stat(p, kind, a).unwrap().perm.key, 0);
    }
}

#[test]
fn a_missing_key_is_enoent_without_ipc_creat() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in KINDS {
        assert_eq!(g.get(p, kind, 7, 0o600), Err(ENOENT));
        assert_eq!(g.get(p, kind, 7, EXCL | 0o600), Err(ENOENT));
        let id = g.get(p, kind, 7, CREAT | 0o600).unwrap();
        assert_eq!(g.get(p, kind, 7, 0), Ok(id));
        assert_eq!(g.get(p, kind, 7, CREAT | 0o600), Ok(id));
    }
}

#[test]
fn ipc_excl_counts_only_with_ipc_creat() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in KINDS {
        let id = g.get(p, kind, 7, CREAT | EXCL | 0o600).unwrap();
        assert_eq!(g.get(p, kind, 7, CREAT | EXCL | 0o600), Err(EEXIST));
        assert_eq!(g.get(p, kind, 7, EXCL), Ok(id));
    }
}

#[test]
fn eexist_comes_before_size_and_permission() {
    let mut g = Group::new();
    let owner = g.process(1000);
    let other = g.process(1001);
    g.shmget(owner, 7, 100, CREAT | 0o600).unwrap();
    assert_eq!(g.shmget(other, 7, 1 << 20, CREAT | EXCL | 0o600), Err(EEXIST));
    assert_eq!(g.shmget(other, 7, 1 << 20, 0o600), Err(EINVAL));
    assert_eq!(g.shmget(other, 7, 100, 0o600), Err(EACCES));
}

#[test]
fn a_negative_key_is_a_key_like_any_other() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, -5, CREAT | 0o600).unwrap();
    assert_eq!(g.msgget(p, -5, 0), Ok(id));
}

#[test]
fn each_kind_has_keys_and_slots_of_its_own() {
    let mut g = Group::new();
    let p = g.process(1000);
    let ids: Vec<i32> = KINDS
        .iter()
        .map(|&k| g.get(p, k, 7, CREAT | 0o600).unwrap())
        .collect();
    assert!(
        ids.iter()
            .all(|&id| slot_of(id) == Some(0) && id & ID_BIT != 0 && id > 0)
    );
    assert_eq!(g.shmget(p, 7, 100, 0), Ok(ids[0]));
    g.remove(p, Kind::Shm, ids[0]).unwrap();
    assert_eq!(g.semget(p, 7, 1, 0), Ok(ids[1]));
}

#[test]
fn a_stale_id_is_einval_and_never_another_construct() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in KINDS {
        let stale = g.get(p, kind, 0, 0o600).unwrap();
        g.remove(p, kind, stale).unwrap();
        assert_eq!(g.stat(p, kind, stale), Err(EINVAL));
        for _ in 0..500 {
            let id = g.get(p, kind, 0, 0o600).unwrap();
            assert_ne!(id, stale);
            assert_eq!(g.stat(p, kind, stale), Err(EINVAL));
            assert_eq!(g.remove(p, kind, stale), Err(EINVAL));
            g.remove(p, kind, id).unwrap();
        }
    }
    assert_eq!(g.attach(p, -1), Err(EINVAL));
    assert_eq!(g.attach(p, 5), Err(EINVAL));
}

#[test]
fn an_id_of_another_kind_is_einval() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    assert_eq!(g.open(p, Kind::Sem, id), Err(EINVAL));
    assert_eq!(g.open(p, Kind::Shm, id), Err(EINVAL));
    assert_eq!(g.attach(p, id), Err(EINVAL));
}

#[test]
fn the_sequence_number_grows_when_a_slot_is_used_again() {
    let mut g = Group::new();
    let p = g.process(1000);
    let mut seen = std::collections::BTreeMap::new();
    for _ in 0..300 {
        let id = g.msgget(p, 0, 0o600).unwrap();
        let seq = g.stat(p, Kind::Msg, id).unwrap().perm.seq;
        if let Some(last) = seen.insert(slot_of(id), seq) {
            assert_eq!(seq, last + 1);
        }
        g.remove(p, Kind::Msg, id).unwrap();
    }
    assert!(seen.len() >= 64, "slots are used again too soon");
}

#[test]
fn the_highest_index_is_0_if_there_is_none() {
    let mut g = Group::new();
    let p = g.process(1000);
    let info = |g: &mut Group, kind| match g.request(p, Request::Info { kind }).unwrap() {
        Done::Info(info) => (info.highest, info.used, info.units),
        other => panic!("{other:?}"),
    };
    assert_eq!(info(&mut g, Kind::Sem), (0, 0, 0));
    let a = g.semget(p, 0, 3, 0o600).unwrap();
    let b = g.semget(p, 0, 4, 0o600).unwrap();
    assert_eq!(info(&mut g, Kind::Sem), (1, 2, 7));
    g.remove(p, Kind::Sem, a).unwrap();
    assert_eq!(info(&mut g, Kind::Sem), (1, 1, 4));
    g.remove(p, Kind::Sem, b).unwrap();
    assert_eq!(info(&mut g, Kind::Sem), (0, 0, 0));
    g.shmget(p, 0, 5000, 0o600).unwrap();
    assert_eq!(info(&mut g, Kind::Shm), (0, 1, 2));
}

#[test]
fn star_stat_takes_an_index_and_gives_the_id() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in KINDS {
        let id = g.get(p, kind, 7, CREAT | 0o600).unwrap();
        let index = slot_of(id).unwrap() as i32;
        assert_eq!(g.stat_of(p, kind, Which::Index(index)).unwrap().id, id);
        assert_eq!(g.stat_of(p, kind, Which::Index(index + 1)), Err(EINVAL));
        assert_eq!(g.stat_of(p, kind, Which::Index(-1)), Err(EINVAL));
        assert_eq!(g.stat_of(p, kind, Which::AnyIndex(1 << 20)), Err(EINVAL));
    }
}

#[test]
fn star_stat_any_skips_the_read_check() {
    let mut g = Group::new();
    let owner = g.process(1000);
    let other = g.process(1001);
    for kind in KINDS {
        let id = g.get(owner, kind, 7, CREAT | 0o600).unwrap();
        let index = slot_of(id).unwrap() as i32;
        assert_eq!(g.stat(other, kind, id), Err(EACCES));
        assert_eq!(g.stat_of(other, kind, Which::Index(index)), Err(EACCES));
        assert_eq!(g.stat_of(other, kind, Which::AnyIndex(index)).unwrap().id, id);
    }
}

#[test]
fn limits_on_the_number_of_constructs_give_enospc() {
    let mut config = config();
    config.limits.shmmni = 2;
    config.limits.semmni = 2;
    config.limits.msgmni = 2;
    let mut g = Group::with(config);
    let p = g.process(1000);
    for kind in KINDS {
        let id = g.get(p, kind, 0, 0o600).unwrap();
        g.get(p, kind, 0, 0o600).unwrap();
        assert_eq!(g.get(p, kind, 0, 0o600), Err(ENOSPC));
        g.remove(p, kind, id).unwrap();
        g.get(p, kind, 0, 0o600).unwrap();
    }
}

#[test]
fn a_list_goes_on_where_it_left_off() {
    let mut g = Group::new();
    let p = g.process(1000);
    for _ in 0..1200 {
        g.msgget(p, 0, 0o600).unwrap();
    }
    let (mut from, mut slots, mut answers) = (Some(0), Vec::new(), 0);
    while let Some(slot) = from {
        let list = Request::List {
            kind: Kind::Msg,
            from: slot,
        };
        match g.request(p, list).unwrap() {
            Done::List { stats, next } => {
                slots.extend(stats.iter().map(|(_, stat)| slot_of(stat.id).unwrap()));
                from = next;
            }
            other => panic!("{other:?}"),
        }
        answers += 1;
    }
    assert_eq!(slots, (0..1200).collect::<Vec<u32>>());
    assert!(answers > 1);
}
