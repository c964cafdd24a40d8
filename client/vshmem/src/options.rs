//! How a construct is got: its key, whether it may be created, its mode and its size.

use crate::{Error, Queue, Segment, SemaphoreSet};
use vshmem_runtime::Runtime;

/// A System V key: the name that programs in different domains agree on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Key(i32);

impl Key {
    /// `IPC_PRIVATE`: always a new construct.
    pub const PRIVATE: Key = Key(0);

    /// The key of this number.
    pub const fn new(number: i32) -> Key {
        Key(number)
    }

    /// Its number.
    pub const fn number(self) -> i32 {
        self.0
    }
}

macro_rules! options {
    ($name:ident, $what:ident, $doc:literal $(, $amount:ident)?) => {
        #[doc = $doc]
        #[derive(Debug, Clone)]
        pub struct $name {
            key: Key,
            create: bool,
            exclusive: bool,
            mode: u16,
            $($amount: usize,)?
        }

        impl Default for $name {
            fn default() -> Self {
                $name {
                    key: Key::PRIVATE,
                    create: false,
                    exclusive: false,
                    mode: 0o600, $($amount: 0,)?
                }
            }
        }

        impl $name {
            /// The key; [`Key::PRIVATE`] unless said.
            pub fn key(mut self, key: Key) -> Self {
                self.key = key;
                self
            }
            /// IPC_CREAT: makes it if no construct has the key.
            pub fn create(mut self, create: bool) -> Self {
                self.create = create;
                self
            }
            /// IPC_EXCL: with [`create`](Self::create), fails if it exists.
            pub fn exclusive(mut self, exclusive: bool) -> Self {
                self.exclusive = exclusive;
                self
            }
            /// Permission bits of a new construct, as for a file; 0600 unless said.
            pub fn mode(mut self, mode: u16) -> Self {
                self.mode = mode & 0o777;
                self
            }
            fn flags(&self) -> i32 {
                let create = if self.create { libc::IPC_CREAT } else { 0 };
                let exclusive = if self.exclusive { libc::IPC_EXCL } else { 0 };
                create | exclusive | i32::from(self.mode)
            }
        }

        impl $what {
            /// Starts with a private construct of mode 0600; the methods change that.
            pub fn options() -> $name {
                $name::default()
            }
        }
    };
}

options!(
    SegmentOptions,
    Segment,
    "How a [`Segment`] is got and attached: shmget(2), shmat(2).",
    amount
);
options!(
    SemaphoreOptions,
    SemaphoreSet,
    "How a [`SemaphoreSet`] is got: semget(2).",
    amount
);
options!(QueueOptions, Queue, "How a [`Queue`] is got: msgget(2).");

impl SegmentOptions {
    /// Bytes. Needed for a new segment; for an existing one at most its size.
    pub fn size(mut self, bytes: usize) -> Self {
        self.amount = bytes;
        self
    }

    /// Gets the segment and attaches it for reading and writing.
    ///
    /// # Errors
    /// Those of shmget(2) and shmat(2), and [`Error::NoDaemon`].
    pub fn open(&self) -> Result<Segment, Error> {
        let id = Runtime::global().shmget(self.key.0, self.amount, self.flags())?;
        Segment::attach(id)
    }
}

impl SemaphoreOptions {
    /// Semaphores in the set. Needed for a new set; for an existing one at most their number.
    pub fn semaphores(mut self, count: u16) -> Self {
        self.amount = count.into();
        self
    }

    /// Gets the set. A new set's semaphores are 0.
    ///
    /// # Errors
    /// Those of semget(2), and [`Error::NoDaemon`].
    pub fn open(&self) -> Result<SemaphoreSet, Error> {
        let count = i32::try_from(self.amount).unwrap_or(i32::MAX);
        let id = Runtime::global().semget(self.key.0, count, self.flags())?;
        Ok(SemaphoreSet::from_id(id))
    }
}

impl QueueOptions {
    /// Gets the queue.
    ///
    /// # Errors
    /// Those of msgget(2), and [`Error::NoDaemon`].
    pub fn open(&self) -> Result<Queue, Error> {
        let id = Runtime::global().msgget(self.key.0, self.flags())?;
        Ok(Queue::from_id(id))
    }
}
