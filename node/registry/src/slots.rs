//! Keys, slots and sequence numbers of one kind.
//!
//! An id is a slot and a sequence number that grows each time the slot is used again, within the upper half of sixteen bits: ids in the lower half are given
//! to who asks for one of them. Freed slots queue up, and the one freed longest ago is used again once
//! [`GAP`] wait: a stale id then means nothing for `GAP` × 32,768 further constructs, while the highest slot, up to which
//! `ipcs` asks slot by slot, stays close to the number of constructs.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use vshmem_wire::{SEQUENCE_BIT, SLOTS, make_id};

/// Freed slots that wait before the first of them is used again.
const GAP: usize = 64;

/// The keys and slots of one kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Table {
    /// Serial numbers by group and key; IPC_PRIVATE is no key.
    pub(crate) keys: BTreeMap<(u16, i32), u64>,
    /// Serial numbers by slot.
    pub(crate) slots: BTreeMap<u32, u64>,
    /// The sequence number each slot has or had last.
    sequences: Vec<u16>,
    /// Slots free again, the longest first.
    free: VecDeque<u32>,
}

impl Table {
    /// Takes a slot for a construct: the slot and its new sequence number. None if all are in use.
    pub(crate) fn take(&mut self, serial: u64) -> Option<(u32, u16)> {
        let (slot, sequence) = if self.free.len() < GAP && (self.sequences.len() as u32) < SLOTS {
            self.sequences.push(SEQUENCE_BIT);
            (self.sequences.len() as u32 - 1, SEQUENCE_BIT)
        } else {
            let slot = self.free.pop_front()?;
            let last = self.sequences.get_mut(slot as usize)?;
            *last = last.wrapping_add(1) | SEQUENCE_BIT;
            (slot, *last)
        };
        self.slots.insert(slot, serial);
        Some((slot, sequence))
    }

    /// Takes the first free slot from `from` on, with this sequence number.
    pub(crate) fn take_from(&mut self, from: u32, sequence: u16, serial: u64) -> Option<(u32, u16)> {
        let slot = (from..SLOTS).find(|slot| !self.slots.contains_key(slot))?;
        while self.sequences.len() as u32 <= slot {
            self.free.push_back(self.sequences.len() as u32);
            self.sequences.push(SEQUENCE_BIT);
        }
        self.free.retain(|&free| free != slot);
        *self.sequences.get_mut(slot as usize)? = sequence;
        self.slots.insert(slot, serial);
        Some((slot, sequence))
    }

    /// Frees a slot.
    pub(crate) fn free(&mut self, slot: u32) {
        if self.slots.remove(&slot).is_some() {
            self.free.push_back(slot);
        }
    }

    /// The highest slot in use, 0 if none is.
    pub(crate) fn highest(&self) -> u32 {
        self.slots.last_key_value().map_or(0, |(&slot, _)| slot)
    }

    /// The id of a construct in `slot`.
    pub(crate) fn id(slot: u32, sequence: u16) -> i32 {
        make_id(slot, sequence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_used_again_late_and_with_another_sequence_number() {
        let mut table = Table::default();
        let (first, sequence) = table.take(1).unwrap();
        table.free(first);
        for turn in 0..GAP as u64 - 1 {
            let (slot, _) = table.take(turn + 2).unwrap();
            assert_ne!(slot, first);
            table.free(slot);
        }
        assert_eq!(table.take(100).unwrap(), (first, sequence + 1));
    }

    #[test]
    fn all_slots_can_be_used_and_no_more() {
        let mut table = Table::default();
        for serial in 0..u64::from(SLOTS) {
            assert!(table.take(serial).is_some());
        }
        assert_eq!(table.take(0), None);
        assert_eq!(table.highest(), SLOTS - 1);
        table.free(7);
        assert_eq!(table.take(0), Some((7, SEQUENCE_BIT + 1)));
    }

    #[test]
    fn the_sequence_number_stays_in_the_upper_half_unless_another_is_asked_for() {
        let mut table = Table {
            sequences: vec![u16::MAX],
            free: VecDeque::from(vec![0; GAP]),
            ..Table::default()
        };
        assert_eq!(table.take(1), Some((0, SEQUENCE_BIT)));
        assert_eq!(table.take_from(1, 7, 2), Some((1, 7)));
        table.free(1);
        table.free = VecDeque::from(vec![1; GAP]);
        assert_eq!(table.take(3), Some((1, SEQUENCE_BIT + 8)));
    }
}
