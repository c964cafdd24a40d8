//! Segments of huge pages, as far as the registry decides.

use crate::group::*;
use vshmem_registry::{Command, Done, Effect};
use vshmem_wire::{Kind, caps};

const HUGETLB: i32 = 0o4000;
const MIB: u64 = 1 << 20;

fn shift(power: u32) -> i32 {
    (power << 26) as i32
}

/// A registry of a host with pages of 2 MiB (the default) and 1 GiB, and a process that may have them.
fn with_huge_pages() -> (Group, u32) {
    let mut config = config();
    config.huge = vec![21, 30];
    let mut g = Group::with(config);
    let domain = g.local_domain("host");
    let mut who = g.who(1000);
    who.caps = caps::HUGE;
    let client = g.connect(domain, who);
    (g, client)
}

#[test]
fn sizes_that_the_host_does_not_have_are_einval_and_others_need_permission() {
    let (mut g, may) = with_huge_pages();
    let mut get = |client, size, flags: i32| g.shmget(client, 0, size, flags | CREAT | HUGETLB | 0o600);
    for power in [1, 12, 20, 22, 34, 63] {
        assert_eq!(get(may, 1, shift(power)), Err(EINVAL), "{power}");
    }
    for power in [0, 21, 30] {
        assert!(get(may, 1, shift(power)).is_ok(), "{power}");
    }
    assert_eq!(get(may, 0, 0), Err(EINVAL));
    let domain = g.local_domain("host");
    let other = g.process_in(domain, 1000);
    assert_eq!(g.shmget(other, 0, 1, CREAT | HUGETLB | 0o600), Err(EPERM));
    assert_eq!(
        g.shmget(other, 0, 1, CREAT | HUGETLB | shift(20) | 0o600),
        Err(EINVAL)
    );
    let mut none = Group::new();
    let process = none.process(0);
    assert_eq!(none.shmget(process, 0, 1, CREAT | HUGETLB | 0o600), Err(EINVAL));
}

#[test]
fn their_memory_is_beside_the_pool_and_in_whole_pages() {
    let (mut g, may) = with_huge_pages();
    let id = g.shmget(may, 7, 2 * MIB + 1, CREAT | HUGETLB | 0o600).unwrap();
    match g.effects[..] {
        [
            Effect::Provide {
                huge: 21,
                extent,
                kind: Kind::Shm,
                ..
            },
        ] => assert_eq!((extent.offset, extent.bytes), (0, 4 * MIB)),
        ref other => panic!("{other:?}"),
    }
    assert_eq!(
        (g.registry.bytes_used(), g.registry.bytes_used_by(0)),
        (4 * MIB, 0)
    );
    assert_eq!(g.registry.info(Kind::Shm).units, 513);
    let memory = g.attach(may, id).unwrap();
    assert_eq!((memory.huge, memory.page()), (21, 2 * MIB));
    g.remove(may, Kind::Shm, id).unwrap();
    g.detach(may, id).unwrap();
    assert!(matches!(
        g.effects[..],
        [Effect::Revoke { huge: 21, .. }, Effect::Release { huge: 21, .. }]
    ));
    assert_eq!(
        (g.registry.bytes_used(), g.registry.info(Kind::Shm).units),
        (0, 0)
    );
}

#[test]
fn what_cannot_be_provided_was_never_there() {
    let (mut g, may) = with_huge_pages();
    g.shmget(may, 7, MIB, CREAT | HUGETLB | 0o600).unwrap();
    let Effect::Provide { serial, .. } = g.effects[0] else {
        panic!("{:?}", g.effects)
    };
    assert_eq!(g.apply(Command::NotProvided { serial }).unwrap(), Done::Nothing);
    assert_eq!(g.shmget(may, 7, MIB, 0), Err(ENOENT));
    assert_eq!(g.registry.bytes_used(), 0);
}

#[test]
fn a_domain_with_a_kernel_of_its_own_neither_makes_nor_attaches_them() {
    let (mut g, may) = with_huge_pages();
    let id = g.shmget(may, 7, MIB, CREAT | HUGETLB | 0o666).unwrap();
    let domain = g.domain("vm");
    let mut who = g.who(0);
    who.caps = caps::HUGE | caps::IPC_OWNER;
    let inside = g.connect(domain, who);
    assert_eq!(g.shmget(inside, 8, MIB, CREAT | HUGETLB | 0o600), Err(ENOMEM));
    assert_eq!(g.shmget(inside, 7, 0, 0), Ok(id));
    assert_eq!(g.attach(inside, id).unwrap_err(), ENOMEM);
    assert_eq!(g.nattch(may, id), 0);
}
