//! Errors as the user meets them: one line, `vshmem: <what>: <why>; <what to do>`, and an exit status.
//!
//! Not for errors that a program reads: those are errnos, on the wire.

use std::fmt;
use vshmem_wire::Failure;

/// Exit status of a command that failed.
pub(crate) const FAILED: u8 = 1;
/// Exit status of `run` and `vm run` when Vshmem itself, and not the program, is the reason.
pub(crate) const OURS: u8 = 125;
/// Exit status when the program is there but cannot be executed.
pub(crate) const NOT_EXECUTABLE: u8 = 126;
/// Exit status when the program was not found.
pub(crate) const NOT_FOUND: u8 = 127;

/// What every command gives: its exit status, or why it failed.
pub(crate) type Outcome = Result<u8, Trouble>;

/// A failure, for people.
#[derive(Debug)]
pub(crate) struct Trouble {
    what: String,
    why: String,
    remedy: String,
    status: u8,
}

impl Trouble {
    /// What was attempted, and why it did not work.
    pub(crate) fn new(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Trouble {
            what: what.into(),
            why: why.to_string(),
            remedy: String::new(),
            status: FAILED,
        }
    }

    /// What a daemon refused, in its words or the errno's.
    pub(crate) fn refused(what: impl Into<String>, failure: &Failure) -> Self {
        Trouble::new(what, reason(failure))
    }

    /// Adds what the user can do.
    pub(crate) fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }

    /// Sets the exit status.
    pub(crate) fn with_status(mut self, status: u8) -> Self {
        self.status = status;
        self
    }

    /// The exit status.
    pub(crate) fn status(&self) -> u8 {
        self.status
    }

    /// Why, without the rest.
    pub(crate) fn why(&self) -> &str {
        &self.why
    }

    /// What to do; empty if nobody knows.
    pub(crate) fn what_to_do(&self) -> &str {
        &self.remedy
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        if !self.remedy.is_empty() {
            write!(f, "; {}", self.remedy)?;
        }
        Ok(())
    }
}

/// What became of printing. What cannot be said at all, on a full disk say, makes the command a failed one.
pub(crate) fn printed(outcome: std::io::Result<()>) {
    if let Err(error) = outcome {
        let why = errno_words(error.raw_os_error().unwrap_or(libc::EIO));
        eprintln!("vshmem: {}", Trouble::new("standard output", why));
        std::process::exit(FAILED.into());
    }
}

/// The words of a failure: the daemon's, else the errno's.
pub(crate) fn reason(failure: &Failure) -> String {
    if failure.why.is_empty() {
        errno_words(failure.errno)
    } else {
        failure.why.clone()
    }
}

/// An errno in words, without the number that std appends.
pub(crate) fn errno_words(errno: i32) -> String {
    let text = std::io::Error::from_raw_os_error(errno).to_string();
    match text.find(" (os error") {
        Some(end) => text[..end].to_owned(),
        None => text,
    }
}
