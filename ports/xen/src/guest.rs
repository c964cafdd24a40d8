//! The port as a front-end inside a guest sees it: a granted line is the stream, grants are the memory.
//!
//! What it rests on, measured with Xen 4.17 and Linux 6.12 in paravirtual guests:
//! - gntdev's ioctl always succeeds; whether a reference is any good shows at mmap (EINVAL). Each prepared range is mapped whole and once: again is EINVAL.
//! - A forked child does not have the mapping. So each mapping has a descriptor of its own, and a child maps anew.
//! - A descriptor opened for reading refuses mmap and mprotect for writing (EACCES); the node is mode 0600, so it cannot be opened again for more.
//! - Whoever has a descriptor of gntdev can map with it whatever this *domain* is granted: within a domain it separates readers from writers, not constructs.

use crate::bells::XenBells;
use crate::here::Here;
use crate::{line, map};
use anyhow::{Context, bail};
use rustix::fd::OwnedFd;
use vshmem_port::direct::DirectBells;
use vshmem_port::guest::GuestPort;
use vshmem_wire::{Memory, Window};

/// The guest's side of the port.
#[derive(Debug, Clone, Default)]
pub struct XenGuest {
    here: Here,
}

impl GuestPort for XenGuest {
    fn name(&self) -> &'static str {
        "xen"
    }

    fn detect(&self) -> anyhow::Result<()> {
        self.here.on_xen()?;
        if self.here.is_dom0().is_ok() {
            bail!("this is dom0, where the back-end runs: `vshmem serve`");
        }
        for device in ["xenbus", "gntdev", "evtchn"] {
            self.here.device(device)?;
        }
        Ok(())
    }

    fn stream(&self) -> anyhow::Result<OwnedFd> {
        if !line::is_offered(&self.here).context("looking for the line to dom0")? {
            tracing::warn!(
                "dom0 offers this guest no line yet: waiting for `vshmem vm attach --port xen --domain NAME` there"
            );
        }
        line::take(&self.here, line::Use::BackEnd)
    }

    fn direct_bells(&self, former: Vec<OwnedFd>) -> anyhow::Result<Option<Box<dyn DirectBells>>> {
        Ok(Some(Box::new(XenBells::open(&self.here, former)?)))
    }

    fn window(&self, _: usize, _: bool) -> anyhow::Result<(OwnedFd, Window)> {
        bail!("memory that is granted page by page has no window that shows all of it")
    }

    fn has_window(&self) -> bool {
        false
    }

    fn open(&self, memory: &mut Memory) -> anyhow::Result<OwnedFd> {
        map::open(&self.here, memory)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_that_is_no_guest_of_xen_is_told_so() {
        let root = tempfile::tempdir().unwrap();
        let port = XenGuest {
            here: Here::below(root.path()),
        };
        let why = port.detect().unwrap_err().to_string();
        assert!(why.contains("does not run on Xen"), "{why}");
        std::fs::create_dir_all(root.path().join("sys/hypervisor")).unwrap();
        std::fs::write(root.path().join("sys/hypervisor/type"), "xen\n").unwrap();
        let why = port.detect().unwrap_err().to_string();
        assert!(why.contains("modprobe"), "{why}");
        assert!(port.window(0, true).is_err());
    }
}
