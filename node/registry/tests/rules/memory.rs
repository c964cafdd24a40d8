//! Memory: growth, quotas, quarantine, what cannot be had.

use crate::group::*;
use vshmem_ipc::Control;
use vshmem_registry::{Command, Done, Effect, GroupConfig, Quota, Store};
use vshmem_wire::{Extent, Kind, Memory, Request};

fn grow(
    g: &mut Group,
    client: u32,
    kind: Kind,
    id: i32,
    wanted: u64,
    have: u16,
) -> Result<(Memory, u64), i32> {
    let request = Request::Grow {
        kind,
        id,
        wanted,
        have,
    };
    let (memory, _, _, control) = opened(g.request(client, request)?)?;
    Ok((memory.unwrap(), control))
}

#[test]
fn growing_appends_an_extent_and_shows_in_the_control_word() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    let (first, ..) = g.open(p, Kind::Msg, id).unwrap();
    let (memory, control) = grow(&mut g, p, Kind::Msg, id, 100_000, 1).unwrap();
    assert_eq!(memory.extents[..1], first.unwrap().extents);
    assert!(memory.extents[1].bytes >= 100_000);
    assert_eq!(Control(control).extents(), 2);
    let all = memory.extents.clone();
    match &g.effects[..] {
        [
            Effect::Provide { extent, .. },
            Effect::Grown { extents, .. },
            Effect::Control { control: word, .. },
        ] => assert_eq!((*extent, extents, *word), (all[1], &all, control)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn growing_what_has_grown_already_appends_nothing() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in [Kind::Sem, Kind::Msg] {
        let id = g.get(p, kind, 7, CREAT | 0o600).unwrap();
        g.open(p, kind, id).unwrap();
        let once = grow(&mut g, p, kind, id, 0, 1).unwrap();
        assert_eq!(grow(&mut g, p, kind, id, 0, 1).unwrap(), once);
        assert_eq!(g.effects, []);
        assert_eq!(grow(&mut g, p, kind, id, 0, 2).unwrap().0.extents.len(), 3);
    }
}

#[test]
fn only_who_has_it_open_makes_a_queue_grow() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1001));
    let id = g.msgget(p, 7, CREAT | 0o602).unwrap();
    assert_eq!(grow(&mut g, p, Kind::Msg, id, 0, 1), Err(EINVAL));
    let request = Request::Grow {
        kind: Kind::Msg,
        id,
        wanted: 0,
        have: 1,
    };
    assert!(matches!(
        opened(g.request(q, request).unwrap()),
        Ok((None, false, true, _))
    ));
    assert_eq!(g.effects, []);
}

#[test]
fn growth_ends_at_the_cap() {
    let mut g = Group::with(GroupConfig::new("test", Store::PerConstruct));
    let p = g.process(1000);
    for (kind, cap) in [(Kind::Sem, 64 << 20), (Kind::Msg, 8 << 20)] {
        let id = g.get(p, kind, 7, CREAT | 0o600).unwrap();
        let (memory, ..) = g.open(p, kind, id).unwrap();
        let mut bytes = memory.unwrap().bytes();
        let mut have = 1;
        loop {
            match grow(&mut g, p, kind, id, 1000, have) {
                Ok((memory, _)) => {
                    assert!(memory.bytes() > bytes && memory.bytes() <= cap);
                    bytes = memory.bytes();
                    have += 1;
                }
                Err(errno) => break assert_eq!(errno, ENOMEM),
            }
        }
        assert!(bytes > cap - (1 << 20), "{bytes} of {cap}");
        for wanted in [u64::MAX, u64::MAX - 4096, 1 << 40] {
            assert_eq!(grow(&mut g, p, kind, id, wanted, have), Err(ENOMEM));
        }
    }
}

#[test]
fn an_exhausted_pool_gives_enomem_as_exhausted_memory_does() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    g.open(p, Kind::Msg, id).unwrap();
    let left = POOL - PAGE - g.registry.bytes_used();
    assert_eq!(g.shmget(p, 0, left + 1, 0o600), Err(ENOMEM));
    let all = g.shmget(p, 0, left, 0o600).unwrap();
    assert_eq!(g.shmget(p, 0, 1, 0o600), Err(ENOMEM));
    assert_eq!(g.semget(p, 0, 1, 0o600), Err(ENOMEM));
    assert_eq!(g.msgget(p, 0, 0o600), Err(ENOMEM));
    assert_eq!(grow(&mut g, p, Kind::Msg, id, 0, 1), Err(ENOMEM));
    g.remove(p, Kind::Shm, all).unwrap();
    assert!(g.semget(p, 0, 1, 0o600).is_ok());
}

#[test]
fn quotas_of_a_domain_give_enospc() {
    let mut config = config();
    config.quota.constructs = Some(3);
    let two_pages = Quota {
        constructs: None,
        bytes: Some(2 * PAGE),
    };
    config.quotas.insert("tight".into(), two_pages);
    let mut g = Group::with(config);
    let tight = g.domain("tight");
    let (p, q) = (g.process(1000), g.process_in(tight, 1000));
    let ids: Vec<i32> = KINDS
        .iter()
        .map(|&kind| g.get(p, kind, 0, 0o600).unwrap())
        .collect();
    assert_eq!(g.shmget(p, 0, 1, 0o600), Err(ENOSPC));
    // What is removed but still mapped counts on.
    g.open(p, Kind::Msg, ids[2]).unwrap();
    g.remove(p, Kind::Msg, ids[2]).unwrap();
    assert_eq!(g.shmget(p, 0, 1, 0o600), Err(ENOSPC));
    g.close(p, Kind::Msg, ids[2]).unwrap();
    assert!(g.shmget(p, 0, 1, 0o600).is_ok());
    assert_eq!(g.shmget(q, 0, 2 * PAGE + 1, 0o600), Err(ENOSPC));
    let id = g.shmget(q, 7, 2 * PAGE, CREAT | 0o600).unwrap();
    assert_eq!(g.shmget(q, 0, 1, 0o600), Err(ENOSPC));
    assert_eq!(g.shmget(q, 7, 1, 0), Ok(id));
}

#[test]
fn a_quota_also_limits_growth() {
    let mut config = config();
    config.quota.bytes = Some(64 << 10);
    let mut g = Group::with(config);
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    g.open(p, Kind::Msg, id).unwrap();
    assert_eq!(grow(&mut g, p, Kind::Msg, id, 64 << 10, 1), Err(ENOMEM));
    assert!(grow(&mut g, p, Kind::Msg, id, 10_000, 1).is_ok());
}

#[test]
fn without_a_pool_extents_follow_one_another() {
    let mut g = Group::with(GroupConfig::new("test", Store::PerConstruct));
    let p = g.process(1000);
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.open(p, Kind::Sem, id).unwrap();
    let (memory, _) = grow(&mut g, p, Kind::Sem, id, 0, 1).unwrap();
    let mut at = 0;
    for &Extent { offset, bytes } in &memory.extents {
        assert_eq!(offset, at);
        at += bytes;
    }
    assert!(
        g.shmget(p, 0, 1 << 40, 0o600).is_ok(),
        "sparse files may be large"
    );
}

#[test]
fn what_cannot_be_provided_is_taken_back() {
    let mut g = Group::new();
    let p = g.process(1000);
    let used = g.registry.bytes_used();
    for kind in KINDS {
        g.get(p, kind, 7, CREAT | 0o600).unwrap();
        let serial = match g.effects[0] {
            Effect::Provide { serial, .. } => serial,
            ref other => panic!("{other:?}"),
        };
        g.apply(Command::NotProvided { serial }).unwrap();
        assert!(matches!(g.effects[..], [Effect::Release { .. }]));
        assert_eq!(g.get(p, kind, 7, 0), Err(ENOENT));
        assert_eq!(g.registry.bytes_used(), used);
    }
}

#[test]
fn growth_that_cannot_be_provided_is_taken_back() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    let (before, _, _, control) = g.open(p, Kind::Msg, id).unwrap();
    grow(&mut g, p, Kind::Msg, id, 0, 1).unwrap();
    let serial = g.registry.construct_by_id(Kind::Msg, id).unwrap().serial;
    g.apply(Command::NotProvided { serial }).unwrap();
    let (after, _, _, same) = g.open(p, Kind::Msg, id).unwrap();
    assert_eq!((before, control), (after, same));
    // Only the last command can be undone.
    assert!(g.apply(Command::NotProvided { serial }).is_err());
}

#[test]
fn room_for_growth_is_told() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    let done = g.request(p, Request::Open { kind: Kind::Msg, id }).unwrap();
    let Done::WithMemory {
        reply: vshmem_wire::Reply::Opened { room, memory, .. },
        ..
    } = done
    else {
        panic!("{done:?}");
    };
    assert_eq!(room + memory.unwrap().bytes(), 8 << 20);
}

#[test]
fn many_constructs_cost_no_more_each_than_few() {
    let mut g = Group::with(GroupConfig::new("test", Store::Pool { bytes: 1 << 40 }));
    let p = g.process(1000);
    // The invariants look at everything, so apply directly.
    let mut seq = 0;
    let mut get = |g: &mut Group, key| {
        seq += 1;
        let body = Request::SemGet {
            key,
            nsems: 1,
            flags: CREAT | 0o600,
        };
        g.registry
            .apply(1, Command::Request { client: p, seq, body })
            .reply
    };
    for key in 1..=32_000 {
        assert!(get(&mut g, key).is_ok());
    }
    assert_eq!(get(&mut g, 32_001).unwrap_err().errno, ENOSPC);
    let began = std::time::Instant::now();
    for key in 1..=1000 {
        assert!(get(&mut g, key * 17).is_ok());
    }
    assert!(
        began.elapsed().as_millis() < 500,
        "{:?} for 1000 look-ups",
        began.elapsed()
    );
    g.registry.check_invariants().unwrap();
}
