//! A report of made-up samples.

use super::*;
use crate::paper::Spread;
use crate::paper::campaign::Gap;

fn sample(program: &str, variant: &str, model: &str, size: u64, run: usize, nanoseconds: f64) -> Sample {
    let spread = Spread {
        variance: nanoseconds,
        p50: nanoseconds,
        p90: nanoseconds,
        p99: nanoseconds,
        p999: nanoseconds,
        least: nanoseconds,
        most: nanoseconds,
    };
    Sample {
        program: program.into(),
        variant: variant.into(),
        model: model.into(),
        size,
        repetitions: 10,
        run,
        nanoseconds,
        value: None,
        spread: matches!(program, "sync" | "socket" | "peers" | "pair").then_some(spread),
    }
}

fn samples() -> Vec<Sample> {
    let mut all = Vec::new();
    for run in 0..2 {
        for (program, model, time) in [
            ("sync", "kernel System V", 50_000.0),
            ("sync", "Vshmem, two VMs", 200.0),
            ("socket", "TCP, two VMs", 140_000.0),
            ("peers", "iceoryx2 publish-subscribe", 1_800.0),
            ("peers", "Vshmem queue, one domain", 950.0),
        ] {
            all.extend(
                [64, 1024].map(|size| sample(program, "", model, size, run, time + size as f64 / 100.0)),
            );
        }
        for (model, time) in [
            ("kernel System V", 1e6),
            ("Vshmem, two VMs", 1.01e6),
            ("Vshmem, one VM", 1.7e6),
            ("MPICH, TCP", 9e6),
        ] {
            all.extend([32, 512].map(|size| sample("laplace", "f64", model, size, run, time * size as f64)));
        }
    }
    all
}

#[test]
fn claims_are_judged_by_the_samples_and_left_open_without_them() {
    let claims = claims::claims(&samples());
    let met = |start: &str| {
        let found: Vec<_> = claims.iter().filter(|c| c.claim.starts_with(start)).collect();
        assert_eq!(found.len(), 1, "{start}");
        (found[0].met, found[0].measured.as_str())
    };
    assert_eq!(met("Control between two VMs"), (Some(true), "4.01e-3"));
    assert_eq!(met("TCP between the same"), (Some(true), "698"));
    assert_eq!(met("A message of 64 B there"), (Some(false), "0.528"));
    assert_eq!(met("A message of 64 B sent"), (None, ""));
    assert_eq!(met("Laplace of size 512: two VMs"), (Some(true), "1.010"));
    assert_eq!(met("Laplace of size 512: one VM"), (Some(false), "1.683"));
    assert_eq!(
        met("Laplace of any size: two VMs, to MPICH"),
        (Some(true), "0.112")
    );
    assert_eq!(met("Laplace of size 32: two VMs, to OpenMP"), (None, ""));
}

#[test]
fn everything_is_written_and_says_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let outcome = Outcome {
        samples: samples(),
        gaps: vec![Gap {
            name: "programs: Open MPI".into(),
            why: "<not> here".into(),
            failed: false,
        }],
    };
    let options = ReportOptions {
        extent: Extent::Short,
        rounds: 2,
        out: folder.path().into(),
        only: Vec::new(),
    };
    let machine = machine::Machine::look(Err("none".into()));
    write(folder.path(), &outcome, &machine, &options).unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    assert_eq!(read("samples.csv").lines().count(), 1 + outcome.samples.len());
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    assert_eq!(
        json["samples"].as_array().map(Vec::len),
        Some(outcome.samples.len())
    );
    let html = read("index.html");
    assert!(html.contains("&lt;not&gt; here") && html.contains("class=\"missed\""));
    for file in ["figure-4.svg", "figure-7.svg", "laplace-f64.svg", "peers.svg"] {
        assert!(html.contains(file), "{file}");
        let svg = read(file);
        assert!(
            svg.starts_with("<svg") && svg.contains("<polyline") && svg.contains("<circle"),
            "{file}"
        );
    }
    assert!(!html.contains("Figure 8"), "a figure without samples");
    // What is missed points to a chapter that is there.
    let chapters = include_str!("../../../../docs/evaluation/README.md").to_lowercase();
    let claims = claims::claims(&outcome.samples);
    assert!(claims.iter().any(|claim| claim.met == Some(false)));
    for claim in &claims {
        assert!(
            chapters.contains(&format!("\n## {}\n", claim.explained)),
            "{claim:?}"
        );
    }
    let told = claims::lines(&claims);
    let missed = claims.iter().filter(|claim| claim.met == Some(false));
    assert!(
        missed
            .clone()
            .all(|claim| told.contains(&format!("    {}", claim.page())))
    );
    assert!(
        told.last()
            .is_some_and(|line| line.ends_with(&format!("{} missed", missed.count())))
    );
}

#[test]
fn lines_go_through_means_and_dots_are_runs() {
    let plot = plot::Plot {
        name: "x".into(),
        title: "x".into(),
        x: "x",
        y: "y",
        series: vec![plot::Series {
            name: "a".into(),
            points: vec![(1.0, 10.0), (1.0, 30.0), (8.0, 5.0)],
        }],
    };
    let svg = plot.svg().unwrap();
    assert_eq!(svg.matches("<circle").count(), 3);
    assert!(
        plot::Plot {
            series: Vec::new(),
            ..plot
        }
        .svg()
        .is_err()
    );
}
