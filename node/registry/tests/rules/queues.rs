//! Message queues, as far as the registry knows them.

use crate::group::*;
use vshmem_ipc::{Control, State};
use vshmem_registry::Effect;
use vshmem_wire::{Kind, Request, StatBody};

fn set_qbytes(g: &mut Group, client: u32, id: i32, qbytes: u64) -> Result<(), i32> {
    let set = Request::Set {
        kind: Kind::Msg,
        id,
        uid: 1000,
        gid: 1000,
        mode: 0o600,
        qbytes: Some(qbytes),
    };
    g.request(client, set).map(|_| ())
}

#[test]
fn qbytes_begins_at_msgmnb_and_raising_it_above_needs_cap_sys_resource() {
    let mut g = Group::new();
    let (p, root) = (g.process(1000), g.process(0));
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    let qbytes = |g: &mut Group| match g.stat(p, Kind::Msg, id).unwrap().body {
        StatBody::Msg { qbytes, .. } => qbytes,
        other => panic!("{other:?}"),
    };
    assert_eq!(qbytes(&mut g), 16_384);
    set_qbytes(&mut g, p, id, 100).unwrap();
    assert_eq!(qbytes(&mut g), 100);
    set_qbytes(&mut g, p, id, 16_384).unwrap();
    assert_eq!(set_qbytes(&mut g, p, id, 16_385), Err(EPERM));
    set_qbytes(&mut g, root, id, u64::MAX).unwrap();
    assert_eq!(qbytes(&mut g), u64::MAX);
    let control = Control::new(State::Live, 3, 1, 3).0;
    assert!(
        g.registry
            .construct_by_id(Kind::Msg, id)
            .is_some_and(|c| c.control == control)
    );
}

#[test]
fn a_changed_qbytes_is_told_to_the_queue() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.msgget(p, 7, CREAT | 0o600).unwrap();
    set_qbytes(&mut g, p, id, 100).unwrap();
    assert!(matches!(
        g.effects[..],
        [
            Effect::SetCtime { .. },
            Effect::Control { .. },
            Effect::SetQbytes { qbytes: 100, .. },
        ]
    ));
    assert!(matches!(
        g.registry.restarted()[..],
        [Effect::SetQbytes { qbytes: 100, .. }]
    ));
    set_qbytes(&mut g, p, id, 100).unwrap();
    assert!(matches!(
        g.effects[..],
        [Effect::SetCtime { .. }, Effect::Control { .. }]
    ));
}

#[test]
fn uid_and_gid_minus_one_are_einval() {
    let mut g = Group::new();
    let p = g.process(1000);
    for kind in KINDS {
        let id = g.get(p, kind, 7, CREAT | 0o600).unwrap();
        for (uid, gid) in [(u32::MAX, 1000), (1000, u32::MAX)] {
            let set = Request::Set {
                kind,
                id,
                uid,
                gid,
                mode: 0o600,
                qbytes: None,
            };
            assert_eq!(g.request(p, set).map(|_| ()), Err(EINVAL));
        }
    }
}
