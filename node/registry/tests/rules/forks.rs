//! Forks.

use crate::group::*;
use vshmem_registry::Command;
use vshmem_registry::Done;
use vshmem_wire::{Kind, Reply, Request};

fn prepare(g: &mut Group, client: u32, fork: u64) {
    g.apply(Command::ForkPrepare { client, fork }).unwrap();
}

fn abandon(g: &mut Group, fork: u64) {
    g.apply(Command::ForkAbandoned { domain: 1, fork }).unwrap();
}

#[test]
fn attachments_count_for_the_child_before_it_says_who_it_is() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    g.attach(p, id).unwrap();
    prepare(&mut g, p, 5);
    assert_eq!(g.nattch(p, id), 4);
    let who = g.who(1000);
    let child = g.connect_as(1, who, None, Some(5)).unwrap();
    assert_eq!(g.nattch(p, id), 4);
    assert_eq!(
        g.registry
            .holdings(child)
            .map(|(_, count)| count)
            .collect::<Vec<_>>(),
        [2]
    );
    g.detach(child, id).unwrap();
    g.gone(p, false);
    assert_eq!(g.nattch(child, id), 1);
}

#[test]
fn the_childs_undo_list_is_its_own() {
    let mut g = Group::new();
    let p = g.process(1000);
    prepare(&mut g, p, 5);
    let who = g.who(1000);
    let child = g.connect_as(1, who, None, Some(5)).unwrap();
    assert_ne!(
        g.registry.client(p).unwrap().undo,
        g.registry.client(child).unwrap().undo
    );
}

/// A set that both have open, with a list that they share.
fn sharers(g: &mut Group) -> (u32, u32, u64) {
    let p = g.process(1000);
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.open(p, Kind::Sem, id).unwrap();
    g.request(p, Request::ShareUndo).unwrap();
    prepare(g, p, 5);
    let who = g.who(1000);
    let child = g.connect_as(1, who, None, Some(5)).unwrap();
    g.open(child, Kind::Sem, id).unwrap();
    let undo = g.registry.client(p).unwrap().undo;
    assert_eq!(g.registry.client(child).unwrap().undo, undo);
    (p, child, undo)
}

/// The lists that are being applied.
fn applied(g: &Group) -> Vec<u64> {
    g.registry.sweeps().filter_map(|s| s.undo).collect()
}

#[test]
fn a_shared_undo_list_is_applied_when_its_last_sharer_dies() {
    let mut g = Group::new();
    let (p, child, undo) = sharers(&mut g);
    g.gone(p, false);
    assert_eq!(applied(&g), []);
    g.gone(child, false);
    assert_eq!(applied(&g), [undo]);
}

#[test]
fn the_next_fork_of_a_sharer_shares_nothing() {
    let mut g = Group::new();
    let (p, _, undo) = sharers(&mut g);
    prepare(&mut g, p, 6);
    let who = g.who(1000);
    let other = g.connect_as(1, who, None, Some(6)).unwrap();
    assert_ne!(g.registry.client(other).unwrap().undo, undo);
}

#[test]
fn an_abandoned_fork_shares_a_list_no_more() {
    let mut g = Group::new();
    let (p, child, undo) = sharers(&mut g);
    g.request(p, Request::ShareUndo).unwrap();
    prepare(&mut g, p, 6);
    g.gone(p, false);
    g.gone(child, false);
    assert_eq!(applied(&g), []);
    abandon(&mut g, 6);
    assert_eq!(applied(&g), [undo]);
}

#[test]
fn who_leaves_a_list_last_has_it_applied_and_lives_on_with_a_new_one() {
    let mut g = Group::new();
    let (p, child, undo) = sharers(&mut g);
    let leave = |g: &mut Group, client, list, alone, begin| match g
        .request(client, Request::LeaveUndo { list, alone, begin })
    {
        Ok(Done::Reply(Reply::Undo(new))) => Ok(new),
        Ok(other) => panic!("{other:?}"),
        Err(errno) => Err(errno),
    };
    let own = leave(&mut g, p, undo, true, true).unwrap();
    assert_eq!(applied(&g), []);
    assert_eq!(g.registry.client(p).unwrap().undo, own);
    // Of two threads one leaves: what it had done stays on the process's list.
    let threads = leave(&mut g, child, undo, false, true).unwrap();
    assert_eq!(applied(&g), []);
    assert_eq!(g.registry.client(child).unwrap().undo, undo);
    assert_eq!(leave(&mut g, child, threads, true, false), Ok(0));
    assert_eq!(applied(&g), [threads]);
    assert_eq!(leave(&mut g, child, threads, true, false), Err(EINVAL));
    assert_eq!(leave(&mut g, p, undo, true, true), Err(EINVAL));
    g.gone(child, false);
    assert_eq!(applied(&g), [undo, threads]);
}

#[test]
fn who_leaves_a_list_alone_has_a_new_one_whether_it_wants_one_or_not() {
    let mut g = Group::new();
    let (p, child, undo) = sharers(&mut g);
    let leave = Request::LeaveUndo {
        list: undo,
        alone: true,
        begin: false,
    };
    g.request(p, leave.clone()).unwrap();
    assert_ne!(g.registry.client(p).unwrap().undo, undo);
    // Once it has left, it cannot leave for the others.
    assert_eq!(g.request(p, leave).unwrap_err(), EINVAL);
    assert_eq!(applied(&g), []);
    g.gone(child, false);
    assert_eq!(applied(&g), [undo]);
}

#[test]
fn lists_that_are_left_take_no_numbers_and_shared_ones_do_not_grow() {
    let mut g = Group::new();
    let p = g.process(1000);
    for _ in 0..200 {
        let list = g.registry.client(p).unwrap().undo;
        let (alone, begin) = (true, true);
        g.request(p, Request::LeaveUndo { list, alone, begin }).unwrap();
    }
    assert_eq!(g.process(1000), p + 1);
    // Children that share the list come and go, each with a set that is gone after it.
    let mut bytes = 0;
    for round in 0..200 {
        g.request(p, Request::ShareUndo).unwrap();
        prepare(&mut g, p, round);
        let who = g.who(1000);
        let child = g.connect_as(1, who, None, Some(round)).unwrap();
        let id = g.semget(child, 0, 1, 0o600).unwrap();
        g.open(child, Kind::Sem, id).unwrap();
        g.gone(child, false);
        g.sweep();
        g.remove(p, Kind::Sem, id).unwrap();
        let now = g.registry.snapshot().unwrap().len();
        if round == 100 {
            bytes = now;
        }
    }
    let grown = g.registry.snapshot().unwrap().len() - bytes;
    // Slots that have been used are remembered by the kind, whoever used them.
    assert!(grown < 100, "{grown} bytes more after a hundred rounds");
}

#[test]
fn an_abandoned_fork_counts_no_more() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    prepare(&mut g, p, 5);
    prepare(&mut g, p, 5);
    assert_eq!(g.nattch(p, id), 2);
    abandon(&mut g, 5);
    abandon(&mut g, 5);
    assert_eq!(g.nattch(p, id), 1);
    let who = g.who(1000);
    assert_eq!(g.connect_as(1, who, None, Some(5)), Err(ESTALE));
}

#[test]
fn a_fork_keeps_a_removed_segment_after_the_parents_death() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 0, 100, 0o600).unwrap();
    g.attach(p, id).unwrap();
    prepare(&mut g, p, 5);
    g.remove(p, Kind::Shm, id).unwrap();
    g.gone(p, false);
    assert_eq!(g.released(), None);
    abandon(&mut g, 5);
    assert_eq!(g.released(), Some(PAGE));
}

#[test]
fn the_child_has_sets_and_queues_mapped_as_well() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.semget(p, 7, 1, CREAT | 0o600).unwrap();
    g.open(p, Kind::Sem, id).unwrap();
    prepare(&mut g, p, 5);
    let who = g.who(1000);
    let child = g.connect_as(1, who, None, Some(5)).unwrap();
    g.remove(p, Kind::Sem, id).unwrap();
    g.close(p, Kind::Sem, id).unwrap();
    assert_eq!(g.released(), None);
    g.close(child, Kind::Sem, id).unwrap();
    assert!(g.released().is_some());
}

#[test]
fn a_child_whose_first_answer_was_lost_may_connect_again() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    prepare(&mut g, p, 5);
    let who = g.who(1000);
    let child = g.connect_as(1, who.clone(), None, Some(5)).unwrap();
    assert_eq!(g.connect_as(1, who, None, Some(5)), Ok(child));
    assert_eq!(g.nattch(p, id), 2);
}

#[test]
fn a_child_is_not_another_client_and_one_that_is_not_let_in_leaves_nothing() {
    let mut g = Group::new();
    let p = g.process(1000);
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    g.attach(p, id).unwrap();
    prepare(&mut g, p, 5);
    let who = g.who(1000);
    let child = g.connect_as(1, who, Some(p), Some(5)).unwrap();
    assert_ne!(child, p);
    assert!(!g.registry.has_fork(1, 5));
    g.gone(child, false);
    assert_eq!(g.nattch(p, id), 1);
    prepare(&mut g, p, 6);
    let mut who = g.who(1000);
    who.pid = 0;
    assert_eq!(g.connect_as(1, who, None, Some(6)), Err(EINVAL));
    assert!(!g.registry.has_fork(1, 6));
    assert_eq!(g.nattch(p, id), 1);
}

#[test]
fn forks_of_other_domains_are_others() {
    let mut g = Group::new();
    let guest = g.domain("guest");
    let (p, q) = (g.process(1000), g.process_in(guest, 1000));
    let id = g.shmget(p, 7, 100, CREAT | 0o600).unwrap();
    for client in [p, q] {
        g.attach(client, id).unwrap();
        prepare(&mut g, client, 5);
    }
    assert_eq!(g.nattch(p, id), 4);
    g.apply(Command::DomainDown { domain: guest }).unwrap();
    assert_eq!(g.nattch(p, id), 2);
    abandon(&mut g, 5);
    assert_eq!(g.nattch(p, id), 1);
}
