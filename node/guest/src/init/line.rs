//! The stream to the host, as the guest has it: a serial line made raw, or what else the port gives; written blocking, read when there is something.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

use crate::frame::{CONFIRM, Decoder, Message};

/// One end of the stream.
#[derive(Debug)]
pub(super) struct Line {
    file: File,
    decoder: Decoder,
    frame: Vec<u8>,
    unconfirmed: usize,
}

impl Line {
    /// The line over what the port gives.
    pub(super) fn over(fd: OwnedFd) -> io::Result<Self> {
        // A port's stream need not be a terminal.
        if let Ok(mut settings) = tcgetattr(&fd) {
            settings.make_raw();
            tcsetattr(&fd, OptionalActions::Now, &settings)?;
        }
        Ok(Self {
            file: fd.into(),
            decoder: Decoder::default(),
            frame: Vec::new(),
            unconfirmed: 0,
        })
    }

    /// Sends a message whole.
    pub(super) fn say(&mut self, message: &Message) -> io::Result<()> {
        self.frame.clear();
        message.encode(&mut self.frame);
        self.file.write_all(&self.frame)
    }

    /// Reads once what is there. False at the end of the stream, which is how the host's death looks.
    pub(super) fn fill(&mut self) -> io::Result<bool> {
        let mut piece = [0_u8; 16 << 10];
        match self.file.read(&mut piece) {
            Ok(0) => Ok(false),
            Ok(n) => {
                self.decoder.push(&piece[..n]);
                self.unconfirmed += n;
                if self.unconfirmed >= CONFIRM {
                    let heard = u32::try_from(std::mem::take(&mut self.unconfirmed)).unwrap_or(u32::MAX);
                    self.say(&Message::Heard(heard))?;
                }
                Ok(true)
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => Ok(true),
            // A line that was hung up.
            Err(e) if e.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// A message that has been read already.
    pub(super) fn next(&mut self) -> anyhow::Result<Option<Message>> {
        Ok(self.decoder.next()?)
    }

    /// Waits for a message; `None` at the end of the stream.
    pub(super) fn hear(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            if let Some(message) = self.next()? {
                return Ok(Some(message));
            }
            if !self.fill()? {
                return Ok(None);
            }
        }
    }

    /// Waits until what was said has left the machine.
    pub(super) fn drain(&self) {
        let _ = tcdrain(&self.file);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
