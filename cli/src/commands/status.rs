//! `vshmem status`: what the back-end says of itself, its domains and its groups.

use crate::connection::Connection;
use crate::place::Place;
use crate::table::{self, Head};
use crate::text::human_size;
use crate::trouble::Outcome;
use vshmem_wire::{HugeBytes, Status};

/// Shows the back-end, its domains and its groups.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
With --json: {\"version\", \"pid\", \"restarts\", \"uptime\", \"group\", \"domain\", \"pool\": {\"bytes\", \"used\", \"quarantine\"},
\"groups\": [{\"name\", \"pool_bytes\", \"used\", \"huge\": null or {\"huge\", \"ordinary\"}}], \"domains\": [{\"number\", \"name\", \"port\", \"up\", \"clients\"}]};
\"group\" and \"pool\" are of the first group, \"domain\" is the caller's own, uptime is in seconds.")]
pub(crate) struct StatusOptions {
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn json(status: &Status, own: &str) -> serde_json::Value {
    let domains: Vec<_> = status
        .domains
        .iter()
        .map(|d| {
            serde_json::json!({
                "number": d.number, "name": d.name, "port": d.port, "up": d.up, "clients": d.clients,
            })
        })
        .collect();
    let groups = status.groups.iter().map(
        |group| serde_json::json!({"name": group.name, "pool_bytes": group.pool_bytes, "used": group.used, "huge": group.huge}),
    );
    let groups: Vec<_> = groups.collect();
    let first = status.groups.first();
    serde_json::json!({
        "version": status.version, "pid": status.pid, "restarts": status.restarts, "uptime": status.uptime,
        "group": first.map(|group| &group.name), "domain": own, "domains": domains, "groups": groups,
        "pool": {
            "bytes": first.map(|group| group.pool_bytes), "used": first.map(|group| group.used), "quarantine": status.quarantine,
        },
    })
}

/// Runs the command.
pub(crate) fn run(options: &StatusOptions) -> Outcome {
    let mut connection = Connection::open(&options.place)?;
    let status = connection.status()?;
    let own = &connection.welcome.name;
    if options.json {
        println!("{:#}", json(&status, own));
        return Ok(0);
    }
    println!(
        "back-end {}, process {}, up {}, restarted {} times",
        status.version,
        status.pid,
        span(status.uptime),
        status.restarts
    );
    for group in &status.groups {
        let used = human_size(group.used);
        match group.pool_bytes {
            0 => println!(
                "group {}: memory for each construct by itself, {used} used",
                group.name
            ),
            bytes => println!(
                "group {}: pool of {}, {used} used{}",
                group.name,
                human_size(bytes),
                in_huge_pages(group.huge)
            ),
        }
    }
    println!("{} in quarantine", human_size(status.quarantine));
    println!("this process is in domain {own}\n");
    let heads = [
        Head::right("N"),
        Head::left("DOMAIN"),
        Head::left("PORT"),
        Head::left("STATE"),
        Head::right("CLIENTS"),
    ];
    let rows: Vec<Vec<String>> = status
        .domains
        .iter()
        .map(|d| {
            let state = if d.up { "up" } else { "gone" };
            vec![
                d.number.to_string(),
                d.name.clone(),
                d.port.clone(),
                state.to_owned(),
                d.clients.to_string(),
            ]
        })
        .collect();
    print!("{}", table::render(&heads, &rows, false));
    Ok(0)
}

/// How much of a pool lies in huge pages, where that was asked for.
fn in_huge_pages(found: Option<HugeBytes>) -> String {
    let tell = |HugeBytes { huge, ordinary }| match ordinary {
        0 => format!(", {} in huge pages", human_size(huge)),
        _ => format!(
            ", {} in huge pages and {} in blocks for which there are none yet",
            human_size(huge),
            human_size(ordinary)
        ),
    };
    found.map_or_else(String::new, tell)
}

/// Seconds as `3 d 4 h`, `5 min` or `6 s`.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3600..86_400 => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3600 % 24),
    }
}
