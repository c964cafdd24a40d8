//! `vshmem serve`: the back-end, in the foreground. The daemon itself is `vshmem-daemon`'s.

use crate::text::parse_size;
use crate::trouble::{Outcome, Trouble};
use std::path::PathBuf;
use vshmem_daemon::{Memory, ServeOptions};

/// Runs the back-end in the foreground, until Ctrl-C or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without a configuration there is one group, and every domain started on this host may join it. Memory is taken from a pool that is
sparse: only what constructs use is taken from the host.

Two processes run: a small keeper, which holds the memory, and the daemon itself, which the keeper starts again if it dies. Programs go
on meanwhile.

Examples:
  vshmem serve &
  vshmem serve --config /etc/vshmem.toml
  vshmem serve --runtime-dir /tmp/mine --pool 256M
  vshmem serve --pool 8G --hugepages --numa-node 0")]
pub(crate) struct Serve {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of the sockets [default: $VSHMEM_RUNTIME_DIR, else /run/vshmem for root and $XDG_RUNTIME_DIR/vshmem for others]
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    runtime_dir: Option<PathBuf>,
    /// Size of the pool [default: as the configuration says, else 1G]
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pool: Option<u64>,
    /// Have the pool lie in huge pages, as far as the kernel has any: fewer misses in the processor's caches of page tables; a set or a segment takes 2 MiB where it
    /// is the first in them
    #[arg(long)]
    hugepages: bool,
    /// NUMA node of the host that the pool's memory comes from [default: whichever touches it first]
    #[arg(long, value_name = "N")]
    numa_node: Option<u32>,
    /// Where constructs lie: in one pool, which guests can join; in a sealed memory file each, for this kernel's processes only; or in pages
    /// that are granted to guests one construct at a time
    #[arg(long, value_name = "KIND")]
    group_memory: Option<GroupMemory>,
}

/// What `--group-memory` takes, as the configuration's `memory` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GroupMemory {
    /// One pool
    Pool,
    /// A file each
    Memfd,
    /// Pages granted to guests one construct at a time
    Grants,
}

/// Runs the command.
pub(crate) fn run(options: &Serve) -> Outcome {
    let all = ServeOptions {
        config: options.config.clone(),
        runtime_dir: options.runtime_dir.clone(),
        pool: options.pool,
        hugepages: options.hugepages,
        numa_node: options.numa_node,
        memory: options.group_memory.map(|memory| match memory {
            GroupMemory::Pool => Memory::Pool,
            GroupMemory::Memfd => Memory::Memfd,
            GroupMemory::Grants => Memory::Grants,
        }),
    };
    vshmem_daemon::serve(all).map_err(|error| Trouble::new("serve", format!("{error:#}")))?;
    Ok(0)
}
