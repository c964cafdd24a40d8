//! Whether guest memory can be where it is asked to be: QEMU's own words about that come after the machine was made, and say less.

use std::path::Path;
use vshmem_port::boot::{BootError, Special};

/// Looks at what the host has.
pub(crate) fn check(special: &Special, memory: u64) -> Result<(), BootError> {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let said = node(special.numa_node, Path::new("/sys/devices/system/node"))
        .and_then(|()| fits(memory, &meminfo))
        .and_then(|()| match special.hugepages {
            true => huge(memory, &meminfo),
            false => Ok(()),
        });
    said.map_err(BootError::Unsupported)
}

fn node(wanted: Option<u32>, nodes: &Path) -> Result<(), String> {
    match wanted {
        Some(number) if !nodes.join(format!("node{number}")).is_dir() => Err(format!(
            "this host has no NUMA node {number}: {} has those there are",
            nodes.display()
        )),
        _ => Ok(()),
    }
}

fn field(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// A guest with more memory than the host and its swap have would only end others.
fn fits(memory: u64, meminfo: &str) -> Result<(), String> {
    let Some(total) = field(meminfo, "MemTotal:") else {
        return Ok(());
    };
    let all = total.saturating_add(field(meminfo, "SwapTotal:").unwrap_or(0));
    if memory >> 10 <= all {
        return Ok(());
    }
    Err(format!(
        "this host has {} MiB of memory, swap included, and the guest is to have {}: choose a smaller --mem",
        all >> 10,
        memory >> 20
    ))
}

fn huge(memory: u64, meminfo: &str) -> Result<(), String> {
    let free = field(meminfo, "HugePages_Free:").unwrap_or(0);
    let bytes = field(meminfo, "Hugepagesize:").unwrap_or(0) << 10;
    if bytes == 0 {
        return Err("this host's kernel has no huge pages; leave --hugepages out".to_owned());
    }
    if !memory.is_multiple_of(bytes) {
        return Err(format!(
            "a huge page has {} MiB, and this guest's memory is no multiple of it: choose another --mem",
            bytes >> 20
        ));
    }
    let needed = memory / bytes;
    if free < needed {
        return Err(format!(
            "this guest needs {needed} huge pages of {} MiB, and {free} are free: as root, sysctl vm.nr_hugepages=N with N large enough",
            bytes >> 20
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_lacks_is_told_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("node0")).unwrap();
        assert!(node(None, folder.path()).is_ok() && node(Some(0), folder.path()).is_ok());
        assert!(
            node(Some(1), folder.path())
                .unwrap_err()
                .contains("no NUMA node 1")
        );

        let total = "MemTotal:       2048 kB\nSwapTotal:      1024 kB\n";
        assert_eq!(fits(3 << 20, total), Ok(()));
        let why = fits((3 << 20) + 1024, total).unwrap_err();
        assert!(why.contains("has 3 MiB") && why.contains("--mem"), "{why}");
        assert_eq!(fits(u64::MAX, ""), Ok(()), "nothing is known");

        let meminfo = "MemTotal: 1 kB\nHugePages_Total:     200\nHugePages_Free:      128\nHugepagesize:       2048 kB\n";
        assert_eq!(huge(256 << 20, meminfo), Ok(()));
        assert!(
            huge(512 << 20, meminfo)
                .unwrap_err()
                .contains("needs 256 huge pages of 2 MiB, and 128 are free")
        );
        assert!(huge(257 << 20, meminfo).unwrap_err().contains("no multiple"));
        assert!(huge(256 << 20, "").unwrap_err().contains("no huge pages"));
    }
}
