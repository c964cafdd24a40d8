//! One result of a benchmark: a value, its baseline, their ratio.

use serde::Serialize;

/// A line of `vshmem bench micro --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// Where the two parties ran: `local`, `uml`, …
    pub domains: String,
    /// Median over the rounds.
    pub value: f64,
    /// Unit of `value` and `baseline_value`: `ns`, or `MB/s` where more is better.
    pub unit: String,
    /// What it is compared with.
    pub baseline: String,
    /// Median over the rounds, measured in turn with `value`.
    pub baseline_value: f64,
    /// Median of the rounds' ratios `value / baseline`.
    pub ratio: f64,
    /// What must be known to read the figures, such as `software emulation`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The target for the ratio, and whether it is a lower bound; not part of the JSON.
    #[serde(skip)]
    pub target: Option<Target>,
}

/// What a ratio should be.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Target {
    /// No larger than this.
    AtMost(f64),
    /// No smaller than this.
    AtLeast(f64),
}

impl Target {
    /// Whether a ratio meets it.
    pub fn met(self, ratio: f64) -> bool {
        match self {
            Target::AtMost(most) => ratio <= most,
            Target::AtLeast(least) => ratio >= least,
        }
    }
}

impl Row {
    /// A row from pairs of (value, baseline), one a round.
    pub fn from_rounds(name: &str, domains: &str, unit: &str, baseline: &str, rounds: &[(f64, f64)]) -> Row {
        Row {
            name: name.into(),
            domains: domains.into(),
            value: median(rounds.iter().map(|r| r.0)),
            unit: unit.into(),
            baseline: baseline.into(),
            baseline_value: median(rounds.iter().map(|r| r.1)),
            ratio: median(rounds.iter().map(|r| r.0 / r.1)),
            note: None,
            target: None,
        }
    }

    /// The row with a target.
    pub fn target(mut self, target: Target) -> Row {
        self.target = Some(target);
        self
    }

    /// The row of guests whose instructions are run by software: a target that is meant for a processor is none for them.
    pub fn emulated(mut self) -> Row {
        self.note = Some("software emulation".into());
        self.target = None;
        self
    }

    /// The heading of the table that [`Row::line`] writes.
    pub fn heading() -> String {
        format!(
            "{:<24} {:<10} {:>12} {:>12} {:>8}  {:<9} against",
            "benchmark", "domains", "value", "baseline", "ratio", "target"
        )
    }

    /// A line for people.
    pub fn line(&self) -> String {
        let target = match self.target {
            Some(Target::AtMost(most)) => format!("<= {most}"),
            Some(Target::AtLeast(least)) => format!(">= {least}"),
            None => String::new(),
        };
        let note = self
            .note
            .as_ref()
            .map_or(String::new(), |note| format!(" ({note})"));
        let mark = if self.target.is_some_and(|t| !t.met(self.ratio)) {
            " (missed)"
        } else {
            ""
        };
        format!(
            "{:<24} {:<10} {:>9.1} {:<4} {:>8.1} {:<4} {:>5.3}  {:<9} {}{note}{mark}",
            self.name,
            self.domains,
            self.value,
            self.unit,
            self.baseline_value,
            self.unit,
            self.ratio,
            target,
            self.baseline
        )
    }
}

/// The median; NaN of nothing.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = values.collect();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => (sorted[n / 2 - 1] + sorted[n / 2]) / 2.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_the_median_of_ratios() {
        let row = Row::from_rounds(
            "x",
            "local",
            "ns",
            "kernel",
            &[(1.0, 10.0), (3.0, 10.0), (100.0, 10.0)],
        );
        assert_eq!((row.value, row.baseline_value, row.ratio), (3.0, 10.0, 0.3));
        let json: serde_json::Value = serde_json::from_str(&serde_json::to_string(&row).unwrap()).unwrap();
        for field in [
            "name",
            "domains",
            "value",
            "unit",
            "baseline",
            "baseline_value",
            "ratio",
        ] {
            assert!(json.get(field).is_some(), "{field}");
        }
    }

    #[test]
    fn emulation_is_told_and_has_no_target() {
        let row = Row::from_rounds("x", "q", "ns", "b", &[(1.0, 1.0)])
            .target(Target::AtMost(0.1))
            .emulated();
        assert!(row.line().contains("(software emulation)") && !row.line().contains("missed"));
        assert!(
            serde_json::to_string(&row)
                .unwrap()
                .contains("software emulation")
        );
    }

    #[test]
    fn targets_are_bounds() {
        assert!(Target::AtMost(0.5).met(0.5) && !Target::AtMost(0.5).met(0.6));
        assert!(Target::AtLeast(0.5).met(0.5) && !Target::AtLeast(0.5).met(0.4));
    }
}
