//! A process killed between any two stores: whatever it was doing, a sweep leaves the set as before or as after, its undo applied once.

use super::audit::audit;
use super::watched::{Access, Watched};
use super::*;
use std::boxed::Box;
use std::vec;

/// The payload of an unwinding that means: killed.
struct Killed;

/// The people of a scenario. The back-end's own death is a scenario too.
struct Cast {
    backend: Puppet,
    victim: Puppet,
    others: Vec<Puppet>,
}

impl Cast {
    fn new() -> Self {
        Cast {
            backend: Puppet::new(1),
            victim: Puppet::new(2),
            others: (3..7).map(Puppet::new).collect(),
        }
    }
}

const NSEMS: u32 = 3;

/// Who sleeps where, after the scene is set.
type Asleep = Vec<(usize, usize)>;

struct Scenario {
    name: &'static str,
    /// Sets the scene: who sleeps (index of the other, slot).
    before: fn(&SemSet<'_, Heap>, &Cast) -> Asleep,
    /// What the victim does, on memory that it is killed in.
    deed: fn(&SemSet<'_, Mortal<'_>>, &Cast, usize),
}

type Mortal<'a> = Watched<'a, Box<dyn Fn(Access) -> bool + 'a>>;

fn sleeps(set: &SemSet<'_, Heap>, cast: &Cast, who: usize, ops: &[SemBuf]) -> (usize, usize) {
    match start(set, &cast.others[who], ops) {
        Stand::Asleep(at) => (who, at),
        Stand::Ended(result) => panic!("{result:?}"),
    }
}

fn many(op: i16) -> Vec<SemBuf> {
    (0..40)
        .map(|i| undo(i % 2, if i < 38 { 1 } else { op }))
        .collect()
}

fn nobody(_: &SemSet<'_, Heap>, _: &Cast) -> Asleep {
    vec![]
}

fn crowd(set: &SemSet<'_, Heap>, cast: &Cast) -> Asleep {
    let warm = [undo(2, 2)];
    assert_eq!(set.op(&cast.others[3], CONTROL, &warm), Ok(()));
    assert_eq!(set.op(&cast.victim, CONTROL, &[undo(2, 1)]), Ok(()));
    vec![
        sleeps(set, cast, 0, &[undo(0, -1)]),
        sleeps(set, cast, 1, &[op(0, -1), undo(1, 2), op(1, -1)]),
        sleeps(set, cast, 2, &[op(2, 0)]),
        sleeps(set, cast, 3, &[op(0, -9)]),
    ]
}

fn deed(set: &SemSet<'_, Mortal<'_>>, cast: &Cast, ops: &[SemBuf]) {
    let _ = set.op(&cast.victim, CONTROL, ops);
}

fn lie_down(set: &SemSet<'_, Mortal<'_>>, cast: &Cast, ops: &[SemBuf]) {
    let stand = start(set, &cast.victim, ops);
    assert!(matches!(stand, Stand::Asleep(_)), "{stand:?}");
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "the first operation ever",
            before: nobody,
            deed: |set, cast, _| deed(set, cast, &[op(0, 1)]),
        },
        Scenario {
            name: "undo",
            before: nobody,
            deed: |set, cast, _| {
                deed(set, cast, &[undo(1, 3)]);
                deed(set, cast, &[undo(1, -1)]);
            },
        },
        Scenario {
            name: "an array",
            before: |set, cast| {
                set.op(&cast.others[0], CONTROL, &[op(1, 1)]).unwrap();
                vec![]
            },
            deed: |set, cast, _| deed(set, cast, &[op(0, 2), op(1, -1), op(2, 1), op(0, 1)]),
        },
        Scenario {
            name: "letting others go on",
            before: crowd,
            deed: |set, cast, _| deed(set, cast, &[op(0, 2)]),
        },
        Scenario {
            name: "letting others go on, with undo",
            before: crowd,
            deed: |set, cast, _| deed(set, cast, &[undo(0, 2), op(2, -3)]),
        },
        Scenario {
            name: "lying down",
            before: crowd,
            deed: |set, cast, _| lie_down(set, cast, &[op(0, -1)]),
        },
        Scenario {
            name: "lying down with forty operations",
            before: crowd,
            deed: |set, cast, _| lie_down(set, cast, &many(-39)),
        },
        Scenario {
            name: "lying down and going away",
            before: crowd,
            deed: |set, cast, _| {
                cast.victim.sleep.set(Some(Slept::Interrupted));
                deed(set, cast, &many(-39));
                cast.victim.sleep.set(Some(Slept::TimedOut));
                deed(set, cast, &[op(1, -1)]);
                cast.victim.sleep.set(None);
            },
        },
        Scenario {
            name: "SETVAL",
            before: crowd,
            deed: |set, cast, _| assert_eq!(set.set_value(&cast.victim, CONTROL, 0, 5), Ok(())),
        },
        Scenario {
            name: "SETALL",
            before: crowd,
            deed: |set, cast, _| assert_eq!(set.set_all(&cast.victim, CONTROL, &[1, 4, 0]), Ok(())),
        },
        Scenario {
            name: "a sweep of somebody else, killed with the back-end",
            before: crowd,
            deed: |set, cast, _| {
                let dead = Dead {
                    client: cast.others[3].me.client,
                    undo: Some(cast.others[3].me.undo),
                };
                let _ = set.sweep(&cast.backend, dead);
            },
        },
    ]
}

/// Everything that outsiders can see.
#[derive(Debug, PartialEq, Clone)]
struct Seen {
    values: Vec<u16>,
    counts: Vec<(u32, u32)>,
    sleepers: Vec<bool>,
    undo: Vec<bool>,
}

fn seen(set: &SemSet<'_, Heap>, cast: &Cast, asleep: &Asleep) -> Seen {
    let mut values = vec![0; NSEMS as usize];
    set.values(&mut values);
    Seen {
        values,
        counts: (0..NSEMS).map(|i| (set.ncnt(i), set.zcnt(i))).collect(),
        sleepers: asleep
            .iter()
            .map(|&(_, at)| super::super::slot::queued(set.get32(at + super::super::layout::slot::STATE)))
            .collect(),
        undo: cast.others.iter().map(|w| set.has_undo(w.me.undo)).collect(),
    }
}

/// Does `work` on memory whose user is killed at its `fatal`th store; whether it came to that.
fn killed(heap: &Heap, fatal: usize, work: impl FnOnce(&SemSet<'_, Mortal<'_>>)) -> bool {
    let stores = Cell::new(0);
    let mortal: Mortal<'_> = Watched::new(
        heap,
        Box::new(|access| {
            if access == Access::Load || stores.get() > fatal {
                return access == Access::Load;
            }
            stores.set(stores.get() + 1);
            if stores.get() > fatal {
                resume_unwind(Box::new(Killed));
            }
            true
        }),
    );
    match catch_unwind(AssertUnwindSafe(|| work(&SemSet::at(&mortal, NSEMS)))) {
        Ok(()) => false,
        Err(payload) if payload.is::<Killed>() => true,
        Err(payload) => resume_unwind(payload),
    }
}

/// Plays a scenario with the victim killed at its `fatal`th store, and the back-end, if so wished, in the sweep thereafter.
/// `None` if one of them did not get that far.
fn play(scenario: &Scenario, fatal: usize, then: Option<usize>) -> Option<Seen> {
    let backend_dies = scenario.name.contains("back-end");
    let heap = made(NSEMS);
    heap.grow(heap.len() + SemSet::<Heap>::extent_bytes(NSEMS));
    let (set, cast) = (SemSet::at(&heap, NSEMS), Cast::new());
    let asleep = (scenario.before)(&set, &cast);
    let died = killed(&heap, fatal, |set| (scenario.deed)(set, &cast, fatal));
    let died_too = then.is_none_or(|then| killed(&heap, then, |set| kill(set, &cast.backend, &cast.victim)));
    // A back-end that died in a sweep does the same sweep again in its next life.
    if backend_dies {
        kill(&set, &cast.backend, &cast.others[3]);
    }
    kill(&set, &cast.backend, &cast.victim);
    audit(&set);
    let seen = seen(&set, &cast, &asleep);
    for (&(who, at), waits) in asleep.iter().zip(&seen.sleepers) {
        if backend_dies && who == 3 {
            continue;
        }
        let called = |w: &Puppet| {
            w.woken
                .borrow()
                .iter()
                .any(|s| s.at == at + super::super::layout::slot::STATE)
        };
        assert!(
            *waits || called(&cast.backend) || called(&cast.victim),
            "{}: {fatal}: {who} was let go on and not woken",
            scenario.name
        );
        let stand = look(&set, &cast.others[who], at);
        assert_eq!(stand == Stand::Asleep(at), *waits, "{}: {fatal}", scenario.name);
    }
    // The set can be used, and when all are gone nothing is left of them.
    for _ in 0..2 {
        set.set_all(&cast.others[0], CONTROL, &[0, 0, 0]).unwrap();
        set.op(&cast.others[0], CONTROL, &[undo(0, 3), op(1, 2)]).unwrap();
        set.op(&cast.others[1], CONTROL, &[op(0, -1)]).unwrap();
    }
    cast.others
        .iter()
        .for_each(|other| kill(&set, &cast.backend, other));
    assert_eq!(
        (audit(&set), set.sleepers()),
        (0, 0),
        "{}: {fatal}",
        scenario.name
    );
    (died && died_too).then_some(seen)
}

#[test]
fn killed_at_any_store_it_is_as_before_or_as_after() {
    for scenario in scenarios() {
        let mut states: Vec<Seen> = vec![];
        let mut fatal = 0;
        while let Some(seen) = play(&scenario, fatal, None) {
            if !states.contains(&seen) {
                states.push(seen);
            }
            fatal += 1;
        }
        assert!(fatal > 3, "{}", scenario.name);
        assert!(states.len() <= 2, "{}: {states:#?}", scenario.name);
    }
}

#[test]
fn the_back_end_killed_while_it_repairs_repairs_again() {
    for scenario in scenarios() {
        let mut states: Vec<Seen> = vec![];
        let mut fatal = 0;
        while let Some(seen) = play(&scenario, fatal, None) {
            states.push(seen);
            // Steps that share no factor, so that over the scenarios every pair of moments has its chance.
            let mut then = fatal % 11;
            while let Some(seen) = play(&scenario, fatal, Some(then)) {
                assert!(
                    states.contains(&seen),
                    "{}: {fatal}, {then}: {seen:?}",
                    scenario.name
                );
                then += 11;
            }
            fatal += 5;
        }
    }
}
