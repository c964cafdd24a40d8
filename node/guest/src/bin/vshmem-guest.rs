//! Boots a guest and runs one program in it, with no shared memory and no daemons: the tool of this crate's tests, and
//! a way to see whether machines start here at all. Users have `vshmem vm run`.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use vshmem_guest::{GuestSpec, Service, run};

const USAGE: &str = "usage: vshmem-guest [--port NAME] [--domain NAME] [--cpus N,N] [--mem MIB] [--bind DIR] \
                     [--boot-timeout SECS] [--timeout SECS] [--pool FILE] [--service CMD --ready PATH] -- PROG ARGS...";

fn main() -> ExitCode {
    if vshmem_guest::init::is_init() {
        return vshmem_guest::init::main();
    }
    let spec = match parse(std::env::args_os().skip(1)) {
        Ok(spec) => spec,
        Err(said) => {
            eprintln!("vshmem-guest: {said}\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    match run(spec) {
        Ok(outcome) => ExitCode::from(outcome.code()),
        Err(error) => {
            eprintln!("vshmem-guest: {error}");
            ExitCode::from(error.code())
        }
    }
}

fn parse(mut words: impl Iterator<Item = OsString>) -> anyhow::Result<GuestSpec> {
    let mut spec = GuestSpec::new(vshmem_port_select::BOOTABLE[0], "a", Vec::new())?;
    while let Some(word) = words.next() {
        if word == "--" {
            spec.argv = words.collect();
            anyhow::ensure!(!spec.argv.is_empty(), "no program was given");
            return Ok(spec);
        }
        let word = word.to_string_lossy().into_owned();
        let raw = words
            .next()
            .ok_or_else(|| anyhow::anyhow!("{word} needs a value"))?;
        let value = raw.to_string_lossy().into_owned();
        match word.as_str() {
            "--port" => spec.port = value,
            "--domain" => spec.domain = value,
            "--cpus" => spec.cpus = value.split(',').map(str::parse).collect::<Result<_, _>>()?,
            "--mem" => spec.memory = value.parse::<u64>()? << 20,
            "--bind" => spec.binds.push(raw.into()),
            "--boot-timeout" => spec.boot_timeout = Duration::try_from_secs_f64(value.parse()?)?,
            "--timeout" => spec.timeout = Some(Duration::try_from_secs_f64(value.parse()?)?),
            "--pool" => {
                let file = std::fs::File::options().read(true).write(true).open(&raw)?;
                spec.pools.push(file.into());
            }
            "--service" => spec.services.push(Service {
                argv: value.split_whitespace().map(OsString::from).collect(),
                ready: None,
                patience: Duration::from_secs(40),
            }),
            "--ready" => match spec.services.last_mut() {
                Some(service) => service.ready = Some(raw.into()),
                None => anyhow::bail!("--ready stands after a --service"),
            },
            _ => anyhow::bail!("unknown option {word}"),
        }
    }
    anyhow::bail!("no program was given")
}
