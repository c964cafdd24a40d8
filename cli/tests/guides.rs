//! The guides, run: every box of commands is run in its order, or marked as not run here.

mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use support::{build_preload, err, finish_child, out, vshmem};

/// Longest run of a guide.
const LIMIT: Duration = Duration::from_secs(100);

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/guides")
}

/// Boxes of a guide: what stands behind the three ticks, and the text.
fn boxes(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in text.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(kind), None) => open = Some((kind.to_owned(), String::new())),
            (Some(_), Some(_)) => found.extend(open.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a box without an end");
    found
}

/// Runs a guide's boxes in one shell, in a folder and with a runtime directory of their own; gives what it printed.
fn run(guide: &str) -> Option<String> {
    if Command::new("qemu-system-x86_64")
        .arg("--version")
        .output()
        .is_err()
    {
        println!("skipped: qemu-system-x86_64 is not installed");
        return None;
    }
    build_preload();
    let text = std::fs::read_to_string(folder().join(guide)).expect("a guide");
    let all = boxes(&text);
    let steps = all.iter().filter(|(kind, _)| kind == "sh run");
    // Whatever a box that fails has started ends with the shell.
    let start = "trap 'kill $(jobs -p) 2>/dev/null || true' EXIT\n";
    let script: String = std::iter::once(start)
        .chain(steps.map(|(_, text)| text.as_str()))
        .collect();
    let place = tempfile::tempdir().expect("temporary folder");
    let own = Path::new(env!("CARGO_BIN_EXE_vshmem"))
        .parent()
        .expect("a folder");
    let path = std::env::var("PATH").unwrap_or_default();
    let child = Command::new("bash")
        .args(["-eum", "-c", &script])
        .current_dir(place.path())
        .env("PATH", format!("{}:{path}", own.display()))
        .env("VSHMEM_RUNTIME_DIR", place.path().join("run"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("bash");
    let output = finish_child(child, LIMIT);
    assert!(
        output.status.success(),
        "{guide}: {}{}",
        out(&output),
        err(&output)
    );
    assert!(
        !place.path().join("run").exists(),
        "{guide} leaves a back-end behind"
    );
    Some(out(&output))
}

#[test]
fn every_box_is_run_or_marked() {
    let mut guides = 0;
    for entry in std::fs::read_dir(folder()).expect("guides").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a guide");
        guides += 1;
        for (kind, text) in boxes(&text) {
            let known = ["sh run", "sh not-run", "toml"].contains(&kind.as_str());
            assert!(known, "{}: a box of {kind:?}: {text}", entry.path().display());
        }
    }
    assert!(guides >= 4);
}

#[test]
fn the_guides_configurations_are_configurations() {
    for entry in std::fs::read_dir(folder()).expect("guides").flatten() {
        let text = std::fs::read_to_string(entry.path()).expect("a guide");
        for (_, config) in boxes(&text).into_iter().filter(|(kind, _)| kind == "toml") {
            let place = tempfile::tempdir().expect("temporary folder");
            let file = place.path().join("vshmem.toml");
            // The user may not be there; a mistake of another kind is made on purpose, so that nothing is started.
            let config = config.replace("libvirt-qemu", "root");
            let (config, wrong) = if config.contains("[group]") {
                (config.replace("\"64M\"", "\"3\""), "a multiple of 4096")
            } else {
                (format!("{config}[group]\npool = \"3M\"\n"), "power of two")
            };
            std::fs::write(&file, config).expect("written");
            let mut serve = vshmem(&["serve", "--runtime-dir"]);
            serve.arg(place.path().join("run")).arg("--config").arg(&file);
            let said = err(&support::finish(&mut serve, support::LIMIT));
            assert!(said.contains(wrong), "{}: {said}", entry.path().display());
        }
    }
}

#[test]
fn plain_machines() {
    if let Some(said) = run("qemu.md") {
        assert!(
            said.contains("ivshmem-doorbell") && said.contains("ivshmem-plain"),
            "{said}"
        );
    }
}

#[test]
fn libvirts_machines() {
    if let Some(said) = run("libvirt.md") {
        assert!(said.contains("<shmem") && said.contains("<channel"), "{said}");
    }
}

#[test]
fn proxmoxs_machines() {
    if let Some(said) = run("proxmox.md") {
        assert!(said.contains("-device ivshmem-doorbell"), "{said}");
    }
}

/// The rest of that guide needs dom0, or the laboratory.
#[test]
fn xens_machines() {
    if let Some(said) = run("xen.md") {
        assert!(said.contains("port xen"), "{said}");
    }
}
