//! Control passed to and fro (the paper's Figures 4, 6 and 7): System V within one kernel, Vshmem, sockets, and the peers of today.

use super::Extent;
use super::campaign::{Batch, Campaign};
use super::field::{ADDRESSES, Field, Ground, Party};
use super::sample::{Sample, Spread};
use anyhow::{Context, Result, bail, ensure};
use std::rc::Rc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// The programs' names.
pub const PROGRAMS: [&str; 3] = ["sync", "socket", "peers"];

/// A way to pass control.
struct Way {
    program: &'static str,
    name: &'static str,
    channel: &'static str,
    ground: Ground,
    /// Parties to start; a channel that forks is one.
    parties: usize,
    /// Exchanges of a small size: in short, in long.
    counts: [u64; 2],
    /// Largest size.
    most: u64,
}

const fn way(
    program: &'static str,
    name: &'static str,
    channel: &'static str,
    ground: Ground,
    parties: usize,
) -> Way {
    Way {
        program,
        name,
        channel,
        ground,
        parties,
        counts: [500, 5_000],
        most: 1 << 20,
    }
}

impl Way {
    fn is_iceoryx2(&self) -> bool {
        self.name.starts_with("iceoryx2")
    }
}

const WAYS: &[Way] = &[
    Way {
        counts: [1_000, 100_000],
        ..way("sync", "kernel System V", "sysv", Ground::Kernel, 2)
    },
    Way {
        counts: [20_000, 100_000],
        ..way("sync", "Vshmem, one domain", "sysv", Ground::Vshmem, 2)
    },
    Way {
        counts: [20_000, 100_000],
        ..way("sync", "Vshmem, two VMs", "sysv", Ground::Guests, 2)
    },
    way("socket", "TCP, loopback", "tcp", Ground::Kernel, 2),
    Way {
        most: 32_768,
        ..way("socket", "UDP, loopback", "udp", Ground::Kernel, 2)
    },
    way("socket", "TCP, two VMs", "tcp", Ground::Guests, 2),
    Way {
        most: 1_024,
        ..way("socket", "UDP, two VMs", "udp", Ground::Guests, 2)
    },
    way("socket", "vsock, loopback", "vsock", Ground::Kernel, 2),
    way("socket", "unix socket", "unix", Ground::Kernel, 1),
    way("socket", "pipe", "pipe", Ground::Kernel, 1),
    Way {
        counts: [20_000, 100_000],
        ..way("peers", "POSIX shm + futex", "futex", Ground::Kernel, 1)
    },
    Way {
        counts: [20_000, 100_000],
        most: 8_192,
        ..way("peers", "Vshmem queue, one domain", "msgq", Ground::Vshmem, 2)
    },
    Way {
        counts: [20_000, 100_000],
        most: 8_192,
        ..way("peers", "Vshmem queue, two VMs", "msgq", Ground::Guests, 2)
    },
    Way {
        most: 8_192,
        ..way("peers", "kernel queue", "msgq", Ground::Kernel, 2)
    },
    Way {
        counts: [20_000, 100_000],
        ..way(
            "peers",
            "iceoryx2 publish-subscribe",
            "publish",
            Ground::Kernel,
            2,
        )
    },
    Way {
        counts: [20_000, 100_000],
        ..way("peers", "iceoryx2 request-response", "request", Ground::Kernel, 2)
    },
    way("peers", "POSIX shm + eventfd", "eventfd", Ground::Kernel, 1),
    Way {
        most: 8_192,
        ..way("peers", "POSIX mq", "mq", Ground::Kernel, 1)
    },
    way("peers", "ZeroMQ ipc", "zeromq", Ground::Kernel, 1),
    Way {
        counts: [20_000, 100_000],
        most: 8_192,
        ..way("pair", "Vshmem queue", "msgpair", Ground::Vshmem, 1)
    },
    Way {
        counts: [20_000, 100_000],
        most: 8_192,
        ..way("pair", "kernel queue", "msgpair", Ground::Kernel, 1)
    },
    Way {
        counts: [20_000, 100_000],
        ..way("pair", "iceoryx2 publish-subscribe", "pair", Ground::Kernel, 1)
    },
];

/// Control and a socket between two guests of a further port, once.
const FURTHER: &[Way] = &[
    Way {
        counts: [1_000, 1_000],
        ..way("sync", "Vshmem, two", "sysv", Ground::Further, 2)
    },
    Way {
        counts: [300, 300],
        ..way("socket", "TCP, two", "tcp", Ground::Further, 2)
    },
];
const SMALL: &[u64] = &[1, 64, 1024];

/// Sizes in bytes: the paper's 1 to 1024, and on.
const SHORT: &[u64] = &[1, 64, 1024, 1 << 16];
const LONG: &[u64] = &[
    1,
    4,
    16,
    64,
    256,
    1024,
    1 << 12,
    1 << 14,
    1 << 16,
    1 << 18,
    1 << 20,
];

/// Batches of the programs that are wanted: one for each way. Of these sizes only, if there are any.
///
/// # Errors
/// When a size is 0 or beyond what the exchanges take.
pub fn campaign(field: &Field, wanted: &[&str], extent: Extent, sizes: &[u64]) -> Result<Campaign> {
    for size in sizes {
        ensure!(
            *size > 0,
            "an exchange of 0 bytes passes nothing; sizes begin at 1"
        );
        ensure!(*size <= 1 << 20, "exchanges are of at most 1 MiB; {size} is more");
    }
    let mut campaign = Campaign::default();
    let further = FURTHER.iter().filter(|way| wanted.contains(&way.program));
    for way in further.filter(|_| extent == Extent::Long) {
        let jobs: Rc<[(u64, u64)]> = SMALL.iter().map(|size| (*size, way.counts[0])).collect();
        let able = field.program(way.ground, "exchange").map(drop);
        let name = format!("{} {}", way.name, field.machines(way.ground));
        let title = name.clone();
        let run = move |field: &Field, run: usize| measure(field, way, &title, &jobs, run);
        let batch = Batch {
            name: format!("{}: {name}", way.program),
            guess: Duration::from_secs(60),
            once: true,
            run: Box::new(run),
        };
        campaign.add(able, batch);
    }
    let chosen_ways = WAYS.iter().filter(|way| {
        // Within one process is a part of what the peers are compared by.
        wanted.contains(&way.program) || way.program == "pair" && wanted.contains(&"peers")
    });
    for way in chosen_ways {
        let able = match (way.ground, way.channel) {
            (Ground::Guests, _) => field.guests().map(drop),
            (_, "zeromq") => field.shop.program("zeromq").map(drop),
            (_, "vsock") => vsock(),
            _ if way.is_iceoryx2() => field.iceoryx2().map(drop),
            _ => Ok(()),
        };
        let usual = if extent == Extent::Short { SHORT } else { LONG };
        let chosen = if sizes.is_empty() { usual } else { sizes };
        let small = way.counts[usize::from(extent == Extent::Long)];
        let jobs: Rc<[(u64, u64)]> = chosen
            .iter()
            .filter(|size| **size <= way.most)
            .map(|size| (*size, (small * 1024 / (*size).max(1024)).max(100)))
            .collect();
        let run = move |field: &Field, run: usize| measure(field, way, way.name, &jobs, run);
        let guess = Duration::from_secs(if extent == Extent::Short { 2 } else { 8 });
        campaign.add(
            able,
            Batch {
                name: format!("{}: {}", way.program, way.name),
                guess,
                once: false,
                run: Box::new(run),
            },
        );
    }
    Ok(campaign)
}

/// Whether there is a vsock within this machine.
fn vsock() -> Result<(), String> {
    match std::path::Path::new("/sys/module/vsock_loopback").exists() {
        true => Ok(()),
        false => Err("the kernel has no vsock loopback here; try `modprobe vsock_loopback`".into()),
    }
}

fn measure(field: &Field, way: &Way, name: &str, jobs: &[(u64, u64)], run: usize) -> Result<Vec<Sample>> {
    static PORT: AtomicU16 = AtomicU16::new(0);
    let program = match way.is_iceoryx2() {
        true => field.iceoryx2(),
        false => field.program(way.ground, "exchange"),
    };
    let program = program.map_err(anyhow::Error::msg)?;
    let port = 20_000 + PORT.fetch_add(1, Ordering::Relaxed) % 10_000;
    let key = Field::key();
    let party = |role: usize| {
        let mut arguments = vec![way.channel.to_owned(), role.to_string()];
        arguments.extend(jobs.iter().map(|(size, count)| format!("{size}:{count}")));
        let mut environment = vec![
            ("EXCHANGE_KEY".to_owned(), key.clone()),
            ("EXCHANGE_PORT".to_owned(), port.to_string()),
        ];
        if matches!(way.ground, Ground::Guests | Ground::Further) {
            environment.push(("EXCHANGE_PEER".to_owned(), ADDRESSES[1 - role].to_owned()));
        }
        Party {
            arguments,
            environment,
        }
    };
    let parties: Vec<Party> = (0..way.parties).map(party).collect();
    let said = field.run(way.ground, &program, &parties, Duration::from_secs(300))?;
    read(way, name, jobs, &said, run)
}

fn read(way: &Way, name: &str, jobs: &[(u64, u64)], said: &str, run: usize) -> Result<Vec<Sample>> {
    let mut samples = Vec::new();
    let mut lines = said.lines();
    for (size, count) in jobs {
        let line = lines
            .next()
            .with_context(|| format!("no result for {size} bytes"))?;
        let numbers: Vec<f64> = line
            .split_whitespace()
            .map(str::parse)
            .collect::<Result<_, _>>()?;
        let [
            size_said,
            count_said,
            mean,
            variance,
            p50,
            p90,
            p99,
            p999,
            least,
            most,
        ] = numbers[..]
        else {
            bail!("not a result: {line}")
        };
        ensure!(
            (size_said, count_said) == (*size as f64, *count as f64),
            "not the result for {size} bytes: {line}"
        );
        samples.push(Sample {
            program: way.program.into(),
            variant: String::new(),
            model: name.into(),
            size: *size,
            repetitions: *count,
            run,
            nanoseconds: mean,
            value: None,
            spread: Some(Spread {
                variance,
                p50,
                p90,
                p99,
                p999,
                least,
                most,
            }),
        });
    }
    Ok(samples)
}
