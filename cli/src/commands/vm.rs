//! `vshmem vm run`: boots a guest on this host's own root, joins it to the group and runs one program in it.
//!
//! The booting is `vshmem-guest`'s; here the domain is made at the back-end and the program's surroundings are chosen. Not for virtual
//! machines that somebody else starts: `vshmem join` runs inside those.

use crate::commands::run::{How, KEYS};
use crate::connection::Connection;
use crate::place::{DOMAIN, Place, RUNTIME_DIR};
use crate::text::parse_size;
use crate::trouble::{OURS, Outcome, Trouble, reason};
use crate::{preload, program};
use rustix::fd::{AsFd, OwnedFd, RawFd};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vshmem_guest::{GuestSpec, Network, Service, Special, Vsock};
use vshmem_wire::{Reply, Request};

/// The runtime folder inside a guest: memory of the guest's own, so that the host's socket is not mistaken for it.
const GUEST_FOLDER: &str = "/run/vshmem";
/// How long the front-end in the guest may take, unless half of what the whole guest may take is longer.
const JOIN: Duration = Duration::from_secs(60);
/// How long a guest that was killed may take to be gone before its name counts as taken.
const LEAVING: Duration = Duration::from_secs(3);

/// Virtual machines.
#[derive(Debug, clap::Args)]
pub(crate) struct Vm {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Boot a guest on this host's own root, join it to the group and run a program in it
    Run(Run),
    /// Print what to add to a virtual machine of your own
    Flags(super::vm_flags::Flags),
    /// Bring in a guest that somebody else started, and serve its line until it ends
    Attach(super::vm_attach::Attach),
}

/// Boots a guest on this host's own root, joins it to its groups and runs a program in it.
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The guest sees the host's whole tree; what it writes goes to its memory and is gone with it, except in folders named with --bind.
Standard input, output and error, signals and the exit status pass through. The guest ends with the program.

Examples:
  vshmem vm run --port uml --domain a -- ./server
  vshmem vm run --port qemu --domain b --cpus 0,1 -- ./client
  vshmem vm run --domain b --cpus 1 --mem 512M --bind . -- sh -c './client > result'

Port qemu needs QEMU, virtiofsd and root. It boots the kernel of --kernel or $VSHMEM_KERNEL, else one from the cache or from /boot, else fetches one from the
distribution's archive into $XDG_CACHE_HOME/vshmem (once; nothing is installed). The guest has one virtual CPU, or as many as --cpus names. Where KVM runs no guests,
software does, many times slower. $VSHMEM_QEMU names another QEMU, $VSHMEM_QEMU_OPTIONS gives it more options.

Port xen needs dom0 of a Xen host, xl, its device model (qemu-system-xen) and root. It boots dom0's own kernel, or that of --kernel or $VSHMEM_KERNEL, paravirtualised
($VSHMEM_XEN_TYPE=pvh: with hardware virtualisation). The guest has one virtual CPU, or as many as --cpus names, each pinned to its own.

Exit status: the program's; 124 after a time-out, 125 if Vshmem or the guest is the reason that it did not run, 126 if it cannot be
executed, 127 if it is not found.")]
struct Run {
    /// Port that starts the guest
    #[arg(long, value_name = "PORT", default_value = "auto", value_parser = ports())]
    port: String,
    /// Name of the new domain, and of the guest
    #[arg(long, value_name = "NAME", value_parser = domain_name)]
    domain: String,
    /// Folder of the back-end's socket [default: $VSHMEM_RUNTIME_DIR, else /run/vshmem, else $XDG_RUNTIME_DIR/vshmem]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// Host CPUs that the guest may use, such as 0 or 0,2-3 [default: all]
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    cpus: Option<CpuList>,
    /// Memory of the guest, the group's pool not included
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = parse_size)]
    mem: u64,
    /// Kernel to boot, with its modules in /lib/modules [default: one in the cache or in /boot, else fetched from the distribution's archive into the cache]
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// By which way the guest's stream goes: a virtio-serial port, or vsock (port qemu; by the host's kernel, or the program vhost-device-vsock)
    #[arg(long, value_name = "WAY", default_value = "serial")]
    stream: Stream,
    /// Guest memory from huge pages that were set aside, and its groups' pools in such as the kernel makes, from now on
    #[arg(long)]
    hugepages: bool,
    /// NUMA node of the host for guest memory and pool
    #[arg(long, value_name = "N")]
    numa_node: Option<u32>,
    /// Folder whose writes reach the host; new files there belong to the user who runs this command
    #[arg(long, value_name = "DIR")]
    bind: Vec<PathBuf>,
    /// As `vshmem run --strict`, in the guest: serve system calls made past the C library too
    #[arg(long)]
    strict: bool,
    /// Seconds the program may run
    #[arg(long, value_name = "SECS", value_parser = seconds)]
    timeout: Option<Duration>,
    /// Seconds the guest may take to start the program
    #[arg(long, value_name = "SECS", default_value = "120", value_parser = seconds)]
    boot_timeout: Duration,
    /// A network card: an inherited datagram socket, whose other end is another guest's, and the guest's address
    #[arg(long, value_name = "FD,ADDRESS", value_parser = card, hide = true)]
    network: Option<(RawFd, Ipv4Addr)>,
    #[command(flatten)]
    how: How,
    /// The program and its arguments
    #[arg(required = true, trailing_var_arg = true, value_name = "PROG")]
    program: Vec<OsString>,
}

/// By which way a guest's stream goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stream {
    Serial,
    Vsock,
}

/// CPUs, in a type of its own so that clap takes the list as one value.
#[derive(Debug, Clone, PartialEq, Eq)]
struct CpuList(Vec<usize>);

fn ports() -> clap::builder::PossibleValuesParser {
    std::iter::once("auto")
        .chain(vshmem_port_select::BOOTABLE.iter().copied())
        .collect::<Vec<_>>()
        .into()
}

pub(crate) fn domain_name(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if text.is_empty() || text.len() > 63 || !text.chars().all(plain) || text.starts_with(['-', '.']) {
        return Err(
            "a domain's name has 1 to 63 letters, digits, '-', '_' or '.', and starts with no '-' or '.'"
                .into(),
        );
    }
    Ok(text.to_owned())
}

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let bad = || format!("'{text}' is not a list of CPUs such as 0,2-3");
    let mut all = Vec::new();
    for part in text.split(',') {
        let (from, to) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<usize>().ok().filter(|number| *number < 4096);
        let (from, to) = (number(from).ok_or_else(bad)?, number(to).ok_or_else(bad)?);
        if from > to {
            return Err(bad());
        }
        all.extend(from..=to);
    }
    Ok(CpuList(all))
}

fn card(text: &str) -> Result<(RawFd, Ipv4Addr), String> {
    let bad = || format!("'{text}' is not a descriptor and an address such as 5,10.0.0.1");
    let (fd, address) = text.split_once(',').ok_or_else(bad)?;
    Ok((
        fd.parse().map_err(|_| bad())?,
        address.parse().map_err(|_| bad())?,
    ))
}

/// The network card that was asked for.
fn network(option: Option<(RawFd, Ipv4Addr)>) -> Result<Option<Network>, Trouble> {
    let Some((fd, address)) = option else {
        return Ok(None);
    };
    let card = crate::system::inherited(fd)
        .map_err(|error| Trouble::new(format!("network card on descriptor {fd}"), error).with_status(OURS))?;
    Ok(Some(Network { card, address }))
}

fn seconds(text: &str) -> Result<Duration, String> {
    let bad = || format!("'{text}' is not a number of seconds");
    let seconds: f64 = text.parse().map_err(|_| bad())?;
    Duration::try_from_secs_f64(seconds).map_err(|_| bad())
}

/// Runs the command.
pub(crate) fn run(options: &Vm) -> Outcome {
    match &options.what {
        What::Run(options) => run_guest(options),
        What::Flags(options) => super::vm_flags::run(options),
        What::Attach(options) => super::vm_attach::run(options),
    }
}

fn run_guest(options: &Run) -> Outcome {
    let found = program::find(&options.program[0])?;
    if !options.how.force {
        program::check(&found, options.strict)?;
    }
    let library = preload::find()?;
    let port = port(&options.port)?;
    let ends = match options.stream {
        Stream::Serial => make_domain(options, &port)?,
        Stream::Vsock => open_domain(options, &port)?,
    };
    let trouble = |error: std::io::Error| Trouble::new("guest", error).with_status(OURS);
    let mut spec =
        GuestSpec::new(&port, &options.domain, words(options).map_err(trouble)?).map_err(trouble)?;
    spec.cpus = options.cpus.clone().map_or_else(Vec::new, |list| list.0);
    spec.memory = options.mem;
    spec.binds.clone_from(&options.bind);
    spec.special = Special {
        kernel: options.kernel.clone(),
        hugepages: options.hugepages,
        numa_node: options.numa_node,
        vsock: ends.vsock,
    };
    spec.timeout = options.timeout;
    spec.boot_timeout = options.boot_timeout;
    spec.pools = ends.pools;
    spec.control = ends.control;
    spec.bells = ends.bells;
    spec.network = network(options.network)?;
    spec.services = vec![front_end(&spec.init, &port, options)];
    surroundings(&mut spec.env, &library, &options.how);
    match vshmem_guest::run(spec) {
        Ok(outcome) => Ok(outcome.code()),
        Err(error) => Err(Trouble::new("vm run", &error).with_status(error.code())),
    }
}

/// What the guest runs.
fn words(options: &Run) -> std::io::Result<Vec<OsString>> {
    if !options.strict {
        return Ok(options.program.clone());
    }
    let mut words = vec![std::env::current_exe()?.into_os_string()];
    words.extend(["run", "--strict"].map(OsString::from));
    if options.how.force {
        words.push("--force".into());
    }
    words.push("--".into());
    words.extend(options.program.iter().cloned());
    Ok(words)
}

/// The port that was asked for, or the first that can start a guest here.
pub(crate) fn port(asked: &str) -> Result<String, Trouble> {
    if asked != "auto" {
        return Ok(asked.to_owned());
    }
    let mut reasons = Vec::new();
    for port in vshmem_port_select::BOOTABLE {
        match vshmem_port_select::boot(port).map(|boot| boot.check()) {
            Ok(Ok(())) => return Ok((*port).to_owned()),
            Ok(Err(error)) => reasons.push(format!("{port}: {error}")),
            Err(error) => reasons.push(format!("{port}: {error}")),
        }
    }
    Err(Trouble::new(
        "vm run",
        format!("no port can start a guest here ({})", reasons.join("; ")),
    )
    .with_status(OURS))
}

/// What a guest is given: its ends of its byte stream and of its bells, or a vsock device, and the pools of its groups.
struct Ends {
    control: Option<OwnedFd>,
    vsock: Option<Vsock>,
    bells: Vec<OwnedFd>,
    pools: Vec<OwnedFd>,
}

/// Has the back-end expect a guest that opens its stream itself. That it is expected lasts as long as the back-end.
fn open_domain(options: &Run, port: &str) -> Result<Ends, Trouble> {
    let what = format!("domain {}", options.domain);
    let ours = |why: String| Trouble::new(&*what, why).with_status(OURS);
    let place = Place {
        runtime_dir: options.runtime_dir.clone(),
        domain: None,
    };
    let mut connection = Connection::open_as(&place, None).map_err(|trouble| trouble.with_status(OURS))?;
    if options.hugepages {
        pools_into_huge_pages(&mut connection, &options.domain);
    }
    let joins = vshmem_port_select::joins_by(port);
    if !vshmem_port_select::SERVED.contains(&joins) {
        return Err(ours(format!(
            "a guest of port {port} opens no stream over vsock: leave --stream out"
        )));
    }
    let request = Request::OpenDomain {
        name: options.domain.clone(),
        port: joins.to_owned(),
        vsock: Some(0),
    };
    let doors = match connection.ask(&request) {
        Ok(Reply::DomainOpen(doors)) => doors,
        Ok(other) => return Err(ours(format!("unexpected answer {other:?}"))),
        Err(failure) => return Err(ours(reason(&failure))),
    };
    let vsock = doors
        .vsock
        .ok_or_else(|| ours("the back-end takes no stream over vsock".to_owned()))?;
    let open = |door: &vshmem_wire::PoolDoor| {
        let file = std::fs::File::options().read(true).write(true).open(&door.file);
        file.map(OwnedFd::from)
            .map_err(|e| ours(format!("{}: {e}", door.file)))
    };
    Ok(Ends {
        control: None,
        vsock: Some(Vsock {
            cid: vsock.cid,
            place: vsock.place.into(),
        }),
        bells: Vec::new(),
        pools: doors.pools.iter().map(open).collect::<Result<_, _>>()?,
    })
}

/// Makes the domain at the back-end.
fn make_domain(options: &Run, port: &str) -> Result<Ends, Trouble> {
    let place = Place {
        runtime_dir: options.runtime_dir.clone(),
        domain: None,
    };
    let what = format!("domain {}", options.domain);
    let mut connection = Connection::open_as(&place, None).map_err(|trouble| trouble.with_status(OURS))?;
    if options.hugepages {
        pools_into_huge_pages(&mut connection, &options.domain);
    }
    let bells = vshmem_port_select::boot(port).map_or(0, |boot| boot.bells());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..=bells {
        let pair = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let (our, their) = pair.map_err(|errno| Trouble::new(&*what, errno).with_status(OURS))?;
        ours.push(our);
        theirs.push(their);
    }
    let control = theirs.remove(0);
    let beside: Vec<_> = ours.iter().map(AsFd::as_fd).collect();
    let request = Request::AttachDomain {
        name: options.domain.clone(),
        port: port.to_owned(),
    };
    // A guest of this name that was killed a moment ago may still be on its way out.
    let until = Instant::now() + LEAVING;
    let answer = loop {
        match connection.exchange(&request, &beside) {
            Err(failure) if failure.errno == libc::EEXIST && Instant::now() < until => {
                std::thread::sleep(Duration::from_millis(50));
            }
            answer => break answer,
        }
    };
    match answer {
        Ok((Reply::DomainReady { pools, .. }, descriptors)) if pools.len() == descriptors.len() => Ok(Ends {
            control: Some(control),
            vsock: None,
            bells: theirs,
            pools: descriptors,
        }),
        Ok((other, _)) => Err(Trouble::new(what, format!("unexpected answer {other:?}")).with_status(OURS)),
        Err(failure) => Err(Trouble::new(what, reason(&failure)).with_status(OURS)),
    }
}

/// Asks for it. Where it cannot be had the guest comes up all the same.
fn pools_into_huge_pages(connection: &mut Connection, domain: &str) {
    let domain = domain.to_owned();
    if let Err(failure) = connection.ask(&Request::UseHugePages { domain }) {
        tracing::warn!("pools stay in ordinary pages: {}", reason(&failure));
    }
}

/// The front-end: this very command, in the guest.
fn front_end(own: &Path, port: &str, options: &Run) -> Service {
    let more: &[&str] = match options.stream {
        Stream::Serial => &[],
        Stream::Vsock => &["--stream", "vsock"],
    };
    let words = [
        "join",
        "--port",
        vshmem_port_select::joins_by(port),
        "--domain",
        &options.domain,
        "--runtime-dir",
        GUEST_FOLDER,
    ];
    Service {
        argv: std::iter::once(own.into())
            .chain(words.iter().chain(more).map(OsString::from))
            .collect(),
        ready: Some(Path::new(GUEST_FOLDER).join(crate::connection::SOCKET)),
        patience: JOIN.max(options.boot_timeout / 2),
    }
}

/// What the program needs in its environment to be served.
fn surroundings(env: &mut Vec<(OsString, OsString)>, library: &Path, how: &How) {
    env.retain(|(name, _)| name != DOMAIN);
    let keys = how.keys.as_ref().map(|keys| (KEYS, OsString::from(keys)));
    let served = [
        ("LD_PRELOAD", preload::list_with(library)),
        (RUNTIME_DIR, GUEST_FOLDER.into()),
    ];
    for (name, value) in served.into_iter().chain(keys) {
        env.retain(|(present, _)| present != name);
        env.push((name.into(), value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_understood() {
        assert_eq!(cpu_list("0,2-3"), Ok(CpuList(vec![0, 2, 3])));
        for bad in ["", "a", "3-2", "1,", "99999"] {
            assert!(cpu_list(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn names_of_domains_are_checked() {
        assert!(domain_name("web-1.x").is_ok());
        for bad in ["", "-a", ".", "a b", "a/b", "ä"] {
            assert!(domain_name(bad).is_err(), "{bad}");
        }
    }
}
