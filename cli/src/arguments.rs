//! The command line's definition: help, completions and manual pages come from here.

use crate::commands::{
    bench, demo, doctor, ftok, ipcmk, ipcrm, ipcs, join, lsipc, papers, run, serve, share, status, top, vm,
};
use crate::trouble::Outcome;
use clap::{Parser, Subcommand};

/// System V IPC between virtual machines on one host.
#[derive(Debug, Parser)]
#[command(
    name = "vshmem",
    version,
    about = "System V IPC between virtual machines on one host",
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 110,
    after_long_help = "\
Vshmem gives processes in different virtual machines on one host the shared memory, semaphores and
message queues of System V IPC, without a copy and without changes to the programs.

Examples:
  vshmem serve &                                     start the back-end
  vshmem run -- ./server                             a program on this host
  vshmem vm run --port uml --domain a -- ./client    another in a virtual machine: both share IPC
  vshmem ipcs                                        what there is
  vshmem doctor                                      what works here, what does not, and what to do

Environment:
  VSHMEM_RUNTIME_DIR   folder of the daemon's socket
  VSHMEM_DOMAIN        domain to be in, where a local process may choose
  VSHMEM_PRELOAD       the preload library
  VSHMEM_SPIN          longest spin before sleeping, in microseconds (0: none)
  VSHMEM_STRICT_FILES  `kernel`: under run --strict, files below /proc are the kernel's and open(2) costs nothing
  VSHMEM_LOG           what is said on standard error: off, error, warn, info, debug"
)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run the back-end in the foreground
    Serve(serve::Serve),
    /// Run the front-end inside a guest, in the foreground
    Join(join::Join),
    /// Run an unmodified program, its System V IPC served by Vshmem
    Run(run::Run),
    /// Virtual machines: boot a guest and run a program in it
    Vm(vm::Vm),
    /// Show constructs: segments, sets, queues
    Ipcs(ipcs::Ipcs),
    /// Make constructs
    Ipcmk(ipcmk::Ipcmk),
    /// Remove constructs
    Ipcrm(ipcrm::Ipcrm),
    /// Show constructs in columns of your choice, or limits
    Lsipc(lsipc::Lsipc),
    /// Let only some domains see a construct
    Share(share::Share),
    /// Take domains off those who see a construct
    Unshare(share::Unshare),
    /// Make a key that is the same in every domain
    Ftok(ftok::Ftok),
    /// Show the back-end, its domains and its pool
    Status(status::StatusOptions),
    /// Show the back-end, its domains and its constructs, live
    Top(top::Top),
    /// Show what works here, what does not, and what to do
    Doctor(doctor::Doctor),
    /// Boot two virtual machines and watch unmodified programs in them exchange
    Demo(demo::Demo),
    /// Measure
    Bench(bench::Bench),
    /// Print a shell's completions
    Completions(papers::Completions),
    /// Print or write the manual pages
    Man(papers::Man),
}

impl Command {
    /// Runs the command.
    pub(crate) fn run(&self) -> Outcome {
        match self {
            Command::Serve(options) => serve::run(options),
            Command::Join(options) => join::run(options),
            Command::Run(options) => run::run(options),
            Command::Vm(options) => vm::run(options),
            Command::Ipcs(options) => ipcs::run(options),
            Command::Ipcmk(options) => ipcmk::run(options),
            Command::Ipcrm(options) => ipcrm::run(options),
            Command::Lsipc(options) => lsipc::run(options),
            Command::Share(options) => share::share(options),
            Command::Unshare(options) => share::unshare(options),
            Command::Ftok(options) => ftok::run(options),
            Command::Status(options) => status::run(options),
            Command::Top(options) => top::run(options),
            Command::Doctor(options) => doctor::run(options),
            Command::Demo(options) => demo::run(options),
            Command::Bench(options) => bench::run(options),
            Command::Completions(options) => papers::completions(options),
            Command::Man(options) => papers::man(options),
        }
    }

    /// Whether a broken pipe on standard output ends the command, as it should for one that prints and is done.
    pub(crate) fn prints(&self) -> bool {
        let lasts = matches!(
            self,
            Command::Run(_) | Command::Vm(_) | Command::Bench(_) | Command::Demo(_)
        );
        !lasts && !self.is_daemon()
    }

    /// Whether the command is a daemon, which sets up its own log.
    pub(crate) fn is_daemon(&self) -> bool {
        matches!(self, Command::Serve(_) | Command::Join(_))
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_definition_is_sound() {
        use clap::CommandFactory;
        super::Cli::command().debug_assert();
    }
}
