//! The tasks themselves.

use crate::setup;
use crate::steps::Steps;
use anyhow::{Context, Result, ensure};
use std::path::PathBuf;
use std::process::Command;

/// `cargo xtask test`: the ladder.
pub(crate) fn test(quick: bool) -> Result<bool> {
    setup::packages();
    setup::packages_of_tests();
    let mut steps = Steps::default();
    lint_steps(&mut steps);
    steps.run("build", &mut cargo(&["build", "--workspace", "--all-targets"]));
    let profile = if quick { "default" } else { "full" };
    let vsock = if quick {
        None
    } else {
        setup::vsock_device(&target()?)
    };
    let with_vsock = |command: &mut Command| {
        if let Some(program) = &vsock {
            command.env("VSHMEM_VSOCK_DEVICE", program);
        }
    };
    if setup::has_cargo_tool("nextest") {
        let mut command = cargo(&["nextest", "run", "--workspace", "--profile", profile]);
        with_vsock(&mut command);
        steps.run("tests", &mut command);
    } else {
        eprintln!(
            "xtask: cargo-nextest is not installed (`cargo install cargo-nextest --locked`); using cargo test"
        );
        let mut command = cargo(&["test", "--workspace", "--tests", "--no-fail-fast"]);
        if quick {
            command.args(["--exclude", "vshmem-testing-vm"]);
        }
        with_vsock(&mut command);
        steps.run("tests", command.args(["--", "--test-threads=1"]));
    }
    steps.run(
        "documentation examples",
        &mut cargo(&["test", "--workspace", "--doc", "--quiet"]),
    );
    xen(&mut steps, quick);
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

/// The scenarios in dom0 of a Xen machine, in their short setting.
fn xen(steps: &mut Steps, quick: bool) {
    const NAME: &str = "scenarios on Xen";
    if quick {
        return steps.skip(NAME, "--quick leaves out machines");
    }
    match crate::xen_lab::check() {
        Err(why) => steps.skip(NAME, &format!("{why:#}")),
        // By cargo, and not by this program's own path: the tests' build may have replaced the file.
        Ok(()) => steps.run(NAME, &mut cargo(&["xtask", "xen-lab", "--test", "--quick"])),
    }
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

/// `cargo xtask rules`: the table of System V rules, against the kernel and against Vshmem.
pub(crate) fn rules(args: &[String]) -> Result<bool> {
    setup::packages();
    ensure!(build(false)?, "the build failed");
    let mut command = cargo(&[
        "run",
        "--quiet",
        "-p",
        "vshmem-testing-rules",
        "--example",
        "rules",
        "--",
    ]);
    Ok(command.args(args).status().context("cargo run")?.success())
}

/// `cargo xtask soak`: hands over to the soak, so that Ctrl-C is its alone.
pub(crate) fn soak(args: &[String]) -> Result<bool> {
    setup::packages();
    ensure!(build(false)?, "the build failed");
    let mut command = cargo(&[
        "run",
        "--quiet",
        "-p",
        "vshmem-testing-vm",
        "--example",
        "soak",
        "--",
    ]);
    Err(std::os::unix::process::CommandExt::exec(command.args(args))).context("cargo run")
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

/// `cargo xtask install`: what a package would contain, below a prefix.
pub(crate) fn install(args: &[String]) -> Result<bool> {
    let prefix = match args {
        [] => PathBuf::from("/usr/local"),
        [option, prefix] if option == "--prefix" => std::path::absolute(prefix)?,
        _ => anyhow::bail!("usage: cargo xtask install [--prefix DIR]"),
    };
    ensure!(build(true)?, "the build failed");
    let from = target()?.join("release");
    let source = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    for (from, to) in [
        (from.join("vshmem"), "bin/vshmem"),
        (from.join("libvshmem_preload.so"), "lib/libvshmem_preload.so"),
        (from.join("libvshmem.so"), "lib/libvshmem.so"),
        (source.join("client/capi/include/vshmem.h"), "include/vshmem.h"),
        (
            source.join("docs/vshmem.example.toml"),
            "share/doc/vshmem/vshmem.example.toml",
        ),
    ] {
        let to = prefix.join(to);
        std::fs::create_dir_all(to.parent().context("no folder")?)?;
        // A running copy is replaced, not overwritten.
        let beside = to.with_extension("new");
        std::fs::copy(&from, &beside)
            .with_context(|| format!("{} to {}", from.display(), beside.display()))?;
        std::fs::rename(&beside, &to)?;
        println!("{}", to.display());
    }
    pkg_config(&prefix, &source)?;
    let program = prefix.join("bin/vshmem");
    let man = prefix.join("share/man/man1");
    std::fs::create_dir_all(&man)?;
    ensure!(
        Command::new(&program)
            .args(["man", "--dir"])
            .arg(&man)
            .status()?
            .success(),
        "manual pages"
    );
    for (shell, file) in [
        ("bash", "bash-completion/completions/vshmem"),
        ("zsh", "zsh/site-functions/_vshmem"),
        ("fish", "fish/vendor_completions.d/vshmem.fish"),
    ] {
        let to = prefix.join("share").join(file);
        std::fs::create_dir_all(to.parent().context("no folder")?)?;
        let out = Command::new(&program).args(["completions", shell]).output()?;
        ensure!(out.status.success(), "completions for {shell}");
        std::fs::write(&to, out.stdout)?;
        println!("{}", to.display());
    }
    Ok(true)
}

fn pkg_config(prefix: &std::path::Path, source: &std::path::Path) -> Result<()> {
    let text = std::fs::read_to_string(source.join("client/capi/vshmem.pc.in"))?
        .replace("@prefix@", &prefix.display().to_string())
        .replace("@includedir@", "${prefix}/include")
        .replace("@libdir@", "${prefix}/lib")
        .replace("@version@", env!("CARGO_PKG_VERSION"));
    let to = prefix.join("lib/pkgconfig/vshmem.pc");
    std::fs::create_dir_all(prefix.join("lib/pkgconfig"))?;
    std::fs::write(&to, text)?;
    println!("{}", to.display());
    Ok(())
}

pub(crate) fn target() -> Result<PathBuf> {
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
