//! The domain that holds pages: made, sized, found and ended through `xl`; it is paused from its first to its last moment.
//!
//! A mark in Xenstore below `/vshmem/holders` says whose it is, so that one whose back-end and keeper have both died is found and ended by the next back-end. Until
//! it has its mark its name says who is making it.

use super::image;
use crate::devices::DomId;
use crate::here::Here;
use crate::owner;
use crate::xenstore::Xenstore;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where marks are.
const MARKS: &str = "/vshmem/holders";
/// How a holder's name begins; whose it was at first follows.
const NAME: &str = "vshmem-holder-";
/// Megabytes that the domain is born with.
const BORN: u64 = 8;
/// How long `xl` may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `xl`; gives what it says.
pub(crate) fn xl(arguments: &[&str]) -> anyhow::Result<String> {
    crate::xl::run(arguments, PATIENCE)
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
    xenstore.write(&format!("{MARKS}/{domain}"), &owner::this_and_keeper())
}

/// Whether a domain of that name is one.
pub(crate) fn is_holder(name: &str) -> bool {
    name.starts_with(NAME)
}

/// Ends holders whose back-end and keeper are both gone.
fn clear(xenstore: &mut Xenstore, mut end: impl FnMut(&str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let marked = xenstore.list(MARKS)?;
    for number in &marked {
        let path = format!("{MARKS}/{number}");
        let said = xenstore.read(&path)?.unwrap_or_default();
        if owner::alive(&said).is_some() {
            continue;
        }
        // Its number may be another domain's by now: the name is looked at too.
        if is_holder(&name_of(xenstore, number)?) {
            end(number)?;
        }
        xenstore.remove(&path)?;
    }
    for number in xenstore.list("/local/domain")? {
        if !marked.contains(&number) && is_abandoned(&name_of(xenstore, &number)?) {
            end(&number)?;
        }
    }
    Ok(())
}

fn name_of(xenstore: &mut Xenstore, number: &str) -> anyhow::Result<String> {
    let name = xenstore.read(&format!("/local/domain/{number}/name"))?;
    Ok(name.unwrap_or_default())
}

fn end_unused(number: &str) -> anyhow::Result<()> {
    tracing::info!(domain = %number, "a holder domain that nobody uses any more is ended");
    xl(&["destroy", number]).map(drop)
}

/// The name of a holder that this process makes.
fn own_name(already: usize) -> String {
    format!("{NAME}{}-{already}", owner::this().replace(' ', "-"))
}

/// Whether a domain of this name, which has no mark, is a holder whose maker was killed, or had to give up, before it got one.
fn is_abandoned(name: &str) -> bool {
    let mut words = name.strip_prefix(NAME).unwrap_or_default().splitn(3, '-');
    let (Some(pid), Some(began), Some(_)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let numbers = [pid, began].iter().all(|word| word.parse::<u64>().is_ok());
    numbers && owner::alive(&format!("{pid} {began}")).is_none()
}

/// Whether a domain is there, and a holder.
///
/// # Errors
/// Xenstore's: then nothing is known.
pub(crate) fn is_there(xenstore: &mut Xenstore, domain: DomId) -> anyhow::Result<bool> {
    Ok(is_holder(&name_of(xenstore, &domain.to_string())?))
}

/// What is wrong, and what to do, where a holder is not there any more.
pub(crate) fn gone(domain: DomId) -> String {
    format!(
        "domain {domain}, which held construct memory, is gone (`xl destroy`?): what is attached goes on, nothing can be made or attached any more; \
         stop `vshmem serve` and start it anew"
    )
}

/// Makes a holder that may have that many bytes, and so many pages of grant table.
pub(crate) fn create(bytes: u64, table_pages: u32) -> anyhow::Result<DomId> {
    let mut xenstore = Xenstore::open(&Here::default())?;
    if let Err(why) = clear(&mut xenstore, end_unused) {
        tracing::warn!("holder domains that nobody uses may be left: {why:#}");
    }
    let name = own_name(xenstore.list(MARKS)?.len());
    let files = Files::new(&name)?;
    let kernel = files.put("kernel", &image::kernel())?;
    let configuration = files.put(
        "configuration",
        configuration(&name, &kernel, table_pages).as_bytes(),
    )?;
    let made = xl(&["create", "-q", "-e", "-p", &configuration.display().to_string()]);
    if made.is_err() {
        // It may be half made.
        let _ = xl(&["destroy", &name]);
    }
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
    if !is_there(&mut Xenstore::open(&Here::default())?, domain)? {
        bail!(gone(domain));
    }
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
    use crate::xenstore::imitation::{knowing, tree};

    #[test]
    fn a_holder_without_a_mark_is_its_makers_as_long_as_he_lives() {
        let own = own_name(3);
        assert!(own.starts_with(NAME) && !is_abandoned(&own), "{own}");
        assert!(is_abandoned("vshmem-holder-4194999-12-0"));
        let of_another = format!("vshmem-holder-{}-1-0", std::process::id());
        assert!(is_abandoned(&of_another));
        // Not made by anything of ours.
        for other in [
            "",
            "web",
            "vshmem-holder-",
            "vshmem-holder-web-1-0",
            "vshmem-holder-12",
            "web-4194999-12-0",
        ] {
            assert!(!is_abandoned(other), "{other:?}");
        }
    }

    #[test]
    fn holders_that_nobody_uses_are_ended_and_no_other_domain_is() {
        let own = own_name(0);
        let known = tree(&[
            ("/local/domain/0/name", "Domain-0"),
            ("/local/domain/3/name", "web"),
            // Of a back-end that lives; of one that does not; of one that was killed before it could say so; one that is just being made.
            ("/local/domain/4/name", "vshmem-holder-4194999-12-0"),
            ("/vshmem/holders/4", &owner::this()),
            ("/local/domain/5/name", "vshmem-holder-4194999-12-1"),
            ("/vshmem/holders/5", "4194999 12 4194998 12"),
            ("/local/domain/6/name", "vshmem-holder-4194999-12-2"),
            ("/local/domain/7/name", &own),
            // A holder that was, whose number is another domain's, and one whose number is nobody's.
            ("/vshmem/holders/3", "4194999 12"),
            ("/vshmem/holders/9", "4194999 12"),
        ]);
        let mut ended = Vec::new();
        clear(&mut knowing(&known), |number| {
            ended.push(number.to_owned());
            Ok(())
        })
        .unwrap();
        assert_eq!(ended, ["5", "6"]);
        let marks = knowing(&known).list(MARKS).unwrap();
        assert_eq!(marks, ["4"]);
        let mut xenstore = knowing(&known);
        assert!(is_there(&mut xenstore, 4).unwrap());
        assert!(!is_there(&mut xenstore, 3).unwrap() && !is_there(&mut xenstore, 9).unwrap());
    }
}
