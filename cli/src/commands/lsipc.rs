//! `vshmem lsipc`: constructs of the group in columns of the user's choice, and the limits, as util-linux's lsipc shows them.

use crate::connection::Connection;
use crate::inventory::{Inventory, group, key, shm_status, user};
use crate::place::Place;
use crate::table::{self, Head};
use crate::text::{TimeFormat, full_time, human_size, listed_time, now, permissions};
use crate::trouble::{Outcome, Trouble};
use vshmem_wire::{Kind, Stat, StatBody};

/// Shows constructs of the group in columns of your choice, or limits and their use.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Columns of all kinds: KEY ID PERMS OWNER CUID CUSER CGID CGROUP UID USER GID GROUP CTIME DOMAIN
Segments (-m): SIZE NATTCH STATUS ATTACH DETACH COMMAND CPID LPID
Queues (-q): USEDBYTES MSGS SEND RECV LSPID LRPID
Sets (-s): NSEMS OTIME
Limits (-g): RESOURCE DESCRIPTION LIMIT USED USE%

Examples:
  vshmem lsipc                          limits and their use
  vshmem lsipc -m -o KEY,SIZE,DOMAIN    three columns
  vshmem lsipc -s -i 1073741824         one set, with its semaphores

--json has the shape of util-linux's lsipc: {\"sharedmemory\"|\"semaphores\"|\"messages\"|\"ipclimits\": [{column: text or null}]}.")]
pub(crate) struct Lsipc {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    what: What,
    /// Print details on the one with this id
    #[arg(short, long, value_name = "ID")]
    id: Option<i32>,
    #[command(flatten)]
    more: More,
    #[command(flatten)]
    layout: Layout,
    /// Columns to show
    #[arg(short, long, value_name = "LIST", value_delimiter = ',')]
    output: Vec<String>,
    /// How times are shown
    #[arg(long, value_name = "TYPE", default_value = "short")]
    time_format: TimeFormat,
}

/// Which kind.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
struct What {
    /// Shared memory segments
    #[arg(short = 'm', long)]
    shmems: bool,
    /// Message queues
    #[arg(short, long)]
    queues: bool,
    /// Semaphores
    #[arg(short, long)]
    semaphores: bool,
    /// Limits of the group and their use (default)
    #[arg(short, long)]
    global: bool,
}

/// Columns beyond the default ones, and how values are written.
#[derive(Debug, Clone, Copy, clap::Args)]
struct More {
    /// Print sizes in bytes
    #[arg(short, long)]
    bytes: bool,
    /// Show creator and owner
    #[arg(short, long)]
    creator: bool,
    /// Print numeric permissions
    #[arg(short = 'P', long)]
    numeric_perms: bool,
    /// Show attach, detach and change times
    #[arg(short, long)]
    time: bool,
}

/// How the answer is laid out.
#[derive(Debug, Clone, Copy, clap::Args)]
struct Layout {
    /// Print JSON
    #[arg(short = 'J', long, group = "layout")]
    json: bool,
    /// NAME="value" pairs, one construct a line
    #[arg(short, long, group = "layout")]
    export: bool,
    /// NAME="value" pairs, one pair a line
    #[arg(short, long, group = "layout")]
    newline: bool,
    /// Columns separated by single spaces
    #[arg(short, long, group = "layout")]
    raw: bool,
    /// A table, even with --id
    #[arg(short, long, group = "layout")]
    list: bool,
    /// No line of column names
    #[arg(long)]
    noheadings: bool,
    /// Accepted and without effect: nothing is ever cut
    #[arg(long)]
    notruncate: bool,
    /// Column names that a shell can take as variables
    #[arg(short = 'y', long)]
    shell: bool,
}

const NUMBERS: &[&str] = &[
    "PERMS",
    "OWNER",
    "SIZE",
    "NATTCH",
    "CTIME",
    "ATTACH",
    "DETACH",
    "CPID",
    "LPID",
    "USEDBYTES",
    "MSGS",
    "SEND",
    "RECV",
    "LSPID",
    "LRPID",
    "NSEMS",
    "OTIME",
    "CUID",
    "CGID",
    "UID",
    "GID",
    "LIMIT",
    "USED",
    "USE%",
];
const EVERY: &[&str] = &[
    "KEY", "ID", "PERMS", "OWNER", "CUID", "CUSER", "CGID", "CGROUP", "UID", "USER", "GID", "GROUP", "CTIME",
    "DOMAIN",
];
const SHM: &[&str] = &[
    "SIZE", "NATTCH", "STATUS", "ATTACH", "DETACH", "COMMAND", "CPID", "LPID",
];
const MSG: &[&str] = &["USEDBYTES", "MSGS", "SEND", "RECV", "LSPID", "LRPID"];
const SEM: &[&str] = &["NSEMS", "OTIME"];
const GLOBAL: &[&str] = &["RESOURCE", "DESCRIPTION", "LIMIT", "USED", "USE%"];

/// Runs the command.
pub(crate) fn run(options: &Lsipc) -> Outcome {
    let kind = match options.what {
        What { shmems: true, .. } => Some(Kind::Shm),
        What { queues: true, .. } => Some(Kind::Msg),
        What { semaphores: true, .. } => Some(Kind::Sem),
        _ => None,
    };
    let columns = columns(options, kind)?;
    let mut inventory = Inventory::open(Connection::open(&options.place)?)?;
    let Some(kind) = kind else {
        let rows = limits(&mut inventory, options.more.bytes)?;
        let rows = rows
            .iter()
            .map(|row| pick(row, GLOBAL, &columns))
            .collect::<Vec<_>>();
        print("ipclimits", options, &columns, &rows);
        return Ok(0);
    };
    let stats = match options.id {
        Some(id) => vec![inventory.find(kind, id)?],
        None => inventory.list(kind)?,
    };
    let layout = options.layout;
    let listed = layout.json || layout.export || layout.newline || layout.raw || layout.list;
    if let ([stat], Some(_), false) = (&stats[..], options.id, listed) {
        return details(&mut inventory, options, stat);
    }
    let rows: Vec<Vec<String>> = stats
        .iter()
        .map(|stat| {
            columns
                .iter()
                .map(|column| cell(&inventory, options, stat, column))
                .collect()
        })
        .collect();
    let name = match kind {
        Kind::Shm => "sharedmemory",
        Kind::Sem => "semaphores",
        Kind::Msg => "messages",
    };
    print(name, options, &columns, &rows);
    Ok(0)
}

fn columns(options: &Lsipc, kind: Option<Kind>) -> Result<Vec<String>, Trouble> {
    let own = match kind {
        Some(Kind::Shm) => SHM,
        Some(Kind::Msg) => MSG,
        Some(Kind::Sem) => SEM,
        None => &[],
    };
    let known = |name: &str| {
        if kind.is_some() {
            EVERY.contains(&name) || own.contains(&name)
        } else {
            GLOBAL.contains(&name)
        }
    };
    if !options.output.is_empty() {
        let asked: Vec<String> = options
            .output
            .iter()
            .map(|name| name.trim().to_uppercase())
            .collect();
        return match asked.iter().find(|name| !known(name)) {
            None => Ok(asked),
            Some(name) => Err(
                Trouble::new("lsipc", format!("column {name} does not exist here"))
                    .remedy("`vshmem lsipc --help` lists the columns of each kind")
                    .with_status(2),
            ),
        };
    }
    let mut names: Vec<&str> = match kind {
        None => GLOBAL.to_vec(),
        Some(Kind::Shm) => vec![
            "KEY", "ID", "PERMS", "OWNER", "SIZE", "NATTCH", "STATUS", "CTIME", "CPID", "LPID",
        ],
        Some(Kind::Msg) => vec![
            "KEY",
            "ID",
            "PERMS",
            "OWNER",
            "USEDBYTES",
            "MSGS",
            "LSPID",
            "LRPID",
        ],
        Some(Kind::Sem) => vec!["KEY", "ID", "PERMS", "OWNER", "NSEMS"],
    };
    if kind.is_some() && options.more.time {
        names.extend(match kind {
            Some(Kind::Shm) => ["ATTACH", "DETACH"].as_slice(),
            Some(Kind::Msg) => &["SEND", "RECV", "CTIME"],
            _ => &["OTIME", "CTIME"],
        });
    }
    if kind == Some(Kind::Shm) {
        names.push("COMMAND");
    }
    if kind.is_some() && options.more.creator {
        names.extend(["CUID", "CGID", "UID", "GID"]);
    }
    if kind.is_some() {
        names.push("DOMAIN");
    }
    Ok(names.into_iter().map(str::to_owned).collect())
}

fn cell(inventory: &Inventory, options: &Lsipc, stat: &Stat, column: &str) -> String {
    let perm = &stat.perm;
    let size = |bytes: u64| {
        if options.more.bytes {
            bytes.to_string()
        } else {
            human_size(bytes)
        }
    };
    let time = |seconds: i64| listed_time(seconds, now(), options.time_format);
    match column {
        "KEY" => key(perm),
        "ID" => stat.id.to_string(),
        "PERMS" if options.more.numeric_perms => format!("{:#05o}", perm.mode & 0o777).replace("0o", "0"),
        "PERMS" => permissions(perm.mode),
        "OWNER" | "USER" => user(perm.uid),
        "CUID" => perm.cuid.to_string(),
        "CUSER" => user(perm.cuid),
        "CGID" => perm.cgid.to_string(),
        "CGROUP" => group(perm.cgid),
        "UID" => perm.uid.to_string(),
        "GID" => perm.gid.to_string(),
        "GROUP" => group(perm.gid),
        "CTIME" => time(stat.ctime),
        "DOMAIN" => inventory.domain(stat.domain),
        _ => match (&stat.body, column) {
            (StatBody::Shm { segsz, .. }, "SIZE") => size(*segsz),
            (StatBody::Shm { nattch, .. }, "NATTCH") => nattch.to_string(),
            (StatBody::Shm { .. }, "STATUS") => shm_status(perm.mode).join(","),
            (StatBody::Shm { atime, .. }, "ATTACH") => time(*atime),
            (StatBody::Shm { dtime, .. }, "DETACH") => time(*dtime),
            (StatBody::Shm { cpid, .. }, "COMMAND") => inventory.command(*cpid),
            (StatBody::Shm { cpid, .. }, "CPID") => inventory.pid(*cpid),
            (StatBody::Shm { lpid, .. }, "LPID") => inventory.pid(*lpid),
            (StatBody::Msg { cbytes, .. }, "USEDBYTES") => size(*cbytes),
            (StatBody::Msg { qnum, .. }, "MSGS") => qnum.to_string(),
            (StatBody::Msg { stime, .. }, "SEND") => time(*stime),
            (StatBody::Msg { rtime, .. }, "RECV") => time(*rtime),
            (StatBody::Msg { lspid, .. }, "LSPID") => inventory.pid(*lspid),
            (StatBody::Msg { lrpid, .. }, "LRPID") => inventory.pid(*lrpid),
            (StatBody::Sem { nsems, .. }, "NSEMS") => nsems.to_string(),
            (StatBody::Sem { otime, .. }, "OTIME") => time(*otime),
            _ => String::new(),
        },
    }
}

fn limits(inventory: &mut Inventory, in_bytes: bool) -> Result<Vec<[String; 5]>, Trouble> {
    let (msg, shm, sem) = (
        inventory.info(Kind::Msg)?,
        inventory.info(Kind::Shm)?,
        inventory.info(Kind::Sem)?,
    );
    let limits = msg.limits;
    let size = |bytes: u64| {
        if in_bytes {
            bytes.to_string()
        } else {
            human_size(bytes)
        }
    };
    let counted = |name: &str, words: &str, limit: u64, used: u64| {
        let percent = if limit == 0 {
            0.0
        } else {
            used as f64 / limit as f64 * 100.0
        };
        [
            name.to_owned(),
            words.to_owned(),
            limit.to_string(),
            used.to_string(),
            format!("{percent:.2}%"),
        ]
    };
    let fixed = |name: &str, words: &str, limit: String| {
        [
            name.to_owned(),
            words.to_owned(),
            limit,
            "-".to_owned(),
            "-".to_owned(),
        ]
    };
    Ok(vec![
        counted(
            "MSGMNI",
            "Number of message queues",
            limits.msgmni.into(),
            msg.used.into(),
        ),
        fixed(
            "MSGMAX",
            "Max size of message (bytes)",
            size(limits.msgmax.into()),
        ),
        fixed(
            "MSGMNB",
            "Default max size of queue (bytes)",
            size(limits.msgmnb.into()),
        ),
        counted(
            "SHMMNI",
            "Shared memory segments",
            limits.shmmni.into(),
            shm.used.into(),
        ),
        counted("SHMALL", "Shared memory pages", limits.shmall, shm.units),
        fixed(
            "SHMMAX",
            "Max size of shared memory segment (bytes)",
            size(limits.shmmax),
        ),
        fixed("SHMMIN", "Min size of shared memory segment (bytes)", size(1)),
        counted(
            "SEMMNI",
            "Number of semaphore identifiers",
            limits.semmni.into(),
            sem.used.into(),
        ),
        counted(
            "SEMMNS",
            "Total number of semaphores",
            limits.semmns.into(),
            sem.units,
        ),
        fixed(
            "SEMMSL",
            "Max semaphores per semaphore set.",
            limits.semmsl.to_string(),
        ),
        fixed(
            "SEMOPM",
            "Max number of operations per semop(2)",
            limits.semopm.to_string(),
        ),
        fixed("SEMVMX", "Semaphore max value", "32767".to_owned()),
    ])
}

fn pick(row: &[String; 5], names: &[&str], columns: &[String]) -> Vec<String> {
    let place = |column: &String| names.iter().position(|name| name == column);
    columns
        .iter()
        .filter_map(|column| row.get(place(column)?).cloned())
        .collect()
}

fn print(name: &str, options: &Lsipc, columns: &[String], rows: &[Vec<String>]) {
    let layout = options.layout;
    let shell_name = |column: &str| {
        if layout.shell {
            column.replace('%', "_PC")
        } else {
            column.to_owned()
        }
    };
    let pair = |(column, cell): (&String, &String)| {
        let cell = cell.replace('\\', "\\\\").replace('"', "\\\"");
        format!("{}=\"{cell}\"", shell_name(column))
    };
    if layout.json {
        let rows: Vec<serde_json::Map<_, _>> = rows
            .iter()
            .map(|row| {
                columns
                    .iter()
                    .map(|c| c.to_lowercase())
                    .zip(row.iter().map(|cell| json_cell(cell)))
                    .collect()
            })
            .collect();
        println!("{:#}", serde_json::json!({ name: rows }));
    } else if layout.export || layout.newline {
        let between = if layout.newline { "\n" } else { " " };
        for row in rows {
            println!(
                "{}",
                columns
                    .iter()
                    .zip(row)
                    .map(pair)
                    .collect::<Vec<_>>()
                    .join(between)
            );
        }
    } else if layout.raw {
        for row in (!layout.noheadings).then(|| columns.to_vec()).iter().chain(rows) {
            println!("{}", row.join(" "));
        }
    } else {
        let head = |name: &String| Head {
            name: shell_name(name),
            right: NUMBERS.contains(&name.as_str()),
        };
        let heads: Vec<Head> = columns.iter().map(head).collect();
        print!("{}", table::render(&heads, rows, layout.noheadings));
    }
}

fn json_cell(cell: &str) -> serde_json::Value {
    if cell.is_empty() {
        serde_json::Value::Null
    } else {
        cell.into()
    }
}

fn details(inventory: &mut Inventory, options: &Lsipc, stat: &Stat) -> Outcome {
    let line = |name: &str, value: String| println!("{:<36}{value}", format!("{name}:"));
    let show = |column: &str| cell(inventory, options, stat, column);
    for (name, column) in [
        ("Key", "KEY"),
        ("ID", "ID"),
        ("Owner", "OWNER"),
        ("Permissions", "PERMS"),
        ("Creator UID", "CUID"),
        ("Creator user", "CUSER"),
        ("Creator GID", "CGID"),
        ("Creator group", "CGROUP"),
        ("UID", "UID"),
        ("User name", "USER"),
        ("GID", "GID"),
        ("Group name", "GROUP"),
        ("Domain", "DOMAIN"),
    ] {
        line(name, show(column));
    }
    line("Last change", full_time(stat.ctime));
    match &stat.body {
        StatBody::Shm { atime, dtime, .. } => {
            line("Segment size", show("SIZE"));
            line("Attached processes", show("NATTCH"));
            line("Status", show("STATUS"));
            line("Attach time", full_time(*atime));
            line("Detach time", full_time(*dtime));
            line("Creator command line", show("COMMAND"));
            line("Creator PID", show("CPID"));
            line("Last user PID", show("LPID"));
        }
        StatBody::Msg { stime, rtime, .. } => {
            line("Bytes used", show("USEDBYTES"));
            line("Messages", show("MSGS"));
            line("Send time", full_time(*stime));
            line("Receive time", full_time(*rtime));
            line("Msg sender", show("LSPID"));
            line("Msg receiver", show("LRPID"));
        }
        StatBody::Sem { nsems, otime } => {
            line("Last operation", full_time(*otime));
            line("Semaphores", show("NSEMS"));
            println!("Elements:\n");
            let heads = ["SEMNUM", "VALUE", "NCOUNT", "ZCOUNT", "PID"].map(Head::right);
            let rows: Vec<Vec<String>> = inventory
                .semaphores(stat.id, *nsems)?
                .iter()
                .map(|s| {
                    vec![
                        s.num.to_string(),
                        s.value.to_string(),
                        s.ncount.to_string(),
                        s.zcount.to_string(),
                        s.pid.to_string(),
                    ]
                })
                .collect();
            print!("{}", table::render(&heads, &rows, false));
        }
    }
    Ok(0)
}
