//! Sets of numbers that mostly come one behind the other, frames and references: kept as runs, so that what is done to a thousand neighbours costs what it costs
//! for one. Numbers that lie scattered cost what they cost in any ordered set.

use std::collections::BTreeMap;

/// A set of numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Runs {
    /// First number of a run, and its last. Runs neither overlap nor touch.
    runs: BTreeMap<u32, u32>,
    count: usize,
}

/// The runs in a list, in its order: first and last.
fn neighbours(numbers: &[u32]) -> impl Iterator<Item = (u32, u32)> {
    let runs = numbers.chunk_by(|a, b| a.checked_add(1) == Some(*b));
    runs.map(|run| (run[0], run[run.len() - 1]))
}

fn length(first: u32, last: u32) -> usize {
    (last - first) as usize + 1
}

impl Runs {
    /// How many numbers there are.
    pub(crate) fn len(&self) -> usize {
        self.count
    }

    /// Whether a number is among them.
    pub(crate) fn contains(&self, number: u32) -> bool {
        let before = self.runs.range(..=number).next_back();
        before.is_some_and(|(_, last)| *last >= number)
    }

    /// Adds numbers, those that are there already too.
    pub(crate) fn add(&mut self, numbers: &[u32]) {
        neighbours(numbers).for_each(|(first, last)| self.add_run(first, last));
    }

    fn add_run(&mut self, mut first: u32, mut last: u32) {
        // What overlaps it or touches it becomes one with it.
        while let Some((&begins, &ends)) = self.runs.range(..=last.saturating_add(1)).next_back()
            && ends.saturating_add(1) >= first
        {
            self.runs.remove(&begins);
            self.count -= length(begins, ends);
            first = first.min(begins);
            last = last.max(ends);
        }
        self.runs.insert(first, last);
        self.count += length(first, last);
    }

    /// Takes a number out; whether it was there.
    pub(crate) fn remove(&mut self, number: u32) -> bool {
        let before = self.count;
        self.remove_run(number, number);
        self.count < before
    }

    /// Takes out those of the numbers that are there.
    pub(crate) fn remove_all(&mut self, numbers: &[u32]) {
        neighbours(numbers).for_each(|(first, last)| self.remove_run(first, last));
    }

    fn remove_run(&mut self, first: u32, last: u32) {
        while let Some((&begins, &ends)) = self.runs.range(..=last).next_back()
            && ends >= first
        {
            self.runs.remove(&begins);
            self.count -= length(begins, ends);
            for (first, last) in [
                (u64::from(begins), u64::from(first)),
                (u64::from(last) + 1, u64::from(ends) + 1),
            ] {
                // What of the run is before, and what is behind.
                if first < last {
                    let (first, last) = (first as u32, (last - 1) as u32);
                    self.runs.insert(first, last);
                    self.count += length(first, last);
                }
            }
        }
    }

    /// Takes the lowest numbers, that many or all there are.
    pub(crate) fn take(&mut self, count: usize) -> Vec<u32> {
        let mut taken = Vec::with_capacity(count.min(self.count));
        while taken.len() < count
            && let Some((&first, &last)) = self.runs.first_key_value()
        {
            let here = length(first, last).min(count - taken.len());
            let last = first + (here - 1) as u32;
            taken.extend(first..=last);
            self.remove_run(first, last);
        }
        taken
    }

    /// Takes that many numbers one behind the other, from the first run that is long enough.
    pub(crate) fn take_together(&mut self, count: usize) -> Option<Vec<u32>> {
        if count == 0 {
            return Some(Vec::new());
        }
        let long = self
            .runs
            .iter()
            .find(|(first, last)| length(**first, **last) >= count);
        let first = *long?.0;
        let last = first + (count - 1) as u32;
        self.remove_run(first, last);
        Some((first..=last).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// What a plain set does, too.
    #[test]
    fn runs_are_a_set_of_numbers() {
        let (mut runs, mut plain) = (Runs::default(), BTreeSet::new());
        let mut seed = 7_u32;
        for step in 0..20_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let number = (seed >> 8) % 64 + if step % 3 == 0 { u32::MAX - 63 } else { 0 };
            let several: Vec<u32> = (number..=number.saturating_add(seed >> 29)).collect();
            match seed >> 30 {
                0 => {
                    runs.add(&several);
                    plain.extend(&several);
                }
                1 => {
                    runs.remove_all(&several);
                    several.iter().for_each(|number| {
                        plain.remove(number);
                    });
                }
                2 => assert_eq!(runs.remove(number), plain.remove(&number)),
                _ => {
                    let lowest: Vec<u32> = plain.iter().copied().take(3).collect();
                    assert_eq!(runs.take(3), lowest);
                    lowest.iter().for_each(|number| {
                        plain.remove(number);
                    });
                }
            }
            assert_eq!(runs.len(), plain.len());
            assert_eq!(runs.contains(number), plain.contains(&number));
            let told: Vec<u32> = runs.runs.iter().flat_map(|(a, b)| *a..=*b).collect();
            assert!(told.iter().eq(&plain), "{told:?} {plain:?}");
        }
    }

    #[test]
    fn numbers_together_are_of_the_first_run_that_is_long_enough() {
        let mut runs = Runs::default();
        runs.add(&[1, 2, 9, 10, 11, 12, 20]);
        assert_eq!(runs.take_together(3), Some(vec![9, 10, 11]));
        assert_eq!(runs.take_together(3), None);
        assert_eq!(runs.take_together(0), Some(vec![]));
        assert_eq!(runs.take(9), [1, 2, 12, 20]);
        assert_eq!(runs, Runs::default());
    }

    #[test]
    fn neighbours_are_one_run() {
        let mut runs = Runs::default();
        runs.add(&[5, 6, 7]);
        runs.add(&[3]);
        runs.add(&[4]);
        runs.add(&[8, 9]);
        assert_eq!(runs.runs.len(), 1);
        assert!(runs.remove(6) && !runs.remove(6));
        assert_eq!(runs.runs.len(), 2);
    }
}
