//! Streams of guests that come to the host by themselves, over a transport that any program in a guest may use: who may open one, and what is said before the
//! stream is the front-end's.
//!
//! | trait | who implements it | what it says |
//! |---|---|---|
//! | [`StreamServer`] | a port whose guests open their streams themselves | finds out which domain a connection is of, and that a privileged program opened it |
//!
//! Before anything else the host says one line, each beginning with [`BEGIN`]:
//!
//! | line | the guest |
//! |---|---|
//! | `open` | has its stream: from the next byte on it is the front-end's |
//! | `prove ID` | is told a line by another connection, to a place that only a privileged program of its machine can have: `ID SECRET`. It says `SECRET`, and is told more |
//! | `refused WHY` | is refused, and the connection ends |
//!
//! Not for ports whose hypervisor hands the stream over ([`crate::boot`], [`crate::device`]): nobody else in the guest can open those.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

/// Every line of the host begins so; the number is this protocol's.
pub const BEGIN: &str = "vshmem-stream 1 ";
/// Longest line, its end included.
pub const LONGEST: usize = 512;

/// A line of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// The stream is the front-end's.
    Open,
    /// The guest has to prove that a privileged program has opened the stream, which bears this name.
    Prove(String),
    /// It is refused, and why.
    Refused(String),
}

impl Line {
    /// As it is said, its end included.
    #[must_use]
    pub fn text(&self) -> String {
        let plain = |text: &str| -> String {
            let one_line = text.replace(|c: char| c.is_control(), " ");
            let mut end = one_line.len().min(LONGEST - 64);
            while !one_line.is_char_boundary(end) {
                end -= 1;
            }
            one_line[..end].to_owned()
        };
        match self {
            Line::Open => format!("{BEGIN}open\n"),
            Line::Prove(id) => format!("{BEGIN}prove {}\n", plain(id)),
            Line::Refused(why) => format!("{BEGIN}refused {}\n", plain(why)),
        }
    }

    /// From a line without its end. None for anything else.
    #[must_use]
    pub fn parse(line: &str) -> Option<Line> {
        let rest = line.strip_prefix(BEGIN)?;
        let (word, more) = rest.split_once(' ').unwrap_or((rest, ""));
        match word {
            "open" => Some(Line::Open),
            "prove" => Some(Line::Prove(more.to_owned())),
            "refused" => Some(Line::Refused(more.to_owned())),
            _ => None,
        }
    }

    /// Says it on a connection that nothing was said on that the peer has not read: there is room.
    pub fn say(&self, to: impl AsFd) -> std::io::Result<()> {
        let text = self.text();
        match rustix::io::write(to, text.as_bytes())? {
            all if all == text.len() => Ok(()),
            _ => Err(std::io::ErrorKind::WriteZero.into()),
        }
    }
}

/// What became of a connection.
#[derive(Debug)]
pub enum Arrival {
    /// It is a domain's stream: the back-end says [`Line::Open`] or [`Line::Refused`] on it, and goes on.
    Stream {
        /// The domain.
        domain: String,
        /// Non-blocking.
        stream: OwnedFd,
    },
    /// It was refused, has been told so, and is over.
    Refused {
        /// Whose it was, as far as that is known.
        who: String,
        /// The reason, with what to do.
        why: String,
    },
}

/// Takes streams that guests open. Whatever guests do or leave undone, no call waits, and what one of them costs is bounded.
pub trait StreamServer: Send {
    /// Readable when there is something to do: then call [`StreamServer::serve`].
    fn ready(&self) -> BorrowedFd<'_>;

    /// From now on a machine with this address (a CID) is this domain; or its hypervisor connects to the socket that the back-end listens on beside `place`, and
    /// listens itself at `place`.
    fn expect(&mut self, domain: &str, address: u32, place: &Path);

    /// A hypervisor has connected to that socket of `domain`, for a program in the guest.
    fn connected(&mut self, domain: &str, socket: OwnedFd);

    /// Does what there is to do, and tells what became of connections.
    fn serve(&mut self) -> Vec<Arrival>;

    /// A second has passed.
    fn second(&mut self) -> Vec<Arrival>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_understood_as_they_are_said_and_nothing_else_is() {
        let lines = [
            Line::Open,
            Line::Prove("12ab".into()),
            Line::Refused("there is one: end it".into()),
        ];
        for line in lines {
            let text = line.text();
            assert_eq!(Line::parse(text.trim_end()), Some(line));
        }
        for bad in ["", "open", "vshmem-stream 2 open", "vshmem-stream 1 ", "SSH-2.0"] {
            assert_eq!(Line::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_line_is_one_line_and_not_too_long() {
        let text = Line::Refused("ä\n".repeat(1000)).text();
        assert!(text.len() <= LONGEST && text.matches('\n').count() == 1);
    }
}
