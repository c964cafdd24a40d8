//! What a report ran on: read where the kernel and the compilers say it.

use crate::paper::workshop::OPTIONS;
use serde::Serialize;
use std::process::Command;
use std::time::Duration;

/// A machine, as far as it matters for the figures.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// Model of the processor and number of CPUs.
    pub processor: String,
    /// What the machine itself runs on, if it says so.
    pub hypervisor: String,
    /// Memory in MiB.
    pub memory: u64,
    /// The kernel.
    pub kernel: String,
    /// Port of the guests, or why there were none.
    pub guests: String,
    /// Versions of Vshmem, compilers and libraries.
    pub versions: Vec<String>,
    /// Seconds since the epoch at the beginning.
    pub began: u64,
    /// What else ran: the load average before and after.
    pub load: [String; 2],
    /// How long it took, in seconds.
    pub took: u64,
}

impl Machine {
    /// Looks.
    pub(crate) fn look(guests: Result<&'static str, String>) -> Machine {
        let cpuinfo = file("/proc/cpuinfo");
        let model = value(&cpuinfo, "model name").unwrap_or("unknown processor");
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let megahertz = value(&cpuinfo, "cpu MHz")
            .and_then(|text| text.split('.').next())
            .unwrap_or("?");
        let virtualised = cpuinfo
            .lines()
            .any(|l| l.starts_with("flags") && l.contains(" hypervisor"));
        let memory = value(&file("/proc/meminfo"), "MemTotal")
            .and_then(|text| text.split_whitespace().next()?.parse::<u64>().ok())
            .unwrap_or(0);
        let mut versions = vec![format!("Vshmem {}", env!("CARGO_PKG_VERSION"))];
        for (program, arguments) in [
            ("cc", &["--version"][..]),
            ("mpichversion", &["-v"]),
            ("mpirun.openmpi", &["--version"]),
        ] {
            versions.extend(first_line(program, arguments));
        }
        versions.push(format!("options: {}", OPTIONS.join(" ")));
        Machine {
            processor: format!("{model}, {cpus} CPUs, {megahertz} MHz"),
            hypervisor: match virtualised {
                true => "itself a virtual machine".into(),
                false => "bare metal, as far as it says".into(),
            },
            memory: memory >> 10,
            kernel: ["ostype", "osrelease", "version"]
                .map(|name| file(&format!("/proc/sys/kernel/{name}")).trim().to_owned())
                .join(" "),
            guests: guests.map_or_else(|why| format!("none: {why}"), str::to_owned),
            versions,
            began: std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            load: [load(), String::new()],
            took: 0,
        }
    }

    /// The machine after it is done.
    pub(crate) fn after(mut self, took: Duration) -> Machine {
        self.took = took.as_secs();
        self.load[1] = load();
        self
    }
}

fn file(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

fn load() -> String {
    file("/proc/loadavg")
        .split(' ')
        .take(3)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The first `name: value` of a file of such lines.
fn value<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
}

fn first_line(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines()
        .map(str::trim)
        .find(|l| !l.is_empty())
        .map(str::to_owned)
}
