//! The commands of `examples/*/README.md`, as a newcomer would type them, print what the README says.
//!
//! A block of commands begins with ```` ```sh PLACE NEEDS… ````: the place is `host`, `container` or `guest`, a need is `package=file` or `root`. The block
//! ```` ```text ```` that follows it is what is printed. What a machine lacks is named, and that block skipped.

use anyhow::{Context, Result, ensure};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::Duration;
use vshmem_testing_vm::machine::{built, wait};
use vshmem_testing_vm::{Machine, containers_available, missing, uml_available};

/// Commands of a README, and what they print.
struct Block {
    place: String,
    needs: Vec<String>,
    commands: String,
    printed: String,
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples")
}

fn blocks(readme: &str) -> Result<Vec<Block>> {
    let mut all: Vec<Block> = Vec::new();
    let mut lines = readme.lines();
    while let Some(line) = lines.next() {
        let Some(head) = line.strip_prefix("```").filter(|head| !head.is_empty()) else {
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let body = body.join("\n");
        let mut words = head.split(' ').map(str::to_owned);
        match words.next().as_deref() {
            Some("sh") => all.push(Block {
                place: words.next().context("a block of commands without a place")?,
                needs: words.collect(),
                commands: body,
                printed: String::new(),
            }),
            Some("text") => all.last_mut().context("no commands before the text")?.printed = body,
            _ => {}
        }
    }
    ensure!(!all.is_empty(), "the README has no commands");
    Ok(all)
}

/// What a block needs and this machine lacks.
fn lacking(block: &Block) -> Option<String> {
    match block.place.as_str() {
        "container" if !containers_available() => {
            return Some("unshare is not permitted or not installed".into());
        }
        "guest" if !uml_available() => return Some("linux.uml is not installed".into()),
        _ => {}
    }
    block.needs.iter().find_map(|need| match need.split_once('=') {
        Some((package, file)) => {
            (!Path::new(file).exists()).then(|| format!("{package} is not installed ({file})"))
        }
        None => (!rustix::process::geteuid().is_root()).then(|| format!("it asks for {need}")),
    })
}

/// Runs commands and what they start in the background; None if they hang, and all of them are ended.
fn to_the_end(command: &mut Command, work: &Path) -> Result<(Option<ExitStatus>, String, String)> {
    let (out, err) = (work.join(".out"), work.join(".err"));
    let mut child = command
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(&out)?)
        .stderr(std::fs::File::create(&err)?)
        .process_group(0)
        .spawn()?;
    let group = rustix::process::Pid::from_child(&child);
    let status = wait(&mut child, Duration::from_secs(120)).ok();
    if status.is_none() {
        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
    }
    Ok((
        status,
        std::fs::read_to_string(out)?,
        std::fs::read_to_string(err)?,
    ))
}

fn run(folder: &str) -> Result<()> {
    let source = examples().join(folder);
    let readme = std::fs::read_to_string(source.join("README.md"))?;
    let mut ran = 0;
    for block in blocks(&readme)? {
        if let Some(why) = lacking(&block) {
            missing(&format!("examples/{folder}, {}", block.place), &why);
            continue;
        }
        let machine = Machine::start()?;
        let work = tempfile::tempdir()?;
        for file in std::fs::read_dir(&source)? {
            let file = file?;
            std::fs::copy(file.path(), work.path().join(file.file_name()))?;
        }
        let path = format!(
            "{}:{}",
            built().display(),
            std::env::var("PATH").unwrap_or_default()
        );
        let mut command = Command::new("sh");
        command
            .args(["-e", "-c", &block.commands])
            .current_dir(work.path())
            .env("PATH", path)
            .env("VSHMEM_RUNTIME_DIR", machine.runtime());
        let place = &block.place;
        let (status, said, complaints) = to_the_end(&mut command, work.path())?;
        ensure!(
            status.is_some_and(|status| status.success()) && said.trim_end() == block.printed,
            "{place}: {}\nprinted:\n{said}\nnot:\n{}\n{complaints}",
            block.commands,
            block.printed
        );
        let left = machine.vshmem(&["ipcs", "--json"])?;
        let left: serde_json::Value = serde_json::from_slice(&left.stdout)?;
        let empty = serde_json::json!({"msg": [], "shm": [], "sem": []});
        ensure!(left == empty, "{place}: left over: {left}");
        println!("examples/{folder}, {place}: as it says");
        ran += 1;
    }
    println!("{ran} blocks ran");
    Ok(())
}

macro_rules! examples {
    ($($name:ident)*) => {
        $(#[test]
        fn $name() -> Result<()> {
            run(stringify!($name))
        })*

        #[test]
        fn each_folder_with_commands_is_here() -> Result<()> {
            for folder in std::fs::read_dir(examples())? {
                let folder = folder?;
                let readme = std::fs::read_to_string(folder.path().join("README.md")).unwrap_or_default();
                let name = folder.file_name().to_string_lossy().into_owned();
                let known = [$(stringify!($name)),*].contains(&name.as_str());
                ensure!(known || !readme.contains("```sh "), "examples/{name} has commands that no test runs");
            }
            Ok(())
        }
    };
}

examples!(boost fakeroot openmpi perl php postgresql python ruby);
