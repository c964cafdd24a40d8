//! `vshmem join`: the front-end inside a guest, in the foreground. The daemon itself is `vshmem-daemon`'s.

use crate::trouble::{Outcome, Trouble};
use std::path::PathBuf;
use vshmem_daemon::JoinOptions;

/// Runs the front-end inside a guest, in the foreground, until Ctrl-C or SIGTERM.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
`vshmem vm run` starts this in its guests by itself. In a virtual machine of your own, start it once at boot. Containers and processes of
the host need no front-end: they only need to reach the back-end's socket.

Examples:
  vshmem join &
  vshmem join --wait &
  vshmem join --stream vsock &
  vshmem join --port uml --domain web")]
pub(crate) struct Join {
    /// Port that joins this machine to its host
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = clap::builder::PossibleValuesParser::new(vshmem_port_select::GUESTS))]
    port: String,
    /// By which way the stream to the back-end goes, where a machine of QEMU's kind has both: its virtio-serial port, or vsock [auto: the port if there is one]
    #[arg(long, value_name = "WAY", default_value = "auto", value_parser = clap::builder::PossibleValuesParser::new(vshmem_port_select::STREAMS))]
    stream: String,
    /// Domain that this machine must be: the host decides its name, this only checks it
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
    /// Wait for a device and a stream that are plugged in later, and join again after they were pulled or the back-end stopped
    #[arg(long)]
    wait: bool,
    /// Folder of the socket [default: $VSHMEM_RUNTIME_DIR, else /run/vshmem for root and $XDG_RUNTIME_DIR/vshmem for others]
    #[arg(long, value_name = "DIR", help_heading = "Place")]
    runtime_dir: Option<PathBuf>,
}

/// Runs the command.
pub(crate) fn run(options: &Join) -> Outcome {
    let all = JoinOptions {
        port: Some(options.port.clone()),
        stream: Some(options.stream.clone()),
        domain: options.domain.clone(),
        runtime_dir: options.runtime_dir.clone(),
        wait: options.wait,
    };
    vshmem_daemon::join(all, None).map_err(|error| Trouble::new("join", format!("{error:#}")))?;
    Ok(0)
}
