//! Checks against a domain that writes rubbish over all it can reach.

use super::agent::{differ, fill};
use super::script::{Ask, Told};
use super::session::{PATIENCE, Session};
use crate::store::Reach;
use anyhow::ensure;
use vshmem_ipc::header::{self, Control};
use vshmem_wire::Extent;
use vshmem_words::{Ordering, Words};

/// Rubbish in memory: whoever shares it gets errors and goes on; another group's memory, and with a descriptor per construct another construct,
/// is untouched; the back-end keeps the means to take the memory back.
pub(super) fn memory(session: &mut Session<'_>) -> anyhow::Result<()> {
    let mut other = session.other()?;
    let strange = other.construct(&[4])?;
    let (strange_mapped, strange_words) = other.map(&strange, 0)?;
    fill(&strange_words, 0x5afe);

    let shared = session.construct(&[4])?;
    let apart = session.construct(&[4])?;
    let (mapped, host) = session.map(&shared, 0)?;
    let (apart_mapped, apart_words) = session.map(&apart, 0)?;
    fill(&apart_words, 0xca1f);
    header::format(&host, header::Kind::Sem);

    let (mut hostile, mut b) = (session.domain()?, session.domain()?);
    let in_b = session.attach(&mut b, &shared, true)?;
    let all = match session.store.reach() {
        Reach::Pool { bytes } => vec![Extent { offset: 0, bytes }],
        Reach::PerConstruct | Reach::Granted { .. } => shared.extents.clone(),
    };
    let region = session.attach_extents(&mut hostile, shared.serial, all, true)?;
    let sabotaged = hostile.value(Ask::Sabotage { region })?;
    ensure!(
        sabotaged == 0,
        "{sabotaged} attempts to shrink or seal the memory worked"
    );

    let scribbling = hostile.send(Ask::Scribble {
        region,
        words: 200_000,
        seed: 4711,
    })?;
    for turn in 0..200u64 {
        // The host and the other domain use the memory meanwhile: they may read anything, and they go on.
        let _ = header::check(&host, header::Kind::Sem);
        let _ = Control::load(&host).state();
        let _ = host.compare_exchange64(
            header::LOCK_AT,
            turn,
            turn + 1,
            Ordering::AcqRel,
            Ordering::Relaxed,
        );
        if turn.is_multiple_of(20) {
            b.value(Ask::Load {
                region: in_b,
                at: (turn as usize * 8) % 16384,
            })?;
        }
    }
    ensure!(hostile.answer(scribbling)? == Told::Done);
    let found = header::check(&host, header::Kind::Sem);
    ensure!(found.is_err(), "a header of rubbish passes for a set");

    ensure!(
        differ(&strange_words, 0x5afe) == 0,
        "another group's memory was reached"
    );
    if !matches!(session.store.reach(), Reach::Pool { .. }) {
        ensure!(
            differ(&apart_words, 0xca1f) == 0,
            "a construct that was never handed over was reached"
        );
    }
    session.store.release(shared.serial, &shared.extents)?;
    ensure!(differ(&host, 0) == 0, "the memory could not be taken back");
    session.store.unmap(mapped)?;
    session.store.unmap(apart_mapped)?;
    Ok(other.store.unmap(strange_mapped)?)
}

/// Rubbish on the stream: the host finds the next message behind it, and other domains do not notice.
pub(super) fn stream(session: &mut Session<'_>) -> anyhow::Result<()> {
    let (mut hostile, mut b) = (session.domain()?, session.domain()?);
    for seed in 1..6 {
        hostile.done(Ask::ScribbleStream {
            bytes: 20_000 * seed as usize,
            seed,
        })?;
        ensure!(b.ask(Ask::Echo(vec![7; 100]))? == Told::Echo(vec![7; 100]));
    }
    ensure!(hostile.line.skipped() > 0, "rubbish passed for messages");
    ensure!(
        b.line.skipped() == 0 && b.line.strange == 0,
        "another domain's stream was hurt"
    );
    // The other way round: the agent is as robust as the host. No more at a time than the reader's end of any port can hold.
    for seed in 1..30u32 {
        let noise = |i: u32| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8;
        let rubbish: Vec<u8> = (0..700).map(noise).collect();
        hostile
            .line
            .send_rubbish(hostile.domain.stream(), &rubbish, PATIENCE)?;
        ensure!(hostile.ask(Ask::Echo(vec![1, 2, 3]))? == Told::Echo(vec![1, 2, 3]));
    }
    Ok(())
}
