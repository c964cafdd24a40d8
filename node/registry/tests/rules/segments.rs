//! Shared memory.

use crate::group::*;
use vshmem_registry::{Command, Done, Effect};
use vshmem_wire::{Failure, ID_BIT, Kind, Pid, Request, Setting, StatBody};

fn numbers(g: &mut Group, client: u32, id: i32) -> (i64, i64, Pid, Pid) {
    match g.stat(client, Kind::Shm, id).unwrap().body {
        StatBody::Shm {
            atime,
            dtime,
            cpid,
            lpid,
            ..
        } => (atime, dtime, cpid, lpid),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_new_segment_needs_a_size_between_1_and_shmmax() {
    let mut config = config();
    config.limits.shmmax = 10_000;
    let mut g = Group::with(config);
    let p = g.process(1000);
    assert_eq!(g.shmget(p, 7, 0, CREAT | 0o600), Err(EINVAL));
    assert_eq!(g.shmget(p, 7, 10_001, CREAT | 0o600), Err(EINVAL));
    assert!(g.shmget(p, 7, 10_000, CREAT | 0o600).is_ok());
}

#[test]
fn no_size_is_too_large_to_be_refused() {
    let mut g = Group::new();
    let p = g.process(1000);
    for size in [u64::MAX, u64::MAX - 4096, 1 << 63, 1 << 62, 1 << 40] {
        let refused = g.shmget(p, 0, size, 0o600).unwrap_err();
        assert!([EINVAL, ENOMEM].contains(&refused));
    }
}

#[test]
fn any_size_up_to_the_segments_own_finds_it() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 5000, CREAT | 0o600).unwrap();
    assert_eq!(g.shmget(p, 7, 0, 0), Ok(id));
    assert_eq!(g.shmget(p, 7, 5000, CREAT), Ok(id));
    assert_eq!(g.shmget(p, 7, 5001, 0), Err(EINVAL));
}

#[test]
fn segsz_is_the_size_asked_for() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 5000, CREAT | 0o600).unwrap();
    assert!(matches!(
        g.stat(p, Kind::Shm, id).unwrap().body,
        StatBody::Shm { segsz: 5000, .. }
    ));
    assert_eq!(g.attach(p, id).unwrap().bytes(), 2 * PAGE);
}

#[test]
fn shmall_gives_enospc() {
    let mut config = config();
    config.limits.shmall = 3;
    let mut g = Group::with(config);
    let p = g.process(1000);
    g.shmget(p, 0, 2 * PAGE, 0o600).unwrap();
    assert_eq!(g.shmget(p, 0, PAGE + 1, 0o600), Err(ENOSPC));
    g.shmget(p, 0, PAGE, 0o600).unwrap();
}

#[test]
fn nattch_counts_attachments_over_all_domains() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let (p, q) = (g.process(1000), g.process_in(guest, 1000));
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    g.attach(p, id).unwrap();
    g.attach_as(q, id, true, false).unwrap();
    assert_eq!(g.nattch(p, id), 3);
    g.detach(p, id).unwrap();
    assert_eq!(g.nattch(q, id), 2);
    g.gone(p, false);
    assert_eq!(g.nattch(q, id), 1);
    g.apply(Command::DomainDown { domain: guest }).unwrap();
    let r = g.process(1000);
    assert_eq!(g.nattch(r, id), 0);
}

#[test]
fn detaching_what_is_not_attached_is_einval() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    assert_eq!(g.detach(q, id), Err(EINVAL));
    g.detach(p, id).unwrap();
    assert_eq!(g.detach(p, id), Err(EINVAL));
    assert_eq!(g.detach(p, -3), Err(EINVAL));
}

#[test]
fn the_key_of_a_removed_segment_is_free_and_the_segment_lives_until_the_last_detach() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let old = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, old).unwrap();
    g.remove(p, Kind::Shm, old).unwrap();
    assert_eq!(g.released(), None);
    let stat = g.stat(p, Kind::Shm, old).unwrap();
    assert_eq!((stat.perm.key, stat.perm.mode), (0, 0o1600));
    assert_eq!(g.shmget(p, 7, 100, 0), Err(ENOENT));
    let new = g.shmget(p, 7, 200, CREAT | 0o600).unwrap();
    assert_ne!(old, new);
    // Attaching by id is still allowed on Linux, and removing twice does no harm.
    g.attach(q, old).unwrap();
    g.remove(p, Kind::Shm, old).unwrap();
    g.detach(p, old).unwrap();
    assert_eq!(g.released(), None);
    g.detach(q, old).unwrap();
    assert_eq!(g.released(), Some(PAGE));
    assert_eq!(g.attach(q, old), Err(EINVAL));
    assert_eq!(g.shmget(p, 7, 0, 0), Ok(new));
}

#[test]
fn a_removed_segment_goes_with_the_death_of_the_last_who_has_it() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 0, 100, 0o600).unwrap();
    g.attach(p, id).unwrap();
    g.attach(p, id).unwrap();
    g.remove(p, Kind::Shm, id).unwrap();
    g.gone(p, false);
    assert_eq!(g.released(), Some(PAGE));
    assert_eq!(g.registry.bytes_used(), 0);
}

#[test]
fn a_segment_nobody_has_goes_at_once() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 0, 100, 0o600).unwrap();
    g.remove(p, Kind::Shm, id).unwrap();
    assert_eq!(g.released(), Some(PAGE));
    assert_eq!(g.remove(p, Kind::Shm, id), Err(EINVAL));
}

#[test]
fn cpid_lpid_and_the_three_times_follow_linux() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let (p, q) = (g.process(1000), g.process_in(guest, 1000));
    let pid = |g: &Group, client, domain| Pid {
        domain,
        pid: g.registry.client(client).unwrap().pid,
    };
    let (p_pid, q_pid) = (pid(&g, p, 1), pid(&g, q, guest));
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    let created = g.now as i64;
    assert_eq!(numbers(&mut g, p, id), (0, 0, p_pid, Pid::default()));
    g.now += 10;
    g.attach(q, id).unwrap();
    assert_eq!(numbers(&mut g, p, id), (created + 10, 0, p_pid, q_pid));
    g.attach(p, id).unwrap();
    g.now += 10;
    g.detach(p, id).unwrap();
    assert_eq!(numbers(&mut g, p, id), (created + 10, created + 20, p_pid, p_pid));
    g.now += 10;
    g.gone(q, false);
    assert_eq!(numbers(&mut g, p, id), (created + 10, created + 30, p_pid, q_pid));
    assert_eq!(g.stat(p, Kind::Shm, id).unwrap().ctime, created);
}

#[test]
fn exec_ends_attachments() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    g.gone(p, true);
    assert_eq!(g.nattch(q, id), 0);
}

#[test]
fn shm_lock_shows_in_the_mode_and_asks_for_owner_or_capability() {
    let mut g = Group::new();
    let (p, q, root) = (g.process(1000), g.process(1001), g.process(0));
    let id = g.shmget(p, 7, 100, CREAT | 0o666).unwrap();
    let lock = |g: &mut Group, client, on| {
        g.request(client, Request::Lock { id, on, most: None })
            .map(|_| ())
    };
    assert_eq!(lock(&mut g, q, true), Err(EPERM));
    lock(&mut g, p, true).unwrap();
    assert_eq!(g.stat(p, Kind::Shm, id).unwrap().perm.mode, 0o2666);
    lock(&mut g, root, false).unwrap();
    assert_eq!(g.stat(p, Kind::Shm, id).unwrap().perm.mode, 0o666);
}

#[test]
fn an_audit_lowers_what_was_not_said() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    for _ in 0..3 {
        g.attach(p, id).unwrap();
    }
    let serial = g.registry.construct_by_id(Kind::Shm, id).unwrap().serial;
    let audit = |attachments| Command::Audited {
        client: p,
        serial,
        attachments,
    };
    g.apply(audit(5)).unwrap();
    assert_eq!(g.nattch(p, id), 3);
    g.apply(audit(1)).unwrap();
    assert_eq!(g.nattch(p, id), 1);
    g.remove(p, Kind::Shm, id).unwrap();
    g.apply(audit(0)).unwrap();
    assert_eq!(g.released(), Some(PAGE));
}

#[test]
fn a_domain_is_admitted_with_its_first_attachment_and_revoked_with_its_last() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let (p, q) = (g.process(1000), g.process_in(guest, 1000));
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    let serial = g.registry.construct_by_id(Kind::Shm, id).unwrap().serial;
    let admit = |writable| Effect::Admit {
        group: 0,
        huge: 0,
        serial,
        domain: guest,
        writable,
    };
    g.attach_as(q, id, true, false).unwrap();
    assert_eq!(g.effects, [admit(false)]);
    g.attach_as(q, id, true, false).unwrap();
    assert_eq!(g.effects, []);
    g.attach(q, id).unwrap();
    assert_eq!(g.effects, [admit(true)]);
    g.detach(q, id).unwrap();
    g.detach(q, id).unwrap();
    assert_eq!(g.effects, []);
    g.detach(q, id).unwrap();
    assert_eq!(
        g.effects,
        [Effect::Revoke {
            group: 0,
            huge: 0,
            serial,
            domain: guest
        }]
    );
}

#[test]
fn a_mapping_that_was_cut_counts_twice_and_only_for_who_has_it() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let id = g.shmget(p, 7, 4096, CREAT | 0o600).unwrap();
    assert_eq!(g.request(p, Request::ShmSplit { id }).map(drop), Err(EINVAL));
    g.attach(p, id).unwrap();
    assert_eq!(g.request(p, Request::ShmSplit { id }).map(drop), Ok(()));
    assert_eq!(g.request(q, Request::ShmSplit { id }).map(drop), Err(EINVAL));
    assert_eq!(g.nattch(p, id), 2);
    assert_eq!(g.detach(p, id), Ok(()));
    assert_eq!(g.detach(p, id), Ok(()));
    assert_eq!(g.nattch(p, id), 0);
    assert_eq!(g.detach(p, id), Err(EINVAL));
}

#[test]
fn memory_is_given_again_to_who_has_it_and_counts_nothing() {
    let mut g = Group::new();
    let (p, q) = (g.process(1000), g.process(1000));
    let id = g.shmget(p, 7, 4096, CREAT | 0o600).unwrap();
    let again =
        |g: &mut Group, client, writable| g.request(client, Request::ShmAgain { id, writable }).map(drop);
    assert_eq!(again(&mut g, p, false), Err(EINVAL));
    g.attach_as(p, id, true, false).unwrap();
    assert_eq!(again(&mut g, p, false), Ok(()));
    assert_eq!(again(&mut g, p, true), Err(EACCES));
    assert_eq!(again(&mut g, q, false), Err(EINVAL));
    g.attach(p, id).unwrap();
    assert_eq!(again(&mut g, p, true), Ok(()));
    assert_eq!(g.nattch(p, id), 2);
}

#[test]
fn memory_is_given_again_for_writing_only_to_who_has_it_so_whoever_else_writes_there() {
    let mut g = Group::new();
    let (owner, reader) = (g.process(1000), g.process(1001));
    let id = g.shmget(owner, 7, 4096, CREAT | 0o644).unwrap();
    let again =
        |g: &mut Group, client, writable| g.request(client, Request::ShmAgain { id, writable }).map(drop);
    g.attach(owner, id).unwrap();
    g.attach_as(reader, id, true, false).unwrap();
    assert_eq!(again(&mut g, reader, true), Err(EACCES));
    assert_eq!(again(&mut g, reader, false), Ok(()));
    // So for their children, while and after they have it.
    for (fork, parent) in [(5, owner), (6, reader)] {
        g.apply(Command::ForkPrepare { client: parent, fork }).unwrap();
        let who = g.who(1001);
        let child = g.connect_as(1, who, None, Some(fork)).unwrap();
        let expected = if parent == owner { Ok(()) } else { Err(EACCES) };
        assert_eq!(again(&mut g, child, true), expected);
    }
    g.detach(owner, id).unwrap();
    assert_eq!(again(&mut g, owner, true), Err(EINVAL));
}

#[test]
fn what_could_not_be_handed_out_counts_no_more() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 4096, CREAT | 0o600).unwrap();
    let set = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    let attach = Request::ShmAttach {
        id,
        read_only: false,
        exec: false,
    };
    let kind = Kind::Sem;
    let open = Request::Open { kind, id: set };
    let fail = |g: &mut Group, seq| {
        let failure = Failure::because(ENOMEM, "no descriptor");
        let client = p;
        g.apply(Command::NotHandedOut { client, seq, failure }).unwrap();
    };
    for (body, removed) in [(attach, Kind::Shm), (open, Kind::Sem)] {
        let seq = g.next_seq(p);
        let request = Command::Request {
            client: p,
            seq,
            body: body.clone(),
        };
        assert!(matches!(
            g.apply(request.clone()),
            Ok(Done::WithMemory { counted: true, .. })
        ));
        // Another request's failure, or one said twice, is not this one's.
        fail(&mut g, seq - 1);
        assert_eq!(g.registry.holdings(p).count(), 1);
        fail(&mut g, seq);
        fail(&mut g, seq);
        assert_eq!(g.registry.holdings(p).count(), 0);
        assert_eq!(g.apply(request).map_err(|f| f.errno), Err(ENOMEM));
        // What it had before it has still.
        g.request(p, body.clone()).unwrap();
        let seq = g.next_seq(p);
        let client = p;
        g.apply(Command::Request { client, seq, body }).unwrap();
        fail(&mut g, seq);
        assert_eq!(g.registry.holdings(p).map(|(_, n)| n).collect::<Vec<_>>(), [1]);
        match removed {
            Kind::Shm => g.detach(p, id).unwrap(),
            _ => g.close(p, kind, set).unwrap(),
        }
        assert_eq!(g.registry.holdings(p).count(), 0);
    }
}

#[test]
fn limits_are_roots_to_change_and_checked_as_in_linux() {
    let mut g = Group::new();
    let (root, p) = (g.process(0), g.process(1000));
    let mut set = |client, setting, values: &[u64]| {
        let values = values.to_vec();
        g.request(client, Request::SetLimit { setting, values }).map(drop)
    };
    assert_eq!(set(p, Setting::Shmmni, &[1]), Err(EPERM));
    assert_eq!(set(root, Setting::Shmmni, &[]), Err(EINVAL));
    assert_eq!(set(root, Setting::Shmmni, &[32769]), Err(EINVAL));
    assert_eq!(set(root, Setting::Msgmax, &[1 << 31]), Err(EINVAL));
    assert_eq!(set(root, Setting::Shmmax, &[u64::MAX]), Ok(()));
    assert_eq!(set(root, Setting::Sem, &[7, 8]), Ok(()));
    assert_eq!(set(root, Setting::Sem, &[9, 10, 11, 40_000]), Err(34));
    assert_eq!(set(root, Setting::Shmmni, &[1]), Ok(()));
    assert!(g.shmget(p, 7, 4096, CREAT | 0o600).is_ok());
    assert_eq!(g.shmget(p, 8, 4096, CREAT | 0o600), Err(ENOSPC));
    let Done::Info(info) = g.request(p, Request::Info { kind: Kind::Sem }).unwrap() else {
        panic!("no info");
    };
    let l = info.limits;
    assert_eq!(
        (l.semmsl, l.semmns, l.semopm, l.semmni, l.shmmni),
        (9, 10, 11, 32_000, 1)
    );
}

#[test]
fn a_wanted_id_is_given_once() {
    let mut g = Group::new();
    let root = g.process(0);
    let wanted = ID_BIT | 77 << 15 | 300;
    let setting = Setting::NextId(Kind::Shm);
    let values = vec![wanted as u64];
    g.request(root, Request::SetLimit { setting, values }).unwrap();
    assert_eq!(g.shmget(root, 7, 4096, CREAT | 0o600), Ok(wanted));
    assert_ne!(g.shmget(root, 8, 4096, CREAT | 0o600).unwrap() & 0x7fff, 300);
    let setting = Setting::NextId(Kind::Shm);
    let values = vec![12_345];
    g.request(root, Request::SetLimit { setting, values }).unwrap();
    assert_eq!(g.shmget(root, 9, 4096, CREAT | 0o600), Ok(12_345));
    assert_eq!(g.stat(root, Kind::Shm, 12_345).unwrap().perm.seq, 0);
    assert_eq!(g.stat(root, Kind::Shm, ID_BIT | 12_345), Err(EINVAL));
}

#[test]
fn with_rmid_forced_a_segment_goes_with_its_last_attachment_or_its_creator() {
    let mut g = Group::new();
    let (root, p, q) = (g.process(0), g.process(1000), g.process(1000));
    let attached = g.shmget(p, 7, 4096, CREAT | 0o600).unwrap();
    let alone = g.shmget(p, 8, 4096, CREAT | 0o600).unwrap();
    let others = g.shmget(q, 9, 4096, CREAT | 0o600).unwrap();
    g.attach(p, attached).unwrap();
    let (setting, values) = (Setting::ShmRmidForced, vec![1]);
    g.request(root, Request::SetLimit { setting, values }).unwrap();
    assert!(g.stat(p, Kind::Shm, alone).is_ok());
    g.detach(p, attached).unwrap();
    assert_eq!(g.stat(p, Kind::Shm, attached).map(drop), Err(EINVAL));
    g.apply(Command::Gone {
        client: p,
        exec: false,
    })
    .unwrap();
    assert_eq!(g.stat(q, Kind::Shm, alone).map(drop), Err(EINVAL));
    assert!(g.stat(q, Kind::Shm, others).is_ok());
}

#[test]
fn when_rmid_is_forced_segments_that_are_left_already_go_at_once() {
    let mut g = Group::new();
    let (root, p, q) = (g.process(0), g.process(1000), g.process(1000));
    let left = g.shmget(p, 7, 4096, CREAT | 0o600).unwrap();
    let in_use = g.shmget(p, 8, 4096, CREAT | 0o600).unwrap();
    g.attach(q, in_use).unwrap();
    g.gone(p, false);
    assert!(g.stat(q, Kind::Shm, left).is_ok());
    let (setting, values) = (Setting::ShmRmidForced, vec![1]);
    g.request(root, Request::SetLimit { setting, values }).unwrap();
    assert_eq!(g.stat(q, Kind::Shm, left).map(drop), Err(EINVAL));
    assert!(g.stat(q, Kind::Shm, in_use).is_ok());
}

#[test]
fn what_a_user_may_lock_is_bounded_to_the_page() {
    let mut g = Group::new();
    let p = g.process(1000);
    let ids = [7, 8].map(|key| g.shmget(p, key, 2 * 4096, CREAT | 0o600).unwrap());
    let mut lock = |id, on, pages: u64| {
        let most = Some(pages * 4096);
        g.request(p, Request::Lock { id, on, most }).map(drop)
    };
    assert_eq!(lock(ids[0], true, 1), Err(ENOMEM));
    assert_eq!(lock(ids[0], true, 2), Ok(()));
    assert_eq!(lock(ids[1], true, 3), Err(ENOMEM), "two and two pages");
    assert_eq!(lock(ids[1], true, 4), Ok(()));
    assert_eq!(lock(ids[0], false, 0), Ok(()));
}
