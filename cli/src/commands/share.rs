//! `vshmem share` and `vshmem unshare`: which domains see a construct.

use crate::connection::Connection;
use crate::inventory::KINDS;
use crate::place::Place;
use crate::trouble::{Outcome, Trouble};
use vshmem_wire::{Kind, Request};

/// Lets only the named domains, and the owner's, see a construct.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
A new construct is seen by every domain of the group. Naming domains limits it to them and the owner's domain; more can be named later.
Only the owner's domain may do this.

Examples:
  vshmem share 1073741824 web db    only web, db and the owner's domain see it
  vshmem share 1073741824 --all     every domain of the group sees it again")]
pub(crate) struct Share {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    kind: KindOption,
    /// The construct's id
    id: i32,
    /// Domains that may see it
    #[arg(value_name = "DOMAIN", required_unless_present = "all")]
    domains: Vec<String>,
    /// Every domain of the group
    #[arg(long, conflicts_with = "domains")]
    all: bool,
}

/// Takes domains off the list of those who see a construct.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Domains that have it mapped keep what they mapped where the port cannot take it back; they get nothing new.

Examples:
  vshmem unshare 1073741824 web     web does not see it any more
  vshmem unshare 1073741824 --all   only the owner's domain sees it")]
pub(crate) struct Unshare {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    kind: KindOption,
    /// The construct's id
    id: i32,
    /// Domains that shall not see it
    #[arg(value_name = "DOMAIN", required_unless_present = "all")]
    domains: Vec<String>,
    /// Every domain but the owner's
    #[arg(long, conflicts_with = "domains")]
    all: bool,
}

/// What the id names; only needed where two kinds have the same id.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
struct KindOption {
    /// The id is a shared memory segment's
    #[arg(short = 'm', long)]
    shmem: bool,
    /// The id is a message queue's
    #[arg(short, long)]
    queue: bool,
    /// The id is a set's
    #[arg(short, long)]
    semaphore: bool,
}

/// Runs `share`.
pub(crate) fn share(options: &Share) -> Outcome {
    let mut connection = Connection::open(&options.place)?;
    let kind = kind_of(&mut connection, options.id, options.kind)?;
    let (id, domains) = (options.id, options.domains.clone());
    done(&mut connection, "share", &Request::Share { kind, id, domains })
}

/// Runs `unshare`.
pub(crate) fn unshare(options: &Unshare) -> Outcome {
    let mut connection = Connection::open(&options.place)?;
    let kind = kind_of(&mut connection, options.id, options.kind)?;
    let (id, domains) = (options.id, options.domains.clone());
    done(
        &mut connection,
        "unshare",
        &Request::Unshare { kind, id, domains },
    )
}

fn done(connection: &mut Connection, what: &str, request: &Request) -> Outcome {
    match connection.ask(request) {
        Ok(_) => Ok(0),
        Err(failure) => Err(Trouble::refused(what, &failure)),
    }
}

fn kind_of(connection: &mut Connection, id: i32, option: KindOption) -> Result<Kind, Trouble> {
    let named = match option {
        KindOption { shmem: true, .. } => Some(Kind::Shm),
        KindOption { queue: true, .. } => Some(Kind::Msg),
        KindOption { semaphore: true, .. } => Some(Kind::Sem),
        _ => None,
    };
    let mut found = Vec::new();
    for kind in KINDS
        .into_iter()
        .filter(|kind| named.is_none_or(|named| named == *kind))
    {
        if connection.list(kind)?.iter().any(|stat| stat.id == id) {
            found.push(kind);
        }
    }
    match found[..] {
        [kind] => Ok(kind),
        [] => {
            let what = named.map_or("construct", crate::inventory::noun);
            Err(Trouble::new(format!("id {id}"), format!("no such {what}"))
                .remedy("`vshmem ipcs` lists them"))
        }
        _ => Err(
            Trouble::new(format!("id {id}"), "constructs of several kinds have it")
                .remedy("add -m, -q or -s"),
        ),
    }
}
