//! The daemons without the rest of the `vshmem` command: for small guests, and for this crate's tests.
//!
//! Not for people: `vshmem serve` and `vshmem join` take the same options and explain them.

use anyhow::{Context, bail};
use std::process::ExitCode;
use vshmem_daemon::{Given, JoinOptions, ServeOptions, daemon_main, join, parse_size, serve};

const USAGE: &str = "usage: vshmem-daemon serve [--config FILE] [--runtime-dir DIR] [--pool SIZE]
       vshmem-daemon join [--port NAME] [--domain NAME] [--runtime-dir DIR] [--stream-fd N --pool-fd N ... [--bell-fd N]...]";

fn main() -> ExitCode {
    if let Some(code) = daemon_main() {
        return code;
    }
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("vshmem-daemon: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let role = words.next().context(USAGE)?;
    let (mut back, mut front) = (ServeOptions::default(), JoinOptions::default());
    let (mut stream, mut pools, mut bells) = (None, Vec::new(), Vec::new());
    while let Some(name) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        match (role.as_str(), name.as_str()) {
            ("serve", "--config") => back.config = Some(value.into()),
            ("serve", "--pool") => back.pool = Some(parse_size(&value).map_err(anyhow::Error::msg)?),
            ("serve", "--runtime-dir") => back.runtime_dir = Some(value.into()),
            ("join", "--runtime-dir") => front.runtime_dir = Some(value.into()),
            ("join", "--port") => front.port = Some(value),
            ("join", "--domain") => front.domain = Some(value),
            ("join", "--stream-fd") => stream = Some(value.parse()?),
            ("join", "--pool-fd") => pools.push(value.parse()?),
            ("join", "--bell-fd") => bells.push(value.parse()?),
            _ => bail!("{name} is not known\n{USAGE}"),
        }
    }
    match role.as_str() {
        "serve" => serve(back),
        "join" => {
            let given = stream.map(|stream| Given::inherited(stream, &pools, &bells));
            join(front, given.transpose()?)
        }
        _ => bail!(USAGE),
    }
}
