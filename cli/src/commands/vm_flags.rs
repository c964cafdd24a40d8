//! `vshmem vm flags`: what to add to a virtual machine of one's own.
//!
//! The back-end makes the domain's sockets; the port writes the text. Standard output is that text alone, so that it can be put on a command line;
//! everything else goes to standard error.

use crate::commands::vm::domain_name;
use crate::connection::Connection;
use crate::place::Place;
use crate::trouble::{Outcome, Trouble, reason};
use std::path::PathBuf;
use vshmem_port::flags::{Device, Way, Wish};
use vshmem_wire::{Doors, Reply, Request};

/// Prints what to add to a virtual machine of your own.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The back-end makes two sockets for the domain, which the machine's hypervisor connects to; who may connect is what [machines] of the
configuration says. A domain that the configuration does not name is gone with the back-end: add it there, as standard error says.

What to add goes to standard output, remarks to standard error.

Examples:
  qemu-system-x86_64 -m 1G -smp 2 disk.img $(vshmem vm flags qemu --domain db)
  vshmem vm flags libvirt --domain db
  vshmem vm flags qemu --domain db --stream vsock

With --json: {\"text\", \"notes\": [], \"guest\": [], \"control\", \"vsock\": {\"cid\", \"place\"}, \"pools\": [{\"group\", \"bytes\", \"device\", \"file\"}], \"vectors\", \"configured\"}.")]
pub(crate) struct Flags {
    /// For whom
    #[arg(value_name = "READER", value_parser = clap::builder::PossibleValuesParser::new(vshmem_port_select::readers()))]
    reader: String,
    /// Name of the domain that the machine is to be
    #[arg(long, value_name = "NAME", value_parser = domain_name)]
    domain: String,
    /// The machine's device: `doorbell` gets the pool from the back-end's socket, `plain` opens it as a file, for which it must be root or the back-end's user
    #[arg(long, value_name = "KIND", default_value = "doorbell")]
    device: Kind,
    /// By which way its stream goes: a virtio-serial port, vsock by the host's kernel, or vsock by the program vhost-device-vsock
    #[arg(long, value_name = "WAY", default_value = "serial")]
    stream: Stream,
    /// CID of the machine, with vsock: the configuration's, or one that the back-end chooses, unless it is named here
    #[arg(long, value_name = "N")]
    cid: Option<u32>,
    /// Folder of the back-end's socket [default: $VSHMEM_RUNTIME_DIR, else /run/vshmem, else $XDG_RUNTIME_DIR/vshmem]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Kind {
    Doorbell,
    Plain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stream {
    Serial,
    Vsock,
    VsockUser,
}

/// Runs the command.
pub(crate) fn run(options: &Flags) -> Outcome {
    let what = format!("domain {}", options.domain);
    let place = Place {
        runtime_dir: options.runtime_dir.clone(),
        domain: None,
    };
    let port = vshmem_port_select::port_of(&options.reader)
        .ok_or_else(|| Trouble::new(&*options.reader, "nothing is known for this reader"))?;
    let way = match options.stream {
        Stream::Serial => Way::Serial,
        Stream::Vsock => Way::Vsock,
        Stream::VsockUser => Way::VsockUser,
    };
    if options.cid.is_some() && way == Way::Serial {
        return Err(Trouble::new("--cid", "it is for --stream vsock and vsock-user"));
    }
    let request = Request::OpenDomain {
        name: options.domain.clone(),
        port: port.to_owned(),
        vsock: (way != Way::Serial).then(|| options.cid.unwrap_or(0)),
    };
    let doors = match Connection::open_as(&place, None)?.ask(&request) {
        Ok(Reply::DomainOpen(doors)) => doors,
        Ok(other) => return Err(Trouble::new(what, format!("unexpected answer {other:?}"))),
        Err(failure) => return Err(Trouble::new(what, reason(&failure))),
    };
    let device = match options.device {
        Kind::Doorbell => Device::Served,
        Kind::Plain => Device::File,
    };
    let mut flags = vshmem_port_select::flags(&options.reader, &doors, Wish { device, way })
        .map_err(|why| Trouble::new(what, why))?;
    if !doors.configured {
        flags.notes.insert(0, not_configured(&options.domain, port));
    }
    if options.json {
        println!("{:#}", json(&flags, &doors));
        return Ok(0);
    }
    println!("{}", flags.text);
    for note in &flags.notes {
        eprintln!("# {note}");
    }
    eprintln!("# Then, in the guest:");
    for line in &flags.guest {
        eprintln!("#   {line}");
    }
    Ok(0)
}

fn not_configured(domain: &str, port: &str) -> String {
    format!(
        "The sockets are there until the back-end stops. To have them whenever it runs, add to its configuration: [[domain]] name = \"{domain}\" port = \"{port}\" (a line each)."
    )
}

fn json(flags: &vshmem_port::flags::Flags, doors: &Doors) -> serde_json::Value {
    let pools = doors.pools.iter().map(|door| {
        serde_json::json!({
            "group": door.pool.group, "bytes": door.pool.bytes, "device": door.device, "file": door.file,
        })
    });
    serde_json::json!({
        "text": flags.text,
        "notes": flags.notes,
        "guest": flags.guest,
        "control": doors.control,
        "vsock": doors.vsock.as_ref().map(|vsock| serde_json::json!({ "cid": vsock.cid, "place": vsock.place })),
        "pools": pools.collect::<Vec<_>>(),
        "vectors": doors.vectors,
        "configured": doors.configured,
    })
}
