//! A guest that tries what it may not, and one that takes what it can get and gives nothing back: references made up, `unshare`, quarantine, grants that run out, a holder
//! that can have no more memory, a full Xenstore. Whoever asks for too much is told so; nobody else notices.

use super::{CREATE, step, xl};
use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use vshmem_testing_vm::machine::{program, signal, wait};
use vshmem_testing_vm::{Actor, Machine, Place, missing, xen_missing};

/// 1024 pages, and frames for twice as many; 2040 grants.
const SMALL: &str =
    "[group]\nmemory = \"grants\"\npool = \"4M\"\n[grants]\ntable_pages = 4\nstock = \"256K\"\n";
/// For what comes by itself: the machine may be emulated, and busy.
const MINUTES: Duration = Duration::from_secs(300);
/// Grants of such a table, and of one of the usual size, as far as anybody would look.
const ALL: i64 = 2040;

/// The number of the domain that holds a back-end's memory. To be asked before the back-end is killed for the first time.
pub(crate) fn holder(machine: &Machine) -> Result<u16> {
    let name = format!("vshmem-holder-{}-", machine.daemon_pid()?);
    let list = xl(&["list"])?;
    let line = list.lines().find(|line| line.starts_with(&name));
    let line = line.with_context(|| format!("no domain {name}… in\n{list}"))?;
    let number = line.split_whitespace().nth(1).context("xl list")?;
    Ok(number.parse()?)
}

fn xl_number(name: &str) -> Result<u16> {
    Ok(xl(&["domid", name])?.trim().parse()?)
}

/// How many of a holder's grants a guest can map, whatever Vshmem told it.
pub(crate) fn within_reach(guest: &mut Actor, holder: u16) -> Result<i64> {
    guest.tell(&format!("forge {holder} 8 {ALL} 0"))?;
    match guest.answer_within(MINUTES)? {
        Ok(words) => Ok(words[0].parse()?),
        Err(errno) => anyhow::bail!("the grant device: {errno}"),
    }
}

/// Until it is so: what is let go is heard of within a moment.
fn soon_within_reach(guest: &mut Actor, holder: u16, expected: i64) -> Result<()> {
    let until = Instant::now() + MINUTES;
    loop {
        let found = within_reach(guest, holder)?;
        if found == expected {
            return Ok(());
        }
        ensure!(
            Instant::now() < until,
            "{found} of the holder's pages can be mapped, not {expected}"
        );
    }
}

struct Parties {
    ours: Machine,
    theirs: Machine,
    dom0: Actor,
    stranger: Actor,
    guest: Actor,
    /// In the other group.
    other: Option<Actor>,
    holder: u16,
}

fn command(machine: &Machine, words: &[&str]) -> Result<()> {
    let out = machine.vshmem(words)?;
    ensure!(
        out.status.success(),
        "{words:?}: {}",
        String::from_utf8_lossy(&out.stderr)
    );
    Ok(())
}

/// Makes a segment and attaches it in dom0.
fn segment(dom0: &mut Actor, pages: i64) -> Result<(i64, i64)> {
    let id = dom0.number(&format!("shmget 0 {} {CREATE}", pages * 4096))?;
    Ok((id, dom0.number(&format!("shmat {id} 0"))?))
}

fn drop_segment(party: &mut Actor, (id, handle): (i64, i64)) -> Result<()> {
    party.number(&format!("shmdt {handle}"))?;
    party.number(&format!("shmrm {id}")).map(drop)
}

/// Pages of another group, and those of its own that it was not let into, are out of a guest's reach.
fn forged_references(p: &mut Parties) -> Result<()> {
    let foreign = segment(&mut p.stranger, 16)?;
    let own = segment(&mut p.dom0, 16)?;
    let theirs = holder(&p.theirs)?;
    ensure!(
        within_reach(&mut p.guest, theirs)? == 0,
        "another group's pages are mapped"
    );
    ensure!(
        within_reach(&mut p.guest, p.holder)? == 0,
        "pages are mapped that nobody let it into"
    );
    // What it is let into is found so: that the others are not is no failure to look.
    let handle = p.guest.number(&format!("shmat {} 0", own.0))?;
    ensure!(within_reach(&mut p.guest, p.holder)? == 16);
    p.guest.number(&format!("shmdt {handle}"))?;
    soon_within_reach(&mut p.guest, p.holder, 0)?;
    drop_segment(&mut p.stranger, foreign)?;
    drop_segment(&mut p.dom0, own)
}

/// After `unshare` what is mapped stays until it is let go, and nothing new is mapped; after `share` it is as before.
fn unshared(p: &mut Parties) -> Result<()> {
    let own = segment(&mut p.dom0, 8)?;
    let id = own.0.to_string();
    let held = p.guest.number(&format!("shmat {id} 0"))?;
    command(&p.ours, &["unshare", "--shmem", &id, "c"])?;
    ensure!(p.guest.ask(&format!("shmat {id} 0"))? == Err("EACCES".into()));
    p.dom0.number(&format!("poke {} 4096 77", own.1))?;
    ensure!(p.guest.number(&format!("peek {held} 4096"))? == 77);
    p.guest.number(&format!("shmdt {held}"))?;
    // The hypervisor asks nobody when somebody maps once more what he maps already; now he does not.
    soon_within_reach(&mut p.guest, p.holder, 0)?;
    ensure!(p.guest.ask(&format!("shmat {id} 0"))? == Err("EACCES".into()));
    command(&p.ours, &["share", "--shmem", &id, "--all"])?;
    let again = p.guest.number(&format!("shmat {id} 0"))?;
    ensure!(p.guest.number(&format!("peek {again} 4096"))? == 77);
    // Taken away and given back while it is attached: as before, too.
    command(&p.ours, &["unshare", "--shmem", &id, "c"])?;
    command(&p.ours, &["share", "--shmem", &id, "--all"])?;
    let third = p.guest.number(&format!("shmat {id} 0"))?;
    for handle in [again, third] {
        p.guest.number(&format!("shmdt {handle}"))?;
    }
    drop_segment(&mut p.dom0, own)
}

/// A guest finds in Xenstore what it may see, and nothing that others may see; and it can fill its own part of Xenstore without harm to anybody.
fn found_in_xenstore(p: &mut Parties) -> Result<()> {
    let seen = segment(&mut p.dom0, 1)?;
    let unseen = segment(&mut p.dom0, 1)?;
    command(&p.ours, &["unshare", "--shmem", &unseen.0.to_string(), "c"])?;
    let place = |id: i64| format!("vshmem/constructs/shm/{:02x}/{id}", (id >> 8) & 0x7f);
    let ready = xl_number("c")?;
    let tree = format!("/local/domain/{ready}");
    let until = Instant::now() + MINUTES;
    let said = loop {
        // As the guest itself reads it.
        match p.guest.ask(&format!("xenstore {}", place(seen.0)))? {
            Ok(words) => break words.join(" "),
            Err(errno) => ensure!(Instant::now() < until, "nothing is found in Xenstore: {errno}"),
        }
        std::thread::sleep(Duration::from_millis(200));
    };
    ensure!(said.contains("mode=600") && said.contains("bytes=4096"), "{said}");
    // What it was shown before `unshare` goes within a moment.
    let until = Instant::now() + MINUTES;
    while p.guest.ask(&format!("xenstore {}", place(unseen.0)))? != Err("ENOENT".into()) {
        ensure!(Instant::now() < until, "what it may not see stays in Xenstore");
        std::thread::sleep(Duration::from_millis(200));
    }
    // The same by the command, which asks no daemon: where there is none, too.
    let mut listed = |id: i64| -> Result<bool> {
        let own = program().display().to_string();
        p.guest.tell(&format!(
            "shell VSHMEM_RUNTIME_DIR=/nowhere {own} ipcs --announced -m >/tmp/announced || exit 9; grep -qw {id} /tmp/announced"
        ))?;
        let status = p.guest.answer_within(MINUTES)?.map_err(anyhow::Error::msg)?;
        ensure!(status[0] != "9", "ipcs --announced failed");
        Ok(status[0] == "0")
    };
    ensure!(listed(seen.0)? && !listed(unseen.0)?);
    // Announced: the front-end is there.
    ensure!(p.guest.ask("xenstore data/vshmem/ready")?.is_ok());
    // A guest outside the group, which somebody else's back-end brought in, is refused; so is this one where another's tree is.
    let other = p.other.as_mut().context("another guest")?;
    ensure!(other.ask(&format!("xenstore {tree}/{}", place(seen.0)))? == Err("EACCES".into()));
    ensure!(other.ask(&format!("xenstore {}", place(seen.0)))? == Err("ENOENT".into()));
    // It may write its own, until Xenstore takes no more: that is its own affair.
    let full = p.guest.ask("xenstorefill data/rubbish 5000")?;
    ensure!(full.is_err(), "Xenstore took 5000 entries of one guest");
    let third = segment(&mut p.dom0, 1)?;
    let until = Instant::now() + MINUTES;
    while p.guest.ask(&format!("xenstore {}", place(third.0)))?.is_err() {
        ensure!(Instant::now() < until, "a full guest is shown nothing any more");
    }
    let handle = p.guest.number(&format!("shmat {} 0", third.0))?;
    p.guest.number(&format!("shmdt {handle}"))?;
    for own in [seen, unseen, third] {
        drop_segment(&mut p.dom0, own)?;
    }
    Ok(())
}

/// The guest maps a segment past Vshmem, lets go of what Vshmem knows, and keeps the rest.
fn hoard(p: &mut Parties, pages: i64) -> Result<()> {
    let id = p.dom0.number(&format!("shmget 0 {} {CREATE}", pages * 4096))?;
    let handle = p.guest.number(&format!("shmat {id} 0"))?;
    p.guest.tell(&format!("forge {} 8 {ALL} 1", p.holder))?;
    let kept = p.guest.answer_within(MINUTES)?;
    let kept: i64 = kept.map_err(anyhow::Error::msg)?[0].parse()?;
    // What it keeps already it can map once more.
    ensure!(kept >= pages, "{kept}");
    p.guest.number(&format!("shmdt {handle}"))?;
    p.dom0.number(&format!("shmrm {id}")).map(drop)
}

/// Pages that somebody still maps are nobody else's; grants and memory that are held so run out for those who ask for more, with an error, and come back.
fn never_unmaps(p: &mut Parties) -> Result<()> {
    hoard(p, 900)?;
    p.guest.number("hoardpoke 255")?;
    let clean = segment(&mut p.dom0, 256)?;
    p.guest.number("hoardpoke 254")?;
    ensure!(
        p.dom0.number(&format!("shmcount {} 1048576", clean.1))? == 0,
        "a page in quarantine was given away"
    );
    drop_segment(&mut p.dom0, clean)?;
    // 1140 grants are left: too few for all of this in both domains.
    let last = segment(&mut p.dom0, 600)?;
    ensure!(p.guest.ask(&format!("shmat {} 0", last.0))? == Err("ENOMEM".into()));
    p.dom0.number(&format!("poke {} 0 5", last.1))?;
    let attached = p.dom0.ask(&format!("shmstat {}", last.0))?;
    ensure!(
        attached == Ok(vec!["2457600".into(), "1".into(), "600".into()]),
        "{attached:?}"
    );
    drop_segment(&mut p.dom0, last)?;
    hoard(p, 900)?;
    // 248 pages and 240 grants are left.
    let refused = p.ours.vshmem(&["ipcmk", "-M", "2M"])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains("quarantine"),
        "out of memory: {said}"
    );
    let last = segment(&mut p.dom0, 200)?;
    p.dom0.number(&format!("poke {} 0 5", last.1))?;
    ensure!(p.guest.ask(&format!("shmat {} 0", last.0))? == Err("ENOMEM".into()));
    // Small things go on.
    let set = p.dom0.number(&format!("semget 0 1 {CREATE}"))?;
    p.guest.number(&format!("semop {set} 0:1"))?;
    p.dom0.number(&format!("semrm {set}"))?;
    ensure!(p.guest.number("hoardfree")? >= 1800);
    let until = Instant::now() + MINUTES;
    let handle = loop {
        if let Ok(words) = p.guest.ask(&format!("shmat {} 0", last.0))? {
            break words[0].clone();
        }
        ensure!(Instant::now() < until, "what was let go did not come back");
    };
    ensure!(p.guest.number(&format!("peek {handle} 0"))? == 5);
    p.guest.number(&format!("shmdt {handle}"))?;
    drop_segment(&mut p.dom0, last)?;
    let all = segment(&mut p.dom0, 512)?;
    ensure!(p.dom0.number(&format!("shmcount {} 2097152", all.1))? == 0);
    drop_segment(&mut p.dom0, all)
}

/// Runs `vshmem vm attach` for a guest that another back-end started; there a front-end of ours takes the line, and a program makes a segment.
fn attached_once(p: &mut Parties, bytes: u32) -> Result<Child> {
    let words = ["vm", "attach", "--port", "xen", "--domain", "d"];
    let attach = p.ours.command(&words).stdin(Stdio::null()).spawn()?;
    let guest = p.other.as_mut().context("another guest")?;
    let own = program().display().to_string();
    let until = Instant::now() + MINUTES;
    loop {
        // The former line's front-end ends by itself; until then, and until the line is there, this one is refused.
        guest.tell(&format!(
            "shell {own} status --runtime-dir /run/second >/dev/null 2>&1 || {{ {own} join --port xen --domain d --runtime-dir /run/second >/dev/null 2>&1 & sleep 1; }}; \
             {own} ipcmk --runtime-dir /run/second -M {bytes} >/dev/null 2>&1"
        ))?;
        if guest.answer_within(MINUTES)? == Ok(vec!["0".into()]) {
            break;
        }
        ensure!(Instant::now() < until, "the guest did not come in");
    }
    let list = p.ours.vshmem(&["ipcs", "-m"])?;
    let list = String::from_utf8_lossy(&list.stdout).into_owned();
    ensure!(list.contains(&bytes.to_string()), "{list}");
    Ok(attach)
}

/// `vshmem vm attach` that must be refused, for this reason.
fn attach_refused(p: &Parties, name: &str, because: &str) -> Result<()> {
    let refused = p
        .ours
        .vshmem(&["vm", "attach", "--port", "xen", "--domain", name])?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(
        !refused.status.success() && said.contains(because),
        "{name}: {said}"
    );
    Ok(())
}

/// Whether the guest's programs are served by the front-end that took our line.
fn served_in_the_guest(p: &mut Parties) -> Result<bool> {
    let guest = p.other.as_mut().context("another guest")?;
    let own = program().display().to_string();
    guest.tell(&format!(
        "shell timeout 60 {own} status --runtime-dir /run/second >/dev/null 2>&1"
    ))?;
    Ok(guest.answer_within(MINUTES)? == Ok(vec!["0".into()]))
}

/// Whether a guest finds a segment of that size in its part of Xenstore.
fn still_announced(bytes: u32) -> Result<bool> {
    let tree = format!("/local/domain/{}/vshmem", xl_number("d")?);
    let out = Command::new("xenstore-ls")
        .arg(tree)
        .output()
        .context("xenstore-ls")?;
    Ok(String::from_utf8_lossy(&out.stdout).contains(&format!("bytes={bytes}")))
}

/// A guest that somebody else started comes in, goes with the command that serves its line, and comes in again; the command ends with the guest. Neither a second
/// command for it nor another name of its machine throws it out.
fn attached(p: &mut Parties) -> Result<()> {
    attach_refused(p, "d", "has a line already")?;
    // From here on it is as if whoever serves that one were gone.
    let mark = format!("/local/domain/{}/vshmem/line-by", xl_number("d")?);
    let forgotten = Command::new("xenstore-rm").arg(mark).status();
    ensure!(forgotten.context("xenstore-rm")?.success());
    let mut first = attached_once(p, 8192)?;
    first.kill()?;
    first.wait()?;
    let mut second = attached_once(p, 12288)?;
    attach_refused(p, "d", "there is a domain \"d\" already")?;
    attach_refused(p, "Domain-0", "dom0 itself")?;
    let holder = p.holder.to_string();
    attach_refused(p, xl(&["domname", &holder])?.trim(), "construct memory")?;
    xl(&["rename", "d", "elsewhere"])?;
    // Longer than either end takes to see that the line is over.
    std::thread::sleep(Duration::from_secs(8));
    let served = served_in_the_guest(p)?;
    xl(&["rename", "elsewhere", "d"])?;
    ensure!(
        served,
        "a guest's domain left since it was named twice, or its machine renamed"
    );
    // Ended in order, it tells the guest.
    signal(i32::try_from(second.id())?, Signal::TERM)?;
    let status = wait(&mut second, MINUTES)?;
    ensure!(status.success(), "{status}");
    let until = Instant::now() + MINUTES;
    while served_in_the_guest(p)? || still_announced(12288)? {
        ensure!(
            Instant::now() < until,
            "the front-end, or what was announced to it, outlives its line"
        );
    }
    let mut third = attached_once(p, 16384)?;
    xl(&["destroy", "d"])?;
    let status = wait(&mut third, MINUTES)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

#[test]
fn a_guest_reaches_what_it_was_let_into_and_takes_nothing_from_others() -> Result<()> {
    if let Some(why) = xen_missing() {
        missing(
            "a_guest_reaches_what_it_was_let_into_and_takes_nothing_from_others",
            &why,
        );
        return Ok(());
    }
    let ours = Machine::configured(SMALL)?;
    let theirs = Machine::configured(SMALL)?;
    let mut p = Parties {
        holder: holder(&ours)?,
        dom0: Actor::start(&ours, Place::Host)?,
        stranger: Actor::start(&theirs, Place::Host)?,
        guest: Actor::start(&ours, Place::Xen("c"))?,
        other: None,
        ours,
        theirs,
    };
    step("references made up", || forged_references(&mut p))?;
    step("unshare", || unshared(&mut p))?;
    step("a guest that never unmaps", || never_unmaps(&mut p))?;
    p.other = Some(Actor::start(&p.theirs, Place::Xen("d"))?);
    step("Xenstore", || found_in_xenstore(&mut p))?;
    step("a guest that somebody else started", || attached(&mut p))?;
    Ok(())
}
