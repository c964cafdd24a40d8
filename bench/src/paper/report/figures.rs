//! The paper's figures, from samples.

use super::plot::{Plot, Series};
use crate::paper::sample::Sample;

/// A figure: one or several plots.
#[derive(Debug, Clone, PartialEq)]
pub struct Figure {
    /// Its number in the paper, if it has one there.
    pub number: &'static str,
    /// What it shows.
    pub title: &'static str,
    /// Its plots.
    pub plots: Vec<Plot>,
}

const BYTES: &str = "bytes passed there and back";
const EXCHANGE: &str = "time of an exchange";
const WHOLE: &str = "time of all iterations";

/// The figures that these samples fill; one without a sample is left out.
pub fn figures(samples: &[Sample]) -> Vec<Figure> {
    let mut all = vec![
        exchanges(
            "4",
            "Sockets between two VMs and within one",
            "figure-4",
            samples,
            &["socket"],
            |_| true,
        ),
        exchanges(
            "7",
            "Control passed by V-sem over V-shm, by the kernel's, and by sockets",
            "figure-7",
            samples,
            &["sync", "socket"],
            |model| !model.contains("UDP") && !model.contains("pipe"),
        ),
        variances(samples),
    ];
    let one = |program, variant: &'static str, title: String, x, repetitions| {
        plot(program, variant, title, x, repetitions, samples)
    };
    let mut blas = Vec::new();
    for program in ["blas1", "blas2", "blas3"] {
        for (variant, precision) in [("f32", "single"), ("f64", "double")] {
            let title = format!("BLAS {}, {precision} precision", &program[4..]);
            blas.push(one(program, variant, title, "elements, or rows", None));
        }
    }
    all.push(Figure {
        number: "8",
        title: "Dense linear algebra",
        plots: blas,
    });
    all.push(Figure {
        number: "9",
        title: "Laplace's equation by Jacobi's method",
        plots: vec![one(
            "laplace",
            "f64",
            "An iteration on n × n cells".into(),
            "n",
            None,
        )],
    });
    all.push(Figure {
        number: "10",
        title: "π by integration, broadcast and reduction",
        plots: vec![one("pi", "f64", "One integration".into(), "intervals", None)],
    });
    let mut nbody = Vec::new();
    for variant in ["2d", "3d"] {
        for steps in [10, 100] {
            let title = format!("{} dimensions, {steps} steps", &variant[..1]);
            nbody.push(one("nbody", variant, title, "particles", Some(steps)));
        }
    }
    all.push(Figure {
        number: "11",
        title: "Molecular dynamics by velocity Verlet",
        plots: nbody,
    });
    all.push(collectives(samples));
    all.push(exchanges(
        "",
        "The peers of today",
        "peers",
        samples,
        &["peers"],
        |_| true,
    ));
    all.push(exchanges(
        "",
        "Sent and received within one process",
        "pair",
        samples,
        &["pair"],
        |_| true,
    ));
    for figure in &mut all {
        figure.plots.retain(|plot| !plot.series.is_empty());
    }
    all.retain(|figure| !figure.plots.is_empty());
    all
}

/// Lines by model, in the order of the models' first appearance.
fn series<'a>(samples: impl Iterator<Item = &'a Sample>, value: impl Fn(&Sample) -> f64) -> Vec<Series> {
    let mut all: Vec<Series> = Vec::new();
    for sample in samples {
        let point = (sample.size as f64, value(sample));
        match all.iter_mut().find(|s| s.name == sample.model) {
            Some(one) => one.points.push(point),
            None => all.push(Series {
                name: sample.model.clone(),
                points: vec![point],
            }),
        }
    }
    all
}

fn exchanges(
    number: &'static str,
    title: &'static str,
    name: &str,
    samples: &[Sample],
    programs: &[&str],
    wanted: fn(&str) -> bool,
) -> Figure {
    let chosen = samples
        .iter()
        .filter(|s| programs.contains(&s.program.as_str()) && wanted(&s.model));
    let plot = Plot {
        name: name.into(),
        title: title.into(),
        x: BYTES,
        y: EXCHANGE,
        series: series(chosen, |s| s.nanoseconds),
    };
    Figure {
        number,
        title,
        plots: vec![plot],
    }
}

/// The spread that the paper gives as standard deviation.
fn variances(samples: &[Sample]) -> Figure {
    let chosen = samples.iter().filter(|s| s.program == "sync");
    let plot = Plot {
        name: "figure-7-deviation".into(),
        title: "Standard deviation of the exchanges".into(),
        x: BYTES,
        y: "standard deviation",
        series: series(chosen, |s| s.spread.map_or(0.0, |spread| spread.variance.sqrt())),
    };
    Figure {
        number: "7",
        title: "Its standard deviation",
        plots: vec![plot],
    }
}

/// What meeting costs, by the number of parties.
fn collectives(samples: &[Sample]) -> Figure {
    let names = [
        ("barrier", "Barrier"),
        ("spread", "Broadcast of a number"),
        ("reduce", "Reduction of a number to one"),
        ("all", "Reduction of a number to all"),
    ];
    let plots = names.map(|(variant, title)| {
        let chosen = samples
            .iter()
            .filter(|s| s.program == "collective" && s.variant == variant);
        Plot {
            name: format!("collective-{variant}"),
            title: title.into(),
            x: "parties",
            y: "time of one",
            series: series(chosen, |s| s.nanoseconds / s.repetitions as f64),
        }
    });
    Figure {
        number: "",
        title: "Collectives: by hand (System V), by teams of the library, by OpenMP and MPI; more parties than cores share these",
        plots: plots.into(),
    }
}

/// A program's plot: time of one repetition where their number differs by size, else of all.
fn plot(
    program: &str,
    variant: &str,
    title: String,
    x: &'static str,
    repetitions: Option<u64>,
    samples: &[Sample],
) -> Plot {
    let chosen = samples.iter().filter(|s| {
        s.program == program && s.variant == variant && repetitions.is_none_or(|r| s.repetitions == r)
    });
    let each = matches!(program, "laplace" | "pi");
    Plot {
        name: match repetitions {
            Some(steps) => format!("{program}-{variant}-{steps}"),
            None => format!("{program}-{variant}"),
        },
        title,
        x,
        y: if each { "time of an iteration" } else { WHOLE },
        series: series(chosen, |s| {
            if each {
                s.nanoseconds / s.repetitions as f64
            } else {
                s.nanoseconds
            }
        }),
    }
}
