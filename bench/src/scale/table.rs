//! What was measured, as JSON and as tables: operations in rows, how many there were in columns.

use super::{FLAT, FLAT_WAKING};
use serde::Serialize;

/// A line of `vshmem bench scale --json`: one figure with so many of something there.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Point {
    /// The part: `constructs`, `files`, `clients`, `waiters`, `guest`.
    pub part: String,
    /// How many there were of what the part is named after.
    pub count: u64,
    /// The operation, or what memory was counted of.
    pub what: String,
    /// The figure.
    pub value: f64,
    /// `ns` for one operation, `once, ns` for what is done once and may take longer the more there is, `waking, ns` for waking a
    /// sleeper, which goes through the kernel, `bytes`, `bytes each`, `descriptors`.
    pub unit: &'static str,
}

impl Point {
    /// How many times as long a latency may take with the most; None for what is no latency.
    fn bound(&self) -> Option<f64> {
        match self.unit {
            "ns" => Some(FLAT),
            "waking, ns" => Some(FLAT_WAKING),
            _ => None,
        }
    }
}

fn figure(value: f64, unit: &str) -> String {
    match unit {
        "ns" | "once, ns" | "waking, ns" if value < 1e3 => format!("{value:.0} ns"),
        "ns" | "once, ns" | "waking, ns" if value < 1e6 => format!("{:.1} µs", value / 1e3),
        "ns" | "once, ns" | "waking, ns" => format!("{:.1} ms", value / 1e6),
        "bytes" if value >= 1024.0 * 1024.0 => format!("{:.1} MiB", value / 1024.0 / 1024.0),
        "bytes" => format!("{:.0} KiB", value / 1024.0),
        "bytes each" => format!("{value:.0} B"),
        _ => format!("{value:.0}"),
    }
}

fn distinct<T: PartialEq>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut seen = Vec::new();
    for value in values {
        if !seen.contains(&value) {
            seen.push(value);
        }
    }
    seen
}

fn of<'a>(points: &'a [Point], what: &str) -> Vec<&'a Point> {
    points.iter().filter(|p| p.what == what).collect()
}

/// How many times as long an operation takes with the most as with the first count of a hundred or more, and how many it may.
fn growth(points: &[&Point]) -> Option<(f64, f64)> {
    let first = points.iter().find(|p| p.count >= 100)?;
    let last = points.last()?;
    let bound = last.bound()?;
    (first.count < last.count).then(|| (last.value / first.value, bound))
}

/// The table of a part.
pub(super) fn table(part: &str, points: &[Point], note: Option<&str>) -> String {
    let counts = distinct(points.iter().map(|p| p.count));
    let mut text = format!("{part:<22}");
    for count in &counts {
        text += &format!("{count:>11}");
    }
    text += "     growth\n";
    for what in distinct(points.iter().map(|p| &p.what)) {
        let row = of(points, what);
        text += &format!("{what:<22}");
        for &count in &counts {
            let found = row.iter().find(|p| p.count == count);
            text += &format!("{:>11}", found.map_or(String::new(), |p| figure(p.value, p.unit)));
        }
        if let Some((growth, bound)) = growth(&row) {
            let mark = if growth > bound { "  not flat" } else { "" };
            text += &format!("{growth:>10.2}×{mark}");
        }
        text.push('\n');
    }
    if let Some(note) = note {
        text += &format!("{note}\n");
    }
    text
}

/// What grew by more than it may.
pub(super) fn steep(points: &[Point]) -> Vec<String> {
    let whats = distinct(points.iter().map(|p| &p.what));
    let rows = whats.into_iter().map(|what| of(points, what));
    rows.filter_map(|row| {
        let ((growth, bound), last) = (growth(&row)?, row.last()?);
        let (part, what, count) = (&last.part, &last.what, last.count);
        (growth > bound)
            .then(|| format!("{part}: {what} takes {growth:.1} times as long with {count} as with 100"))
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(count: u64, value: f64, unit: &'static str) -> Point {
        Point {
            part: "constructs".into(),
            count,
            what: "get".into(),
            value,
            unit,
        }
    }

    #[test]
    fn growth_is_from_a_hundred_to_the_most() {
        let points = [
            point(10, 1.0, "ns"),
            point(100, 10.0, "ns"),
            point(1000, 25.0, "ns"),
        ];
        assert_eq!(steep(&points).len(), 1);
        assert!(table("constructs", &points, None).contains("2.50×  not flat"));
        assert!(steep(&points[..2]).is_empty());
        let fine = [point(100, 10.0, "ns"), point(1000, 19.0, "ns")];
        assert!(steep(&fine).is_empty());
    }

    #[test]
    fn waking_has_a_bound_of_its_own() {
        let mut points = [point(100, 10.0, "waking, ns"), point(1000, 70.0, "waking, ns")];
        assert!(steep(&points).is_empty());
        points[1].value = 90.0;
        assert_eq!(steep(&points).len(), 1);
    }

    #[test]
    fn memory_may_grow() {
        let points = [point(100, 1e6, "bytes"), point(1000, 1e7, "bytes")];
        assert!(steep(&points).is_empty());
        assert!(table("constructs", &points, Some("a note")).contains("a note"));
    }
}
