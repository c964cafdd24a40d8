//! Deaths, execs, sweeps, restarts.

use crate::group::*;
use vshmem_registry::{Command, Done, Effect, Registry, Sweep};
use vshmem_wire::request::Behalf;
use vshmem_wire::{Kind, Request};

/// A process with a set and a queue open: (client, serial of the set, serial of the queue).
fn busy(g: &mut Group) -> (u32, u64, u64) {
    let p = g.process(1000);
    let mut open = |kind| {
        let id = g.get(p, kind, 7, CREAT | 0o600).unwrap();
        g.open(p, kind, id).unwrap();
        g.registry.construct_by_id(kind, id).unwrap().serial
    };
    let (sem, msg) = (open(Kind::Sem), open(Kind::Msg));
    (p, sem, msg)
}

fn sweep(kind: Kind, serial: u64, client: u32, undo: Option<u64>) -> Sweep {
    Sweep {
        kind,
        serial,
        client,
        undo,
    }
}

#[test]
fn a_death_sweeps_every_set_and_queue_once_and_undoes_in_the_sets() {
    let mut g = Group::new();
    let (p, sem, msg) = busy(&mut g);
    let undo = g.registry.client(p).unwrap().undo;
    g.gone(p, false);
    assert_eq!(
        g.asked_sweeps(),
        [
            sweep(Kind::Sem, sem, p, Some(undo)),
            sweep(Kind::Msg, msg, p, None),
        ]
    );
    g.gone(p, false);
    assert_eq!(g.effects, []);
    g.sweep();
    assert_eq!(g.registry.client(p), None);
}

#[test]
fn sweeps_not_confirmed_are_asked_for_again_after_a_restart() {
    let mut g = Group::new();
    let (p, sem, msg) = busy(&mut g);
    let undo = g.registry.client(p).unwrap().undo;
    g.gone(p, false);
    g.apply(Command::Swept(sweep(Kind::Msg, msg, p, None))).unwrap();
    let restored = Registry::restore(&g.registry.snapshot().unwrap()).unwrap();
    assert_eq!(restored, g.registry);
    assert_eq!(
        restored.restarted(),
        [Effect::Sweep(sweep(Kind::Sem, sem, p, Some(undo)))]
    );
}

#[test]
fn memory_of_a_removed_set_waits_for_the_sweep_of_the_dead_only_if_it_is_still_of_use() {
    let mut g = Group::new();
    let (p, ..) = busy(&mut g);
    let q = g.process(1000);
    let id = g.semget(q, 7, 1, 0).unwrap();
    g.gone(p, false);
    g.remove(q, Kind::Sem, id).unwrap();
    assert!(g.released().is_some(), "the dead map nothing");
    assert!(g.registry.sweeps().all(|s| s.kind == Kind::Msg));
    g.sweep();
    assert_eq!(g.registry.client(p), None);
}

#[test]
fn a_death_ends_what_was_open_of_removed_constructs() {
    let mut g = Group::new();
    let (p, ..) = busy(&mut g);
    let id = g.semget(p, 7, 1, 0).unwrap();
    g.remove(p, Kind::Sem, id).unwrap();
    assert_eq!(g.released(), None);
    g.gone(p, false);
    assert!(g.released().is_some());
    assert!(g.asked_sweeps().iter().all(|s| s.kind == Kind::Msg));
}

#[test]
fn exec_sweeps_without_undo_and_the_undo_list_lives_on() {
    let mut g = Group::new();
    let who = g.who(1000);
    let p = g.connect(1, who.clone());
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.open(p, Kind::Sem, id).unwrap();
    let serial = g.registry.construct_by_id(Kind::Sem, id).unwrap().serial;
    let undo = g.registry.client(p).unwrap().undo;
    g.gone(p, true);
    assert_eq!(g.asked_sweeps(), [sweep(Kind::Sem, serial, p, None)]);
    g.sweep();
    let next = g.connect(1, who);
    assert_ne!(next, p);
    assert_eq!(g.registry.client(next).unwrap().undo, undo);
    // The new image never opened the set; its death undoes what the first one did.
    g.gone(next, false);
    assert_eq!(g.asked_sweeps(), [sweep(Kind::Sem, serial, next, Some(undo))]);
    g.sweep();
    assert_eq!(g.registry.clients().count(), 0);
}

#[test]
fn a_process_that_never_connects_again_after_exec_is_undone_when_it_dies() {
    let mut g = Group::new();
    let (p, sem, _) = busy(&mut g);
    let undo = g.registry.client(p).unwrap().undo;
    g.gone(p, true);
    g.sweep();
    assert!(g.registry.client(p).is_some_and(|c| !c.alive));
    g.gone(p, false);
    assert_eq!(g.asked_sweeps(), [sweep(Kind::Sem, sem, p, Some(undo))]);
    g.sweep();
    assert_eq!(g.registry.clients().count(), 0);
}

#[test]
fn a_death_before_the_sweep_of_the_exec_asks_for_both() {
    let mut g = Group::new();
    let (p, sem, msg) = busy(&mut g);
    let undo = g.registry.client(p).unwrap().undo;
    g.gone(p, true);
    g.gone(p, false);
    assert_eq!(g.asked_sweeps(), [sweep(Kind::Sem, sem, p, Some(undo))]);
    let pending: Vec<Sweep> = g.registry.sweeps().collect();
    assert_eq!(
        pending,
        [
            sweep(Kind::Sem, sem, p, None),
            sweep(Kind::Sem, sem, p, Some(undo)),
            sweep(Kind::Msg, msg, p, None)
        ]
    );
    g.sweep();
    assert_eq!(g.registry.clients().count(), 0);
}

#[test]
fn connecting_again_without_resuming_is_a_new_image() {
    let mut g = Group::new();
    let who = g.who(1000);
    let p = g.connect(1, who.clone());
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    let next = g.connect(1, who);
    assert_ne!(p, next);
    assert_eq!(g.nattch(next, id), 0);
    assert_eq!(g.attach(p, id), Err(ESTALE));
    assert_eq!(g.registry.clients().count(), 1);
}

#[test]
fn another_process_with_the_same_pid_is_another_process() {
    let mut g = Group::new();
    let mut who = g.who(1000);
    let p = g.connect(1, who.clone());
    who.start += 1;
    assert_eq!(g.connect_as(1, who.clone(), Some(p), None), Err(ESTALE));
    let q = g.connect(1, who);
    assert_ne!(
        g.registry.client(p).unwrap().undo,
        g.registry.client(q).unwrap().undo
    );
    assert!(g.registry.client(p).unwrap().alive);
}

#[test]
fn client_numbers_are_never_given_out_again() {
    let mut g = Group::new();
    let mut last = 15;
    for _ in 0..50 {
        let p = g.process(1000);
        assert!(p > last);
        last = p;
        g.gone(p, false);
    }
}

#[test]
fn what_was_closed_or_done_on_behalf_is_undone_as_well() {
    let mut g = Group::new();
    let owner = g.process(1000);
    let p = g.process(1001);
    let closed = g.semget(p, 0, 1, 0o600).unwrap();
    g.open(p, Kind::Sem, closed).unwrap();
    g.close(p, Kind::Sem, closed).unwrap();
    let behalf = g.semget(owner, 0, 1, 0o602).unwrap();
    let operation = Behalf::SemOp(vec![(0, 1, 0x1000)]);
    g.request(
        p,
        Request::OnBehalf {
            id: behalf,
            operation,
        },
    )
    .unwrap();
    g.gone(p, false);
    let asked = g.asked_sweeps();
    assert_eq!(asked.len(), 2);
    assert!(asked.iter().all(|s| s.kind == Kind::Sem && s.undo.is_some()));
}

#[test]
fn a_domain_that_goes_takes_its_clients_with_it() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let (here, there) = (g.process(1000), g.process_in(guest, 1000));
    let id = g.semget(there, 7, 1, CREAT | 0o666).unwrap();
    for client in [here, there] {
        g.open(client, Kind::Sem, id).unwrap();
    }
    g.apply(Command::DomainDown { domain: guest }).unwrap();
    assert_eq!(g.asked_sweeps().len(), 1);
    assert_eq!(g.asked_sweeps()[0].client, there);
    assert!(g.registry.client(here).unwrap().alive);
    let who = g.who(1000);
    assert_eq!(g.connect_as(guest, who, None, None), Err(ESTALE));
    // The construct stays, and the domain comes back under its number.
    assert_eq!(g.domain("guest"), guest);
    let back = g.process_in(guest, 1000);
    assert_eq!(g.semget(back, 7, 1, 0), Ok(id));
}

#[test]
fn what_may_lead_to_further_commands_comes_last() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    for key in 1..4 {
        let p = g.process_in(guest, 1000);
        let shm = g.shmget(p, 0, 100, 0o600).unwrap();
        g.attach(p, shm).unwrap();
        g.remove(p, Kind::Shm, shm).unwrap();
        let sem = g.semget(p, key, 1, CREAT | 0o600).unwrap();
        g.open(p, Kind::Sem, sem).unwrap();
    }
    g.apply(Command::DomainDown { domain: guest }).unwrap();
    let first_sweep = g
        .effects
        .iter()
        .position(|e| matches!(e, Effect::Sweep(_)))
        .unwrap();
    let last_release = g
        .effects
        .iter()
        .rposition(|e| matches!(e, Effect::Release { .. }))
        .unwrap();
    assert!(last_release < first_sweep);
}

#[test]
fn a_front_end_that_was_restarted_says_who_is_alive() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let clients: Vec<u32> = (0..4).map(|_| g.process_in(guest, 1000)).collect();
    let elsewhere = g.process(1000);
    let alive = Command::Alive {
        domain: guest,
        clients: clients[..2].to_vec(),
    };
    g.apply(alive).unwrap();
    let alive: Vec<u32> = g
        .registry
        .clients()
        .filter(|c| c.alive)
        .map(|c| c.client)
        .collect();
    assert_eq!(alive, [clients[0], clients[1], elsewhere]);
}

#[test]
fn a_lock_held_for_long_is_judged_by_its_owner() {
    let mut g = Group::new();
    let (p, sem, _) = busy(&mut g);
    let q = g.process(1000);
    let id = g.semget(q, 7, 1, 0).unwrap();
    let stuck = |g: &mut Group, client, owner: u64| {
        let stuck = Request::LockStuck {
            kind: Kind::Sem,
            id,
            owner,
        };
        g.request(client, stuck).map(|_| g.effects.clone())
    };
    assert_eq!(
        stuck(&mut g, q, 99),
        Err(EIDRM),
        "who does not have it open has no say"
    );
    g.open(q, Kind::Sem, id).unwrap();
    let word = u64::from(p) | 3 << 32;
    let check = |owner| {
        [Effect::CheckLock {
            kind: Kind::Sem,
            serial: sem,
            owner,
        }]
    };
    assert_eq!(stuck(&mut g, q, word).unwrap(), [], "it lives");
    assert_eq!(stuck(&mut g, q, 0).unwrap(), [], "it is free by now");
    assert_eq!(stuck(&mut g, q, 4711).unwrap(), check(4711), "nobody");
    let bystander = u64::from(g.process(1000));
    assert_eq!(
        stuck(&mut g, q, bystander).unwrap(),
        check(bystander),
        "not open there"
    );
    let former = stuck(&mut g, q, 1 | 1 << 48).unwrap();
    assert_eq!(former, [Effect::Sweep(sweep(Kind::Sem, sem, 1, None))]);
    let undo = g.registry.client(p).unwrap().undo;
    g.gone(p, false);
    let dead = [Effect::Sweep(sweep(Kind::Sem, sem, p, Some(undo)))];
    assert_eq!(stuck(&mut g, q, word).unwrap(), dead, "dead");
    g.sweep();
    // It went on for a moment after that: its machine lived longer than its line.
    let again = [Effect::Sweep(sweep(Kind::Sem, sem, p, None))];
    assert_eq!(stuck(&mut g, q, word).unwrap(), again, "dead and swept");
    let after = Command::Swept(sweep(Kind::Sem, sem, p, None));
    assert_eq!(g.apply(after), Ok(Done::Nothing));
    g.remove(bystander as u32, Kind::Sem, id).unwrap();
    assert_eq!(
        stuck(&mut g, q, word),
        Err(EIDRM),
        "nobody sweeps what is removed"
    );
}

#[test]
fn the_dead_are_not_heard() {
    let mut g = Group::new();
    let (p, ..) = busy(&mut g);
    g.gone(p, false);
    assert_eq!(g.shmget(p, 0, 100, 0o600), Err(ESTALE));
    assert_eq!(g.shmget(9999, 0, 100, 0o600), Err(ESTALE));
    assert_eq!(
        g.apply(Command::Gone {
            client: 9999,
            exec: false
        }),
        Ok(Done::Nothing)
    );
}
