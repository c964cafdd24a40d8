//! Semaphore sets, as far as the registry knows them.

use crate::group::*;
use vshmem_ipc::{Control, State};
use vshmem_registry::{Done, Effect};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Request};

#[test]
fn nsems_follows_linux() {
    let mut config = config();
    config.limits.semmsl = 100;
    config.limits.semmns = 120;
    let mut g = Group::with(config);
    let p = g.process(1000);
    assert_eq!(g.semget(p, 7, 0, CREAT | 0o600), Err(EINVAL));
    assert_eq!(g.semget(p, 7, -1, CREAT | 0o600), Err(EINVAL));
    assert_eq!(g.semget(p, 7, 101, CREAT | 0o600), Err(EINVAL));
    let id = g.semget(p, 7, 100, CREAT | 0o600).unwrap();
    assert_eq!(g.semget(p, 7, 0, 0), Ok(id));
    assert_eq!(g.semget(p, 7, 100, 0), Ok(id));
    assert_eq!(g.semget(p, 7, 101, 0), Err(EINVAL));
    assert_eq!(g.semget(p, 7, -1, 0), Err(EINVAL));
    assert_eq!(g.semget(p, 0, 21, 0o600), Err(ENOSPC));
    g.semget(p, 0, 20, 0o600).unwrap();
    let small = g.semget(p, 8, 1, CREAT | 0o600);
    assert_eq!(small, Err(ENOSPC));
    g.remove(p, Kind::Sem, id).unwrap();
    let small = g.semget(p, 8, 1, CREAT | 0o600).unwrap();
    assert_eq!(g.semget(p, 8, 2, 0), Err(EINVAL));
    assert_eq!(g.semget(p, 8, 1, 0), Ok(small));
}

#[test]
fn a_new_set_is_provided_formatted_and_declared_live_in_this_order() {
    let mut g = Group::new();
    let p = g.process(1000);
    g.semget(p, 7, 3, CREAT | 0o600).unwrap();
    match &g.effects[..] {
        [
            Effect::Provide {
                serial: a, extent, ..
            },
            Effect::Format {
                serial: b,
                nsems: 3,
                qbytes: 0,
                ctime,
                extents,
                ..
            },
            Effect::Control {
                serial: c, control, ..
            },
        ] => {
            assert!(a == b && b == c);
            assert_eq!(extents, &[*extent]);
            assert_eq!(*ctime, g.now);
            assert_eq!(Control(*control), Control::new(State::Live, 0, 1, 0));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn memory_is_for_those_who_may_read_and_write() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.semget(p, 7, 1, CREAT | 0o642).unwrap();
    let mut member = g.who(1001);
    member.groups = vec![5, 1000];
    let (member, other) = (g.connect(1, member), g.process(1002));
    assert!(matches!(g.open(p, Kind::Sem, id), Ok((Some(_), true, true, _))));
    assert!(matches!(
        g.open(member, Kind::Sem, id),
        Ok((None, true, false, _))
    ));
    assert!(matches!(g.open(other, Kind::Sem, id), Ok((None, false, true, _))));
    let secret = g.semget(p, 8, 1, CREAT | 0o600).unwrap();
    assert_eq!(g.open(other, Kind::Sem, secret), Err(EACCES));
    assert_eq!(g.close(other, Kind::Sem, id), Err(EINVAL));
}

#[test]
fn operations_on_behalf_ask_for_what_linux_asks() {
    let mut g = Group::new();
    let p = g.process(1000);
    let sem = g.semget(p, 7, 2, CREAT | 0o604).unwrap();
    let msg = g.msgget(p, 7, CREAT | 0o602).unwrap();
    let other = g.process(1001);
    let behalf = |g: &mut Group, id, operation| {
        g.request(other, Request::OnBehalf { id, operation })
            .map(|done| assert!(matches!(done, Done::Behalf { .. })))
    };
    let send = Behalf::Send {
        mtype: 1,
        text: vec![],
    };
    let receive = Behalf::Receive {
        size: 0,
        msgtyp: 0,
        flags: 0,
    };
    assert_eq!(behalf(&mut g, sem, Behalf::GetAll), Ok(()));
    assert_eq!(behalf(&mut g, sem, Behalf::SemOp(vec![(0, 0, 0)])), Ok(()));
    assert_eq!(
        behalf(&mut g, sem, Behalf::SemOp(vec![(0, 0, 0), (1, 1, 0)])),
        Err(EACCES)
    );
    assert_eq!(behalf(&mut g, sem, Behalf::SetValue(0, 1)), Err(EACCES));
    assert_eq!(behalf(&mut g, msg, send), Ok(()));
    assert_eq!(behalf(&mut g, msg, receive), Err(EACCES));
}

#[test]
fn a_removed_set_waits_in_quarantine_until_all_have_closed_it() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.open(p, Kind::Sem, id).unwrap();
    g.open(q, Kind::Sem, id).unwrap();
    let bytes = g.registry.bytes_used();
    g.remove(p, Kind::Sem, id).unwrap();
    assert!(matches!(
        &g.effects[..],
        [Effect::Control { control, .. }, Effect::Retire { .. }] if Control(*control).state() == State::Removed
    ));
    assert_eq!(g.registry.bytes_quarantined(), bytes);
    assert_eq!(g.semget(p, 7, 1, 0), Err(ENOENT));
    assert_eq!(g.open(p, Kind::Sem, id), Err(EINVAL));
    let new = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.close(p, Kind::Sem, id).unwrap();
    assert_eq!(g.released(), None);
    g.close(q, Kind::Sem, id).unwrap();
    assert_eq!(g.released(), Some(bytes));
    assert_eq!(g.registry.bytes_quarantined(), 0);
    assert_eq!(g.semget(p, 7, 1, 0), Ok(new));
}

#[test]
fn a_removed_set_nobody_has_open_goes_at_once() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.remove(p, Kind::Sem, id).unwrap();
    assert!(matches!(
        g.effects[..],
        [
            Effect::Control { .. },
            Effect::Retire { .. },
            Effect::Release { .. }
        ]
    ));
}

#[test]
fn ipc_set_changes_the_control_word() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    let (.., before) = g.open(p, Kind::Sem, id).unwrap();
    g.now += 5;
    let set = Request::Set {
        kind: Kind::Sem,
        id,
        uid: 1001,
        gid: 1002,
        mode: 0o7640,
        qbytes: Some(1),
    };
    g.request(p, set).unwrap();
    let serial = g.registry.construct_by_id(Kind::Sem, id).unwrap().serial;
    let control = Control::new(State::Live, 1, 1, 0).0;
    assert_ne!(before, control);
    assert_eq!(
        g.effects,
        [
            Effect::SetCtime {
                kind: Kind::Sem,
                serial,
                seconds: g.now
            },
            Effect::Control {
                kind: Kind::Sem,
                serial,
                control
            },
        ]
    );
    let stat = g.stat(p, Kind::Sem, id).unwrap();
    let perm = stat.perm;
    assert_eq!(
        (perm.uid, perm.gid, perm.cuid, perm.cgid, perm.mode),
        (1001, 1002, 1000, 1000, 0o640)
    );
    assert_eq!(stat.ctime, g.now as i64);
}

#[test]
fn a_set_found_corrupt_is_retired() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let id = g.semget(p, 7, 1, CREAT | 0o666).unwrap();
    g.open(p, Kind::Sem, id).unwrap();
    let complain = |g: &mut Group, client| {
        let complaint = Request::Corrupt {
            kind: Kind::Sem,
            id,
            what: "slot\n\u{1b}[31m".repeat(100),
        };
        g.request(client, complaint).map(|_| ())
    };
    assert_eq!(complain(&mut g, q), Err(EIDRM));
    complain(&mut g, p).unwrap();
    let serial = match &g.effects[..] {
        [Effect::Inspect { serial, what, .. }] => {
            assert!(what.len() <= 200 && !what.contains(['\n', '\u{1b}']));
            *serial
        }
        other => panic!("{other:?}"),
    };
    let what = "slot".to_string();
    g.apply(vshmem_registry::Command::DeclareCorrupt { serial, what })
        .unwrap();
    assert!(matches!(
        &g.effects[..],
        [Effect::Control { control, .. }, Effect::Retire { .. }] if Control(*control).state() == State::Corrupt
    ));
    assert_eq!(g.open(p, Kind::Sem, id), Err(EINVAL));
    g.close(p, Kind::Sem, id).unwrap();
    assert!(g.released().is_some());
}
