//! Filling in what stands in construct memory: IPC_STAT, `*_INFO` and listings of sets and queues.
//!
//! What is read there may be anything; it is passed on as numbers and decides nothing.

use super::{Backend, resident};
use std::time::{Duration, Instant};
use vshmem_ipc::msgq::{Queue, QueueStat};
use vshmem_ipc::sem::SemSet;
use vshmem_port::store::Serial;
use vshmem_wire::{Info, Kind, Pid, Stat, StatBody};

/// Sums over all queues that took longer than this to add up are used again for [`AGAIN`] times as long as that took, so that nobody can keep the
/// daemon busy with adding up.
const LONG: Duration = Duration::from_micros(250);
const AGAIN: u32 = 50;

/// Messages and bytes in all queues, as they were at some time.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sums {
    messages: u64,
    bytes: u64,
    until: Instant,
}

fn seconds(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(0)
}

impl Backend {
    fn queue_numbers(&mut self, serial: u64) -> QueueStat {
        self.with_known(serial, |words, _| Queue::at(words).stat())
    }

    /// Completes a set's or queue's numbers.
    pub(super) fn complete(&mut self, serial: u64, stat: &mut Stat) {
        match &mut stat.body {
            // Only lists tell it, and ask for it themselves.
            StatBody::Shm { .. } => {}
            StatBody::Sem { otime, .. } => {
                let (last, change) = self.with_known(serial, |words, nsems| SemSet::at(words, nsems).times());
                *otime = seconds(last);
                stat.ctime = stat.ctime.max(seconds(change));
            }
            StatBody::Msg {
                cbytes,
                qnum,
                stime,
                rtime,
                lspid,
                lrpid,
                ..
            } => {
                let numbers = self.queue_numbers(serial);
                let pid = |(domain, pid)| Pid { domain, pid };
                *cbytes = numbers.cbytes;
                *qnum = numbers.qnum;
                *stime = seconds(numbers.stime);
                *rtime = seconds(numbers.rtime);
                *lspid = pid(numbers.lspid);
                *lrpid = pid(numbers.lrpid);
            }
        }
    }

    /// Completes a list: it also tells what segments hold.
    pub(super) fn complete_list(&mut self, stats: &mut [(u64, Stat)]) {
        for (serial, stat) in stats {
            self.complete(*serial, stat);
            if let StatBody::Shm { rss, .. } = &mut stat.body {
                *rss = self.resident(*serial);
            }
        }
    }

    /// Completes `*_INFO`: what all segments hold, messages and bytes of all queues.
    pub(super) fn complete_info(&mut self, kind: Kind, info: &mut Info) {
        if kind == Kind::Shm {
            info.bytes = self.resident_in_all();
        }
        if kind != Kind::Msg {
            return;
        }
        let begun = Instant::now();
        let sums = match self.sums.filter(|sums| begun < sums.until) {
            Some(sums) => sums,
            None => self.add_up(begun),
        };
        info.units = sums.messages;
        info.bytes = sums.bytes;
    }

    /// As much as all segments hold, as it is or lately was.
    fn resident_in_all(&mut self) -> u64 {
        let begun = Instant::now();
        if let Some((known, until)) = self.resident
            && begun < until
        {
            return known;
        }
        let segments: Vec<u64> = self.registry.named(Kind::Shm).collect();
        let sum = segments.iter().map(|&serial| self.resident(serial)).sum();
        let took = begun.elapsed();
        let again = if took > LONG { took * AGAIN } else { Duration::ZERO };
        self.resident = Some((sum, begun + took + again));
        sum
    }

    /// Bytes in pages of a segment that hold something. All of it where that cannot be found out.
    pub(super) fn resident(&self, serial: u64) -> u64 {
        let Some(construct) = self.registry.construct(serial) else {
            return 0;
        };
        let store = self.stores.home((construct.group, construct.huge));
        match store.descriptor(Serial(serial), false) {
            Ok((file, _)) if construct.huge != 0 => resident::bytes_of_file(&file),
            Ok((file, _)) => resident::bytes(&file, construct.extents),
            Err(_) => construct.extents.iter().map(|extent| extent.bytes).sum(),
        }
    }

    fn add_up(&mut self, begun: Instant) -> Sums {
        let queues: Vec<u64> = self.registry.named(Kind::Msg).collect();
        let (mut messages, mut bytes) = (0u64, 0u64);
        for serial in queues {
            let numbers = self.queue_numbers(serial);
            messages = messages.saturating_add(numbers.qnum);
            bytes = bytes.saturating_add(numbers.cbytes);
        }
        let took = begun.elapsed();
        let again = if took > LONG { took * AGAIN } else { Duration::ZERO };
        let sums = Sums {
            messages,
            bytes,
            until: begun + took + again,
        };
        self.sums = Some(sums);
        sums
    }
}
