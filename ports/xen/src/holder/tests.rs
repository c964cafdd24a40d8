//! The store of grants over an imitation of the hypervisor: who keeps which grants when machines come, go and cannot be found.

use super::ledger::{Ledger, Told};
use super::libraries::Libraries;
use super::store::{Ahead, GrantStore};
use anyhow::Context;
use vshmem_port::store::{PAGE, Serial, Store};
use vshmem_wire::{Extent, Kind};

const ONE: Serial = Serial(1);
const TWO: Serial = Serial(2);
const GUEST: u16 = 3;

fn ahead() -> Ahead {
    Ahead {
        stock: 0,
        table_pages: 1,
    }
}

/// Machines are named by their numbers.
fn by_number(name: &str) -> anyhow::Result<u16> {
    name.parse().context("there is no such machine now")
}

fn store() -> GrantStore {
    let ledger = Ledger::new(99, 1000).unwrap();
    let mut store = GrantStore::over(Libraries::of_test(), ledger, Told::default(), ahead()).unwrap();
    store.look = by_number;
    store
}

fn extent(page: u64, pages: u64) -> Extent {
    Extent {
        offset: page * PAGE,
        bytes: pages * PAGE,
    }
}

/// Grants that a machine has of anything.
fn granted_to(store: &GrantStore, machine: u16) -> usize {
    let frames = store.references.granted().into_iter();
    frames
        .flat_map(|frame| store.references.of_frame(frame))
        .filter(|(to, _)| *to == machine)
        .count()
}

#[test]
fn what_is_revoked_is_revoked_though_its_machine_is_not_found_any_more() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    store.provide((Kind::Shm, ONE), extent(0, 4)).unwrap();
    store.admit(ONE, GUEST, true).unwrap();
    assert_eq!(granted_to(&store, 7), 4);
    // A restarted back-end introduces whom it finds a stream of; the machine is gone.
    store.introduce(GUEST, Some("gone")).unwrap();
    assert!(store.revoke(ONE, GUEST).unwrap());
    assert_eq!(granted_to(&store, 7), 0);
}

#[test]
fn another_machine_of_that_name_leaves_its_predecessor_nothing() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    store.provide((Kind::Shm, ONE), extent(0, 4)).unwrap();
    store.admit(ONE, GUEST, true).unwrap();
    store.introduce(GUEST, Some("8")).unwrap();
    assert_eq!(granted_to(&store, 7), 0);
    // The same one again keeps what it has.
    store.admit(ONE, GUEST, true).unwrap();
    store.introduce(GUEST, Some("8")).unwrap();
    assert_eq!(granted_to(&store, 8), 4);
}

#[test]
fn a_machine_that_could_not_be_looked_up_is_looked_up_again_when_it_asks() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    store.provide((Kind::Shm, ONE), extent(0, 4)).unwrap();
    store.admit(ONE, GUEST, true).unwrap();
    // Xenstore does not answer at that moment.
    store.look = |_| anyhow::bail!("no answer");
    store.introduce(GUEST, Some("7")).unwrap();
    let granted = |store: &GrantStore| store.grants(ONE, GUEST, &[extent(0, 4)], true);
    assert!(granted(&store).is_err());
    assert!(store.admit(ONE, GUEST, true).is_err());
    store.look = by_number;
    store.admit(ONE, GUEST, true).unwrap();
    assert!(granted(&store).unwrap().is_some());
    assert_eq!(granted_to(&store, 7), 4);
}

#[test]
fn pages_that_cannot_be_granted_are_nobodys() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    store.provide((Kind::Shm, ONE), extent(0, 300)).unwrap();
    store.admit(ONE, GUEST, true).unwrap();
    // The table has 504 references.
    let why = store.provide((Kind::Shm, ONE), extent(300, 300)).unwrap_err();
    assert!(why.to_string().contains("grants are exhausted"), "{why}");
    assert_eq!(store.shown.all_of(ONE).len(), 300);
    assert_eq!((store.shown.pages().len(), granted_to(&store, 7)), (300, 300));
    // Their places and frames are there for others.
    store.provide((Kind::Shm, TWO), extent(300, 200)).unwrap();
    store.admit(TWO, GUEST, true).unwrap();
    store.release(ONE, &[extent(0, 300)]).unwrap();
    assert_eq!((store.shown.pages().len(), granted_to(&store, 7)), (200, 200));
}

#[test]
fn a_released_construct_leaves_no_page_behind_that_its_registry_does_not_know() {
    let mut store = store();
    store.provide((Kind::Shm, ONE), extent(0, 2)).unwrap();
    // Provided by a life that did not live to tell of it.
    store.provide((Kind::Shm, ONE), extent(10, 2)).unwrap();
    store.provide((Kind::Shm, TWO), extent(20, 2)).unwrap();
    store.release(ONE, &[extent(0, 2)]).unwrap();
    assert_eq!(store.shown.first_of(ONE), None);
    assert_eq!(store.shown.pages(), [20, 21]);
}

#[test]
fn pages_that_somebody_still_maps_are_zeroed_when_they_are_given_back() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    for (serial, at, used) in [(ONE, 0, false), (TWO, 10, true)] {
        store.provide((Kind::Shm, serial), extent(at, 2)).unwrap();
        store.admit(serial, GUEST, true).unwrap();
        let frame = store.shown.first_of(serial).unwrap();
        let reference = store.references.of((frame, 7, true)).unwrap();
        store.references.table().use_it(reference, used);
        let before = store.calls();
        store.release(serial, &[extent(at, 2)]).unwrap();
        assert_eq!(store.calls() - before, u64::from(used));
    }
}

#[test]
fn domains_of_dom0_are_let_go_of_one_by_one() {
    const ANOTHER: u16 = 1;
    let mut store = store();
    for domain in [0, ANOTHER] {
        store.introduce(domain, None).unwrap();
    }
    store.provide((Kind::Shm, ONE), extent(0, 4)).unwrap();
    let granted = |store: &GrantStore, domain| store.grants(ONE, domain, &[extent(0, 4)], true);
    store.admit(ONE, 0, true).unwrap();
    assert!(granted(&store, 0).is_ok() && granted(&store, ANOTHER).is_err());
    store.admit(ONE, ANOTHER, true).unwrap();
    let before = granted(&store, ANOTHER).unwrap();
    assert!(!store.revoke(ONE, 0).unwrap());
    assert!(granted(&store, 0).is_err());
    assert_eq!(
        (granted(&store, ANOTHER).unwrap(), granted_to(&store, 0)),
        (before, 4)
    );
    assert!(store.revoke(ONE, ANOTHER).unwrap());
    assert_eq!(granted_to(&store, 0), 0);
    // Revoked once more, as a restarted back-end may: nothing.
    assert!(store.revoke(ONE, ANOTHER).unwrap());
}

#[test]
fn nothing_is_promised_of_a_holder_that_is_gone_and_all_is_taken_back() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    store.provide((Kind::Shm, ONE), extent(0, 4)).unwrap();
    store.admit(ONE, GUEST, true).unwrap();
    let moment = std::time::Duration::from_millis(1);
    store.watch = Some(super::watch::Watch::start(moment, "gone".to_owned(), || Ok(false)).unwrap());
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while store.grants(ONE, GUEST, &[extent(0, 4)], true).is_ok() {
        assert!(std::time::Instant::now() < end);
        std::thread::sleep(moment);
    }
    for why in [
        store.provide((Kind::Shm, TWO), extent(10, 1)).unwrap_err(),
        store.admit(ONE, GUEST, true).unwrap_err(),
        store.grants(ONE, GUEST, &[extent(0, 4)], true).unwrap_err(),
    ] {
        assert!(
            why.to_string()
                .contains("domain 99, which held construct memory, is gone"),
            "{why}"
        );
    }
    assert!(store.revoke(ONE, GUEST).unwrap());
    store.release(ONE, &[extent(0, 4)]).unwrap();
    assert!(store.shown.pages().is_empty());
}

/// The first page of a construct is mapped by the guest, or not any more.
fn use_first(store: &GrantStore, reference: u32, used: bool) {
    store.references.table().use_it(reference, used);
}

fn reference_of(store: &GrantStore, serial: Serial) -> (u32, u32) {
    let frame = store.shown.first_of(serial).unwrap();
    (frame, store.references.of((frame, 7, true)).unwrap())
}

/// Frames that nobody has, by taking them all: those that the holder has got so far, less those in use.
fn frames_given_next(store: &mut GrantStore, pages: u64) -> Vec<u32> {
    store
        .provide((Kind::Shm, Serial(77)), extent(500, pages))
        .unwrap();
    let frames = store.shown.all_of(Serial(77));
    store.release(Serial(77), &[extent(500, pages)]).unwrap();
    frames
}

#[test]
fn a_page_that_was_let_go_of_and_is_still_mapped_is_given_to_nobody() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    store.provide((Kind::Shm, ONE), extent(0, 4)).unwrap();
    store.admit(ONE, GUEST, true).unwrap();
    let (frame, reference) = reference_of(&store, ONE);
    use_first(&store, reference, true);
    // First the guest's right goes, then the construct: by then nobody is granted the page.
    assert!(!store.revoke(ONE, GUEST).unwrap());
    store.release(ONE, &[extent(0, 4)]).unwrap();
    for _ in 0..2 {
        assert!(!frames_given_next(&mut store, 255).contains(&frame));
        store.second();
    }
    use_first(&store, reference, false);
    store.second();
    assert!(frames_given_next(&mut store, 256).contains(&frame));
}

#[test]
fn a_back_end_killed_between_striking_pages_out_and_revoking_them_leaves_nobody_a_grant() {
    let mut store = store();
    store.introduce(GUEST, Some("7")).unwrap();
    for (serial, at) in [(ONE, 0), (TWO, 10)] {
        store.provide((Kind::Shm, serial), extent(at, 4)).unwrap();
        store.admit(serial, GUEST, true).unwrap();
    }
    let before = store.grants(TWO, GUEST, &[extent(10, 4)], true).unwrap();
    let (frame, reference) = reference_of(&store, ONE);
    use_first(&store, reference, true);
    let record = || rustix::io::fcntl_dupfd_cloexec(store.keep()[0].1, 0).unwrap();
    Ledger::adopt(record()).unwrap().0.strike(0, 4).unwrap();
    let (ledger, told) = Ledger::adopt(record()).unwrap();
    drop(store);
    let mut store = GrantStore::over(Libraries::of_test(), ledger, told, ahead()).unwrap();
    assert_eq!(granted_to(&store, 7), 4);
    assert_eq!(store.grants(TWO, GUEST, &[extent(10, 4)], true).unwrap(), before);
    assert!(store.grants(ONE, GUEST, &[extent(0, 4)], true).is_err());
    // What is still mapped waits.
    assert!(!frames_given_next(&mut store, 251).contains(&frame));
    use_first(&store, reference, false);
    assert!(frames_given_next(&mut store, 252).contains(&frame));
}
