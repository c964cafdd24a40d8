//! `vshmem doctor`: what works here, what does not, and what to do about it.
//!
//! Each check looks at one thing and changes nothing; `doctor_memory` has those that use the group's memory for a moment. Not for what the back-end holds: `status` and `ipcs` show that.

use crate::connection::Connection;
use crate::place::Place;
use crate::preload;
use crate::trouble::{FAILED, Outcome, reason};
use serde::Serialize;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};
use vshmem_wire::{GroupInfo, HugeBytes, Request};

/// Shows what works here, what does not, and what to do about it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exit status: 0 if what `vshmem run` needs works, 1 if not. What is merely not available here does not count.

With --json: {\"works\": bool, \"checks\": [{\"name\", \"state\": \"ok\"|\"absent\"|\"broken\", \"detail\", \"remedy\"}]}.")]
pub(crate) struct Doctor {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// To be the process that uses the memory
    #[arg(long, value_name = "ID", hide = true)]
    measure: Option<i32>,
}

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum State {
    /// Works.
    Ok,
    /// Not here; `vshmem run` does not need it.
    Absent,
    /// Does not work, and `vshmem run` needs it.
    Broken,
}

#[derive(Debug, Serialize)]
pub(crate) struct Check {
    name: String,
    pub(crate) state: State,
    pub(crate) detail: String,
    pub(crate) remedy: String,
}

impl Check {
    pub(crate) fn new(
        name: &str,
        state: State,
        detail: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Check {
            name: name.to_owned(),
            state,
            detail: detail.into(),
            remedy: remedy.into(),
        }
    }
}

/// Runs the command.
pub(crate) fn run(options: &Doctor) -> Outcome {
    if let Some(set) = options.measure {
        return super::doctor_memory::measure(set);
    }
    let mut checks = vec![folder(&options.place)];
    let of_daemon = daemon(&options.place);
    let serves = of_daemon.iter().all(|check| check.state != State::Broken);
    checks.extend(of_daemon);
    if serves {
        checks.extend(super::doctor_memory::checks(&options.place));
    }
    checks.extend(machines(&options.place));
    checks.push(library());
    checks.push(memfd());
    checks.push(barrier());
    checks.push(strict());
    checks.extend(ports());
    let works = checks.iter().all(|check| check.state != State::Broken);
    if options.json {
        println!("{:#}", serde_json::json!({ "works": works, "checks": checks }));
    } else {
        for check in &checks {
            let mark = match check.state {
                State::Ok => "ok",
                State::Absent => "--",
                State::Broken => "NO",
            };
            let detail = check.detail.replace('\n', &format!("\n{:<23}", ""));
            println!("{mark:<3} {:<18} {detail}", check.name);
            if !check.remedy.is_empty() {
                println!("{:<22} To do: {}", "", check.remedy);
            }
        }
        println!();
        if works {
            println!("`vshmem run` works here.");
        } else {
            println!("`vshmem run` does not work here yet: see what to do above.");
        }
    }
    Ok(if works { 0 } else { FAILED })
}

fn folder(place: &Place) -> Check {
    let folder = place.folder();
    let name = "runtime folder";
    match std::fs::metadata(&folder) {
        Err(error) => {
            let detail = format!("{}: {error}", folder.display());
            Check::new(
                name,
                State::Broken,
                detail,
                "`vshmem serve` makes it; or name another with --runtime-dir",
            )
        }
        Ok(metadata) if metadata.mode() & 0o002 != 0 && metadata.mode() & 0o1000 == 0 => {
            let detail = format!(
                "{}: anybody may replace the daemon's socket in it",
                folder.display()
            );
            Check::new(
                name,
                State::Broken,
                detail,
                format!("chmod o-w {}", folder.display()),
            )
        }
        Ok(metadata) => {
            let mode = metadata.mode() & 0o7777;
            Check::new(
                name,
                State::Ok,
                format!("{} (mode {mode:04o}, user {})", folder.display(), metadata.uid()),
                "",
            )
        }
    }
}

fn daemon(place: &Place) -> Vec<Check> {
    let mut connection = match Connection::open(place) {
        Ok(connection) => connection,
        Err(why) => return vec![Check::new("daemon", State::Broken, why.why(), why.what_to_do())],
    };
    let own = connection.welcome.clone();
    let mut checks = Vec::new();
    checks.push(match connection.status() {
        Ok(status) => {
            let detail = format!(
                "version {}, process {}, {}, {} domains; this is domain {}",
                status.version,
                status.pid,
                groups(&status.groups),
                status.domains.iter().filter(|domain| domain.up).count(),
                own.name
            );
            if status.version == env!("CARGO_PKG_VERSION") {
                Check::new("daemon", State::Ok, detail, "")
            } else {
                let remedy = format!(
                    "this command is version {}: install one version",
                    env!("CARGO_PKG_VERSION")
                );
                Check::new("daemon", State::Ok, detail, remedy)
            }
        }
        Err(why) => Check::new("daemon", State::Broken, why.why(), why.what_to_do()),
    });
    let groups = connection
        .status()
        .map(|status| status.groups)
        .unwrap_or_default();
    checks.extend(groups.iter().filter_map(huge_pages));
    checks.push(match round_trip(&mut connection) {
        Ok(time) => {
            let detail = format!("{:.0} µs, median of 50 pings", time.as_secs_f64() * 1e6);
            Check::new("round trip", State::Ok, detail, "")
        }
        Err(why) => Check::new("round trip", State::Broken, why, "restart the daemon"),
    });
    checks
}

fn round_trip(connection: &mut Connection) -> Result<Duration, String> {
    let mut times = Vec::new();
    for _ in 0..50 {
        let start = Instant::now();
        connection
            .ask(&Request::Ping)
            .map_err(|failure| reason(&failure))?;
        times.push(start.elapsed());
    }
    times.sort();
    Ok(times[times.len() / 2])
}

fn library() -> Check {
    let name = "preload library";
    match preload::find() {
        Ok(path) => Check::new(name, State::Ok, path.display().to_string(), ""),
        Err(why) => Check::new(name, State::Broken, why.why(), why.what_to_do()),
    }
}

fn memfd() -> Check {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
    let made = memfd_create("vshmem-doctor", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)
        .and_then(|file| ftruncate(&file, 4096).map(|()| file))
        .and_then(|file| fcntl_add_seals(&file, SealFlags::SHRINK));
    match made {
        Ok(()) => Check::new("memory files", State::Ok, "memfd_create with seals", ""),
        Err(errno) => Check::new(
            "memory files",
            State::Broken,
            format!("memfd_create: {errno}"),
            "Linux 3.17 or later is needed",
        ),
    }
}

/// What `run --strict` needs.
#[cfg(target_arch = "x86_64")]
fn strict() -> Check {
    const NAME: &str = "run --strict";
    match vshmem_strict::possible() {
        Ok(()) => Check::new(
            NAME,
            State::Ok,
            "static programs and raw system calls can be served",
            "",
        ),
        Err((why, remedy)) => Check::new(NAME, State::Absent, why, remedy),
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn strict() -> Check {
    Check::new(
        "run --strict",
        State::Absent,
        "there for x86-64 processors only",
        "",
    )
}

fn barrier() -> Check {
    use rustix::thread::{MembarrierCommand, MembarrierQuery, membarrier_query};
    let supported: MembarrierQuery = membarrier_query();
    if supported.contains_command(MembarrierCommand::PrivateExpedited) {
        Check::new("memory barrier", State::Ok, "membarrier, private expedited", "")
    } else {
        Check::new(
            "memory barrier",
            State::Absent,
            "the kernel has no membarrier (Linux 4.14 and later have it)",
            "",
        )
    }
}

/// How much of a group's pool lies in huge pages.
fn huge_pages(group: &GroupInfo) -> Option<Check> {
    const COMPACT: &str = "memory is in too small pieces, or the daemon has not come to it yet: echo 1 > /proc/sys/vm/compact_memory on the host, then start the daemon anew";
    let checked = |detail: String, remedy: &str| Some(Check::new("huge pages", State::Ok, detail, remedy));
    match group.huge {
        _ if group.pool_bytes == 0 => None,
        None => Some(Check::new(
            "huge pages",
            State::Absent,
            format!("the pool of group {} lies in ordinary pages", group.name),
            "where programs go through much of it at random: `vshmem serve --hugepages`, or hugepages = true for the group (memory in grants has none)",
        )),
        Some(HugeBytes { huge, ordinary }) => checked(
            format!(
                "of the pool of group {} {} MiB lie in huge pages, {} MiB in ordinary ones",
                group.name,
                huge >> 20,
                ordinary >> 20
            ),
            if ordinary > 0 { COMPACT } else { "" },
        ),
    }
}

/// The groups, and where their memory is.
fn groups(groups: &[GroupInfo]) -> String {
    let told = groups.iter().map(|group| match group.pool_bytes {
        0 => format!("group {} with a file per construct", group.name),
        bytes => format!("group {} with a pool of {} MiB", group.name, bytes >> 20),
    });
    told.collect::<Vec<_>>().join(", ")
}

/// Who may connect to the sockets of machines that somebody else starts.
fn machines(place: &Place) -> Vec<Check> {
    let Ok(folders) = std::fs::read_dir(place.folder().join("machines")) else {
        return Vec::new();
    };
    let check = |folder: std::fs::DirEntry| {
        let socket = std::fs::metadata(folder.path().join("control.sock")).ok()?;
        let mode = socket.mode() & 0o777;
        let detail = format!(
            "its sockets are of user {} and group {}, mode {mode:04o}",
            socket.uid(),
            socket.gid()
        );
        let remedy = if mode & 0o007 == 0 {
            ""
        } else {
            "anybody here may connect and so reach the whole pool of each of its groups: set [machines] mode in the configuration"
        };
        let name = format!("machine {}", folder.file_name().to_string_lossy());
        Some(Check::new(&name, State::Ok, detail, remedy))
    };
    folders.flatten().filter_map(check).collect()
}

fn ports() -> Vec<Check> {
    let all = vshmem_port_select::survey()
        .into_iter()
        .chain(vshmem_port_select::devices());
    let checks = all.map(|finding| {
        let state = if finding.works { State::Ok } else { State::Absent };
        Check::new(
            &format!("port {}", finding.port),
            state,
            format!("{}: {}", finding.part, finding.detail),
            "",
        )
    });
    checks.collect()
}
