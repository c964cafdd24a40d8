//! What many runs of one thing say together.

use super::sample::Sample;
use crate::row::median;
use std::collections::BTreeMap;

/// What is measured: program, variant, size, repetitions.
pub type What = (String, String, u64, u64);

/// All samples, by what was measured and by model, in the order of the models' first appearance.
#[derive(Debug, Default)]
pub struct Table<'a> {
    groups: BTreeMap<What, Vec<(&'a str, Vec<&'a Sample>)>>,
}

impl<'a> Table<'a> {
    /// Sorts samples.
    pub fn new(samples: &'a [Sample]) -> Table<'a> {
        let mut table = Table::default();
        for sample in samples {
            let what = (
                sample.program.clone(),
                sample.variant.clone(),
                sample.size,
                sample.repetitions,
            );
            let models = table.groups.entry(Table::joint(what)).or_default();
            match models.iter_mut().find(|(model, _)| *model == sample.model) {
                Some((_, all)) => all.push(sample),
                None => models.push((&sample.model, vec![sample])),
            }
        }
        table
    }

    /// Exchanges are measured by their mean: how many there were does not make them another thing.
    fn joint(what: What) -> What {
        match what.0.as_str() {
            "sync" | "socket" | "peers" | "pair" => (what.0, what.1, what.2, 0),
            _ => what,
        }
    }

    /// What was measured, in order.
    pub fn whats(&self) -> impl Iterator<Item = &What> {
        self.groups.keys()
    }

    /// The models that measured something, with their samples.
    pub fn models(&self, what: &What) -> &[(&'a str, Vec<&'a Sample>)] {
        self.groups.get(what).map_or(&[], Vec::as_slice)
    }

    /// The samples of one thing in one model.
    pub fn samples(&self, what: &What, model: &str) -> &[&'a Sample] {
        let found = self.models(what).iter().find(|(name, _)| *name == model);
        found.map_or(&[], |(_, samples)| samples.as_slice())
    }

    /// The median over the runs of the ratio of two models in the same run; `of` says what of a sample is compared. None if they have no run in common.
    pub fn ratio(&self, what: &What, over: &str, under: &str, of: fn(&Sample) -> f64) -> Option<f64> {
        let ratios = self.ratios(what, over, under, of);
        (!ratios.is_empty()).then(|| median(ratios.into_iter()))
    }

    /// The interval that holds the middle ratio of two models in the same run with 95 %, by the sign test: whatever the runs scatter like. None
    /// with fewer than six runs in common, which cannot tell.
    pub fn interval(
        &self,
        what: &What,
        over: &str,
        under: &str,
        of: fn(&Sample) -> f64,
    ) -> Option<(f64, f64)> {
        let mut ratios = self.ratios(what, over, under, of);
        ratios.sort_by(f64::total_cmp);
        let skip = outside(ratios.len())?;
        Some((*ratios.get(skip)?, *ratios.get(ratios.len() - 1 - skip)?))
    }

    fn ratios(&self, what: &What, over: &str, under: &str, of: fn(&Sample) -> f64) -> Vec<f64> {
        let below = self.samples(what, under);
        self.samples(what, over)
            .iter()
            .filter_map(|a| Some(of(a) / of(below.iter().find(|b| b.run == a.run)?)))
            .collect()
    }

    /// The ratio of the best runs of two models: what they can do when nothing else wants their cores, which a run of milliseconds on a shared
    /// machine rarely shows. None if one of them has no run.
    pub fn ratio_of_best(&self, what: &What, over: &str, under: &str, of: fn(&Sample) -> f64) -> Option<f64> {
        let best = |model| self.samples(what, model).iter().map(|s| of(s)).reduce(f64::min);
        Some(best(over)? / best(under)?)
    }
}

/// How many of `runs` sorted values lie outside the interval at each end: so many that a median beyond them would be met in 5 % at most.
fn outside(runs: usize) -> Option<usize> {
    // Of coins thrown, the share in which so few show heads, or so few tails.
    let (mut share, mut term) = (0.0, 2.0 * 0.5f64.powi(i32::try_from(runs).ok()?));
    let mut skip = None;
    for heads in 0..runs {
        share += term;
        if share > 0.05 {
            break;
        }
        skip = Some(heads);
        term *= (runs - heads) as f64 / (heads + 1) as f64;
    }
    skip
}

/// Nanoseconds of a sample: the program's, or the mean exchange's.
pub fn time(sample: &Sample) -> f64 {
    sample.nanoseconds
}

/// The middle exchange's nanoseconds, which what else runs on the machine disturbs least; of other programs their time.
pub fn middle(sample: &Sample) -> f64 {
    sample.spread.map_or(sample.nanoseconds, |spread| spread.p50)
}

/// Variance of the exchanges.
pub fn variance(sample: &Sample) -> f64 {
    sample.spread.map_or(f64::NAN, |spread| spread.variance)
}

/// Lines for people: every model of every thing, with its ratio to the first.
pub fn lines(samples: &[Sample]) -> Vec<String> {
    let table = Table::new(samples);
    let mut lines = vec![format!(
        "{:<16} {:>9}  {:<28} {:>12} {:>12} {:>12} {:>12} {:>7}",
        "program", "size", "model", "median run", "least", "p50", "p99", "ratio"
    )];
    for what in table.whats() {
        let models = table.models(what);
        for (model, all) in models {
            let of = |f: fn(&Sample) -> f64| median(all.iter().map(|s| f(s)));
            let least = all.iter().map(|s| s.nanoseconds).fold(f64::INFINITY, f64::min);
            let part = |f: fn(&super::Spread) -> f64| {
                let values: Vec<f64> = all.iter().filter_map(|s| s.spread.as_ref().map(f)).collect();
                match values.is_empty() {
                    true => String::new(),
                    false => shown(median(values.into_iter())),
                }
            };
            let ratio = table.ratio(what, model, models[0].0, middle);
            lines.push(format!(
                "{:<16} {:>9}  {:<28} {:>12} {:>12} {:>12} {:>12} {:>7.3}",
                [what.0.as_str(), what.1.as_str()].join(" "),
                match what.3 {
                    0 => what.2.to_string(),
                    n => format!("{}×{n}", what.2),
                },
                model,
                shown(of(time)),
                shown(least),
                part(|s| s.p50),
                part(|s| s.p99),
                ratio.unwrap_or(f64::NAN)
            ));
        }
    }
    lines
}

/// Nanoseconds for people.
pub fn shown(nanoseconds: f64) -> String {
    match nanoseconds {
        n if n < 1e3 => format!("{n:.0} ns"),
        n if n < 1e6 => format!("{:.2} µs", n / 1e3),
        n if n < 1e9 => format!("{:.2} ms", n / 1e6),
        n => format!("{:.2} s", n / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(model: &str, run: usize, nanoseconds: f64) -> Sample {
        Sample {
            program: "pi".into(),
            variant: String::new(),
            model: model.into(),
            size: 8,
            repetitions: 2,
            run,
            nanoseconds,
            value: None,
            spread: None,
        }
    }

    #[test]
    fn ratios_are_of_the_same_run() {
        let samples = [
            sample("a", 0, 10.0),
            sample("b", 0, 5.0),
            sample("a", 1, 30.0),
            sample("b", 1, 10.0),
            sample("a", 2, 400.0),
            sample("b", 2, 100.0),
            sample("c", 7, 1.0),
        ];
        let table = Table::new(&samples);
        let what = table.whats().next().unwrap().clone();
        assert_eq!(table.ratio(&what, "a", "b", time), Some(3.0));
        assert_eq!(table.ratio(&what, "a", "c", time), None);
        assert_eq!(table.ratio_of_best(&what, "a", "b", time), Some(2.0));
        assert_eq!(table.ratio_of_best(&what, "a", "d", time), None);
        assert_eq!(lines(&samples).len(), 4);
    }

    #[test]
    fn intervals_are_those_of_the_sign_test() {
        // Tables of the sign test: which value from either end bounds the median with 95 %.
        assert_eq!(
            [5, 6, 8, 9, 11, 12, 15, 20].map(outside),
            [
                None,
                Some(0),
                Some(0),
                Some(1),
                Some(1),
                Some(2),
                Some(3),
                Some(5)
            ]
        );
        let samples: Vec<Sample> = (0..9)
            .flat_map(|run| [sample("a", run, 10.0 + run as f64), sample("b", run, 10.0)])
            .collect();
        let table = Table::new(&samples);
        let what = table.whats().next().unwrap().clone();
        assert_eq!(table.interval(&what, "a", "b", time), Some((1.1, 1.7)));
        assert_eq!(table.interval(&what, "a", "c", time), None);
    }

    #[test]
    fn times_are_shown_in_their_unit() {
        assert_eq!(
            [1.0, 1500.0, 2.5e6, 3e9].map(shown),
            ["1 ns", "1.50 µs", "2.50 ms", "3.00 s"]
        );
    }
}
