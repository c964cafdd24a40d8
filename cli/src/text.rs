//! How sizes, times and permissions read: as util-linux writes them.
//!
//! Not for errors.

use crate::system::{LocalTime, local_time};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const WEEKDAYS: [&str; 7] = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"];

/// How lsipc writes a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum TimeFormat {
    /// 15:04 today, Nov22 earlier this year, 2025-Nov22 before.
    #[default]
    Short,
    /// Sun Nov 22 15:04:05 2026.
    Full,
    /// 2026-11-22T15:04:05+00:00.
    Iso,
}

/// A size with one letter: 5000 is 4.9K.
pub(crate) fn human_size(bytes: u64) -> String {
    const LETTERS: [char; 7] = ['B', 'K', 'M', 'G', 'T', 'P', 'E'];
    let step = (bytes.max(1).ilog2() / 10) as usize;
    let unit = 1u64 << (10 * step);
    let mut whole = bytes / unit;
    let mut tenths = (u128::from(bytes % unit) * 10 + u128::from(unit) / 2) / u128::from(unit);
    if tenths == 10 {
        whole += 1;
        tenths = 0;
    }
    if tenths == 0 {
        format!("{whole}{}", LETTERS[step])
    } else {
        format!("{whole}.{tenths}{}", LETTERS[step])
    }
}

/// A number of bytes from `4096`, `64K`, `1MiB`, `2G` (1024s) or `1MB` (1000s).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let bad = || format!("'{text}' is not a size: write 4096, 64K, 16M or 1G");
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let number: f64 = number.parse().map_err(|_| bad())?;
    let mut letters = suffix.chars();
    let power = match letters.next().map(|c| c.to_ascii_uppercase()) {
        None => 0,
        Some('B') if letters.as_str().is_empty() => 0,
        Some(letter) => "KMGTPE".find(letter).ok_or_else(bad)? as i32 + 1,
    };
    let base: f64 = match letters.as_str() {
        "" | "iB" | "ib" => 1024.0,
        "B" | "b" => 1000.0,
        _ => return Err(bad()),
    };
    let bytes = number * base.powi(power);
    if bytes.is_finite() && bytes < 18_446_744_073_709_551_615.0 {
        Ok(bytes as u64)
    } else {
        Err(format!("'{text}' is too large"))
    }
}

/// A number as C writes it: decimal, 0x hexadecimal, 0 octal.
pub(crate) fn parse_c_number(text: &str) -> Option<i64> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let value = if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        i64::from_str_radix(hex, 16).ok()?
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8).ok()?
    } else if digits.starts_with(|c: char| c.is_ascii_digit()) {
        digits.parse().ok()?
    } else {
        return None;
    };
    Some(if negative { -value } else { value })
}

/// A key: any 32-bit number as C writes it.
pub(crate) fn parse_key(text: &str) -> Result<i32, String> {
    let value = parse_c_number(text).ok_or_else(|| format!("'{text}' is not a key"))?;
    if value < i64::from(i32::MIN) || value > i64::from(u32::MAX) {
        return Err(format!("key {text} has more than 32 bits"));
    }
    Ok(value as u32 as i32)
}

/// `rw-r--r--`.
pub(crate) fn permissions(mode: u16) -> String {
    (0..9)
        .rev()
        .zip("rwxrwxrwx".chars())
        .map(|(bit, c)| if mode >> bit & 1 == 1 { c } else { '-' })
        .collect()
}

/// `Nov 22 14:59:38`, or `Not set`.
pub(crate) fn month_time(seconds: i64) -> String {
    if seconds == 0 {
        return "Not set".to_owned();
    }
    let t = local_time(seconds);
    format!(
        "{} {:>2} {:02}:{:02}:{:02}",
        month(&t),
        t.day,
        t.hour,
        t.minute,
        t.second
    )
}

/// `Sun Nov 22 14:59:38 2026`, or `Not set`.
pub(crate) fn full_time(seconds: i64) -> String {
    if seconds == 0 {
        return "Not set".to_owned();
    }
    let t = local_time(seconds);
    let weekday = WEEKDAYS.get(usize::from(t.weekday)).copied().unwrap_or("?");
    format!("{weekday} {} {}", month_time(seconds), t.year)
}

/// As lsipc writes it; empty if never.
pub(crate) fn listed_time(seconds: i64, now: i64, format: TimeFormat) -> String {
    if seconds == 0 {
        return String::new();
    }
    let t = local_time(seconds);
    let n = local_time(now);
    match format {
        TimeFormat::Full => full_time(seconds),
        TimeFormat::Iso => format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}{}{:02}:{:02}",
            t.year,
            t.month,
            t.day,
            t.hour,
            t.minute,
            t.second,
            if t.offset < 0 { '-' } else { '+' },
            t.offset.unsigned_abs() / 3600,
            t.offset.unsigned_abs() / 60 % 60
        ),
        TimeFormat::Short if (t.year, t.month, t.day) == (n.year, n.month, n.day) => {
            format!("{:02}:{:02}", t.hour, t.minute)
        }
        TimeFormat::Short if t.year == n.year => format!("{}{:02}", month(&t), t.day),
        TimeFormat::Short => format!("{}-{}{:02}", t.year, month(&t), t.day),
    }
}

/// Seconds since the epoch.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |duration| duration.as_secs() as i64)
}

fn month(t: &LocalTime) -> &'static str {
    MONTHS
        .get(usize::from(t.month.wrapping_sub(1)))
        .copied()
        .unwrap_or("?")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_util_linux_writes_them() {
        assert_eq!(human_size(0), "0B");
        assert_eq!(human_size(1), "1B");
        assert_eq!(human_size(4096), "4K");
        assert_eq!(human_size(5000), "4.9K");
        assert_eq!(human_size(18_446_744_073_692_774_399), "16E");
    }

    #[test]
    fn sizes_are_understood() {
        assert_eq!(parse_size("4096"), Ok(4096));
        assert_eq!(parse_size("64K"), Ok(65_536));
        assert_eq!(parse_size("1MiB"), Ok(1 << 20));
        assert_eq!(parse_size("1MB"), Ok(1_000_000));
        assert_eq!(parse_size("1.5G"), Ok(3 << 29));
        for bad in ["", "K", "4 K", "-1", "4X", "1KiBs", "99999999E"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_32_bits_in_any_notation() {
        assert_eq!(parse_key("0x1234"), Ok(0x1234));
        assert_eq!(parse_key("0xffffffff"), Ok(-1));
        assert_eq!(parse_key("-1"), Ok(-1));
        assert_eq!(parse_key("010"), Ok(8));
        for bad in ["", "x", "0x", "0x100000000", "12a"] {
            assert!(parse_key(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn permissions_read_as_ls_writes_them() {
        assert_eq!(permissions(0o644), "rw-r--r--");
        assert_eq!(permissions(0o1600), "rw-------");
    }
}
