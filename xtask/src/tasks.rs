//! The tasks themselves.

use crate::setup;
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// `cargo xtask test`: the ladder.
pub(crate) fn test(quick: bool) -> Result<bool> {
    setup::packages();
    let mut steps = Steps::default();
    lint_steps(&mut steps);
    steps.run("build", &mut cargo(&["build", "--workspace", "--all-targets"]));
    let profile = if quick { "default" } else { "full" };
    if setup::has_cargo_tool("nextest") {
        steps.run(
            "tests",
            &mut cargo(&["nextest", "run", "--workspace", "--profile", profile]),
        );
    } else {
        eprintln!(
            "xtask: cargo-nextest is not installed (`cargo install cargo-nextest --locked`); using cargo test"
        );
        let mut command = cargo(&["test", "--workspace", "--tests", "--no-fail-fast"]);
        if quick {
            command.args(["--exclude", "vshmem-testing-vm"]);
        }
        steps.run("tests", command.args(["--", "--test-threads=1"]));
    }
    steps.run(
        "documentation examples",
        &mut cargo(&["test", "--workspace", "--doc", "--quiet"]),
    );
    if setup::has_cargo_tool("miri") {
        steps.run(
            "miri",
            &mut cargo(&["miri", "test", "-p", "vshmem-words", "-p", "vshmem-wire"]),
        );
    } else {
        steps.skip(
            "miri",
            "the toolchain has no miri component (`rustup component add miri` on nightly)",
        );
    }
    Ok(steps.report())
}

/// `cargo xtask lint`.
pub(crate) fn lint() -> Result<bool> {
    let mut steps = Steps::default();
    lint_steps(&mut steps);
    Ok(steps.report())
}

fn lint_steps(steps: &mut Steps) {
    steps.run("format", &mut cargo(&["fmt", "--all", "--check"]));
    steps.run(
        "clippy",
        &mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]),
    );
}

/// `cargo xtask build`: what an installation consists of.
pub(crate) fn build(release: bool) -> Result<bool> {
    let mut command = cargo(&[
        "build",
        "-p",
        "vshmem-cli",
        "-p",
        "vshmem-preload",
        "-p",
        "vshmem-capi",
    ]);
    if release {
        command.arg("--release");
    }
    Ok(command.status().context("cargo build")?.success())
}

/// `cargo xtask demo`: builds with optimisation and hands over to `vshmem demo`.
pub(crate) fn demo(args: &[String]) -> Result<bool> {
    setup::packages();
    ensure!(build(true)?, "the build failed");
    let program = target()?.join("release/vshmem");
    let status = Command::new(&program).arg("demo").args(args).status();
    Ok(status
        .with_context(|| format!("cannot run {}", program.display()))?
        .success())
}

fn target() -> Result<PathBuf> {
    let out = Command::new("cargo")
        .args(["metadata", "--no-deps", "--format-version=1"])
        .output()?;
    let text = String::from_utf8_lossy(&out.stdout);
    let (_, rest) = text
        .split_once("\"target_directory\":\"")
        .context("cargo metadata names no target directory")?;
    let (folder, _) = rest.split_once('"').context("cargo metadata is cut off")?;
    Ok(PathBuf::from(folder))
}

/// A cargo command, without the environment that running under cargo itself leaves behind.
fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new("cargo");
    command.args(args);
    for name in [
        "CARGO_MANIFEST_DIR",
        "CARGO_PKG_NAME",
        "CARGO_PKG_VERSION",
        "CARGO_CRATE_NAME",
    ] {
        command.env_remove(name);
    }
    command
}
