//! Who may do what.

use crate::group::*;
use vshmem_registry::Uids;
use vshmem_wire::{Kind, Request, caps};

fn set(g: &mut Group, client: u32, kind: Kind, id: i32) -> Result<(), i32> {
    let set = Request::Set {
        kind,
        id,
        uid: 1000,
        gid: 1000,
        mode: 0o600,
        qbytes: None,
    };
    g.request(client, set).map(|_| ())
}

#[test]
fn mode_bits_are_the_users_the_groups_or_the_others() {
    let mut g = Group::new();
    let owner = g.process(1000);
    let mut member = g.who(1001);
    member.gid = 1000;
    let mut supplementary = g.who(1002);
    supplementary.groups = vec![3, 1000, 7];
    let (member, supplementary, other) = (g.connect(1, member), g.connect(1, supplementary), g.process(1003));
    let id = g.shmget(owner, 7, 100, CREAT | 0o421).unwrap();
    // The owner's bits count for the owner, even where the others' would give more.
    assert!(g.attach_as(owner, id, true, false).is_ok());
    assert_eq!(g.attach(owner, id), Err(EACCES));
    for client in [member, supplementary] {
        assert_eq!(g.attach_as(client, id, true, false), Err(EACCES));
        assert_eq!(g.shmget(client, 7, 100, 0o200), g.shmget(owner, 7, 100, 0));
        assert_eq!(g.shmget(client, 7, 100, 0o400), Err(EACCES));
    }
    assert_eq!(g.attach_as(other, id, true, false), Err(EACCES));
    assert_eq!(g.shmget(other, 7, 100, 0o1), g.shmget(owner, 7, 100, 0));
}

#[test]
fn the_owners_group_and_the_creators_both_count() {
    let mut g = Group::new();
    let creator = g.process(1000);
    let [mut of_owner, mut of_creator, mut of_neither] = [1002, 1003, 1004].map(|uid| g.who(uid));
    (of_owner.gid, of_creator.gid, of_neither.gid) = (2001, 1000, 3000);
    let [of_owner, of_creator, of_neither] = [of_owner, of_creator, of_neither].map(|who| g.connect(1, who));
    let id = g.shmget(creator, 7, 100, CREAT | 0o640).unwrap();
    let given = Request::Set {
        kind: Kind::Shm,
        id,
        uid: 1001,
        gid: 2001,
        mode: 0o640,
        qbytes: None,
    };
    g.request(creator, given).unwrap();
    for member in [of_owner, of_creator] {
        assert!(g.attach_as(member, id, true, false).is_ok());
        assert_eq!(g.attach(member, id), Err(EACCES));
    }
    assert_eq!(g.attach_as(of_neither, id, true, false), Err(EACCES));
}

#[test]
fn shm_rdonly_asks_for_read_and_shm_exec_for_execute() {
    let mut g = Group::new();
    let (owner, other) = (g.process(1000), g.process(1001));
    let id = g.shmget(owner, 7, 100, CREAT | 0o704).unwrap();
    assert!(g.attach_as(other, id, true, false).is_ok());
    assert_eq!(g.attach_as(other, id, false, false), Err(EACCES));
    assert_eq!(g.attach_as(other, id, true, true), Err(EACCES));
    assert!(g.attach_as(owner, id, false, true).is_ok());
}

#[test]
fn capabilities_count_and_uid_0_does_not() {
    let mut g = Group::new();
    let owner = g.process(1000);
    let mut bare_root = g.who(0);
    bare_root.caps = 0;
    let mut reader = g.who(1001);
    reader.caps = caps::IPC_OWNER;
    let mut admin = g.who(1001);
    admin.caps = caps::SYS_ADMIN;
    let (bare_root, reader, admin) = (g.connect(1, bare_root), g.connect(1, reader), g.connect(1, admin));
    for kind in KINDS {
        let id = g.get(owner, kind, 7, CREAT | 0o600).unwrap();
        assert_eq!(g.stat(bare_root, kind, id), Err(EACCES));
        assert_eq!(g.remove(bare_root, kind, id), Err(EPERM));
        assert!(g.stat(reader, kind, id).is_ok());
        assert_eq!(g.remove(reader, kind, id), Err(EPERM));
        assert_eq!(g.stat(admin, kind, id), Err(EACCES));
        assert_eq!(set(&mut g, admin, kind, id), Ok(()));
        assert_eq!(g.remove(admin, kind, id), Ok(()));
    }
}

#[test]
fn ipc_set_and_ipc_rmid_are_for_owner_and_creator() {
    let mut g = Group::new();
    let (creator, owner, other) = (g.process(1000), g.process(1001), g.process(1002));
    for kind in KINDS {
        let id = g.get(creator, kind, 7, CREAT | 0o666).unwrap();
        assert_eq!(g.remove(owner, kind, id), Err(EPERM));
        let give = Request::Set {
            kind,
            id,
            uid: 1001,
            gid: 1001,
            mode: 0o666,
            qbytes: None,
        };
        g.request(creator, give).unwrap();
        assert_eq!(set(&mut g, other, kind, id), Err(EPERM));
        assert_eq!(g.remove(other, kind, id), Err(EPERM));
        assert_eq!(g.remove(owner, kind, id), Ok(()));
        let id = g.get(creator, kind, 7, CREAT | 0o666).unwrap();
        assert_eq!(g.remove(creator, kind, id), Ok(()));
    }
}

#[test]
fn shared_uids_count_in_every_domain() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let (here, there, root_there) = (g.process(1000), g.process_in(guest, 1000), g.process_in(guest, 0));
    for kind in KINDS {
        let id = g.get(here, kind, 7, CREAT | 0o600).unwrap();
        assert_eq!(g.get(there, kind, 7, 0o600), Ok(id));
        assert!(g.stat(there, kind, id).is_ok());
        assert_eq!(set(&mut g, there, kind, id), Ok(()));
        assert_eq!(g.remove(root_there, kind, id), Ok(()));
    }
}

#[test]
fn with_separate_uids_a_caller_is_other_in_another_domain() {
    let mut config = config();
    config.uids = Uids::Separate;
    let mut g = Group::with(config);
    let (a, b) = (g.domain("a"), g.domain("b"));
    let (here, there, root_there) = (g.process_in(a, 1000), g.process_in(b, 1000), g.process_in(b, 0));
    let (root_here, host) = (g.process_in(a, 0), g.process(0));
    for kind in KINDS {
        let id = g.get(here, kind, 7, CREAT | 0o604).unwrap();
        for foreign in [there, root_there] {
            assert!(g.stat(foreign, kind, id).is_ok());
            assert_eq!(g.get(foreign, kind, 7, 0o200), Err(EACCES));
            assert_eq!(set(&mut g, foreign, kind, id), Err(EPERM));
            assert_eq!(g.remove(foreign, kind, id), Err(EPERM));
        }
        assert_eq!(set(&mut g, root_here, kind, id), Ok(()));
        assert_eq!(g.get(host, kind, 7, 0o600), Ok(id));
        assert_eq!(g.remove(host, kind, id), Ok(()));
    }
}

#[test]
fn a_changed_uid_counts_after_reconnecting() {
    let mut g = Group::new();
    let owner = g.process(1000);
    let mut who = g.who(1001);
    let client = g.connect(1, who.clone());
    let id = g.shmget(owner, 7, 100, CREAT | 0o600).unwrap();
    assert_eq!(g.attach(client, id), Err(EACCES));
    who.uid = 1000;
    assert_eq!(g.connect_as(1, who, Some(client), None), Ok(client));
    assert!(g.attach(client, id).is_ok());
}
