//! The messages between the host's side and the guest's first process, and how they stand on the stream.
//!
//! A frame is `length: u32` (of the body), `check: u32` (CRC-32 of kind and body), `kind: u8`, body; little-endian. The
//! stream is a serial line, so the check is there to turn a lost byte into an error that says so.
//!
//! Each side treats the other as hostile: lengths are bounded before anything is kept, and every body is parsed
//! completely or refused. Flow control is by credit: data may be sent only as far as the other side has granted
//! ([`WINDOW`] at first, then `InputTaken` and `OutputTaken`), so that no side ever holds more than a window.

use serde::{Deserialize, Serialize};

/// Refused when the other side speaks another one.
pub(crate) const VERSION: u32 = 1;

/// Bytes of one direction of one stream that may be on their way.
pub(crate) const WINDOW: usize = 64 << 10;

/// The guest confirms what it has read from the stream in portions of at least this many bytes: there are streams that take
/// only a small burst ([`vshmem_port::boot::Machine::burst`]), which must be larger than this.
pub(crate) const CONFIRM: usize = 1024;

/// The largest body: a start message with a large environment.
pub(crate) const BODY_MAX: usize = 4 << 20;

const HEADER: usize = 9;

/// Which of the program's output streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Channel {
    Stdout,
    Stderr,
}

impl Channel {
    pub(crate) const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    /// Position in [`Self::ALL`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Stdout => 0,
            Self::Stderr => 1,
        }
    }
}

/// How the program ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// It returned this status.
    Exited(u8),
    /// This signal killed it.
    Signaled(u8),
}

impl Outcome {
    /// The status a shell would report: the program's own, or 128 and the signal's number.
    #[must_use]
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled(signal) => signal.saturating_add(128),
        }
    }
}

/// What the guest is to do; bytes rather than strings where the system has bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) domain: String,
    pub(crate) pools: u16,
    pub(crate) address: Option<[u8; 4]>,
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) env: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) cwd: Vec<u8>,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) umask: u32,
    pub(crate) binds: Vec<Vec<u8>>,
    pub(crate) services: Vec<StartService>,
}

/// A command to start before the program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StartService {
    pub(crate) argv: Vec<Vec<u8>>,
    pub(crate) ready: Option<Vec<u8>>,
    pub(crate) patience_ms: u64,
}

/// Everything that is said on the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// Guest: the first process runs and listens.
    Hello(u32),
    /// Guest: the program runs.
    Running,
    /// Guest: program output.
    Output(Channel, Vec<u8>),
    /// Guest: so many more bytes of input may be sent.
    InputTaken(u32),
    /// Guest: the program reads no more input.
    InputClosed,
    /// Guest: the program ended and its output is complete.
    Ended(Outcome),
    /// Guest: it could not be prepared.
    Failed(String),
    /// Guest: something the user should know.
    Note(String),
    /// Guest: so many more bytes have been read from the stream, see [`CONFIRM`].
    Heard(u32),
    /// Guest: a signal has been passed to the program.
    SignalTaken,
    /// Host: what to do.
    Start(Box<Start>),
    /// Host: program input.
    Input(Vec<u8>),
    /// Host: no more input.
    InputEnd,
    /// Host: so many more bytes of output may be sent.
    OutputTaken(Channel, u32),
    /// Host: nobody reads this output any more.
    OutputClosed(Channel),
    /// Host: a signal for the program.
    Signal(u8),
    /// Host: everything arrived; power off.
    Goodbye,
}

/// Why bytes from the other side are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FrameError {
    #[error("a message of {0} bytes on the guest's stream, above the limit")]
    TooLong(usize),
    #[error("bytes were lost or changed on the guest's stream")]
    Damaged,
    #[error("a message of unknown kind {0} or malformed body on the guest's stream")]
    Unknown(u8),
}

impl Message {
    /// Appends the frame to `out`.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER]);
        let kind = self.body(out);
        out[start + 8] = kind;
        let length = u32::try_from(out.len() - start - HEADER).unwrap_or(u32::MAX);
        let check = crc32fast::hash(&out[start + 8..]);
        out[start..start + 4].copy_from_slice(&length.to_le_bytes());
        out[start + 4..start + 8].copy_from_slice(&check.to_le_bytes());
    }

    fn body(&self, out: &mut Vec<u8>) -> u8 {
        match self {
            Self::Hello(version) => number(out, 1, *version),
            Self::Running => 2,
            Self::Output(Channel::Stdout, bytes) => text(out, 3, bytes),
            Self::Output(Channel::Stderr, bytes) => text(out, 4, bytes),
            Self::InputTaken(n) => number(out, 5, *n),
            Self::InputClosed => 6,
            Self::Ended(Outcome::Exited(code)) => text(out, 7, &[*code]),
            Self::Ended(Outcome::Signaled(signal)) => text(out, 8, &[*signal]),
            Self::Failed(said) => text(out, 9, said.as_bytes()),
            Self::Note(said) => text(out, 10, said.as_bytes()),
            Self::Heard(n) => number(out, 11, *n),
            Self::SignalTaken => 12,
            Self::Start(start) => {
                // Serialising into memory cannot fail for this type: it has no maps, floats or unsized sequences.
                text(out, 65, &postcard::to_allocvec(start).unwrap_or_default())
            }
            Self::Input(bytes) => text(out, 66, bytes),
            Self::InputEnd => 67,
            Self::OutputTaken(Channel::Stdout, n) => number(out, 68, *n),
            Self::OutputTaken(Channel::Stderr, n) => number(out, 69, *n),
            Self::OutputClosed(Channel::Stdout) => 70,
            Self::OutputClosed(Channel::Stderr) => 71,
            Self::Signal(signal) => text(out, 72, &[*signal]),
            Self::Goodbye => 73,
        }
    }

    fn parse(kind: u8, body: &[u8]) -> Option<Self> {
        let number = || Some(u32::from_le_bytes(body.try_into().ok()?));
        let byte = || match body {
            [byte] => Some(*byte),
            _ => None,
        };
        let said = || String::from_utf8_lossy(body).into_owned();
        let message = match kind {
            1 => Self::Hello(number()?),
            2 => Self::Running,
            3 => Self::Output(Channel::Stdout, body.to_vec()),
            4 => Self::Output(Channel::Stderr, body.to_vec()),
            5 => Self::InputTaken(number()?),
            6 => Self::InputClosed,
            7 => Self::Ended(Outcome::Exited(byte()?)),
            8 => Self::Ended(Outcome::Signaled(byte()?)),
            9 => Self::Failed(said()),
            10 => Self::Note(said()),
            11 => Self::Heard(number()?),
            12 => Self::SignalTaken,
            65 => Self::Start(postcard::from_bytes(body).ok()?),
            66 => Self::Input(body.to_vec()),
            67 => Self::InputEnd,
            68 => Self::OutputTaken(Channel::Stdout, number()?),
            69 => Self::OutputTaken(Channel::Stderr, number()?),
            70 => Self::OutputClosed(Channel::Stdout),
            71 => Self::OutputClosed(Channel::Stderr),
            72 => Self::Signal(byte()?),
            73 => Self::Goodbye,
            _ => return None,
        };
        Some(message)
    }
}

fn number(out: &mut Vec<u8>, kind: u8, n: u32) -> u8 {
    text(out, kind, &n.to_le_bytes())
}

fn text(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) -> u8 {
    out.extend_from_slice(bytes);
    kind
}

/// Cuts a stream of bytes into messages.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    held: Vec<u8>,
    /// Start of what is not decoded yet.
    from: usize,
}

impl Decoder {
    /// Takes bytes as they came.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.from > 0 {
            self.held.drain(..self.from);
            self.from = 0;
        }
        self.held.extend_from_slice(bytes);
    }

    /// The next whole message. After an error the stream is useless.
    pub(crate) fn next(&mut self) -> Result<Option<Message>, FrameError> {
        let rest = &self.held[self.from..];
        let Some((header, rest)) = rest.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [l0, l1, l2, l3, c0, c1, c2, c3, kind] = *header;
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if length > BODY_MAX {
            return Err(FrameError::TooLong(length));
        }
        let Some(body) = rest.get(..length) else {
            return Ok(None);
        };
        let mut check = crc32fast::Hasher::new();
        check.update(&[kind]);
        check.update(body);
        if check.finalize() != u32::from_le_bytes([c0, c1, c2, c3]) {
            return Err(FrameError::Damaged);
        }
        let message = Message::parse(kind, body).ok_or(FrameError::Unknown(kind))?;
        self.from += HEADER + length;
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_message() -> Vec<Message> {
        let start = Start {
            domain: "a".to_owned(),
            pools: 2,
            address: Some([10, 0, 0, 1]),
            argv: vec![b"cat".to_vec(), b"\xff".to_vec()],
            env: vec![(b"A".to_vec(), b"b=c".to_vec())],
            cwd: b"/tmp".to_vec(),
            uid: 7,
            gid: 8,
            groups: vec![1, 2],
            umask: 0o22,
            binds: vec![b"/srv".to_vec()],
            services: vec![StartService {
                argv: vec![b"x".to_vec()],
                ready: Some(b"/run/x".to_vec()),
                patience_ms: 5,
            }],
        };
        let mut all = vec![
            Message::Hello(VERSION),
            Message::Running,
            Message::InputTaken(70_000),
            Message::InputClosed,
            Message::Heard(1),
            Message::SignalTaken,
            Message::Ended(Outcome::Exited(3)),
            Message::Ended(Outcome::Signaled(9)),
            Message::Failed("no".to_owned()),
            Message::Note(String::new()),
            Message::Start(Box::new(start)),
            Message::Input((0..=255).collect()),
            Message::InputEnd,
            Message::Signal(15),
            Message::Goodbye,
        ];
        for channel in Channel::ALL {
            all.push(Message::Output(channel, vec![0; 1000]));
            all.push(Message::OutputTaken(channel, 1));
            all.push(Message::OutputClosed(channel));
        }
        all
    }

    #[test]
    fn every_message_survives_the_stream_in_pieces_of_any_size() {
        let all = every_message();
        let mut bytes = Vec::new();
        all.iter().for_each(|m| m.encode(&mut bytes));
        for size in [1, 2, 7, 64, bytes.len()] {
            let mut decoder = Decoder::default();
            let mut got = Vec::new();
            for piece in bytes.chunks(size) {
                decoder.push(piece);
                while let Some(message) = decoder.next().expect("decodes") {
                    got.push(message);
                }
            }
            assert_eq!(got, all, "pieces of {size}");
        }
    }

    #[test]
    fn a_changed_byte_is_noticed() {
        let mut bytes = Vec::new();
        Message::Input(b"hello".to_vec()).encode(&mut bytes);
        for at in 4..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1;
            let mut decoder = Decoder::default();
            decoder.push(&damaged);
            assert_eq!(decoder.next(), Err(FrameError::Damaged), "byte {at}");
        }
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_it_is_waited_for() {
        let mut decoder = Decoder::default();
        decoder.push(&[0xff; HEADER]);
        assert_eq!(decoder.next(), Err(FrameError::TooLong(u32::MAX as usize)));
    }

    #[test]
    fn rubbish_bodies_are_refused() {
        for (kind, body) in [(1, &b"abc"[..]), (7, b""), (65, b"\xff\xff"), (200, b"")] {
            assert_eq!(Message::parse(kind, body), None, "kind {kind}");
        }
    }
}
