//! `vshmem ipcrm`: removes constructs, with util-linux's options.

use crate::commands::ipcs::describe;
use crate::connection::Connection;
use crate::inventory::KINDS;
use crate::place::Place;
use crate::text::parse_key;
use crate::trouble::{FAILED, Outcome, Trouble, reason};
use vshmem_wire::{Failure, Kind, Reply, Request};

/// Removes segments, sets and queues by id or key.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vshmem ipcrm -m 1073741824     a segment by id
  vshmem ipcrm -Q 0x1234         a queue by key
  vshmem ipcrm --all=sem         every set that the caller may remove
  vshmem ipcrm shm 1073741824 1073741825

With --json: {\"removed\": [{\"kind\": \"shm\", \"id\": 1073741824}], \"failed\": [{\"what\", \"why\"}]}.")]
pub(crate) struct Ipcrm {
    #[command(flatten)]
    place: Place,
    /// Remove a shared memory segment by id
    #[arg(short = 'm', long, value_name = "ID")]
    shmem_id: Vec<i32>,
    /// Remove a shared memory segment by key
    #[arg(short = 'M', long, value_name = "KEY", value_parser = parse_key)]
    shmem_key: Vec<i32>,
    /// Remove a message queue by id
    #[arg(short = 'q', long, value_name = "ID")]
    queue_id: Vec<i32>,
    /// Remove a message queue by key
    #[arg(short = 'Q', long, value_name = "KEY", value_parser = parse_key)]
    queue_key: Vec<i32>,
    /// Remove a set of semaphores by id
    #[arg(short = 's', long, value_name = "ID")]
    semaphore_id: Vec<i32>,
    /// Remove a set of semaphores by key
    #[arg(short = 'S', long, value_name = "KEY", value_parser = parse_key)]
    semaphore_key: Vec<i32>,
    /// Remove all, or all of a kind
    #[arg(short, long, value_name = "KIND", num_args = 0..=1, require_equals = true, default_missing_value = "every")]
    all: Option<AllOf>,
    /// Explain what is being done
    #[arg(short, long)]
    verbose: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// The old form: shm, msg or sem, and ids
    #[arg(value_name = "KIND ID")]
    old_form: Vec<String>,
}

/// What `--all` means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum AllOf {
    /// Segments.
    Shm,
    /// Queues.
    Msg,
    /// Sets.
    Sem,
    /// Everything.
    Every,
}

/// What to remove: a name for messages, and the kind and id once known.
enum Victim {
    Id(Kind, i32),
    Key(Kind, i32),
}

/// Runs the command.
pub(crate) fn run(options: &Ipcrm) -> Outcome {
    let victims = victims(options)?;
    if victims.is_empty() && options.all.is_none() {
        return Err(Trouble::new("ipcrm", "nothing to remove")
            .remedy("name an id (-m, -q, -s), a key (-M, -Q, -S) or --all")
            .with_status(2));
    }
    let mut connection = Connection::open(&options.place)?;
    let mut removed = Vec::new();
    let mut failed = Vec::new();
    for (kind, id) in everything(&mut connection, options.all)? {
        let outcome = remove(&mut connection, kind, id);
        if outcome.as_ref().is_err_and(is_absent) {
            // Somebody else has removed it since it was listed.
            continue;
        }
        settle(options, kind, id, outcome, &mut removed, &mut failed);
    }
    for victim in victims {
        match victim {
            Victim::Id(kind, id) => {
                settle(
                    options,
                    kind,
                    id,
                    remove(&mut connection, kind, id),
                    &mut removed,
                    &mut failed,
                );
            }
            Victim::Key(kind, key) => match find(&mut connection, kind, key) {
                Ok(id) => settle(
                    options,
                    kind,
                    id,
                    remove(&mut connection, kind, id),
                    &mut removed,
                    &mut failed,
                ),
                Err(why) => failed.push((
                    format!("{} under key {key:#x}", crate::inventory::noun(kind)),
                    why,
                )),
            },
        }
    }
    if options.json {
        let failed: Vec<_> = failed
            .iter()
            .map(|(what, why)| serde_json::json!({"what": what, "why": why}))
            .collect();
        println!(
            "{:#}",
            serde_json::json!({ "removed": removed, "failed": failed })
        );
    } else {
        for (what, why) in &failed {
            eprintln!("vshmem: {what}: {why}");
        }
    }
    Ok(if failed.is_empty() { 0 } else { FAILED })
}

fn settle(
    options: &Ipcrm,
    kind: Kind,
    id: i32,
    outcome: Result<(), Failure>,
    removed: &mut Vec<serde_json::Value>,
    failed: &mut Vec<(String, String)>,
) {
    match outcome {
        Ok(()) => {
            if options.verbose && !options.json {
                println!("removed {}", describe(kind, id));
            }
            removed.push(serde_json::json!({"kind": word(kind), "id": id}));
        }
        Err(failure) if is_absent(&failure) => {
            failed.push((describe(kind, id), "there is none with this id".to_owned()));
        }
        Err(failure) => failed.push((describe(kind, id), reason(&failure))),
    }
}

/// Whether the id names nothing (any more).
fn is_absent(failure: &Failure) -> bool {
    matches!(failure.errno, libc::EINVAL | libc::EIDRM) && failure.why.is_empty()
}

fn victims(options: &Ipcrm) -> Result<Vec<Victim>, Trouble> {
    let mut all = Vec::new();
    for (kind, ids, keys) in [
        (Kind::Shm, &options.shmem_id, &options.shmem_key),
        (Kind::Msg, &options.queue_id, &options.queue_key),
        (Kind::Sem, &options.semaphore_id, &options.semaphore_key),
    ] {
        all.extend(ids.iter().map(|id| Victim::Id(kind, *id)));
        for key in keys {
            if *key == libc::IPC_PRIVATE {
                return Err(Trouble::new("ipcrm", "key 0 (IPC_PRIVATE) names nothing")
                    .remedy("remove by id")
                    .with_status(2));
            }
            all.push(Victim::Key(kind, *key));
        }
    }
    let usage = |why: String| {
        Trouble::new("ipcrm", why)
            .remedy("see `vshmem ipcrm --help`")
            .with_status(2)
    };
    if let Some((first, ids)) = options.old_form.split_first() {
        let kind = match first.as_str() {
            "shm" => Kind::Shm,
            "msg" => Kind::Msg,
            "sem" => Kind::Sem,
            other => return Err(usage(format!("'{other}' is not shm, msg or sem"))),
        };
        for id in ids {
            let id = id.parse().map_err(|_| usage(format!("'{id}' is not an id")))?;
            all.push(Victim::Id(kind, id));
        }
    }
    Ok(all)
}

fn everything(connection: &mut Connection, all: Option<AllOf>) -> Result<Vec<(Kind, i32)>, Trouble> {
    let mut found = Vec::new();
    let Some(all) = all else {
        return Ok(found);
    };
    for kind in KINDS {
        let wanted = match kind {
            Kind::Shm => AllOf::Shm,
            Kind::Msg => AllOf::Msg,
            Kind::Sem => AllOf::Sem,
        };
        if all == AllOf::Every || all == wanted {
            found.extend(connection.list(kind)?.iter().map(|stat| (kind, stat.id)));
        }
    }
    Ok(found)
}

fn find(connection: &mut Connection, kind: Kind, key: i32) -> Result<i32, String> {
    let request = match kind {
        Kind::Shm => Request::ShmGet {
            key,
            size: 0,
            flags: 0,
        },
        Kind::Sem => Request::SemGet {
            key,
            nsems: 0,
            flags: 0,
        },
        Kind::Msg => Request::MsgGet { key, flags: 0 },
    };
    match connection.ask(&request) {
        Ok(Reply::Id(id)) => Ok(id),
        Ok(other) => Err(format!("unexpected answer {other:?}")),
        Err(failure) => Err(reason(&failure)),
    }
}

fn remove(connection: &mut Connection, kind: Kind, id: i32) -> Result<(), Failure> {
    connection.ask(&Request::Remove { kind, id }).map(drop)
}

fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Shm => "shm",
        Kind::Sem => "sem",
        Kind::Msg => "msg",
    }
}
