//! Xenstore, by the kernel's `/dev/xen/xenbus`: the same in dom0 and in guests, and nothing to install.
//!
//! One request and its answer at a time, no watches: what is waited for is asked for again. `xenstored` may hang; nobody who asks it does for longer than he said.
//! Not for anything that must be fast.

#[cfg(test)]
pub(crate) mod imitation;

use crate::here::Here;
use anyhow::{Context, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Read, Write};
use std::time::{Duration, Instant};

const DIRECTORY: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 11;
const REMOVE: u32 = 13;
const SET_PERMS: u32 = 14;
const WATCH_EVENT: u32 = 15;
const ERROR: u32 = 16;
/// No message is longer.
const MOST: usize = 4096;
/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// A connection.
#[derive(Debug)]
pub struct Xenstore {
    device: File,
    number: u32,
    patience: Duration,
}

/// Why Xenstore refuses, in its own words (`ENOENT`, `EACCES`, `ENOSPC`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// The word.
    pub word: String,
    /// About which path.
    pub path: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Refused { word, path } = self;
        match word.as_str() {
            "EACCES" => write!(f, "Xenstore does not let this machine use {path}"),
            "ENOSPC" | "EQUOTA" => write!(
                f,
                "Xenstore is full at {path}: this domain has as many entries as xenstored allows (its option --quota, or --entry-nb)"
            ),
            "E2BIG" => write!(f, "Xenstore takes no value as long as the one for {path}"),
            _ => write!(f, "Xenstore answers {word} about {path}"),
        }
    }
}

impl std::error::Error for Refused {}

impl Xenstore {
    /// Connects.
    ///
    /// # Errors
    /// If there is no Xenstore, or it is not this user's to use.
    pub fn open(here: &Here) -> anyhow::Result<Self> {
        let path = here.device("xenbus")?;
        let device = File::options().read(true).write(true).open(&path);
        let device = device.with_context(|| format!("{} cannot be opened: be root", path.display()))?;
        Ok(Xenstore::over(device))
    }

    fn over(device: File) -> Self {
        Xenstore {
            device,
            number: 0,
            patience: PATIENCE,
        }
    }

    /// The same for somebody who has less time.
    #[must_use]
    pub(crate) fn within(self, patience: Duration) -> Self {
        Xenstore { patience, ..self }
    }

    /// Reads a part of an answer.
    fn hear(&mut self, part: &mut [u8], until: Instant) -> anyhow::Result<()> {
        let mut got = 0;
        while got < part.len() {
            let left = until.saturating_duration_since(Instant::now());
            let most = Timespec::try_from(left).context("a time")?;
            match poll(&mut [PollFd::new(&self.device, PollFlags::IN)], Some(&most)) {
                Ok(0) => bail!(
                    "xenstored has not answered for {} seconds: is it running?",
                    self.patience.as_secs()
                ),
                Ok(_) => {}
                Err(Errno::INTR) => continue,
                Err(errno) => return Err(errno).context("waiting for Xenstore"),
            }
            match self.device.read(&mut part[got..]) {
                Ok(0) => bail!("Xenstore's answer ends in the middle"),
                Ok(read) => got += read,
                Err(why) if why.kind() == std::io::ErrorKind::Interrupted => {}
                Err(why) => return Err(why).context("Xenstore's answer"),
            }
        }
        Ok(())
    }

    fn ask(&mut self, what: u32, path: &str, rest: &[u8]) -> anyhow::Result<Vec<u8>> {
        self.number = self.number.wrapping_add(1);
        let mut body = path.as_bytes().to_vec();
        body.push(0);
        body.extend(rest);
        if body.len() > MOST {
            bail!(Refused {
                word: "E2BIG".into(),
                path: path.into()
            });
        }
        let header = [what, self.number, 0, body.len() as u32];
        let mut message: Vec<u8> = header.iter().flat_map(|word| word.to_le_bytes()).collect();
        message.extend(body);
        self.device.write_all(&message).context("asking Xenstore")?;
        let until = Instant::now() + self.patience;
        loop {
            let mut header = [0; 16];
            self.hear(&mut header, until)?;
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            let (answer, number, bytes) = (word(0), word(4), word(12) as usize);
            if bytes > MOST {
                bail!("Xenstore's answer is {bytes} bytes long, at most {MOST} is right");
            }
            let mut body = vec![0; bytes];
            self.hear(&mut body, until)?;
            match answer {
                WATCH_EVENT => {}
                // To what was given up.
                _ if number != self.number => {}
                ERROR => {
                    let word = String::from_utf8_lossy(&body).trim_end_matches('\0').to_owned();
                    bail!(Refused {
                        word,
                        path: path.into()
                    });
                }
                _ => return Ok(body),
            }
        }
    }

    /// What stands at a path; None if nothing does.
    ///
    /// # Errors
    /// [`Refused`], and if there is no talking to it.
    pub fn read(&mut self, path: &str) -> anyhow::Result<Option<String>> {
        absent_is_none(self.ask(READ, path, &[]))
            .map(|found| found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    /// The names below a path; none if there is no such path.
    ///
    /// # Errors
    /// As [`Xenstore::read`].
    pub fn list(&mut self, path: &str) -> anyhow::Result<Vec<String>> {
        let found = absent_is_none(self.ask(DIRECTORY, path, &[]))?.unwrap_or_default();
        let names = found.split(|byte| *byte == 0).filter(|name| !name.is_empty());
        Ok(names
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .collect())
    }

    /// Writes.
    ///
    /// # Errors
    /// As [`Xenstore::read`].
    pub fn write(&mut self, path: &str, value: &str) -> anyhow::Result<()> {
        self.ask(WRITE, path, value.as_bytes()).map(drop)
    }

    /// Removes a path and all below it; that it was not there is fine.
    ///
    /// # Errors
    /// As [`Xenstore::read`].
    pub fn remove(&mut self, path: &str) -> anyhow::Result<()> {
        absent_is_none(self.ask(REMOVE, path, &[])).map(drop)
    }

    /// Says who may use a path: the owner first (`n0`: dom0's, for nobody else), then `r5` and the like.
    ///
    /// # Errors
    /// As [`Xenstore::read`].
    pub fn permit(&mut self, path: &str, who: &[&str]) -> anyhow::Result<()> {
        let rest: Vec<u8> = who
            .iter()
            .flat_map(|one| one.bytes().chain(std::iter::once(0)))
            .collect();
        self.ask(SET_PERMS, path, &rest).map(drop)
    }

    /// Waits until something stands at a path.
    ///
    /// # Errors
    /// As [`Xenstore::read`], and when it takes longer than `patience`.
    pub fn wait(&mut self, path: &str, patience: Duration) -> anyhow::Result<String> {
        let until = Instant::now() + patience;
        loop {
            if let Some(found) = self.read(path)? {
                return Ok(found);
            }
            if Instant::now() > until {
                bail!(
                    "nothing has appeared in Xenstore at {path} for {} seconds",
                    patience.as_secs()
                );
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The number of the only domain of that name.
    ///
    /// # Errors
    /// If there is none, or more than one.
    pub fn domain_named(&mut self, name: &str) -> anyhow::Result<u16> {
        let mut found = Vec::new();
        for number in self.list("/local/domain")? {
            if self.read(&format!("/local/domain/{number}/name"))?.as_deref() == Some(name)
                && let Ok(number) = number.parse()
            {
                found.push(number);
            }
        }
        match found[..] {
            [one] => Ok(one),
            [] => bail!("no Xen domain is named {name:?} (`xl list` shows them)"),
            _ => bail!("{} Xen domains are named {name:?}", found.len()),
        }
    }
}

fn absent_is_none(answer: anyhow::Result<Vec<u8>>) -> anyhow::Result<Option<Vec<u8>>> {
    match answer {
        Ok(bytes) => Ok(Some(bytes)),
        Err(why) if why.downcast_ref::<Refused>().is_some_and(|r| r.word == "ENOENT") => Ok(None),
        Err(why) => Err(why),
    }
}

#[cfg(test)]
mod tests {
    use super::imitation::{knowing, message, pair, request, tree};
    use super::*;

    #[test]
    fn what_is_told_is_known_and_what_is_not_there_is_nothing() {
        let mut xenstore = knowing(&tree(&[
            ("/local/domain/7/name", "a"),
            ("/local/domain/12/name", "b"),
        ]));
        assert_eq!(xenstore.list("/local/domain").unwrap(), ["12", "7"]);
        assert_eq!(xenstore.domain_named("b").unwrap(), 12);
        assert!(
            xenstore
                .domain_named("c")
                .unwrap_err()
                .to_string()
                .contains("xl list")
        );
        xenstore.write("/x/y", "1").unwrap();
        xenstore.permit("/x/y", &["n0"]).unwrap();
        assert_eq!(xenstore.read("/x/y").unwrap().as_deref(), Some("1"));
        xenstore.remove("/x").unwrap();
        xenstore.remove("/x").unwrap();
        assert_eq!(xenstore.read("/x/y").unwrap(), None);
        assert!(xenstore.permit("/x/y", &["n0"]).unwrap_err().is::<Refused>());
        xenstore.write("/local/domain/8/name", "a").unwrap();
        assert!(
            xenstore
                .domain_named("a")
                .unwrap_err()
                .to_string()
                .contains("2 Xen domains")
        );
    }

    #[test]
    fn one_that_does_not_answer_is_given_up_and_its_late_answer_is_no_other_ones() {
        let (xenstore, mut device) = pair();
        let mut xenstore = xenstore.within(Duration::from_millis(20));
        let why = xenstore.read("/a").unwrap_err();
        assert!(why.to_string().contains("has not answered"), "{why}");
        let (_, first, _) = request(&mut device).unwrap();
        // Half an answer is none either.
        device.write_all(&message(READ, first, b"late")[..18]).unwrap();
        assert!(xenstore.read("/b").is_err());
    }

    #[test]
    fn answers_to_what_was_given_up_and_events_are_passed_over() {
        let (xenstore, mut device) = pair();
        let mut xenstore = xenstore.within(Duration::from_millis(20));
        assert!(xenstore.read("/a").is_err());
        xenstore.patience = Duration::from_secs(60);
        let answers = std::thread::spawn(move || {
            let (_, first, _) = request(&mut device).unwrap();
            let (_, second, body) = request(&mut device).unwrap();
            assert_eq!(body, b"/b\0");
            for (what, number, body) in [
                (READ, first, "late"),
                (WATCH_EVENT, second, "x"),
                (READ, second, "now"),
            ] {
                device.write_all(&message(what, number, body.as_bytes())).unwrap();
            }
            device
        });
        assert_eq!(xenstore.read("/b").unwrap().as_deref(), Some("now"));
        // Its end is an error at once.
        drop(answers.join().unwrap());
        assert!(xenstore.read("/b").is_err());
    }
}
