//! A process for tests without threads: its sleep runs the next step of a script, and when there is none a signal ends the wait.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use vshmem_ipc::msgq::{MsgError, Queue, QueueStat, ReceiveFlags, Received};
use vshmem_ipc::{Control, Corrupt, LockWait, Me, Owner, Sleeper, Slept, Spin, State, World};
use vshmem_words::{Heap, Words};

pub(crate) const CONTROL: Control = Control::new(State::Live, 1, 1, 1);

type Step<'a> = Box<dyn FnOnce() + 'a>;

/// One thread of one client.
pub(crate) struct Player<'a> {
    pub(crate) me: Me,
    script: RefCell<VecDeque<Step<'a>>>,
    pub(crate) wakes: RefCell<Vec<Sleeper>>,
    pub(crate) seconds: Cell<u64>,
}

impl<'a> Player<'a> {
    pub(crate) fn new(client: u32) -> Self {
        Player {
            me: Me {
                client,
                thread: 1,
                domain: client as u16,
                pid: 100 + client,
                ticket: client,
                place: client as u16,
                ..Me::default()
            },
            script: RefCell::default(),
            wakes: RefCell::default(),
            seconds: Cell::new(u64::from(client) * 1000),
        }
    }
    /// What happens during this process's next sleep.
    pub(crate) fn then(self, step: impl FnOnce() + 'a) -> Self {
        self.script.borrow_mut().push_back(Box::new(step));
        self
    }
}

impl World for Player<'_> {
    fn me(&self) -> Me {
        self.me
    }
    fn seconds(&self) -> u64 {
        self.seconds.get()
    }
    fn spin(&self, _: u32, _: u16) -> Spin {
        Spin::Enough
    }
    fn lock_wait(&self, owner: Owner, turn: u32) -> LockWait {
        if turn < 3 {
            return LockWait::Again;
        }
        match owner.client() {
            0..100 => LockWait::Busy,
            found => LockWait::Corrupt(Corrupt {
                what: "lock owner",
                found: found.into(),
                allowed: 99,
            }),
        }
    }
    fn sleep(&self, _: usize, _: u32) -> Slept {
        let step = self.script.borrow_mut().pop_front();
        match step {
            Some(step) => {
                step();
                Slept::Look
            }
            None => Slept::Interrupted,
        }
    }
    fn wake(&self, sleeper: Sleeper) {
        self.wakes.borrow_mut().push(sleeper);
    }
}

/// A formatted queue in memory that can grow.
pub(crate) fn queue_memory(qbytes: u64) -> Heap {
    let heap = Heap::with_room(Queue::<Heap>::BYTES, 1 << 20);
    Queue::format(&heap, qbytes);
    CONTROL.store(&heap);
    heap
}

/// Appends what the queue asked for.
pub(crate) fn grow(heap: &Heap, wanted: usize) {
    heap.grow(heap.len() + Queue::<Heap>::extent_bytes(wanted));
}

pub(crate) const NOWAIT: ReceiveFlags = ReceiveFlags {
    nowait: true,
    noerror: false,
    except: false,
    copy: false,
};

/// A client's calls, short to write.
pub(crate) fn send(words: &impl Words, player: &Player, mtype: i64, text: &[u8]) -> Result<(), MsgError> {
    Queue::at(words).send(player, CONTROL, mtype, text, false)
}

pub(crate) fn try_send(words: &impl Words, player: &Player, mtype: i64, text: &[u8]) -> Result<(), MsgError> {
    Queue::at(words).send(player, CONTROL, mtype, text, true)
}

/// Sends, growing the queue when it asks for it.
pub(crate) fn send_growing(heap: &Heap, player: &Player, mtype: i64, text: &[u8]) -> Result<(), MsgError> {
    match send(heap, player, mtype, text) {
        Err(MsgError::NeedExtent(wanted)) => {
            grow(heap, wanted);
            send(heap, player, mtype, text)
        }
        other => other,
    }
}

pub(crate) fn receive(
    words: &impl Words,
    player: &Player,
    room: usize,
    msgtyp: i64,
    flags: ReceiveFlags,
) -> Result<(i64, Vec<u8>), MsgError> {
    let mut into = vec![0; room];
    let Received { mtype, len } = Queue::at(words).receive(player, CONTROL, &mut into, msgtyp, flags)?;
    into.truncate(len);
    Ok((mtype, into))
}

/// The oldest message, or none.
pub(crate) fn next(words: &impl Words) -> Option<(i64, Vec<u8>)> {
    receive(words, &Player::new(90), 1 << 17, 0, NOWAIT).ok()
}

pub(crate) fn stat(words: &impl Words) -> QueueStat {
    Queue::at(words).stat()
}

pub(crate) fn audit(words: &impl Words) {
    Queue::at(words).audit().expect("the queue is consistent");
}
