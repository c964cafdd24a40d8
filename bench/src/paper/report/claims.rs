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
    /// Between what the runs say that lies, with 95 %: the middle ratio of paired runs. Empty with too few of them.
    pub interval: String,
    /// Whether it is missed, but the interval holds the target: the runs do not tell.
    pub open: bool,
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
            (Some(false), _) if self.open => "missed, by less than the runs differ",
            (Some(false), _) => "missed",
            (None, true) => "not measured",
            (None, false) => "no target",
        }
    }

    fn between(mut self, interval: Option<(f64, f64)>, target: f64) -> Claim {
        if let (Some((low, high)), Some(met)) = (interval, self.met) {
            self.interval = format!("{} to {}", figure(low), figure(high));
            self.open = !met && low <= target && target <= high;
        }
        self
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
        "{:<74} {:>9} {:>10}  {:<16}  ",
        "what is claimed", "target", "measured", "95 % of the runs"
    )];
    for claim in claims {
        let line = format!(
            "{:<74} {:>9} {:>10}  {:<16}  {}",
            claim.claim,
            claim.target,
            claim.measured,
            claim.interval,
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
        interval: String::new(),
        open: false,
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
        )
        .between(table.interval(&what, TWO, KERNEL, time), 1.15),
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
        )
        .between(table.interval(&what, TCP, TWO, time), 500.0),
        claim(
            "tcp",
            "The same, by the middle exchange of the best run of each".into(),
            "",
            "≥ 500".into(),
            table
                .ratio_of_best(&what, TCP, TWO, middle)
                .map(|r| (figure(r), r >= 500.0)),
        )
        .between(table.interval(&what, TCP, TWO, middle), 500.0),
    ]
}

fn peers(table: &Table<'_>) -> Vec<Claim> {
    let half = |program: &str, ours: &str, words: &str| {
        let (what, theirs) = (exchange(program, 64), "iceoryx2 publish-subscribe");
        let ratio = table.ratio_of_best(&what, ours, theirs, middle);
        claim(
            "messages",
            words.into(),
            "",
            "≤ 0.5".into(),
            ratio.map(|r| (figure(r), r <= 0.5)),
        )
        .between(table.interval(&what, ours, theirs, middle), 0.5)
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
    // The ratio that is farthest on the wrong side, and the interval of the same.
    let worst = |size: Option<u64>, over: &str, under: &str, greatest: bool| {
        let wrong = |ratio: f64| if greatest { ratio } else { -ratio };
        mine.iter()
            .filter(|what| size.is_none_or(|size| what.2 == size))
            .filter_map(|what| Some((what, table.ratio_of_best(what, over, under, time)?)))
            .max_by(|a, b| wrong(a.1).total_cmp(&wrong(b.1)))
            .map(|(what, ratio)| (ratio, table.interval(what, over, under, time)))
    };
    let judged = |name: String, target: &str, most: f64, worst: Option<(f64, Option<(f64, f64)>)>| {
        claim(
            "programs",
            name,
            "",
            target.into(),
            worst.map(|(ratio, _)| (figure(ratio), ratio <= most)),
        )
        .between(worst.and_then(|worst| worst.1), most)
    };
    let mut all = vec![
        judged(
            format!("{name} of size {largest}: two VMs, to the kernel's System V"),
            "≤ 1.05",
            1.05,
            worst(Some(largest), TWO, KERNEL, true),
        ),
        judged(
            format!("{name} of size {smallest}: two VMs, to OpenMP"),
            "≤ 1",
            1.0,
            worst(Some(smallest), TWO, "OpenMP", true),
        ),
    ];
    for mpi in ["MPICH, TCP", "Open MPI, TCP"] {
        all.push(judged(
            format!("{name} of any size: two VMs, to {mpi}"),
            "< 1",
            1.0,
            worst(None, TWO, mpi, true),
        ));
    }
    let scaling = worst(Some(largest), ONE, TWO, false);
    let scales = claim(
        "scaling",
        format!("{name} of size {largest}: one VM, to two"),
        "scales",
        "≥ 1.8".into(),
        scaling.map(|(ratio, _)| (figure(ratio), ratio >= 1.8)),
    );
    all.push(scales.between(scaling.and_then(|worst| worst.1), 1.8));
    // What the machine's second core gives to the same program without any VM.
    let native = worst(Some(largest), "serial", KERNEL, false);
    all.push(claim(
        "scaling",
        format!("{name} of size {largest}: one process, to two, of the kernel alone"),
        "",
        String::new(),
        native.map(|(ratio, _)| (figure(ratio), true)),
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
