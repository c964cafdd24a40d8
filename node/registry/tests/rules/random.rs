//! Random commands: the invariants hold after each, no input makes it panic, and snapshot and log give the same state.

use crate::group::*;
use proptest::prelude::*;
use vshmem_registry::{Command, Registry, Store, Uids};
use vshmem_wire::request::{Behalf, Which};
use vshmem_wire::{Credentials, Kind, Request, make_id};

/// What a random history is made of: few names, so that things meet.
fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Shm, Kind::Sem, Kind::Msg])
}

fn id() -> impl Strategy<Value = i32> {
    prop_oneof![9 => (0u32..4, 0u16..2).prop_map(|(slot, seq)| make_id(slot, seq)), 1 => any::<i32>()]
}

fn flags() -> impl Strategy<Value = i32> {
    prop::sample::select(vec![0, CREAT | 0o600, CREAT | 0o666, CREAT | EXCL | 0o644, 0o006])
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..40_000, 1 => any::<u64>()]
}

fn names() -> impl Strategy<Value = Vec<String>> {
    prop::collection::vec(
        prop::sample::select(vec!["host".to_string(), "a".into(), "b".into(), "/".into()]),
        0..3,
    )
}

fn get() -> impl Strategy<Value = Request> {
    let key = || prop_oneof![4 => 0i32..4, 1 => any::<i32>()];
    prop_oneof![
        (key(), size(), flags()).prop_map(|(key, size, flags)| Request::ShmGet { key, size, flags }),
        (key(), -1i32..40, flags()).prop_map(|(key, nsems, flags)| Request::SemGet { key, nsems, flags }),
        (key(), flags()).prop_map(|(key, flags)| Request::MsgGet { key, flags }),
    ]
}

fn hold() -> impl Strategy<Value = Request> {
    prop_oneof![
        3 => (id(), any::<bool>()).prop_map(|(id, read_only)| Request::ShmAttach { id, read_only, exec: false }),
        2 => id().prop_map(|id| Request::ShmDetach { id }),
        4 => (kind(), id()).prop_map(|(kind, id)| Request::Open { kind, id }),
        2 => (kind(), id()).prop_map(|(kind, id)| Request::Close { kind, id }),
        2 => (kind(), id(), size(), 0u16..4).prop_map(|(kind, id, wanted, have)| Request::Grow { kind, id, wanted, have }),
    ]
}

fn control() -> impl Strategy<Value = Request> {
    let which = prop_oneof![
        id().prop_map(Which::Id),
        any::<i32>().prop_map(Which::Index),
        (0i32..4).prop_map(Which::AnyIndex)
    ];
    prop_oneof![
        3 => (kind(), id()).prop_map(|(kind, id)| Request::Remove { kind, id }),
        2 => (kind(), id(), 998u32..1002, any::<u16>(), any::<Option<u64>>())
            .prop_map(|(kind, id, uid, mode, qbytes)| Request::Set { kind, id, uid, gid: uid, mode, qbytes }),
        1 => (kind(), which).prop_map(|(kind, which)| Request::Stat { kind, which }),
        1 => (kind(), any::<u32>()).prop_map(|(kind, from)| Request::List { kind, from }),
        2 => Just(Request::ShareUndo),
        2 => (0u64..12, any::<bool>(), any::<bool>())
            .prop_map(|(list, alone, begin)| Request::LeaveUndo { list, alone, begin }),
        1 => (id(), any::<bool>(), proptest::option::of(0u64..100_000))
            .prop_map(|(id, on, most)| Request::Lock { id, on, most }),
        1 => (kind(), id(), prop_oneof![0u64..24, any::<u64>()])
            .prop_map(|(kind, id, owner)| Request::LockStuck { kind, id, owner }),
        1 => (kind(), id(), any::<String>()).prop_map(|(kind, id, what)| Request::Corrupt { kind, id, what }),
        1 => id().prop_map(|id| Request::OnBehalf { id, operation: Behalf::SemOp(vec![(9, -1, 0x1000)]) }),
        1 => (kind(), id(), names()).prop_map(|(kind, id, domains)| Request::Share { kind, id, domains }),
        1 => (kind(), id(), names()).prop_map(|(kind, id, domains)| Request::Unshare { kind, id, domains }),
        1 => Just(Request::Ping),
    ]
}

fn life() -> impl Strategy<Value = Command> {
    let client = || 16u32..40;
    let who = (
        1u32..8,
        0u64..2,
        999u32..1002,
        prop::sample::select(vec![0u8, 0, 1, 8, 15]),
    )
        .prop_map(|(pid, start, uid, caps)| Credentials {
            pid,
            start,
            uid,
            gid: uid,
            groups: vec![uid + 1],
            caps,
            stands_for: 0,
        });
    let name = prop::sample::select(vec!["host".to_string(), "a".into(), "b".into(), "c d".into()]);
    prop_oneof![
        2 => (name, any::<bool>()).prop_map(|(name, own_space)| Command::DomainUp { name, port: "p".into(), own_space }),
        1 => (0u16..5).prop_map(|domain| Command::DomainDown { domain }),
        1 => (0u16..5, prop::collection::vec(client(), 0..9)).prop_map(|(domain, clients)| Command::Alive { domain, clients }),
        12 => (1u16..4, who, prop::option::weighted(0.2, client()), prop::option::weighted(0.3, 0u64..3))
            .prop_map(|(domain, who, resume, fork)| Command::Connect { domain, who, resume, fork }),
        4 => (client(), 0u64..3).prop_map(|(client, fork)| Command::ForkPrepare { client, fork }),
        2 => (0u16..5, 0u64..3).prop_map(|(domain, fork)| Command::ForkAbandoned { domain, fork }),
        4 => (client(), any::<bool>()).prop_map(|(client, exec)| Command::Gone { client, exec }),
        1 => (0u64..20).prop_map(|serial| Command::DeclareCorrupt { serial, what: String::new() }),
        1 => (0u64..20).prop_map(|serial| Command::NotProvided { serial }),
        1 => (client(), 0u64..20, 0u32..3)
            .prop_map(|(client, serial, attachments)| Command::Audited { client, serial, attachments }),
    ]
}

/// A step: a command, or one that depends on the state.
#[derive(Debug, Clone)]
enum Step {
    Life(Command),
    /// The n-th living client asks.
    Ask(usize, Request),
    /// The n-th sweep under way is done.
    Swept(usize),
    /// The back-end goes on from its snapshot.
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let ask = prop_oneof![4 => get(), 6 => hold(), 4 => control()];
    prop_oneof![
        3 => life().prop_map(Step::Life),
        9 => (any::<usize>(), ask).prop_map(|(n, body)| Step::Ask(n, body)),
        2 => any::<usize>().prop_map(Step::Swept),
        1 => Just(Step::Restart),
    ]
}

fn run(config: vshmem_registry::GroupConfig, steps: Vec<Step>) -> Result<(), TestCaseError> {
    let begun = Registry::new(config.clone());
    let mut g = Group::with(config);
    if g.registry.group().more.is_empty() {
        g.domain("a");
    } else {
        g.local_domain("a");
    }
    for _ in 0..3 {
        g.process(1000);
        g.process_in(2, 1001);
    }
    for step in steps {
        g.now += 1;
        match step {
            Step::Life(command) => {
                let _ = g.apply(command);
            }
            Step::Ask(n, body) => {
                let living: Vec<u32> = g
                    .registry
                    .clients()
                    .filter(|c| c.alive)
                    .map(|c| c.client)
                    .collect();
                if let Some(&client) = living.get(n % living.len().max(1)) {
                    let _ = g.request(client, body);
                }
            }
            Step::Swept(n) => {
                let pending: Vec<_> = g.registry.sweeps().collect();
                if let Some(&sweep) = pending.get(n % pending.len().max(1)) {
                    g.apply(Command::Swept(sweep)).unwrap();
                }
            }
            Step::Restart => {
                let restored = Registry::restore(&g.registry.snapshot().unwrap()).unwrap();
                prop_assert_eq!(&restored, &g.registry);
                prop_assert_eq!(restored.restarted(), g.registry.restarted());
                g.registry = restored;
            }
        }
    }
    let mut replayed = begun;
    for (now, command) in g.log.iter().filter(|(_, command)| command.changes()) {
        replayed.apply(*now, command.clone());
    }
    prop_assert_eq!(&replayed, &g.registry);
    end_all(g);
    Ok(())
}

/// When all are dead, swept and removed, nothing is left.
fn end_all(mut g: Group) {
    for domain in g.registry.domains() {
        g.apply(Command::DomainDown {
            domain: domain.number,
        })
        .unwrap();
    }
    g.sweep();
    assert_eq!(g.registry.clients().count(), 0);
    g.domain("host");
    let root = g.process(0);
    let named: Vec<(Kind, i32)> = g.registry.constructs().map(|c| (c.kind, c.id)).collect();
    for (kind, id) in named {
        g.remove(root, kind, id).unwrap();
    }
    assert_eq!((g.registry.bytes_used(), g.registry.bytes_quarantined()), (0, 0));
    assert_eq!(g.registry.constructs().count(), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { max_shrink_iters: 2000, ..ProptestConfig::default() })]

    #[test]
    fn any_history_keeps_the_invariants_in_a_pool(steps in prop::collection::vec(step(), 1..200)) {
        let mut config = config();
        config.store = Store::Pool { bytes: 256 << 10 };
        config.limits.msgmni = 3;
        config.quota.constructs = Some(8);
        run(config, steps)?;
    }

    #[test]
    fn any_history_keeps_the_invariants_with_a_file_per_construct(steps in prop::collection::vec(step(), 1..200)) {
        let mut config = config();
        config.store = Store::PerConstruct;
        config.uids = Uids::Separate;
        run(config, steps)?;
    }

    #[test]
    fn any_history_keeps_the_invariants_with_two_groups(steps in prop::collection::vec(step(), 1..200)) {
        let mut config = crate::groups::two_groups();
        config.store = Store::Pool { bytes: 256 << 10 };
        let mut both = config.memberships["both"].clone();
        both.routes[1].first = 2;
        let second = config.memberships["second"].clone();
        config.memberships = [("a".to_owned(), both), ("b".to_owned(), second)].into();
        run(config.clone(), steps.clone())?;
        config.more[0].store = Store::Pool { bytes: 64 << 10 };
        run(config, steps)?;
    }

    #[test]
    fn a_snapshot_that_is_rubbish_gives_an_error_and_no_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Registry::restore(&bytes);
    }
}
