//! `vshmem ipcs`: constructs of the group, in util-linux's columns, with the domain beside them.
//!
//! Not for the kernel's own objects: `ipcs` shows those.

use crate::connection::Connection;
use crate::inventory::{self, Inventory, KINDS, group, key, noun, shm_status, user};
use crate::place::Place;
use crate::text::{full_time, human_size, month_time};
use crate::trouble::{Outcome, Trouble};
use vshmem_wire::{Kind, Limits, Stat, StatBody};

/// Bytes of a page.
const PAGE: u64 = 4096;

/// Shows V-shm segments, V-sem sets and V-msgq queues of the group, in util-linux's columns.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  vshmem ipcs                    everything
  vshmem ipcs -m -p              who made and last used the segments, as domain:pid
  vshmem ipcs -s -i 1073741824   one set, with its semaphores
  vshmem ipcs --announced        in a guest of Xen: what Xenstore says that it may see, a second old at most
  vshmem ipcs --json | jq '.shm[].bytes'

With --json: {\"msg\": [...], \"shm\": [...], \"sem\": [...]} with the kinds asked for, every field in each entry, times in seconds
since the epoch or null, processes as {\"domain\", \"pid\"} or null; with -l {\"limits\": {...}}; with -u {\"summary\": {...}}.")]
pub(crate) struct Ipcs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    kinds: KindChoice,
    /// Print details on the one with this id
    #[arg(short, long, value_name = "ID", allow_negative_numbers = true)]
    id: Option<i32>,
    /// Show what the host announces to this guest by its port's own means (Xen: in Xenstore), and ask no daemon
    #[arg(long, conflicts_with_all = ["id", "View", "human"])]
    announced: bool,
    #[command(flatten)]
    view: View,
    /// Show sizes in human-readable format
    #[arg(long, conflicts_with = "bytes")]
    human: bool,
    /// Show sizes in bytes
    #[arg(short, long)]
    bytes: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Which kinds of construct.
#[derive(Debug, Clone, Copy, clap::Args)]
struct KindChoice {
    /// Shared memory segments
    #[arg(short = 'm', long)]
    shmems: bool,
    /// Message queues
    #[arg(short, long)]
    queues: bool,
    /// Semaphores
    #[arg(short, long)]
    semaphores: bool,
    /// All (default)
    #[arg(short, long)]
    all: bool,
}

/// What of them.
#[derive(Debug, Clone, Copy, clap::Args)]
#[group(multiple = false)]
struct View {
    /// Show attach, detach and change times
    #[arg(short, long)]
    time: bool,
    /// Show processes of creator and last operator
    #[arg(short, long)]
    pid: bool,
    /// Show creator and owner
    #[arg(short, long)]
    creator: bool,
    /// Show resource limits
    #[arg(short, long)]
    limits: bool,
    /// Show status summary
    #[arg(short = 'u', long)]
    summary: bool,
}

impl KindChoice {
    fn chosen(self) -> Vec<Kind> {
        let none = !self.shmems && !self.queues && !self.semaphores;
        let wanted = |kind: &Kind| match kind {
            Kind::Shm => self.shmems,
            Kind::Sem => self.semaphores,
            Kind::Msg => self.queues,
        };
        KINDS
            .into_iter()
            .filter(|kind| self.all || none || wanted(kind))
            .collect()
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Sizes {
    Default,
    Human,
    Bytes,
}

/// Runs the command.
pub(crate) fn run(options: &Ipcs) -> Outcome {
    let kinds = options.kinds.chosen();
    if options.announced {
        return super::announced::run(&kinds, options.json);
    }
    let mut inventory = Inventory::open(Connection::open(&options.place)?)?;
    if let Some(id) = options.id {
        let [kind] = kinds[..] else {
            return Err(Trouble::new("ipcs", "with an id, name one kind")
                .remedy("add -m, -q or -s")
                .with_status(2));
        };
        return one(&mut inventory, kind, id, options.json);
    }
    if options.json {
        return json(&mut inventory, options, &kinds);
    }
    let sizes = match (options.human, options.bytes) {
        (true, _) => Sizes::Human,
        (_, true) => Sizes::Bytes,
        _ => Sizes::Default,
    };
    for kind in kinds {
        println!();
        if options.view.limits {
            limits(kind, &inventory.info(kind)?.limits, sizes);
        } else if options.view.summary {
            summary(&mut inventory, kind, sizes)?;
        } else {
            let stats = inventory.list(kind)?;
            let show = match options.view {
                View { time: true, .. } => times,
                View { pid: true, .. } => pids,
                View { creator: true, .. } => creators,
                _ => return_list(sizes),
            };
            show(&inventory, kind, &stats);
        }
    }
    println!();
    Ok(0)
}

type Show = fn(&Inventory, Kind, &[Stat]);

fn return_list(sizes: Sizes) -> Show {
    match sizes {
        Sizes::Human => |inventory, kind, stats| list(inventory, kind, stats, true),
        _ => |inventory, kind, stats| list(inventory, kind, stats, false),
    }
}

fn list(inventory: &Inventory, kind: Kind, stats: &[Stat], human: bool) {
    let size = |bytes: u64| {
        if human {
            human_size(bytes)
        } else {
            bytes.to_string()
        }
    };
    let bytes = if human { "size" } else { "bytes" };
    match kind {
        Kind::Msg => {
            println!("------ Message Queues --------");
            println!(
                "{}",
                row(
                    &[
                        "key",
                        "msqid",
                        "owner",
                        "perms",
                        if human { "size" } else { "used-bytes" }
                    ],
                    &["messages"],
                    "domain"
                )
            );
        }
        Kind::Shm => {
            println!("------ Shared Memory Segments --------");
            println!(
                "{}",
                row(
                    &["key", "shmid", "owner", "perms", bytes, "nattch"],
                    &["status"],
                    "domain"
                )
            );
        }
        Kind::Sem => {
            println!("------ Semaphore Arrays --------");
            println!(
                "{}",
                row(&["key", "semid", "owner", "perms", "nsems"], &[], "domain")
            );
        }
    }
    for stat in stats {
        let domain = inventory.domain(stat.domain);
        let (key, id, owner) = (key(&stat.perm), stat.id.to_string(), user(stat.perm.uid));
        let perms = format!("{:o}", stat.perm.mode & 0o777);
        let first = [key.as_str(), &id, &owner, &perms];
        match &stat.body {
            StatBody::Shm { segsz, nattch, .. } => {
                let more = [size(*segsz), nattch.to_string()];
                let cells = [first[0], first[1], first[2], first[3], &more[0], &more[1]];
                println!(
                    "{}",
                    row(&cells, &[&shm_status(stat.perm.mode).join(",")], &domain)
                );
            }
            StatBody::Sem { nsems, .. } => {
                let nsems = nsems.to_string();
                println!(
                    "{}",
                    row(&[first[0], first[1], first[2], first[3], &nsems], &[], &domain)
                );
            }
            StatBody::Msg { cbytes, qnum, .. } => {
                let (used, messages) = (size(*cbytes), qnum.to_string());
                println!(
                    "{}",
                    row(
                        &[first[0], first[1], first[2], first[3], &used],
                        &[&messages],
                        &domain
                    )
                );
            }
        }
    }
}

/// Ten characters a cell, twelve for the later ones, then the domain.
fn row(cells: &[&str], wide: &[&str], domain: &str) -> String {
    let mut line = String::new();
    for cell in cells {
        line.push_str(&format!("{cell:<10} "));
    }
    for cell in wide {
        line.push_str(&format!("{cell:<12} "));
    }
    format!("{line}{domain:<10}").trim_end().to_owned()
}

fn times(_: &Inventory, kind: Kind, stats: &[Stat]) {
    let (title, heads): (_, &[&str]) = match kind {
        Kind::Msg => (
            "Message Queues Send/Recv/Change Times",
            &["msqid", "owner", "send", "recv", "change"],
        ),
        Kind::Shm => (
            "Shared Memory Attach/Detach/Change Times",
            &["shmid", "owner", "attached", "detached", "changed"],
        ),
        Kind::Sem => (
            "Semaphore Operation/Change Times",
            &["semid", "owner", "last-op", "last-changed"],
        ),
    };
    println!("------ {title} --------");
    let line = |cells: &[String], width: usize| {
        let mut out = format!("{:<10} {:<10}", cells[0], cells[1]);
        for cell in &cells[2..] {
            out.push_str(&format!(" {cell:<width$}"));
        }
        println!("{}", out.trim_end());
    };
    let width = if kind == Kind::Sem { 26 } else { 20 };
    line(
        &heads.iter().map(|head| (*head).to_owned()).collect::<Vec<_>>(),
        width,
    );
    for stat in stats {
        let mut cells = vec![stat.id.to_string(), user(stat.perm.uid)];
        match &stat.body {
            StatBody::Shm { atime, dtime, .. } => cells.extend([*atime, *dtime, stat.ctime].map(month_time)),
            StatBody::Msg { stime, rtime, .. } => cells.extend([*stime, *rtime, stat.ctime].map(month_time)),
            StatBody::Sem { otime, .. } => cells.extend([*otime, stat.ctime].map(full_time)),
        }
        line(&cells, width);
    }
}

fn pids(inventory: &Inventory, kind: Kind, stats: &[Stat]) {
    let (title, heads) = match kind {
        Kind::Msg => ("Message Queues PIDs", ["msqid", "owner", "lspid", "lrpid"]),
        Kind::Shm => (
            "Shared Memory Creator/Last-op PIDs",
            ["shmid", "owner", "cpid", "lpid"],
        ),
        // Sets keep a pid per semaphore: ipcs -s -i ID shows them.
        Kind::Sem => return,
    };
    println!("------ {title} --------");
    println!("{:<10} {:<10} {:<16} {}", heads[0], heads[1], heads[2], heads[3]);
    for stat in stats {
        let (first, second) = match &stat.body {
            StatBody::Shm { cpid, lpid, .. } => (*cpid, *lpid),
            StatBody::Msg { lspid, lrpid, .. } => (*lspid, *lrpid),
            StatBody::Sem { .. } => continue,
        };
        let owner = user(stat.perm.uid);
        println!(
            "{:<10} {owner:<10} {:<16} {}",
            stat.id,
            inventory.pid(first),
            inventory.pid(second)
        );
    }
}

fn creators(inventory: &Inventory, kind: Kind, stats: &[Stat]) {
    let (title, id) = match kind {
        Kind::Msg => ("Message Queues Creators/Owners", "msqid"),
        Kind::Shm => ("Shared Memory Segment Creators/Owners", "shmid"),
        Kind::Sem => ("Semaphore Arrays Creators/Owners", "semid"),
    };
    println!("------ {title} --------");
    println!(
        "{}",
        row(&[id, "perms", "cuid", "cgid", "uid", "gid"], &[], "domain")
    );
    for stat in stats {
        let perm = &stat.perm;
        let names = [user(perm.cuid), group(perm.cgid), user(perm.uid), group(perm.gid)];
        let (id, perms) = (stat.id.to_string(), format!("{:o}", perm.mode & 0o777));
        let cells = [id.as_str(), &perms, &names[0], &names[1], &names[2], &names[3]];
        println!("{}", row(&cells, &[], &inventory.domain(stat.domain)));
    }
}

fn limits(kind: Kind, limits: &Limits, sizes: Sizes) {
    let all_bytes = limits.shmall.min(u64::MAX / 4096) * 4096;
    match kind {
        Kind::Msg => {
            println!("------ Messages Limits --------");
            println!("max queues system wide = {}", limits.msgmni);
            sized("max size of message", limits.msgmax.into(), sizes, Sizes::Bytes);
            sized(
                "default max size of queue",
                limits.msgmnb.into(),
                sizes,
                Sizes::Bytes,
            );
        }
        Kind::Shm => {
            println!("------ Shared Memory Limits --------");
            println!("max number of segments = {}", limits.shmmni);
            sized("max seg size", limits.shmmax, sizes, Sizes::Default);
            if sizes == Sizes::Default {
                println!(
                    "max total shared memory (kbytes) = {}",
                    limits.shmall.min(u64::MAX / 4) * 4
                );
            } else {
                sized("max total shared memory", all_bytes, sizes, Sizes::Bytes);
            }
            sized("min seg size", 1, sizes, Sizes::Bytes);
        }
        Kind::Sem => {
            println!("------ Semaphore Limits --------");
            println!("max number of arrays = {}", limits.semmni);
            println!("max semaphores per array = {}", limits.semmsl);
            println!("max semaphores system wide = {}", limits.semmns);
            println!("max ops per semop call = {}", limits.semopm);
            println!("semaphore max value = 32767");
        }
    }
}

/// A limit in the unit asked for; `default` is the unit where none was: kilobytes are `Sizes::Default`.
fn sized(what: &str, bytes: u64, sizes: Sizes, default: Sizes) {
    match (sizes, default) {
        (Sizes::Human, _) => println!("{what} = {}", human_size(bytes)),
        (Sizes::Default, Sizes::Default) => println!("{what} (kbytes) = {}", bytes / 1024),
        _ => println!("{what} (bytes) = {bytes}"),
    }
}

fn summary(inventory: &mut Inventory, kind: Kind, sizes: Sizes) -> Result<(), Trouble> {
    let info = inventory.info(kind)?;
    match kind {
        Kind::Msg => {
            println!("------ Messages Status --------");
            println!("allocated queues = {}", info.used);
            println!("used headers = {}", info.units);
            match sizes {
                Sizes::Human => println!("used space = {}", human_size(info.bytes)),
                _ => println!("used space = {} bytes", info.bytes),
            }
        }
        Kind::Shm => {
            println!("------ Shared Memory Status --------");
            println!("segments allocated {}", info.used);
            println!("pages allocated {}", info.units);
            println!("pages resident  {}", info.bytes / PAGE);
            // The pool is not swapped by segments: these two are there for who counts lines.
            println!("pages swapped   0\nSwap performance: 0 attempts\t 0 successes");
        }
        Kind::Sem => {
            println!("------ Semaphore Status --------");
            println!("used arrays = {}", info.used);
            println!("allocated semaphores = {}", info.units);
        }
    }
    Ok(())
}

fn one(inventory: &mut Inventory, kind: Kind, id: i32, as_json: bool) -> Outcome {
    let stat = inventory.find(kind, id)?;
    if as_json {
        let mut object = inventory::json(inventory, &stat);
        if let StatBody::Sem { nsems, .. } = stat.body {
            object["semaphores"] = serde_json::json!(inventory.semaphores(id, nsems)?);
        }
        println!("{object:#}");
        return Ok(0);
    }
    let perm = &stat.perm;
    let owners = format!(
        "uid={}\tgid={}\tcuid={}\tcgid={}",
        perm.uid, perm.gid, perm.cuid, perm.cgid
    );
    let (mode, access) = (perm.mode, perm.mode & 0o777);
    println!();
    match &stat.body {
        StatBody::Shm {
            segsz,
            atime,
            dtime,
            cpid,
            lpid,
            nattch,
            ..
        } => {
            println!(
                "Shared memory Segment shmid={id}\n{owners}\nmode={mode:#05o}\taccess_perms={access:#05o}"
            );
            let (lpid, cpid) = (inventory.pid(*lpid), inventory.pid(*cpid));
            println!("bytes={segsz}\tlpid={lpid}\tcpid={cpid}\tnattch={nattch}");
            println!("att_time={}\ndet_time={}", full_time(*atime), full_time(*dtime));
            println!("change_time={}", full_time(stat.ctime));
        }
        StatBody::Sem { nsems, otime } => {
            println!("Semaphore Array semid={id}\n{owners}\nmode={mode:#05o}, access_perms={access:#05o}");
            println!(
                "nsems = {nsems}\notime = {}\nctime = {}",
                full_time(*otime),
                full_time(stat.ctime)
            );
            println!(
                "{:<10} {:<10} {:<10} {:<10} pid",
                "semnum", "value", "ncount", "zcount"
            );
            for sem in inventory.semaphores(id, *nsems)? {
                let (value, ncount, zcount) = (sem.value, sem.ncount, sem.zcount);
                println!(
                    "{:<10} {value:<10} {ncount:<10} {zcount:<10} {}",
                    sem.num, sem.pid
                );
            }
        }
        StatBody::Msg {
            cbytes,
            qnum,
            qbytes,
            stime,
            rtime,
            lspid,
            lrpid,
        } => {
            println!("Message Queue msqid={id}\n{owners}\tmode={mode:#05o}");
            let (lspid, lrpid) = (inventory.pid(*lspid), inventory.pid(*lrpid));
            println!("cbytes={cbytes}\tqbytes={qbytes}\tqnum={qnum}\tlspid={lspid}\tlrpid={lrpid}");
            println!("send_time={}\nrcv_time={}", full_time(*stime), full_time(*rtime));
            println!("change_time={}", full_time(stat.ctime));
        }
    }
    println!("domain={}\n", inventory.domain(stat.domain));
    Ok(0)
}

fn json(inventory: &mut Inventory, options: &Ipcs, kinds: &[Kind]) -> Outcome {
    let mut out = serde_json::Map::new();
    for kind in kinds {
        let name = match kind {
            Kind::Msg => "msg",
            Kind::Shm => "shm",
            Kind::Sem => "sem",
        };
        let value = if options.view.limits {
            json_limits(*kind, &inventory.info(*kind)?.limits)
        } else if options.view.summary {
            let info = inventory.info(*kind)?;
            match kind {
                Kind::Msg => {
                    serde_json::json!({"queues": info.used, "messages": info.units, "bytes": info.bytes})
                }
                Kind::Shm => {
                    let resident = info.bytes / PAGE;
                    serde_json::json!({"segments": info.used, "pages": info.units, "resident": resident})
                }
                Kind::Sem => serde_json::json!({"sets": info.used, "semaphores": info.units}),
            }
        } else {
            let stats = inventory.list(*kind)?;
            stats
                .iter()
                .map(|stat| inventory::json(inventory, stat))
                .collect()
        };
        out.insert(name.to_owned(), value);
    }
    let whole = if options.view.limits {
        serde_json::json!({ "limits": out })
    } else if options.view.summary {
        serde_json::json!({ "summary": out })
    } else {
        out.into()
    };
    println!("{whole:#}");
    Ok(0)
}

fn json_limits(kind: Kind, limits: &Limits) -> serde_json::Value {
    match kind {
        Kind::Msg => {
            serde_json::json!({"msgmni": limits.msgmni, "msgmax": limits.msgmax, "msgmnb": limits.msgmnb})
        }
        Kind::Shm => serde_json::json!({
            "shmmni": limits.shmmni, "shmmax": limits.shmmax, "shmall": limits.shmall, "shmmin": 1,
        }),
        Kind::Sem => serde_json::json!({
            "semmni": limits.semmni, "semmsl": limits.semmsl, "semmns": limits.semmns, "semopm": limits.semopm,
            "semvmx": 32767,
        }),
    }
}

/// For messages of the family.
pub(crate) fn describe(kind: Kind, id: i32) -> String {
    format!("{} {id}", noun(kind))
}
