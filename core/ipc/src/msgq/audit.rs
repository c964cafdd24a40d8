//! A check of the whole structure, for tests and for whoever suspects a queue. Not for the data path, and not while the queue is in use.

use super::layout::{CLASSES, Use, block, field};
use super::list::List;
use super::view::{View, corrupt};
use super::{FIRST_BLOCK, Queue};
use crate::Corrupt;
use vshmem_words::Words;

impl<'a, W: Words> Queue<'a, W> {
    /// Checks that everything derived agrees with the blocks. Only meaningful while nobody uses the queue.
    ///
    /// # Errors
    /// [`Corrupt`] names the first thing that does not.
    pub fn audit(&self) -> Result<(), Corrupt> {
        let view = View::new(self.words);
        let (messages, bytes, free) = view.audit_arena()?;
        view.audit_fifo(messages)?;
        view.audit_spare()?;
        let listed = view.audit_free_lists()?;
        expect("free blocks in lists", listed, free)?;
        expect("messages counted", view.get(field::QNUM), messages)?;
        let counted = view.get64(field::CBYTES);
        if counted != bytes {
            return Err(Corrupt {
                what: "bytes counted",
                found: counted,
                allowed: bytes,
            });
        }
        for list in [List::RECEIVERS, List::SENDERS] {
            view.audit_order(list)?;
        }
        Ok(())
    }
}

fn expect(what: &'static str, found: u32, allowed: u32) -> Result<(), Corrupt> {
    if found == allowed {
        Ok(())
    } else {
        Err(corrupt(what, found, allowed))
    }
}

impl<W: Words> View<'_, W> {
    /// Messages, their bytes, and free blocks.
    fn audit_arena(&self) -> Result<(u32, u64, u32), Corrupt> {
        let (mut at, mut before, mut free_before) = (FIRST_BLOCK, 0, false);
        let (mut messages, mut bytes, mut free) = (0, 0, 0);
        while at < self.end {
            let unit = self.unit(at)?;
            let tag = self.tag(unit)?;
            expect("size before", self.get(unit.at(block::SIZE_BEFORE)), before)?;
            if tag.state == Use::Free {
                expect("free neighbours", u32::from(free_before), 0)?;
                free += 1;
            }
            if tag.state == Use::Live {
                messages += 1;
                bytes += u64::from(self.message(unit, Use::Live, None)?.len);
            }
            free_before = tag.state == Use::Free;
            before = tag.size;
            at += tag.size;
        }
        expect("size of the last block", self.get(field::LAST_SIZE), before)?;
        Ok((messages, bytes, free))
    }

    fn audit_spare(&self) -> Result<(), Corrupt> {
        let Some(unit) = self.link(field::SPARE)? else {
            return Ok(());
        };
        let tag = self.tag(unit)?;
        expect("state of the spare block", tag.state as u32, Use::Taken as u32)?;
        expect("owner of the spare block", tag.owner, 0)
    }

    fn audit_fifo(&self, messages: u32) -> Result<(), Corrupt> {
        let count = self.audit_order(List::FIFO)?;
        expect("messages in the list", count, messages)?;
        let mut at = self.link(List::FIFO.first())?;
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            let first = self.first_of_type(self.type_of(unit))?;
            let older = first.is_some_and(|first| {
                self.get64(first.at(block::SEQUENCE)) <= self.get64(unit.at(block::SEQUENCE))
            });
            expect("message in the index", u32::from(older), 1)?;
            at = self.link(unit.at(block::NEXT))?;
        }
        Ok(())
    }

    /// Checks a list's links and the order of its members; gives their number.
    fn audit_order(&self, list: List) -> Result<u32, Corrupt> {
        let mut at = self.link(list.first())?;
        let (mut count, mut before, mut last) = (0, 0, None);
        let mut steps = self.steps();
        while let Some(unit) = at {
            steps.one()?;
            expect("link back", self.get(unit.at(block::PREV)), before)?;
            let sequence = self.get64(unit.at(block::SEQUENCE));
            expect("order of a list", u32::from(last >= Some(sequence)), 0)?;
            last = Some(sequence);
            before = unit.raw();
            count += 1;
            at = self.link(unit.at(block::NEXT))?;
        }
        expect("end of a list", self.get(list.first() + 4), before)?;
        Ok(count)
    }

    fn audit_free_lists(&self) -> Result<u32, Corrupt> {
        let mut count = 0;
        let mut steps = self.steps();
        for list in 0..CLASSES {
            let mut at = self.link(field::FREE_LISTS + list * 4)?;
            let marked = self.get64(field::FREE_MAP + list / 64 * 8) >> (list % 64) & 1;
            expect("bit of a free list", marked as u32, u32::from(at.is_some()))?;
            while let Some(unit) = at {
                steps.one()?;
                let tag = self.tag(unit)?;
                expect(
                    "free list of a size",
                    super::classes::class(tag.size),
                    list as u32,
                )?;
                expect("state in a free list", tag.state as u32, Use::Free as u32)?;
                count += 1;
                at = self.link(unit.at(block::NEXT))?;
            }
        }
        Ok(count)
    }
}
