//! Which huge pages this kernel has.
//!
//! Not for how many of them are set aside: that changes, and is found out by asking for some.

use std::path::Path;

/// Their sizes as powers of two, the default first; none where the kernel has none.
pub fn page_sizes() -> Vec<u8> {
    sizes(Path::new("/sys/kernel/mm/hugepages"), Path::new("/proc/meminfo"))
}

fn power(kilobytes: &str) -> Option<u8> {
    let bytes = kilobytes.trim().parse::<u64>().ok()?.checked_mul(1024)?;
    u8::try_from(bytes.checked_ilog2()?).ok()
}

fn sizes(folder: &Path, memory: &Path) -> Vec<u8> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found: Vec<u8> = entries
        .filter_map(|entry| {
            let name = entry.file_name();
            power(name.to_str()?.strip_prefix("hugepages-")?.strip_suffix("kB")?)
        })
        .collect();
    let text = std::fs::read_to_string(memory).unwrap_or_default();
    let default = text
        .lines()
        .find_map(|line| line.strip_prefix("Hugepagesize:"))
        .and_then(|rest| power(rest.trim().trim_end_matches("kB")));
    found.sort_by_key(|size| (Some(*size) != default, *size));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_comes_first() {
        let place = tempfile::tempdir().unwrap();
        for name in [
            "hugepages-1048576kB",
            "hugepages-2048kB",
            "hugepages-64kB",
            "other",
        ] {
            std::fs::create_dir(place.path().join(name)).unwrap();
        }
        let memory = place.path().join("meminfo");
        std::fs::write(&memory, "MemTotal: 1 kB\nHugepagesize:       2048 kB\n").unwrap();
        assert_eq!(sizes(place.path(), &memory), [21, 16, 30]);
        assert!(sizes(&place.path().join("none"), &memory).is_empty());
    }
}
