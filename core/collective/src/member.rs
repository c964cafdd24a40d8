//! A party of a team and what it can do together with the others.

use crate::element::{Element, Operation};
use crate::layout::{self, CHUNK, MOST_PARTIES, ROUNDS};
use crate::signal::{self, Crew, Look};
use alloc::vec;
use alloc::vec::Vec;
use vshmem_words::{Ordering, Words};

/// Most parties whose contributions everybody reads by itself; more are combined in a tree.
pub const FLAT: usize = 8;

/// Why a collective failed. After a failure other than [`Failure::Unfit`] the team is of no use to this party: each further call fails alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure<E> {
    /// This party died or left before it had done its part.
    Lost(usize),
    /// No such root, or an operation that the numbers do not know. Nothing was done.
    Unfit,
    /// The crew could not go on.
    Crew(E),
    /// An earlier collective failed for this reason's sake.
    Broken,
}

/// One party's state. All parties call the same collectives in the same order, with the same root, operation and length.
#[derive(Debug)]
pub struct Member {
    parties: usize,
    rank: usize,
    /// Collectives begun.
    sequence: u64,
    /// What was last sent in each round of a barrier, up the tree, and down the tree to each child.
    arrived: [u64; ROUNDS],
    up: u64,
    down: [u64; ROUNDS],
    scratch: Vec<u8>,
    lost: Option<usize>,
    broken: bool,
}

impl Member {
    /// The party `rank` of `parties`, over memory whose first [`control_bytes`](crate::control_bytes) bytes were zero when the team formed. None if there are
    /// no such parties.
    pub fn new(parties: usize, rank: usize) -> Option<Member> {
        (rank < parties && parties <= MOST_PARTIES).then(|| Member {
            parties,
            rank,
            sequence: 0,
            arrived: [0; ROUNDS],
            up: 0,
            down: [0; ROUNDS],
            scratch: vec![0; CHUNK],
            lost: None,
            broken: false,
        })
    }

    /// Its number, from 0.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// How many parties there are.
    pub fn parties(&self) -> usize {
        self.parties
    }

    /// Waits until every party has called this as often as this one.
    ///
    /// # Errors
    /// [`Failure::Lost`], [`Failure::Crew`].
    pub fn barrier<W: Words, C: Crew>(&mut self, memory: &W, crew: &C) -> Result<(), Failure<C::Error>> {
        let sequence = self.begin()?;
        self.meet(memory, crew, sequence)?;
        self.end(memory, sequence);
        Ok(())
    }

    /// Gives everybody the root's bytes.
    ///
    /// # Errors
    /// As for [`Member::barrier`]; [`Failure::Unfit`] if there is no such root.
    pub fn broadcast<W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        root: usize,
        bytes: &mut [u8],
    ) -> Result<(), Failure<C::Error>> {
        if root >= self.parties {
            return Err(Failure::Unfit);
        }
        for piece in bytes.chunks_mut(CHUNK) {
            let sequence = self.begin()?;
            let slot = layout::slot(self.parties, root, sequence);
            if self.rank == root {
                memory.copy_in(slot, piece);
            }
            self.meet(memory, crew, sequence)?;
            if self.rank != root {
                memory.copy_out(slot, piece);
            }
            self.end(memory, sequence);
        }
        Ok(())
    }

    /// Combines everybody's numbers, one by one; the root's are replaced by the result, the others' stay.
    ///
    /// # Errors
    /// As for [`Member::barrier`]; [`Failure::Unfit`] if there is no such root or the numbers do not know the operation.
    pub fn reduce<T: Element, W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        root: usize,
        operation: Operation,
        numbers: &mut [T],
    ) -> Result<(), Failure<C::Error>> {
        if root >= self.parties {
            return Err(Failure::Unfit);
        }
        self.combine(memory, crew, operation, numbers, |rank| rank == root)
    }

    /// Combines everybody's numbers, one by one, and gives everybody the result: the same bits to all.
    ///
    /// # Errors
    /// As for [`Member::reduce`].
    pub fn allreduce<T: Element, W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        operation: Operation,
        numbers: &mut [T],
    ) -> Result<(), Failure<C::Error>> {
        self.combine(memory, crew, operation, numbers, |_| true)
    }

    /// Says that this party needs nothing more. Rank 0 waits until all have said so, and may then take the team's memory away.
    ///
    /// # Errors
    /// As for [`Member::barrier`].
    pub fn farewell<W: Words, C: Crew>(&mut self, memory: &W, crew: &C) -> Result<(), Failure<C::Error>> {
        let sequence = self.begin()?;
        for round in self.rounds_of_children() {
            self.await_signal(memory, crew, layout::up(self.rank, round), sequence)?;
        }
        self.tell_parent(memory, crew, sequence);
        self.end(memory, sequence);
        Ok(())
    }

    fn combine<T: Element, W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        operation: Operation,
        numbers: &mut [T],
        wants: impl Fn(usize) -> bool,
    ) -> Result<(), Failure<C::Error>> {
        if !T::knows(operation) {
            return Err(Failure::Unfit);
        }
        for piece in numbers.chunks_mut(CHUNK / T::BYTES) {
            let sequence = self.begin()?;
            let wanted = wants(self.rank);
            if self.parties <= FLAT {
                self.combine_flat(memory, crew, sequence, operation, piece, wanted)?;
            } else {
                self.combine_in_a_tree(memory, crew, sequence, operation, piece, wanted)?;
            }
            self.end(memory, sequence);
        }
        Ok(())
    }

    /// Everybody shows its numbers; who wants the result combines them in the order of ranks.
    fn combine_flat<T: Element, W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        sequence: u64,
        operation: Operation,
        piece: &mut [T],
        wanted: bool,
    ) -> Result<(), Failure<C::Error>> {
        self.show(memory, sequence, piece);
        self.meet(memory, crew, sequence)?;
        if wanted {
            let bytes = size_of_val(piece);
            for rank in 0..self.parties {
                memory.copy_out(
                    layout::slot(self.parties, rank, sequence),
                    &mut self.scratch[..bytes],
                );
                match rank {
                    0 => T::take(piece, &self.scratch[..bytes]),
                    _ => T::fold(operation, piece, &self.scratch[..bytes]),
                }
            }
        }
        Ok(())
    }

    /// Up a binomial tree whose root is rank 0, each combining its children's numbers with its own, and down again.
    fn combine_in_a_tree<T: Element, W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        sequence: u64,
        operation: Operation,
        piece: &mut [T],
        wanted: bool,
    ) -> Result<(), Failure<C::Error>> {
        let bytes = size_of_val(piece);
        let mut partial = piece.to_vec();
        for round in self.rounds_of_children() {
            self.await_signal(memory, crew, layout::up(self.rank, round), sequence)?;
            let child = layout::slot(self.parties, self.rank + (1 << round), sequence);
            memory.copy_out(child, &mut self.scratch[..bytes]);
            T::fold(operation, &mut partial, &self.scratch[..bytes]);
        }
        self.show(memory, sequence, &partial);
        self.tell_parent(memory, crew, sequence);
        if self.rank != 0 {
            self.await_signal(memory, crew, layout::down(self.rank), sequence)?;
        }
        for round in self.rounds_of_children().rev() {
            let child = self.rank + (1 << round);
            let last = &mut self.down[round];
            signal::send(memory, crew, layout::down(child), last, sequence, child);
        }
        if wanted {
            memory.copy_out(
                layout::slot(self.parties, 0, sequence),
                &mut self.scratch[..bytes],
            );
            T::take(piece, &self.scratch[..bytes]);
        }
        Ok(())
    }

    /// Writes numbers into this party's slot.
    fn show<T: Element, W: Words>(&mut self, memory: &W, sequence: u64, piece: &[T]) {
        let bytes = size_of_val(piece);
        T::put(piece, &mut self.scratch[..bytes]);
        memory.copy_in(
            layout::slot(self.parties, self.rank, sequence),
            &self.scratch[..bytes],
        );
    }

    /// The rounds in which this party has a child `rank + 2^round` in the tree.
    fn rounds_of_children(&self) -> core::ops::Range<usize> {
        let (rank, parties) = (self.rank, self.parties);
        let own = if rank == 0 {
            ROUNDS
        } else {
            rank.trailing_zeros() as usize
        };
        let fitting = (0..own).take_while(|round| rank + (1 << round) < parties).count();
        0..fitting
    }

    fn tell_parent<W: Words, C: Crew>(&mut self, memory: &W, crew: &C, sequence: u64) {
        if self.rank != 0 {
            let round = self.rank.trailing_zeros() as usize;
            let parent = self.rank - (1 << round);
            let at = layout::up(parent, round);
            signal::send(memory, crew, at, &mut self.up, sequence, parent);
        }
    }

    /// The barrier itself: in round k everybody signals the party 2^k further and awaits the one 2^k before.
    fn meet<W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        sequence: u64,
    ) -> Result<(), Failure<C::Error>> {
        let mut round = 0;
        while 1 << round < self.parties {
            let to = (self.rank + (1 << round)) % self.parties;
            let last = &mut self.arrived[round];
            signal::send(memory, crew, layout::arrive(to, round), last, sequence, to);
            self.await_signal(memory, crew, layout::arrive(self.rank, round), sequence)?;
            round += 1;
        }
        Ok(())
    }

    fn begin<E>(&mut self) -> Result<u64, Failure<E>> {
        if let Some(rank) = self.lost {
            return Err(Failure::Lost(rank));
        }
        if self.broken {
            return Err(Failure::Broken);
        }
        self.sequence += 1;
        Ok(self.sequence)
    }

    fn end<W: Words>(&self, memory: &W, sequence: u64) {
        // Release: pairs with the acquire in `missed`, for nobody's sake but the reader's: who sees this number sees the signals sent before.
        memory.store64(layout::done(self.rank), sequence, Ordering::Release);
    }

    fn await_signal<W: Words, C: Crew>(
        &mut self,
        memory: &W,
        crew: &C,
        at: usize,
        sequence: u64,
    ) -> Result<(), Failure<C::Error>> {
        let mut turn = 0;
        loop {
            let word = match signal::look(memory, at, sequence) {
                Look::Arrived => return Ok(()),
                Look::Not(word) => word,
            };
            if crew.spin(turn) {
                turn = turn.saturating_add(1);
                continue;
            }
            // A mark that fails means that the word has moved: looked at again, after a sleep in case it is moved without end.
            let moved = !signal::mark(memory, at, word);
            if moved && matches!(signal::look(memory, at, sequence), Look::Arrived) {
                return Ok(());
            }
            let slept = crew.sleep().and_then(|()| self.missed(memory, crew, sequence));
            // Looked at last: what was sent before its sender's end counts.
            if matches!(signal::look(memory, at, sequence), Look::Arrived) {
                return Ok(());
            }
            match slept {
                Ok(None) => {}
                Ok(Some(rank)) => {
                    self.lost = Some(rank);
                    return Err(Failure::Lost(rank));
                }
                Err(error) => {
                    self.broken = true;
                    return Err(Failure::Crew(error));
                }
            }
        }
    }

    /// A party that is gone without having done with this collective.
    fn missed<W: Words, C: Crew>(
        &self,
        memory: &W,
        crew: &C,
        sequence: u64,
    ) -> Result<Option<usize>, C::Error> {
        for rank in (0..self.parties).filter(|&rank| rank != self.rank) {
            if crew.gone(rank)? && memory.load64(layout::done(rank), Ordering::Acquire) < sequence {
                return Ok(Some(rank));
            }
        }
        Ok(None)
    }
}
