//! One plot: for each model a line through the means of its runs and a dot for each run, on logarithmic axes, drawn as SVG.
//!
//! A model has the same colour in every plot; lines are named beside the plot, from the slowest to the fastest, so that the names cover nothing.

use anyhow::{Result, ensure};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its name.
    pub name: String,
    /// Size and value of each run.
    pub points: Vec<(f64, f64)>,
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// What its file is called, without an ending.
    pub name: String,
    /// Above it.
    pub title: String,
    /// Below it.
    pub x: &'static str,
    /// Beside it.
    pub y: &'static str,
    /// Its lines.
    pub series: Vec<Series>,
}

/// The picture, wider where the names beside it are long, and the part of it that is between the axes.
const SIZE: (f64, f64) = (820.0, 420.0);
/// Room for a letter of a name.
const LETTER: f64 = 6.0;
const LEFT: f64 = 74.0;
const RIGHT: f64 = 570.0;
/// Where the names begin, right of the axes.
const NAMES: f64 = 44.0;
const TOP: f64 = 34.0;
const BOTTOM: f64 = 368.0;
/// Least distance of two numbers below the plot.
const APART: f64 = 44.0;

/// Colours that differ for the colour-blind as well; what is dashed goes by TCP, or is one alone.
const COLOURS: &[(&str, &str)] = &[
    ("serial", "#888888"),
    ("kernel", "#000000"),
    ("Vshmem team, one domain", "#6a9fd4"),
    ("Vshmem team, two VMs", "#e69f00"),
    ("Vshmem, one domain", "#0072b2"),
    ("Vshmem queue, one domain", "#0072b2"),
    ("Vshmem, one VM", "#d55e00"),
    ("Vshmem, two VMs of", "#a63603"),
    ("Vshmem", "#d55e00"),
    ("OpenMP", "#009e73"),
    ("MPICH", "#7b3294"),
    ("Open MPI", "#c51b8a"),
    ("iceoryx2 publish-subscribe", "#009e73"),
    ("iceoryx2", "#66c2a5"),
    ("TCP, two VMs of", "#54278f"),
    ("TCP, two VMs", "#7b3294"),
    ("TCP", "#b08bc7"),
    ("UDP, two VMs", "#c51b8a"),
    ("UDP", "#e79ac6"),
    ("vsock", "#8c6d31"),
    ("unix", "#56b4e9"),
    ("pipe", "#999933"),
    ("POSIX shm + futex", "#56b4e9"),
    ("POSIX shm + eventfd", "#8c6d31"),
    ("POSIX mq", "#888888"),
    ("ZeroMQ", "#c51b8a"),
];

/// A model's colour.
fn colour(name: &str) -> &'static str {
    let found = COLOURS.iter().find(|(start, _)| name.starts_with(start));
    found.map_or("#444444", |(_, colour)| colour)
}

/// How its line is drawn.
fn dashes(name: &str) -> &'static str {
    let dashed = name.ends_with(", TCP") || name.ends_with("one VM") || name.contains("VMs of");
    if dashed { " stroke-dasharray=\"5 4\"" } else { "" }
}

/// From values to places, by their logarithms.
struct Axis {
    least: f64,
    most: f64,
    begin: f64,
    end: f64,
}

impl Axis {
    /// An axis for these values, a little longer than they need.
    fn new(values: impl Iterator<Item = f64> + Clone, begin: f64, end: f64) -> Option<Axis> {
        let positive = values.filter(|v| *v > 0.0 && v.is_finite());
        let least = positive.clone().reduce(f64::min)?;
        let most = positive.reduce(f64::max)?;
        Some(Axis {
            least: least / 1.25,
            most: most * 1.25,
            begin,
            end,
        })
    }

    fn place(&self, value: f64) -> f64 {
        let part = (value / self.least).ln() / (self.most / self.least).ln();
        self.begin + part * (self.end - self.begin)
    }

    /// Round numbers on it: powers of ten, and between them where there are few.
    fn ticks(&self) -> Vec<f64> {
        let steps: &[f64] = match (self.most / self.least).log10() {
            decades if decades < 1.5 => &[1.0, 2.0, 3.0, 5.0, 7.0],
            decades if decades < 3.0 => &[1.0, 2.0, 5.0],
            _ => &[1.0],
        };
        let (first, last) = (self.least.log10().floor() as i32, self.most.log10().ceil() as i32);
        (first..=last)
            .flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)))
            .filter(|value| (self.least..=self.most).contains(value))
            .collect()
    }
}

impl Plot {
    /// The file's name.
    pub fn file(&self) -> String {
        format!("{}.svg", self.name)
    }

    fn values(&self, of: fn(&(f64, f64)) -> f64) -> impl Iterator<Item = f64> + Clone {
        self.series.iter().flat_map(move |s| s.points.iter().map(of))
    }

    /// The plot as SVG.
    ///
    /// # Errors
    /// When it has no point.
    pub fn svg(&self) -> Result<String> {
        let x = Axis::new(self.values(|p| p.0), LEFT, RIGHT);
        let y = Axis::new(self.values(|p| p.1), BOTTOM, TOP);
        ensure!(
            x.is_some() && y.is_some(),
            "figure {}: it has no point",
            self.name
        );
        let (Some(x), Some(y)) = (x, y) else {
            unreachable!("looked at above")
        };
        let longest = self.series.iter().map(|s| s.name.chars().count()).max();
        let names = RIGHT + NAMES + LETTER * longest.unwrap_or_default() as f64;
        let (width, height) = (SIZE.0.max(names), SIZE.1);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
             font-family=\"sans-serif\" font-size=\"11\" fill=\"#222\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n"
        );
        let middle = (LEFT + RIGHT) / 2.0;
        text(&mut svg, middle, 18.0, "middle\" font-size=\"14", &self.title);
        text(&mut svg, middle, BOTTOM + 36.0, "middle", self.x);
        let turned = format!("middle\" transform=\"rotate(-90 14 {0})", (TOP + BOTTOM) / 2.0);
        text(&mut svg, 14.0, (TOP + BOTTOM) / 2.0, &turned, self.y);
        self.axes(&mut svg, &x, &y);
        self.lines(&mut svg, &x, &y);
        self.names(&mut svg);
        svg.push_str("</svg>\n");
        Ok(svg)
    }

    fn axes(&self, svg: &mut String, x: &Axis, y: &Axis) {
        for value in y.ticks() {
            let at = y.place(value);
            line(svg, (LEFT, at), (RIGHT, at), "#e4e4e4");
            text(svg, LEFT - 6.0, at + 4.0, "end", &time(value));
        }
        let mut sizes: Vec<f64> = self.values(|p| p.0).collect();
        sizes.sort_by(f64::total_cmp);
        sizes.dedup();
        let mut free = f64::NEG_INFINITY;
        for size in sizes {
            let at = x.place(size);
            line(svg, (at, TOP), (at, BOTTOM), "#f0f0f0");
            line(svg, (at, BOTTOM), (at, BOTTOM + 4.0), "#222");
            if at >= free {
                text(svg, at, BOTTOM + 17.0, "middle", &self.size(size));
                free = at + APART;
            }
        }
        line(svg, (LEFT, BOTTOM), (RIGHT, BOTTOM), "#222");
        line(svg, (LEFT, TOP), (LEFT, BOTTOM), "#222");
    }

    fn lines(&self, svg: &mut String, x: &Axis, y: &Axis) {
        for series in &self.series {
            let colour = colour(&series.name);
            let place = |(size, value): (f64, f64)| (x.place(size), y.place(value));
            let _ = writeln!(svg, "<g fill=\"{colour}\" fill-opacity=\"0.4\">");
            for point in series.points.iter().filter(|p| p.1 > 0.0) {
                let (cx, cy) = place(*point);
                let _ = write!(svg, "<circle cx=\"{cx:.1}\" cy=\"{cy:.1}\" r=\"2.4\"/>");
            }
            svg.push_str("</g>\n");
            let path: Vec<String> = means(&series.points)
                .into_iter()
                .filter(|p| p.1 > 0.0)
                .map(|point| {
                    let (px, py) = place(point);
                    format!("{px:.1},{py:.1}")
                })
                .collect();
            let _ = writeln!(
                svg,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.8\"{}/>",
                path.join(" "),
                dashes(&series.name)
            );
        }
    }

    /// The lines' names, the slowest at the largest size first.
    fn names(&self, svg: &mut String) {
        let last = |series: &Series| means(&series.points).last().copied().unwrap_or((0.0, 0.0));
        let mut order: Vec<&Series> = self.series.iter().collect();
        order.sort_by(|a, b| last(b).1.total_cmp(&last(a).1));
        for (i, series) in order.into_iter().enumerate() {
            let at = TOP + 10.0 + 18.0 * i as f64;
            let _ = writeln!(
                svg,
                "<line x1=\"{}\" y1=\"{at}\" x2=\"{}\" y2=\"{at}\" stroke=\"{}\" stroke-width=\"2.4\"{}/>",
                RIGHT + 14.0,
                RIGHT + 38.0,
                colour(&series.name),
                dashes(&series.name)
            );
            text(svg, RIGHT + NAMES, at + 4.0, "start", &series.name);
        }
    }

    /// A size below the plot: bytes by powers of two, everything else by powers of ten.
    fn size(&self, value: f64) -> String {
        let scaled = |unit: f64, name: &str| {
            let part = (value / unit * 10.0).round() / 10.0;
            format!("{part}{name}")
        };
        match (self.x.contains("bytes"), value) {
            (true, v) if v >= 1048576.0 => scaled(1048576.0, " MiB"),
            (true, v) if v >= 1024.0 => scaled(1024.0, " KiB"),
            (false, v) if v >= 1e6 => scaled(1e6, " M"),
            (false, v) if v >= 1e4 => scaled(1e3, " k"),
            _ => format!("{value:.0}"),
        }
    }
}

fn line(svg: &mut String, from: (f64, f64), to: (f64, f64), colour: &str) {
    let _ = writeln!(
        svg,
        "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"{colour}\"/>",
        from.0, from.1, to.0, to.1
    );
}

fn text(svg: &mut String, x: f64, y: f64, anchor: &str, words: &str) {
    let words = super::page::escaped(words);
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{words}</text>"
    );
}

/// The mean of the values at each size.
fn means(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let mut at: BTreeMap<u64, (f64, f64, f64)> = BTreeMap::new();
    for (size, value) in points {
        let entry = at.entry(size.to_bits()).or_insert((*size, 0.0, 0.0));
        entry.1 += value;
        entry.2 += 1.0;
    }
    at.into_values()
        .map(|(size, sum, count)| (size, sum / count))
        .collect()
}

/// Nanoseconds on an axis.
fn time(value: f64) -> String {
    match value {
        v if v >= 0.999e9 => format!("{:.0} s", v / 1e9),
        v if v >= 0.999e6 => format!("{:.0} ms", v / 1e6),
        v if v >= 0.999e3 => format!("{:.0} µs", v / 1e3),
        v => format!("{v:.0} ns"),
    }
}
