//! `vshmem ipcmk`: makes constructs, with util-linux's options.

use crate::connection::Connection;
use crate::place::Place;
use crate::text::{parse_key, parse_size};
use crate::trouble::{Outcome, Trouble};
use vshmem_wire::{Reply, Request};

/// Makes segments, sets and queues.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vshmem ipcmk -M 64K            a segment of 64 KiB under a random key
  vshmem ipcmk -S 3 -p 0660      a set of three semaphores for the group
  vshmem ipcmk -Q --key 0x1234   a queue under a key of your choice

With --json: {\"created\": [{\"kind\": \"shm\", \"id\": 1073741824, \"key\": \"0x00001234\"}]}.")]
pub(crate) struct Ipcmk {
    #[command(flatten)]
    place: Place,
    /// Create a shared memory segment of this size
    #[arg(short = 'M', long, value_name = "SIZE", value_parser = parse_size)]
    shmem: Option<u64>,
    /// Create a set of this many semaphores
    #[arg(short = 'S', long, value_name = "NUMBER", value_parser = clap::value_parser!(i32).range(1..))]
    semaphore: Option<i32>,
    /// Create a message queue
    #[arg(short = 'Q', long)]
    queue: bool,
    /// Permissions, octal
    #[arg(short = 'p', long, value_name = "MODE", default_value = "0644", value_parser = parse_mode)]
    mode: i32,
    /// Key, instead of a random one
    #[arg(long, value_name = "KEY", value_parser = parse_key, allow_negative_numbers = true)]
    key: Option<i32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_mode(text: &str) -> Result<i32, String> {
    match i32::from_str_radix(text, 8) {
        Ok(mode @ 0..=0o777) => Ok(mode),
        _ => Err(format!("'{text}' is not an octal mode such as 0644")),
    }
}

/// Runs the command.
pub(crate) fn run(options: &Ipcmk) -> Outcome {
    if options.shmem.is_none() && options.semaphore.is_none() && !options.queue {
        return Err(Trouble::new("ipcmk", "nothing to create")
            .remedy("add -M SIZE, -S NUMBER or -Q")
            .with_status(2));
    }
    let mut connection = Connection::open(&options.place)?;
    let flags = options.mode | libc::IPC_CREAT | libc::IPC_EXCL;
    let mut created = Vec::new();
    let mut make = |kind: &str, label: &str, request: &dyn Fn(i32) -> Request| -> Result<(), Trouble> {
        let (id, key) = create(&mut connection, options.key, request)
            .map_err(|why| Trouble::new(format!("creating a {}", label.to_lowercase()), why))?;
        if !options.json {
            println!("{label} id: {id}");
        }
        created.push(serde_json::json!({"kind": kind, "id": id, "key": format!("{key:#010x}")}));
        Ok(())
    };
    if let Some(size) = options.shmem {
        make("shm", "Shared memory", &|key| Request::ShmGet {
            key,
            size,
            flags,
        })?;
    }
    if let Some(nsems) = options.semaphore {
        make("sem", "Semaphore", &|key| Request::SemGet { key, nsems, flags })?;
    }
    if options.queue {
        make("msg", "Message queue", &|key| Request::MsgGet { key, flags })?;
    }
    if options.json {
        println!("{:#}", serde_json::json!({ "created": created }));
    }
    Ok(0)
}

/// Tries random keys until one is free, or the one given.
fn create(
    connection: &mut Connection,
    key: Option<i32>,
    request: &dyn Fn(i32) -> Request,
) -> Result<(i32, i32), String> {
    for _ in 0..64 {
        let chosen = key.map_or_else(random_key, Ok)?;
        match connection.ask(&request(chosen)) {
            Ok(Reply::Id(id)) => return Ok((id, chosen)),
            Ok(other) => return Err(format!("unexpected answer {other:?}")),
            Err(failure) if failure.errno == libc::EEXIST && key.is_none() => {}
            Err(failure) => return Err(crate::trouble::reason(&failure)),
        }
    }
    Err("found no free key".to_owned())
}

fn random_key() -> Result<i32, String> {
    let mut bytes = [0u8; 4];
    let got = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    got.map_err(|errno| format!("no random number: {errno}"))?;
    // Zero is IPC_PRIVATE.
    Ok(i32::from_ne_bytes(bytes) | 1)
}
