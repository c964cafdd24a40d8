//! The daemons without the rest of the `vshmem` command: for small guests, and for this crate's tests.
//!
//! Not for people: `vshmem serve` and `vshmem join` take the same options and explain them.

use anyhow::{Context, bail};
use std::process::ExitCode;
use vshmem_daemon::{ServeOptions, daemon_main, parse_size, serve};

const USAGE: &str = "usage: vshmem-daemon serve [--config FILE] [--runtime-dir DIR] [--pool SIZE]";

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
    let mut options = ServeOptions::default();
    while let Some(name) = words.next() {
        let value = words
            .next()
            .with_context(|| format!("{name} needs a value\n{USAGE}"))?;
        match (role.as_str(), name.as_str()) {
            ("serve", "--config") => options.config = Some(value.into()),
            (_, "--runtime-dir") => options.runtime_dir = Some(value.into()),
            ("serve", "--pool") => options.pool = Some(parse_size(&value).map_err(anyhow::Error::msg)?),
            _ => bail!("{name} is not known\n{USAGE}"),
        }
    }
    match role.as_str() {
        "serve" => serve(options),
        _ => bail!(USAGE),
    }
}
