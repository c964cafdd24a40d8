//! What is claimed of Vshmem, by the paper and by this project, and what a report's samples say of it.

use crate::paper::PARTIES;
use crate::paper::sample::Sample;
use crate::paper::summary::{Table, What, middle, time, variance};
use serde::Serialize;

/// A claim and its measure.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Claim {
    /// In words.
    pub claim: String,
    /// What the paper says of it.
    pub paper: String,
    /// What should come out.
    pub target: String,
    /// What came out; empty if it was not measured.
    pub measured: String,
    /// Whether the target is met; None: not measured, or there is no target.
    pub met: Option<bool>,
    /// The chapter of docs/evaluation that says what the time is spent on.
    pub explained: &'static str,
}

impl Claim {
    /// What came of it, in a word or two.
    pub fn word(&self) -> &'static str {
        match (self.met, self.measured.is_empty()) {
            (Some(true), _) => "met",
            (Some(false), _) => "missed",
            (None, true) => "not measured",
            (None, false) => "no target",
        }
    }

    /// Where it is explained.
    pub fn page(&self) -> String {
        let home = env!("CARGO_PKG_REPOSITORY");
        format!("{home}/blob/main/docs/evaluation/README.md#{}", self.explained)
    }
}

/// The claims for people: a line each, and where the missed ones are explained.
pub fn lines(claims: &[Claim]) -> Vec<String> {
    let mut lines = vec![format!(
        "{:<74} {:>9} {:>10}  ",
        "what is claimed", "target", "measured"
    )];
    for claim in claims {
        let line = format!(
            "{:<74} {:>9} {:>10}  {}",
            claim.claim,
            claim.target,
            claim.measured,
            claim.word()
        );
        lines.push(line.trim_end().to_owned());
        if claim.met == Some(false) {
            lines.push(format!("    {}", claim.page()));
        }
    }
    let count = |met| claims.iter().filter(|claim| claim.met == met).count();
    let (met, missed) = (count(Some(true)), count(Some(false)));
    lines.push(format!("{met} targets met, {missed} missed"));
    lines
}

const KERNEL: &str = "kernel System V";
const TWO: &str = "Vshmem, two VMs";
const ONE: &str = "Vshmem, one VM";
const TCP: &str = "TCP, two VMs";

/// Every claim.
pub fn claims(samples: &[Sample]) -> Vec<Claim> {
    // Exchanges by sockets are set beside those by semaphores: one program, as it were.
    let merged: Vec<Sample> = samples
        .iter()
        .cloned()
        .map(|mut sample| {
            if sample.program == "socket" {
                sample.program = "sync".into();
            }
            sample
        })
        .collect();
    let table = Table::new(&merged);
    let mut all = control(&table);
    all.extend(peers(&table));
    for (program, name) in [
        ("blas1", "BLAS 1"),
        ("blas2", "BLAS 2"),
        ("blas3", "BLAS 3"),
        ("laplace", "Laplace"),
        ("pi", "π"),
        ("nbody", "N-body"),
    ] {
        all.extend(dwarf(&table, program, name));
    }
    all.extend(collectives(&table));
    all.extend(further(&table));
    all
}

fn claim(
    explained: &'static str,
    words: String,
    paper: &str,
    target: String,
    measured: Option<(String, bool)>,
) -> Claim {
    let (measured, met) = match measured {
        Some((measured, met)) => (measured, (!target.is_empty()).then_some(met)),
        None => (String::new(), None),
    };
    Claim {
        explained,
        claim: words,
        paper: paper.into(),
        target,
        measured,
        met,
    }
}

fn exchange(program: &str, size: u64) -> What {
    (program.into(), String::new(), size, 0)
}

fn control(table: &Table<'_>) -> Vec<Claim> {
    let what = exchange("sync", 64);
    let at_most = |ratio: Option<f64>, most: f64| ratio.map(|r| (figure(r), r <= most));
    vec![
        claim(
            "control",
            "Control between two VMs, to the kernel's System V within one, 64 B".into(),
            "",
            "≤ 1.15".into(),
            at_most(table.ratio(&what, TWO, KERNEL, time), 1.15),
        ),
        claim(
            "control",
            "Variance of that between two VMs, to the kernel's within one".into(),
            "",
            "< 1".into(),
            at_most(table.ratio(&what, TWO, KERNEL, variance), 1.0),
        ),
        claim(
            "tcp",
            "TCP between the same two VMs, to Vshmem between them, 64 B".into(),
            "61, under Xen",
            "≥ 500".into(),
            table
                .ratio(&what, TCP, TWO, time)
                .map(|r| (figure(r), r >= 500.0)),
        ),
        claim(
            "tcp",
            "The same, by the middle exchange of the best run of each".into(),
            "",
            "≥ 500".into(),
            table
                .ratio_of_best(&what, TCP, TWO, middle)
                .map(|r| (figure(r), r >= 500.0)),
        ),
    ]
}

fn peers(table: &Table<'_>) -> Vec<Claim> {
    let half = |program: &str, ours: &str, words: &str| {
        let ratio = table.ratio_of_best(&exchange(program, 64), ours, "iceoryx2 publish-subscribe", middle);
        claim(
            "messages",
            words.into(),
            "",
            "≤ 0.5".into(),
            ratio.map(|r| (figure(r), r <= 0.5)),
        )
    };
    vec![
        half(
            "peers",
            "Vshmem queue, one domain",
            "A message of 64 B there and back, to iceoryx2's publish-subscribe",
        ),
        half(
            "pair",
            "Vshmem queue",
            "A message of 64 B sent and received in one process, to iceoryx2's",
        ),
    ]
}

/// The claims about a program, each the worst of its variants.
fn dwarf(table: &Table<'_>, program: &str, name: &str) -> Vec<Claim> {
    let mine: Vec<&What> = table.whats().filter(|what| what.0 == program).collect();
    let Some(largest) = mine.iter().map(|what| what.2).max() else {
        return Vec::new();
    };
    let smallest = mine.iter().map(|what| what.2).min().unwrap_or(largest);
    let worst = |size: Option<u64>, over: &str, under: &str, pick: fn(f64, f64) -> f64| {
        mine.iter()
            .filter(|what| size.is_none_or(|size| what.2 == size))
            .filter_map(|what| table.ratio_of_best(what, over, under, time))
            .reduce(pick)
    };
    let at_most = |ratio: Option<f64>, most: f64| ratio.map(|r| (figure(r), r <= most));
    let mut all = vec![
        claim(
            "programs",
            format!("{name} of size {largest}: two VMs, to the kernel's System V"),
            "",
            "≤ 1.05".into(),
            at_most(worst(Some(largest), TWO, KERNEL, f64::max), 1.05),
        ),
        claim(
            "programs",
            format!("{name} of size {smallest}: two VMs, to OpenMP"),
            "",
            "≤ 1".into(),
            at_most(worst(Some(smallest), TWO, "OpenMP", f64::max), 1.0),
        ),
    ];
    for mpi in ["MPICH, TCP", "Open MPI, TCP"] {
        all.push(claim(
            "programs",
            format!("{name} of any size: two VMs, to {mpi}"),
            "",
            "< 1".into(),
            at_most(worst(None, TWO, mpi, f64::max), 1.0),
        ));
    }
    all.push(claim(
        "scaling",
        format!("{name} of size {largest}: one VM, to two"),
        "scales",
        "≥ 1.8".into(),
        worst(Some(largest), ONE, TWO, f64::min).map(|r| (figure(r), r >= 1.8)),
    ));
    all
}

/// Meeting: what the library's teams cost, to what the programs have written by hand, and to the others. There is no target for it.
fn collectives(table: &Table<'_>) -> Vec<Claim> {
    let mut all = Vec::new();
    let whats = table.whats();
    for what in whats.filter(|what| what.0 == "collective" && what.2 == PARTIES as u64) {
        let name = match what.1.as_str() {
            "spread" => "broadcast",
            "all" => "allreduce",
            same => same,
        };
        for (over, under) in [
            (TWO, KERNEL),
            ("Vshmem team, two VMs", TWO),
            ("Vshmem team, two VMs", "OpenMP"),
            ("Vshmem team, two VMs", "MPICH"),
            ("Vshmem team, two VMs", "Open MPI"),
        ] {
            let ratio = table.ratio_of_best(what, over, under, time);
            all.push(claim(
                "collectives",
                format!("{name} of {} parties: {over}, to {under}", what.2),
                "",
                String::new(),
                ratio.map(|r| (figure(r), true)),
            ));
        }
    }
    all.retain(|claim| !claim.measured.is_empty());
    all
}

/// Between guests of a further port: what comes out, without a target.
fn further(table: &Table<'_>) -> Vec<Claim> {
    let what = exchange("sync", 64);
    let models: Vec<&str> = table.models(&what).iter().map(|m| m.0).collect();
    let ours = models.iter().find(|m| m.starts_with("Vshmem, two VMs of"));
    let tcp = models.iter().find(|m| m.starts_with("TCP, two VMs of"));
    let (Some(ours), Some(tcp)) = (ours, tcp) else {
        return Vec::new();
    };
    let ratio = table.ratio_of_best(&what, tcp, ours, middle);
    vec![claim(
        "further",
        format!("{tcp}: to Vshmem between them, 64 B"),
        "",
        String::new(),
        ratio.map(|r| (figure(r), true)),
    )]
}

fn figure(ratio: f64) -> String {
    match ratio {
        r if r >= 100.0 => format!("{r:.0}"),
        r if r >= 10.0 => format!("{r:.1}"),
        r if r < 0.01 => format!("{r:.2e}"),
        r => format!("{r:.3}"),
    }
}
