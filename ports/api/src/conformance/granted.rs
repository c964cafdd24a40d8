//! Checks of memory that is granted to domains one construct at a time: who is admitted to one reaches that one, for as long as that holds.
//!
//! Where memory is reached otherwise there is nothing to check.

use super::script::{Ask, Told};
use super::session::{Construct, Peer, Session};
use crate::store::Reach;
use anyhow::{bail, ensure};
use vshmem_wire::{Grants, Memory, Window};

fn is_granted(session: &Session<'_>) -> bool {
    matches!(session.store.reach(), Reach::Granted { .. })
}

/// What a domain is told to map a construct by.
fn told(construct: &Construct, grants: Option<Grants>, writable: bool) -> Ask {
    Ask::Map(Memory {
        window: Window::Direct,
        group: 0,
        extents: construct.extents.clone(),
        writable,
        grants,
        huge: 0,
    })
}

/// Asks a domain to map what it must not be able to map.
fn refused(peer: &mut Peer, ask: Ask, what: &str) -> anyhow::Result<()> {
    let number = peer.send(ask)?;
    loop {
        let (found, answer) = peer.line.wait(peer.domain.stream(), super::session::PATIENCE)?;
        match answer {
            Told::Failed(_) if found == number => return Ok(()),
            Told::Ring(_) => {}
            other => bail!("{what}: {other:?}"),
        }
    }
}

/// After a domain's admission has ended its old grants map nothing, and what it still has mapped is known to be so until it is unmapped.
pub(super) fn revoked(session: &mut Session<'_>) -> anyhow::Result<()> {
    if !is_granted(session) {
        return Ok(());
    }
    let construct = session.construct(&[2])?;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    let region = session.attach(&mut a, &construct, true)?;
    let in_b = session.attach(&mut b, &construct, true)?;
    let number = a.as_numbered;
    let old = session
        .store
        .grants(construct.serial, number, &construct.extents, true)?;
    ensure!(
        !session.store.revoke(construct.serial, number)?,
        "what is mapped is said to be unmapped"
    );
    ensure!(
        session
            .store
            .grants(construct.serial, number, &construct.extents, true)
            .is_err(),
        "grants are given to who is not admitted"
    );
    a.done(Ask::Unmap { region })?;
    refused(&mut a, told(&construct, old, true), "mapped by revoked grants")?;
    b.done(Ask::Store {
        region: in_b,
        at: 8,
        value: 1,
    })?;
    // Admitted again, it reaches what is there.
    let again = session.attach(&mut a, &construct, false)?;
    ensure!(a.value(Ask::Load { region: again, at: 8 })? == 1);
    let reading = session
        .store
        .grants(construct.serial, number, &construct.extents, false)?;
    refused(
        &mut a,
        told(&construct, reading, true),
        "mapped for writing by grants for reading",
    )
}

/// Another domain's grants, and references made up, map nothing; and whoever tries them harms nobody.
pub(super) fn forged(session: &mut Session<'_>) -> anyhow::Result<()> {
    if !is_granted(session) {
        return Ok(());
    }
    let construct = session.construct(&[2])?;
    let (mut a, mut b) = (session.domain()?, session.domain()?);
    let in_b = session.attach(&mut b, &construct, true)?;
    let number = b.as_numbered;
    let others = session
        .store
        .grants(construct.serial, number, &construct.extents, true)?;
    let from = others.as_ref().map_or(0, |grants| grants.from);
    refused(
        &mut a,
        told(&construct, others, true),
        "mapped by another domain's grants",
    )?;
    for first in [0, 1, 8, 200, 511, 512, 40_000, u32::MAX - 1] {
        let made_up = Grants {
            from,
            runs: vec![(first, 2)],
        };
        refused(
            &mut a,
            told(&construct, Some(made_up), false),
            "mapped by references made up",
        )?;
    }
    b.done(Ask::Store {
        region: in_b,
        at: 0,
        value: 7,
    })?;
    ensure!(b.value(Ask::Load { region: in_b, at: 0 })? == 7);
    Ok(())
}
