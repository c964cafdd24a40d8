//! `vshmem run`: an unmodified program, its System V IPC served by Vshmem.

use crate::backend::Backend;
use crate::connection::{Connection, NOBODY};
use crate::place::{DOMAIN, Place, RUNTIME_DIR};
use crate::preload;
use crate::program;
use crate::trouble::{NOT_EXECUTABLE, NOT_FOUND, OURS, Outcome, Trouble, errno_words};
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Environment variable behind `--keys`.
pub(crate) const KEYS: &str = "VSHMEM_KEYS";

/// Runs an unmodified program with its System V IPC served by Vshmem.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The program is loaded together with libvshmem_preload.so, which serves its System V calls. Programs that no library can be loaded into
(static, set-uid, 32-bit, or of another C library than glibc) are refused with the reason, instead of being run unserved.

With --strict the kernel tells a supervisor of every System V call that the program, or anything it starts, makes past that library, and the
supervisor has it served: static programs, Go programs and those of other C libraries work, more slowly (tens of microseconds a call). 32-bit
programs are stopped at such a call. Programs gain no rights by set-uid bits (no_new_privs). Needs Linux 5.19. Every open(2) takes some
microseconds more, so that /proc/sysvipc and the limits below /proc/sys/kernel are Vshmem's, too; VSHMEM_STRICT_FILES=kernel in the environment
leaves files alone.

Examples:
  vshmem run -- ./server --port 80
  vshmem run --serve -- sh -c 'ipcmk -Q; ipcs'
  vshmem run --strict -- ./static-server
  vshmem run --keys 0x1000-0x1fff,private -- postgres -D data

Exit status: the program's; 125 if Vshmem is the reason that it did not run, 126 if it cannot be executed, 127 if it is not found.")]
pub(crate) struct Run {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    how: How,
    /// Start a back-end for as long as the program runs
    #[arg(long)]
    serve: bool,
    /// Serve system calls made past the C library too, of static programs and of Go and musl programs; set-uid programs gain no rights
    #[arg(long)]
    strict: bool,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROG")]
    program: Vec<OsString>,
}

/// What `run` and `vm run` have in common.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct How {
    /// Keys that go to Vshmem, the rest goes to the kernel: numbers, ranges A-B, and `private` for IPC_PRIVATE [default: all]
    #[arg(long, value_name = "RANGES", value_parser = keys)]
    pub(crate) keys: Option<String>,
    /// Run the program even if the preload library will not reach it
    #[arg(long)]
    pub(crate) force: bool,
}

/// Checks the syntax of `--keys`.
fn keys(text: &str) -> Result<String, String> {
    for part in text.split(',').map(str::trim) {
        if part == "private" {
            continue;
        }
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let (from, to) = (
            crate::text::parse_key(from.trim())?,
            crate::text::parse_key(to.trim())?,
        );
        if (from as u32) > (to as u32) {
            return Err(format!("range {part} ends before it begins"));
        }
    }
    Ok(text.to_owned())
}

/// Runs the command.
pub(crate) fn run(options: &Run) -> Outcome {
    let found = program::find(&options.program[0])?;
    match program::check(&found, options.strict) {
        Err(refused) if !options.how.force => return Err(refused),
        Ok(Some(warning)) => eprintln!("vshmem: {warning}"),
        _ => {}
    }
    let library = preload::find()?;
    let backend = if options.serve {
        Backend::for_a_while(&options.place)?
    } else {
        None
    };
    let place = match &backend {
        Some(backend) => backend.place().clone(),
        None => options.place.clone(),
    };
    let welcome = Connection::open(&place)
        .map_err(|trouble| {
            let hint =
                "start one with `vshmem serve &` (in a guest: `vshmem join &`), or add --serve to have one for as long as the program runs";
            let absent = trouble.why() == NOBODY;
            let trouble = trouble.with_status(OURS);
            if absent { trouble.remedy(hint) } else { trouble }
        })?
        .welcome;
    let mut command = Command::new(&found);
    command.arg0(&options.program[0]).args(&options.program[1..]);
    for (name, value) in environment(&library, &place, &options.how)? {
        command.env(name, value);
    }
    tracing::debug!(domain = welcome.name, program = %found.display(), "running");
    if options.strict {
        let outcome = supervised(options, &found, &library, &place, welcome.keys);
        drop(backend);
        return outcome;
    }
    match backend {
        None => Err(failed_to_run(&options.program[0], &command.exec())),
        Some(backend) => backend.run(command, &options.program[0]),
    }
}

/// Runs the program under a supervisor.
#[cfg(target_arch = "x86_64")]
fn supervised(
    options: &Run,
    file: &std::path::Path,
    library: &std::path::Path,
    place: &Place,
    keys: Option<String>,
) -> Outcome {
    use vshmem_strict::Failed;
    let how = How {
        // The supervisor asks nobody: what the daemon said, it is told.
        keys: options.how.keys.clone().or(std::env::var(KEYS).ok()).or(keys),
        ..options.how.clone()
    };
    let mut environment = environment(library, place, &how)?;
    if !program::is_reached(file) {
        // Another dynamic linker would try to load it, and fail.
        environment.retain(|(name, _)| *name != "LD_PRELOAD");
    }
    // The library need not warn of what is not served by it.
    environment.push(("VSHMEM_STRICT", "1".into()));
    let name = &options.program[0];
    crate::backend::attend(name, || {
        let running = vshmem_strict::start(file, &options.program, &environment);
        let running = running.map_err(|failed| match failed {
            Failed::NotExecuted(errno) => failed_to_run(name, &std::io::Error::from_raw_os_error(errno)),
            Failed::NotSupervised { why, remedy } => {
                Trouble::new(format!("{} --strict", name.to_string_lossy()), why)
                    .remedy(remedy)
                    .with_status(OURS)
            }
        })?;
        Ok((rustix::process::Pid::from_raw(running.pid), move || {
            running.wait()
        }))
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn supervised(_: &Run, file: &std::path::Path, _: &std::path::Path, _: &Place, _: Option<String>) -> Outcome {
    Err(Trouble::new(
        file.display().to_string(),
        "--strict is there for x86-64 processors only",
    )
    .remedy("leave it out: dynamically linked programs are served without it")
    .with_status(OURS))
}

/// What a program's environment needs to be served.
pub(crate) fn environment(
    library: &std::path::Path,
    place: &Place,
    how: &How,
) -> Result<Vec<(&'static str, OsString)>, Trouble> {
    let folder = std::path::absolute(place.folder())
        .map_err(|error| Trouble::new("runtime directory", error).with_status(OURS))?;
    let mut all = vec![
        ("LD_PRELOAD", preload::list_with(library)),
        (RUNTIME_DIR, folder.into()),
    ];
    if let Some(domain) = place.domain() {
        all.push((DOMAIN, domain.into()));
    }
    if let Some(keys) = &how.keys {
        all.push((KEYS, keys.into()));
    }
    Ok(all)
}

/// The message and status for a failed exec.
pub(crate) fn failed_to_run(name: &std::ffi::OsStr, error: &std::io::Error) -> Trouble {
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let status = if errno == libc::ENOENT {
        NOT_FOUND
    } else {
        NOT_EXECUTABLE
    };
    Trouble::new(name.to_string_lossy(), errno_words(errno)).with_status(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_ranges_are_checked() {
        for good in ["0x1000-0x1fff", "1,2,private", "private", "0x80000000-0xffffffff"] {
            assert!(keys(good).is_ok(), "{good}");
        }
        for bad in ["", "a", "5-1", "1-", "0x100000000"] {
            assert!(keys(bad).is_err(), "{bad}");
        }
    }
}
