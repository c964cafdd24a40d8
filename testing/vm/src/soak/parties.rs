//! Who plays where: actors that are started again when they die, in local domains and in guests.

use super::model::Party;
use crate::actor::{Actor, actor_program};
use crate::machine::{Machine, Place};
use anyhow::{Context, Result, ensure};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;

/// Starts the program again as long as it is killed.
const AGAIN: &str = "exec 2>/dev/null; \"$@\"; while [ $? -eq 137 ]; do \"$@\"; done";

/// Everything at once on two CPUs, a restarted daemon in a guest may take longer than the five seconds that calls wait for it.
pub(super) const PATIENT: &str = "VSHMEM_TIMEOUT=60";

/// Actors in local domains of this host.
pub fn local(machine: &Machine, domains: &[&str]) -> Result<Vec<Party>> {
    domains
        .iter()
        .map(|domain| {
            let mut command = machine.command(&["run"]);
            if *domain != "host" {
                command.args(["--domain", domain]);
            }
            command
                .args(["--", "env", PATIENT, "sh", "-c", AGAIN, "actor"])
                .arg(actor_program()?)
                .process_group(0);
            let actor = Actor::from_command(command, Place::Host)?;
            Ok(Party::new(domain, actor, true))
        })
        .collect()
}

/// A guest with stress-ng, somebody who kills its front-end, and an actor.
pub struct Guest {
    /// Its domain.
    pub name: String,
    said: PathBuf,
    stressed: bool,
}

/// The killer counts, and goes with the actor; then stress-ng cleans up after itself.
const SCRIPT: &str = r#"
if [ "$STRESSED" = 1 ]; then "$@" >&2 & stress=$!; fi
(
    killed=0
    trap 'echo "front-ends killed: $killed" >&2; exit 0' TERM
    while :; do
        sleep $((7 + killed % 5)) & wait $!
        for pid in /proc/[0-9]*; do
            case "$(tr '\0' ' ' < $pid/cmdline 2>/dev/null)" in
            "vshmem-daemon "*) kill -9 ${pid#/proc/} && killed=$((killed + 1)) ;;
            esac
        done
    done
) & killer=$!
"$ACTOR"; while [ $? -eq 137 ]; do "$ACTOR"; done
kill -TERM $killer; wait $killer
[ -z "$stress" ] || { kill -INT $stress; wait $stress; echo "stress-ng ended with $?" >&2; }
"#;

impl Guest {
    /// Boots it.
    pub fn start(machine: &Machine, name: &str, stressed: Option<&[&str]>) -> Result<(Guest, Party)> {
        let said = machine.runtime().join(format!("guest-{name}"));
        let mut command = machine.command(&[
            "vm", "run", "--port", "uml", "--domain", name, "--mem", "256M", "--",
        ]);
        let program = actor_program()?;
        command
            .args([
                "env",
                PATIENT,
                &format!("STRESSED={}", u8::from(stressed.is_some())),
            ])
            .arg(format!("ACTOR={}", program.display()))
            .args(["sh", "-c", SCRIPT, "soak"])
            .args(stressed.unwrap_or_default())
            .stderr(std::fs::File::create(&said)?)
            .process_group(0);
        let place = Place::Uml(if name == "u1" { "u1" } else { "u2" });
        let started = Actor::from_command(command, place);
        let actor = started.with_context(|| std::fs::read_to_string(&said).unwrap_or_default())?;
        let guest = Guest {
            name: name.into(),
            said,
            stressed: stressed.is_some(),
        };
        Ok((guest, Party::new(name, actor, false)))
    }

    /// What it said, after its actor has ended and with it the guest: how often its front-end was killed.
    pub fn finish(self) -> Result<u64> {
        let said = std::fs::read_to_string(&self.said)?;
        let bad = said.contains("fail:") || (self.stressed && !said.contains("stress-ng ended with 0"));
        ensure!(!bad, "guest {} says: {said}", self.name);
        let line = said.lines().find_map(|l| l.strip_prefix("front-ends killed: "));
        let killed = line.with_context(|| format!("guest {} says: {said}", self.name))?;
        Ok(killed.trim().parse()?)
    }
}
