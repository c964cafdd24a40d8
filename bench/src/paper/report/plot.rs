//! One plot: for each model a line through the means of its runs and a dot for each run, on logarithmic axes.

use anyhow::{Result, anyhow};
use plotters::prelude::*;
use std::collections::BTreeMap;

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

/// Colours that differ for the colour-blind as well, in the order of the series.
const COLOURS: [RGBColor; 10] = [
    RGBColor(90, 90, 90),
    RGBColor(0, 0, 0),
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(240, 170, 110),
    RGBColor(0, 158, 115),
    RGBColor(86, 180, 233),
    RGBColor(40, 90, 130),
    RGBColor(204, 121, 167),
    RGBColor(130, 60, 100),
];

impl Plot {
    /// The file's name.
    pub fn file(&self) -> String {
        format!("{}.svg", self.name)
    }

    /// Smallest and largest of one coordinate, a little widened.
    fn range(&self, of: fn(&(f64, f64)) -> f64) -> Option<std::ops::Range<f64>> {
        let all = || {
            self.series
                .iter()
                .flat_map(|s| s.points.iter().map(of))
                .filter(|v| *v > 0.0)
        };
        let least = all().reduce(f64::min)?;
        let most = all().reduce(f64::max)?;
        Some(least / 1.3..most * 1.3)
    }

    /// The plot as SVG.
    ///
    /// # Errors
    /// When it has no point, or the drawing library fails.
    pub fn svg(&self) -> Result<String> {
        let mut text = String::new();
        self.draw(&mut text)
            .map_err(|error| anyhow!("figure {}: {error}", self.name))?;
        Ok(text)
    }

    fn draw(&self, text: &mut String) -> Result<(), Box<dyn std::error::Error + '_>> {
        let (x, y) = (
            self.range(|p| p.0).ok_or("it has no point")?,
            self.range(|p| p.1).ok_or("it has no point")?,
        );
        let area = SVGBackend::with_string(text, (640, 420)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 15))
            .margin(8)
            .margin_right(14)
            .x_label_area_size(36)
            .y_label_area_size(64)
            .build_cartesian_2d(x.log_scale(), y.log_scale())?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .light_line_style(RGBColor(245, 245, 245))
            .bold_line_style(RGBColor(225, 225, 225))
            .x_label_formatter(&|value| rounded(*value))
            .y_label_formatter(&|value| time(*value))
            .draw()?;
        for (series, colour) in self.series.iter().zip(COLOURS.iter().cycle()) {
            let dots = series
                .points
                .iter()
                .map(|p| Circle::new(*p, 2, colour.mix(0.45).filled()));
            chart.draw_series(dots)?;
            let line = LineSeries::new(means(&series.points), colour.stroke_width(2));
            chart
                .draw_series(line)?
                .label(series.name.as_str())
                .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .label_font(("sans-serif", 11))
            .background_style(WHITE.mix(0.8))
            .border_style(RGBColor(210, 210, 210))
            .draw()?;
        area.present()?;
        drop(chart);
        Ok(())
    }
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

/// A size on an axis.
fn rounded(value: f64) -> String {
    match value {
        v if v >= 1e6 => format!("{:.0}M", v / 1e6),
        v if v >= 1e4 => format!("{:.0}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Nanoseconds on an axis.
fn time(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.0} s", v / 1e9),
        v if v >= 1e6 => format!("{:.0} ms", v / 1e6),
        v if v >= 1e3 => format!("{:.0} µs", v / 1e3),
        v => format!("{v:.0} ns"),
    }
}
