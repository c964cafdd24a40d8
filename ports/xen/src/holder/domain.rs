//! The domain that holds pages: made, sized, found and ended through `xl`; it is paused from its first to its last moment.
//!
//! A mark in Xenstore below `/vshmem/holders` says whose it is, so that one whose back-end and keeper have both died is found and ended by the next back-end.

use super::image;
use crate::devices::DomId;
use crate::here::Here;
use crate::xenstore::Xenstore;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where marks are.
const MARKS: &str = "/vshmem/holders";
/// What holders' names begin with.
const NAME: &str = "vshmem-holder-";
/// Megabytes that the domain is born with.
const BORN: u64 = 8;
/// How long `xl` may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `xl`; gives what it says.
pub(crate) fn xl(arguments: &[&str]) -> anyhow::Result<String> {
    crate::xl::run(arguments, PATIENCE)
}

/// When a process began, by which it is told from another one with its number.
fn began(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let after = stat.rsplit_once(')')?.1;
    after.split_whitespace().nth(19).map(str::to_owned)
}

/// This process and the one that would start it anew.
fn owners() -> String {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    let named = |pid: i32| Some(format!("{pid} {}", began(&pid.to_string())?));
    let own = named(std::process::id() as i32);
    // The first process of all keeps nothing.
    let parent = parent.filter(|&pid| pid != 1).and_then(named);
    own.into_iter().chain(parent).collect::<Vec<_>>().join(" ")
}

/// Whether one of the processes that a mark names is there.
fn owned(mark: &str) -> bool {
    let words: Vec<&str> = mark.split_whitespace().collect();
    words
        .chunks_exact(2)
        .any(|pair| began(pair[0]).as_deref() == Some(pair[1]))
}

/// Files that are needed only while the domain is made.
struct Files(PathBuf);

impl Files {
    fn new(name: &str) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(Files(folder))
    }

    fn put(&self, name: &str, bytes: &[u8]) -> anyhow::Result<PathBuf> {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn configuration(name: &str, kernel: &Path, table_pages: u32) -> String {
    format!(
        "name = \"{name}\"\ntype = \"pv\"\nkernel = \"{}\"\nmemory = {BORN}\nvcpus = 1\nmax_grant_frames = {table_pages}\n\
         on_poweroff = \"destroy\"\non_crash = \"destroy\"\n",
        kernel.display()
    )
}

fn mark(domain: DomId) -> anyhow::Result<()> {
    let mut xenstore = Xenstore::open(&Here::default())?;
    xenstore.write(&format!("{MARKS}/{domain}"), &owners())
}

/// Whether a domain of that name is one.
pub(crate) fn is_holder(name: &str) -> bool {
    name.starts_with(NAME)
}

/// Ends holders whose back-end and keeper are both gone.
fn clear(xenstore: &mut Xenstore) -> anyhow::Result<()> {
    for number in xenstore.list(MARKS)? {
        let path = format!("{MARKS}/{number}");
        let said = xenstore.read(&path)?.unwrap_or_default();
        if owned(&said) {
            continue;
        }
        // Its number may be another domain's by now: the name is looked at too.
        let name = xenstore
            .read(&format!("/local/domain/{number}/name"))?
            .unwrap_or_default();
        if is_holder(&name) {
            tracing::info!(domain = %number, "a holder domain that nobody uses any more is ended");
            xl(&["destroy", &number])?;
        }
        xenstore.remove(&path)?;
    }
    Ok(())
}

/// Makes a holder that may have that many bytes, and so many pages of grant table.
pub(crate) fn create(bytes: u64, table_pages: u32) -> anyhow::Result<DomId> {
    let mut xenstore = Xenstore::open(&Here::default())?;
    if let Err(why) = clear(&mut xenstore) {
        tracing::warn!("holder domains that nobody uses may be left: {why:#}");
    }
    let unique = began(&std::process::id().to_string()).unwrap_or_default();
    let already = xenstore.list(MARKS)?.len();
    let name = format!("{NAME}{}-{unique}-{already}", std::process::id());
    let files = Files::new(&name)?;
    let kernel = files.put("kernel", &image::kernel())?;
    let configuration = files.put(
        "configuration",
        configuration(&name, &kernel, table_pages).as_bytes(),
    )?;
    let made = xl(&["create", "-q", "-e", "-p", &configuration.display().to_string()]);
    made.with_context(|| {
        format!(
            "the domain that is to hold construct memory, with {table_pages} pages of grant table, cannot be made \
             (`xl dmesg` says more; Xen's option gnttab_max_frames limits the table)"
        )
    })?;
    let domain = xenstore.domain_named(&name)?;
    let rest = || {
        mark(domain)?;
        let most = (bytes >> 20).saturating_add(BORN + 1);
        xl(&["mem-max", &domain.to_string(), &format!("{most}m")]).map(drop)
    };
    if let Err(why) = rest() {
        destroy(domain);
        return Err(why);
    }
    Ok(domain)
}

/// Goes on with a holder of a former life.
pub(crate) fn adopt(domain: DomId) -> anyhow::Result<()> {
    mark(domain)
}

/// Ends a holder; its pages go when nobody maps them any more.
pub(crate) fn destroy(domain: DomId) {
    let ended = xl(&["destroy", &domain.to_string()]);
    let unmarked = Xenstore::open(&Here::default())
        .and_then(|mut xenstore| xenstore.remove(&format!("{MARKS}/{domain}")));
    if let Err(why) = ended.and(unmarked) {
        tracing::warn!(
            domain,
            "the domain that holds construct memory is left: {why:#}; end it with `xl destroy {domain}`"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_as_long_as_one_of_its_processes() {
        assert!(owned(&owners()));
        assert!(!owned("") && !owned("4194999 12"));
        let own = std::process::id();
        assert!(!owned(&format!("{own} 1")));
        assert!(owned(&format!("4194999 12 {}", owners())));
    }
}
