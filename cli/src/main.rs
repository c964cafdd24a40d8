//! The `vshmem` command.
//!
//! | module | what it holds |
//! |---|---|
//! | `arguments` | the command line's definition |
//! | `commands` | one file a command |
//! | `connection`, `place` | requests to the daemon, and where it is |
//! | `inventory`, `table`, `text`, `system` | constructs with their names, and how they read |
//! | `program`, `preload`, `backend` | what `run` needs: the program, the library, a back-end of its own |
//! | `demo` | the demonstration |
//! | `trouble` | errors as the user meets them |
//!
//! Every command works over the daemon's socket as any client does; nothing here knows a construct's memory.

/// Prints a line for a command that cleans up after itself: a reader that leaves early neither ends it nor makes it panic.
macro_rules! say {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stdout(), $($part)*);
    }};
}

/// Prints for a command that prints and is done: where nothing can be written it ends, in place of a panic.
macro_rules! print {
    ($($part:tt)*) => { $crate::trouble::printed(std::io::Write::write_fmt(&mut std::io::stdout(), format_args!($($part)*))) };
}

/// A line of [`print!`].
macro_rules! println {
    () => { print!("\n") };
    ($($part:tt)*) => { print!("{}\n", format_args!($($part)*)) };
}

/// Complains on standard error; where nobody hears it there is nothing more to be done.
macro_rules! eprintln {
    ($($part:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($part)*);
    }};
}

mod arguments;
mod backend;
mod commands;
mod connection;
mod demo;
mod inventory;
mod place;
mod preload;
mod program;
mod system;
mod table;
mod text;
mod trouble;

use clap::Parser;
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    // Other lives of this executable: a daemon that its keeper started, a supervisor of `run --strict`, a guest's first process.
    if let Some(status) = vshmem_daemon::daemon_main() {
        return status;
    }
    #[cfg(target_arch = "x86_64")]
    if let Some(status) = vshmem_strict::supervisor_main() {
        return status;
    }
    if vshmem_guest::init::is_init() {
        return vshmem_guest::init::main();
    }
    let cli = arguments::Cli::parse();
    if !cli.command.is_daemon() {
        log();
    }
    if cli.command.prints() {
        system::end_on_broken_pipe();
    }
    match cli.command.run() {
        Ok(status) => ExitCode::from(status),
        Err(trouble) => {
            eprintln!("vshmem: {trouble}");
            ExitCode::from(trouble.status())
        }
    }
}

/// Log messages on standard error, as VSHMEM_LOG says.
fn log() {
    let filter = EnvFilter::try_from_env("VSHMEM_LOG").unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
}
