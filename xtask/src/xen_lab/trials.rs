//! `cargo xtask xen-lab --test`: the scenarios, run in dom0 of one machine.
//!
//! The test programs are built here, with everything they use; dom0 sees them in this host's own tree.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A test program, and what of it runs in dom0.
struct Trial {
    package: &'static str,
    target: &'static str,
    /// Tests whose names hold one of these; all if there is none.
    tests: &'static [&'static str],
    /// In the short setting; nothing if there is none.
    short: Option<&'static [&'static str]>,
    seconds: u32,
}

impl Trial {
    /// Emulated guests in an emulated machine have twice the time.
    fn limit(&self, hvm: bool) -> u32 {
        self.seconds * if hvm { 2 } else { 1 }
    }
}

const TRIALS: [Trial; 7] = [
    Trial {
        package: "vshmem-testing-vm",
        target: "xen",
        tests: &[],
        // What guests cannot do takes two machines more.
        short: Some(&["dom0_and_two_guests"]),
        seconds: 900,
    },
    Trial {
        package: "vshmem-testing-vm",
        target: "xen_hypercalls",
        tests: &[],
        short: None,
        seconds: 1500,
    },
    Trial {
        package: "vshmem-guest",
        target: "xen",
        // Not the one whose service is a Python program: starting that takes most of a minute here.
        tests: &[
            "ends::",
            "pins::",
            "streams::",
            "a_program_finds",
            "a_service_that_ends",
        ],
        short: Some(&["a_guest_does_not_outlive"]),
        seconds: 900,
    },
    Trial {
        package: "vshmem-port-xen",
        target: "conformance",
        tests: &[],
        short: None,
        seconds: 900,
    },
    Trial {
        package: "vshmem-testing-vm",
        target: "exchange",
        tests: &["xen"],
        short: None,
        seconds: 600,
    },
    Trial {
        package: "vshmem-testing-vm",
        target: "death",
        tests: &["xen"],
        short: None,
        seconds: 900,
    },
    Trial {
        package: "vshmem-testing-vm",
        target: "restart",
        tests: &["xen"],
        short: None,
        seconds: 600,
    },
];

/// The C program that scenarios run in guests: compiling it in dom0 would take long.
const ACTOR: &str = "testing/vm/programs/actor.c";
/// Makes what the conformance suite's guests start from, and runs the trials; see there.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/xen_lab/trials.sh");

/// How long the whole may take, the machine's start not included.
pub(super) fn seconds(short: bool, hvm: bool) -> u64 {
    let taken = TRIALS.iter().filter(|trial| !short || trial.short.is_some());
    taken.map(|trial| u64::from(trial.limit(hvm))).sum()
}

/// Builds what is needed; gives the command for dom0.
pub(super) fn prepare(short: bool, hvm: bool, target: &Path) -> Result<Vec<String>> {
    ensure!(crate::tasks::build(false)?, "the build failed");
    compile_actor(target)?;
    let taken: Vec<&Trial> = TRIALS
        .iter()
        .filter(|trial| !short || trial.short.is_some())
        .collect();
    let programs = build(&taken)?;
    let mut command = vec!["bash".to_owned(), SCRIPT.to_owned()];
    for trial in taken {
        let program = programs
            .get(&(trial.package.to_owned(), trial.target.to_owned()))
            .with_context(|| format!("cargo made no test program {} of {}", trial.target, trial.package))?;
        let tests = trial.short.filter(|_| short).unwrap_or(trial.tests);
        command.push(format!(
            "{}::{} {} {} {}",
            trial.package,
            trial.target,
            trial.limit(hvm),
            program.display(),
            tests.join(" ")
        ));
    }
    Ok(command)
}

fn compile_actor(target: &Path) -> Result<()> {
    let folder = target.join("debug/programs");
    std::fs::create_dir_all(&folder)?;
    let fresh = folder.join(format!("actor.lab.{}", std::process::id()));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(ACTOR);
    let mut cc = Command::new("cc");
    let status = cc
        .args(["-O1", "-o"])
        .arg(&fresh)
        .arg(source)
        .arg("-pthread")
        .status();
    ensure!(status.context("cc")?.success(), "cc failed on {ACTOR}");
    Ok(std::fs::rename(fresh, folder.join("actor"))?)
}

/// Builds test programs; gives their files by package and target.
fn build(trials: &[&Trial]) -> Result<BTreeMap<(String, String), PathBuf>> {
    let mut command = Command::new("cargo");
    command.args([
        "test",
        "--no-run",
        "--quiet",
        "--message-format=json-render-diagnostics",
    ]);
    for trial in trials {
        command.args(["-p", trial.package, "--test", trial.target]);
    }
    // Tests of these programs run the programs of their packages.
    command.args(["--bins", "--all-features"]);
    let out = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
    ensure!(out.status.success(), "the build of the test programs failed");
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&out.stdout).lines() {
        let Ok(message) = serde_json::from_str::<serde_json::Value>(line) else {
            continue;
        };
        let (kind, file) = (&message["target"]["kind"][0], &message["executable"]);
        let (Some("test"), Some(file)) = (kind.as_str(), file.as_str()) else {
            continue;
        };
        let package = package_of(message["manifest_path"].as_str().unwrap_or_default());
        let target = message["target"]["name"].as_str().unwrap_or_default();
        found.insert((package, target.to_owned()), PathBuf::from(file));
    }
    Ok(found)
}

/// The name of the package with this manifest.
fn package_of(manifest: &str) -> String {
    let text = std::fs::read_to_string(manifest).unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("name = "));
    name.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_trial_is_a_test_program_of_its_package() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let folder = |package: &str| match package {
            "vshmem-testing-vm" => "testing/vm",
            "vshmem-guest" => "node/guest",
            _ => "ports/xen",
        };
        for trial in &TRIALS {
            let tests = root.join(folder(trial.package)).join("tests");
            let there = tests.join(format!("{}.rs", trial.target)).is_file()
                || tests.join(trial.target).join("main.rs").is_file();
            assert!(there, "{}::{}", trial.package, trial.target);
        }
        assert!(seconds(true, false) < seconds(false, false) && seconds(true, false) < seconds(true, true));
    }

    #[test]
    fn a_package_is_known_by_its_manifest() {
        let own = concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml");
        assert_eq!(package_of(own), "xtask");
    }
}
