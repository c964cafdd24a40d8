//! Programs nobody changed: util-linux, Python's sysv_ipc with its own test-suite, stress-ng.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;
use vshmem_testing_vm::machine::{built, finish};
use vshmem_testing_vm::{Machine, missing};

fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

#[test]
fn util_linux() -> Result<()> {
    if !Path::new("/usr/bin/ipcmk").exists() {
        missing("util_linux", "ipcmk is not installed");
        return Ok(());
    }
    let machine = Machine::start()?;
    let limit = Duration::from_secs(20);
    let mut ids = Vec::new();
    for (option, amount) in [("-M", "12345"), ("-S", "3"), ("-Q", "")] {
        let mut argv = vec!["ipcmk", option];
        if !amount.is_empty() {
            argv.push(amount);
        }
        let out = machine.run(&argv, limit)?;
        ensure!(out.status.success(), "{argv:?}: {}", text(&out));
        let said = text(&out);
        ids.push(said.trim().rsplit(' ').next().context("no id")?.to_string());
    }
    let listed = text(&machine.run(&["ipcs"], limit)?);
    for id in &ids {
        ensure!(listed.contains(id.as_str()), "ipcs does not show {id}:\n{listed}");
    }
    ensure!(listed.contains("12345"), "ipcs does not show the size:\n{listed}");
    for (option, id) in [("-m", &ids[0]), ("-s", &ids[1]), ("-q", &ids[2])] {
        let out = machine.run(&["ipcs", option, "-i", id], limit)?;
        ensure!(
            out.status.success() && text(&out).contains(id.as_str()),
            "ipcs {option} -i: {}",
            text(&out)
        );
        let out = machine.run(&["ipcrm", option, id], limit)?;
        ensure!(out.status.success(), "ipcrm {option} {id}: {}", text(&out));
    }
    let listed = text(&machine.run(&["ipcs"], limit)?);
    ensure!(
        ids.iter().all(|id| !listed.contains(id.as_str())),
        "ipcrm left something:\n{listed}"
    );
    // The kernel's own IPC never saw any of it.
    let kernel = text(&finish(&mut Command::new("ipcs"), limit)?);
    ensure!(
        ids.iter().all(|id| !kernel.contains(id.as_str())),
        "it went to the kernel:\n{kernel}"
    );
    Ok(())
}

/// A Python with the sysv_ipc package and its source distribution's tests, made once under the target folder.
fn python_with_sysv_ipc() -> Result<(PathBuf, PathBuf)> {
    let folder = built().join("python");
    let (python, tests) = (folder.join("venv/bin/python"), folder.join("source"));
    if !folder.join("ready").exists() {
        std::fs::create_dir_all(&folder)?;
        let script = "set -e; cd \"$0\"; rm -rf venv source; python3 -m venv venv; \
             venv/bin/pip -q download --no-binary :all: --no-deps -d source sysv_ipc; \
             tar -C source --strip-components=1 -xf source/*.tar.gz; \
             venv/bin/pip -q install ./source; touch ready";
        let mut command = Command::new("sh");
        let out = finish(
            command.args(["-c", script]).arg(&folder),
            Duration::from_secs(180),
        )?;
        ensure!(out.status.success(), "{}", text(&out));
    }
    Ok((python, tests))
}

#[test]
fn python_sysv_ipc_passes_its_own_tests() -> Result<()> {
    let (python, source) = match python_with_sysv_ipc() {
        Ok(found) => found,
        Err(error) => {
            missing(
                "python_sysv_ipc_passes_its_own_tests",
                &format!("the package could not be had: {error:#}"),
            );
            return Ok(());
        }
    };
    let machine = Machine::start()?;
    let mut command = machine.command(&["run", "--"]);
    command
        .arg(&python)
        .args(["-m", "unittest", "discover", "-v"])
        .current_dir(&source);
    let out = finish(&mut command, Duration::from_secs(120))?;
    ensure!(out.status.success(), "{}", text(&out));
    let said = text(&out);
    let ran = said
        .lines()
        .find(|l| l.starts_with("Ran "))
        .context("unittest says nothing")?;
    ensure!(!ran.starts_with("Ran 0"), "{said}");
    println!("{ran}");
    Ok(())
}

#[test]
fn stress_ng_verifies() -> Result<()> {
    if !Path::new("/usr/bin/stress-ng").exists() {
        missing("stress_ng_verifies", "stress-ng is not installed");
        return Ok(());
    }
    let machine = Machine::start()?;
    let seconds = std::env::var("VSHMEM_STRESS_SECONDS").unwrap_or_else(|_| "30".into());
    let argv = [
        "stress-ng",
        "--shm-sysv",
        "1",
        "--sem-sysv",
        "1",
        "--msg",
        "1",
        "--verify",
        "--metrics",
        "-t",
        &seconds,
    ];
    let limit = Duration::from_secs(90) + Duration::from_secs(seconds.parse()?);
    let out = machine.run(&argv, limit)?;
    let said = text(&out);
    println!("{said}");
    ensure!(out.status.success(), "{said}");
    ensure!(!said.contains("fail:"), "{said}");
    let listed = text(&machine.vshmem(&["ipcs"])?);
    println!("{listed}");
    Ok(())
}
