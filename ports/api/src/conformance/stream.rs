//! Checks of the stream: rings and messages arrive, and the end of a domain shows as the end of its stream.

use super::agent::Random;
use super::script::{Add, Ask, Told};
use super::session::{PATIENCE, Peer, Session};
use anyhow::{Context, bail, ensure};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vshmem_words::{Ordering, Words};

/// How soon the end of a domain must show.
const NOTICED: Duration = Duration::from_secs(10);

/// A ring by message, a thousand times in each direction and across: none is lost.
pub(super) fn rings(session: &mut Session<'_>) -> anyhow::Result<()> {
    const RINGS: u32 = 1000;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    // a rings, the host passes each on to b as the back-end would.
    let number = a.send(Ask::RingBack { count: RINGS })?;
    let mut heard = BTreeSet::new();
    loop {
        let (found, told) = a.line.wait(a.domain.stream(), PATIENCE)?;
        match told {
            Told::Ring(ring) => {
                heard.insert(ring);
                b.send(Ask::Ring(ring))?;
            }
            Told::Done if found == number => break,
            other => bail!("{other:?} among rings"),
        }
    }
    ensure!(
        heard.len() == RINGS as usize,
        "the host heard {} of {RINGS} rings",
        heard.len()
    );
    let across = b.value(Ask::Rings)?;
    ensure!(
        across == u64::from(RINGS),
        "b heard {across} of a's {RINGS} rings"
    );
    // And with pauses: a bell that is only seen together with the next one does not count.
    let mut late = Duration::ZERO;
    for _ in 0..50 {
        let started = Instant::now();
        a.done(Ask::RingBack { count: 1 })?;
        late = late.max(started.elapsed());
        std::thread::sleep(Duration::from_millis(3));
    }
    ensure!(a.rings.len() == 50, "{} of 50 single rings", a.rings.len());
    ensure!(late < Duration::from_secs(5), "a single ring took {late:?}");
    Ok(())
}

/// Messages of every size up to the largest come back as they were, several under way at a time.
pub(super) fn sizes(session: &mut Session<'_>) -> anyhow::Result<()> {
    let mut a = session.domain()?;
    let mut random = Random(77);
    let largest = vshmem_wire::MAX_MESSAGE - 64;
    for size in [
        0, 1, 3, 253, 254, 255, 256, 4095, 4096, 4097, 20_000, 65_536, largest,
    ] {
        let zeros = vec![0; size];
        let noise: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        let numbers = [
            (a.send(Ask::Echo(zeros.clone()))?, zeros),
            (a.send(Ask::Echo(noise.clone()))?, noise),
        ];
        for (number, sent) in numbers {
            let answer = a.answer(number);
            match answer.with_context(|| format!("an echo of {size} bytes, {} skipped", a.line.skipped()))? {
                Told::Echo(back) if back == sent => {}
                Told::Echo(back) => bail!("{size} bytes came back changed, {} of them", back.len()),
                other => bail!("an echo of {size} bytes gave {other:?}"),
            }
        }
    }
    ensure!(
        a.line.skipped() == 0,
        "{} bytes were lost between frames",
        a.line.skipped()
    );
    Ok(())
}

/// A reader that does not read for a while gets everything afterwards, and the stream works as before.
pub(super) fn slow(session: &mut Session<'_>) -> anyhow::Result<()> {
    let mut a = session.domain()?;
    for round in 0..3u8 {
        let nap = a.send(Ask::Sleep(400))?;
        let sent = vec![round; 5_000];
        let echoes: Vec<u64> = (0..8)
            .map(|_| a.send(Ask::Echo(sent.clone())))
            .collect::<Result<_, _>>()?;
        ensure!(a.answer(nap)? == Told::Done);
        for (i, echo) in echoes.into_iter().enumerate() {
            let back = a
                .answer(echo)
                .with_context(|| format!("echo {i} of round {round}"))?;
            ensure!(
                back == Told::Echo(sent.clone()),
                "echo {i} of round {round} came back changed"
            );
        }
    }
    Ok(())
}

fn go_on(session: &mut Session<'_>, peer: &mut Peer, region: usize) -> anyhow::Result<()> {
    peer.done(Ask::Store {
        region,
        at: 8,
        value: 8,
    })?;
    ensure!(
        peer.value(Ask::Load { region, at: 8 })? == 8,
        "the other domain's memory is gone"
    );
    let mut next = session.domain()?;
    ensure!(
        next.ask(Ask::Echo(vec![1]))? == Told::Echo(vec![1]),
        "a new domain does not answer"
    );
    Ok(())
}

/// A domain killed in the midst of storing: its stream ends soon, memory and the other domain are as before, and a new one can come.
pub(super) fn killed(session: &mut Session<'_>) -> anyhow::Result<()> {
    let construct = session.construct(&[1])?;
    let (mapped, host) = session.map(&construct, 0)?;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    let in_a = session.attach(&mut a, &construct, true)?;
    let in_b = session.attach(&mut b, &construct, true)?;
    host.store64(0, 1, Ordering::SeqCst);
    a.done(Ask::Add {
        region: in_a,
        gate: 0,
        at: 64,
        times: u64::MAX,
        how: Add::Fetch64,
    })?;
    let started = Instant::now();
    while host.load64(64, Ordering::SeqCst) < 1000 {
        ensure!(started.elapsed() < PATIENCE, "a does not add");
    }
    a.domain.kill();
    a.end(NOTICED)?;
    let first = host.load64(64, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(50));
    ensure!(
        first == host.load64(64, Ordering::SeqCst),
        "a killed domain goes on storing"
    );
    go_on(session, &mut b, in_b)?;
    Ok(session.store.unmap(mapped)?)
}

/// A domain that ends by itself: the same.
pub(super) fn ended(session: &mut Session<'_>) -> anyhow::Result<()> {
    let construct = session.construct(&[1])?;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    session.attach(&mut a, &construct, true)?;
    let in_b = session.attach(&mut b, &construct, true)?;
    a.send(Ask::End)?;
    a.end(NOTICED)?;
    go_on(session, &mut b, in_b)
}
