//! The two daemons: the back-end (`vshmem serve`) on the host, and the front-end (`vshmem join`) inside a guest; and the keeper of each.
//!
//! | module | what it holds |
//! |---|---|
//! | [`backend`] | the back-end: registry, construct memory, local clients, guests' streams |
//! | [`frontend`] | the front-end: a guest's clients, its sleepers, the stream to the back-end |
//! | [`clients`] | local clients' connections, processes and deaths: both daemons' |
//! | [`keeper`] | the process that holds a daemon's descriptors and starts it again |
//! | [`doors`] | bells by which domains ring each other with nobody in between: both daemons' |
//! | [`process`] | what is needed of the operating system |
//! | [`config`] | the configuration file |
//! | [`sockets`] | the runtime directory |
//! | [`waiting`] | a front-end that waits for what is plugged in later |
//!
//! [`serve`] and [`join`] are what the command calls; a program that calls them must begin with [`daemon_main`], since the keeper starts the daemon by
//! executing the program it is in.

mod backend;
mod clients;
mod config;
mod doors;
mod frontend;
mod keeper;
mod process;
mod sockets;
mod waiting;

pub use config::{Memory, parse_size};
pub use sockets::{DOMAINS, MAIN, runtime_dir};

use anyhow::Context;
use config::Config;
use keeper::Ended;
use rustix::fd::OwnedFd;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// What `vshmem serve` is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServeOptions {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The runtime directory, over what the file and the environment say.
    pub runtime_dir: Option<PathBuf>,
    /// Size of the pool in bytes, over what the file says.
    pub pool: Option<u64>,
    /// Where constructs lie, over what the file says.
    pub memory: Option<Memory>,
    /// The first group's pool is to lie in huge pages, whatever the file says.
    pub hugepages: bool,
    /// The NUMA node that its memory is to come from, over what the file says.
    pub numa_node: Option<u32>,
}

/// What `vshmem join` is told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JoinOptions {
    /// The port's name; `auto` or nothing: whichever is found.
    pub port: Option<String>,
    /// By which way its stream goes, where the port has several; `auto` or nothing: whichever is found.
    pub stream: Option<String>,
    /// The domain's name, which the host decides: joining fails if it is another one.
    pub domain: Option<String>,
    /// The runtime directory, over what the environment says.
    pub runtime_dir: Option<PathBuf>,
    /// Wait for what is missing, and begin again after an end that nobody told it to come to.
    pub wait: bool,
}

/// What a front-end in a process of the host's own kernel is given, instead of a port that it would find.
#[derive(Debug)]
pub struct Given {
    /// A stream whose other end the back-end has.
    pub stream: OwnedFd,
    /// The pools of its groups, in any order.
    pub pools: Vec<OwnedFd>,
    /// None, or stream sockets whose other ends the back-end has: the ring line and the bells.
    pub bells: Vec<OwnedFd>,
}

impl Given {
    /// From the numbers of descriptors that this process inherited for the purpose. Each can be taken once.
    ///
    /// # Errors
    /// If one is not open.
    pub fn inherited(stream: i32, pools: &[i32], bells: &[i32]) -> std::io::Result<Self> {
        let pools = pools.iter().map(|pool| keeper::take_inherited(*pool));
        let bells = bells.iter().map(|bell| keeper::take_inherited(*bell));
        Ok(Given {
            bells: bells.collect::<Result<_, _>>()?,
            stream: keeper::take_inherited(stream)?,
            pools: pools.collect::<std::io::Result<_>>()?,
        })
    }
}

/// What a daemon is to be: the keeper tells it.
#[derive(Debug, Serialize, Deserialize)]
enum Role {
    /// The back-end.
    Serve(Box<Config>),
    /// The front-end.
    Join(frontend::Setup),
}

/// Serves until SIGTERM, SIGINT or SIGHUP: the back-end, kept by this process.
///
/// # Errors
/// If it cannot start (a wrong configuration, another daemon in the same runtime directory), or dies again and again.
pub fn serve(options: ServeOptions) -> anyhow::Result<()> {
    let mut config = Config::read(options.config.as_deref(), options.runtime_dir.as_deref())?;
    if let Some(memory) = options.memory {
        config.group.memory = memory;
    }
    if let Some(pool) = options.pool {
        config.set_pool(pool)?;
    }
    let mut place = config.places.remove(&0).unwrap_or_default();
    place.hugepages |= options.hugepages;
    place.numa_node = options.numa_node.or(place.numa_node);
    config.place_first(place)?;
    config.huge = vshmem_port_select::huge_page_sizes();
    config.draw_identities().context("drawing random numbers")?;
    start_logging(&config.log);
    let (lock, made) = sockets::lock(&config.runtime_dir)?;
    config.made_dir = made;
    let (dir, domains) = (
        config.runtime_dir.clone(),
        config.local_domains().map(str::to_owned).collect(),
    );
    keep(
        Role::Serve(Box::new(config)),
        lock,
        Vec::new(),
        &dir,
        made,
        domains,
    )
    .map(drop)
}

/// Keeps a daemon, and if that ends badly, removes what the last daemon left in the runtime directory.
fn keep(
    role: Role,
    lock: OwnedFd,
    mut kept: Vec<(String, OwnedFd)>,
    dir: &Path,
    made: bool,
    domains: Vec<String>,
) -> anyhow::Result<Ended> {
    kept.push((sockets::LOCK.into(), rustix::io::fcntl_dupfd_cloexec(&lock, 0)?));
    let end = keeper::keep(vshmem_wire::encode(&role), kept);
    if end.is_err() {
        sockets::remove(&sockets::path(dir, None));
        domains
            .iter()
            .for_each(|name| sockets::remove(&sockets::path(dir, Some(name))));
        sockets::clear(dir, made);
    }
    drop(lock);
    end
}

/// Joins the group from inside a guest, until SIGTERM, SIGINT or SIGHUP, or the back-end stops: the front-end, kept by this process. `given` is for
/// a front-end without a virtual machine.
///
/// # Errors
/// If this machine is no guest, the back-end refuses it, or the daemon dies again and again.
pub fn join(options: JoinOptions, given: Option<Given>) -> anyhow::Result<()> {
    let setup = frontend::Setup {
        port: options.port.unwrap_or_else(|| "auto".into()),
        stream: options.stream.unwrap_or_else(|| "auto".into()),
        domain: options.domain,
        runtime_dir: sockets::runtime_dir(options.runtime_dir.as_deref())?,
        made_dir: false,
        log: "warn".into(),
    };
    start_logging(&setup.log);
    if options.wait && given.is_none() {
        return waiting::join(&setup);
    }
    if given.is_none() {
        // What is missing is better said before there is a daemon.
        drop(vshmem_port_select::guest(&setup.port, &setup.stream)?);
    }
    join_once(setup, given).map(drop)
}

fn join_once(mut setup: frontend::Setup, given: Option<Given>) -> anyhow::Result<Ended> {
    let (lock, made) = sockets::lock(&setup.runtime_dir)?;
    setup.made_dir = made;
    let mut kept: Vec<(String, OwnedFd)> = Vec::new();
    if let Some(Given { stream, pools, bells }) = given {
        let bells = bells.into_iter().enumerate();
        kept.extend(bells.map(|(number, line)| (frontend::given_bell(number), line)));
        kept.push((frontend::STREAM.into(), stream));
        let pools = (0..).zip(pools);
        kept.extend(pools.map(|(number, pool): (u32, _)| (format!("{}{number}", frontend::POOLS), pool)));
    }
    let dir = setup.runtime_dir.clone();
    keep(Role::Join(setup), lock, kept, &dir, made, Vec::new())
}

/// To be called first in `main`: if a keeper started this process, it is a daemon, and this gives its exit status when it has ended. Else None.
pub fn daemon_main() -> Option<ExitCode> {
    let handover = match keeper::handover() {
        Ok(None) => return None,
        Ok(Some(handover)) => handover,
        Err(e) => {
            eprintln!("vshmem: cannot take over from the keeper: {e:#}");
            return Some(ExitCode::FAILURE);
        }
    };
    Some(match daemon(handover) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            tracing::error!("{e:#}");
            if e.is::<keeper::ForGood>() {
                ExitCode::from(keeper::FOR_GOOD)
            } else {
                ExitCode::FAILURE
            }
        }
    })
}

fn daemon(handover: keeper::Handover) -> anyhow::Result<()> {
    match vshmem_wire::decode(&handover.role).context("the keeper's word is not understood")? {
        Role::Serve(config) => {
            start_logging(&config.log);
            backend::run(*config, handover)
        }
        Role::Join(setup) => {
            start_logging(&setup.log);
            frontend::run(setup, handover)
        }
    }
}

/// Logs to standard error, as VSHMEM_LOG or else the configuration says. Whatever the program has set up before wins.
fn start_logging(level: &str) {
    use std::io::IsTerminal;
    let filter = std::env::var("VSHMEM_LOG").unwrap_or_else(|_| level.to_owned());
    let _ = tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init();
}
