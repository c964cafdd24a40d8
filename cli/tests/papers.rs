//! Help, manual pages and completions come out of the one definition, and cover every command.

mod support;

use support::{LIMIT, err, finish, out, vshmem};

const COMMANDS: &[&str] = &[
    "serve",
    "join",
    "run",
    "vm",
    "top",
    "demo",
    "ipcs",
    "ipcmk",
    "ipcrm",
    "lsipc",
    "share",
    "unshare",
    "ftok",
    "status",
    "doctor",
    "bench",
    "completions",
    "man",
];

#[test]
fn every_command_has_help_with_its_options() {
    let all = out(&finish(&mut vshmem(&["--help"]), LIMIT));
    for command in COMMANDS {
        assert!(
            all.contains(&format!("\n  {command} ")),
            "{command} is missing in {all}"
        );
        let help = finish(&mut vshmem(&[command, "--help"]), LIMIT);
        assert!(
            help.status.success() && out(&help).contains("Usage: vshmem"),
            "{command}: {}",
            err(&help)
        );
    }
}

#[test]
fn manual_pages_are_written_for_every_command() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let output = finish(vshmem(&["man", "--dir"]).arg(folder.path()), LIMIT);
    assert!(output.status.success(), "{}", err(&output));
    for command in COMMANDS {
        let page = std::fs::read_to_string(folder.path().join(format!("vshmem-{command}.1"))).expect(command);
        assert!(
            page.contains(".SH NAME") && page.contains(".SH SYNOPSIS"),
            "{page}"
        );
    }
    for command in [
        "vm-run",
        "vm-flags",
        "vm-attach",
        "bench-micro",
        "bench-scale",
        "bench-report",
    ] {
        assert!(
            folder.path().join(format!("vshmem-{command}.1")).exists(),
            "{command}"
        );
    }
    let one = finish(&mut vshmem(&["man", "run"]), LIMIT);
    assert!(out(&one).contains("vshmem\\-run"), "{}", out(&one));
    assert_eq!(
        finish(&mut vshmem(&["man", "nonsense"]), LIMIT).status.code(),
        Some(2)
    );
}

#[test]
fn completions_are_made_for_every_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let output = finish(&mut vshmem(&["completions", shell]), LIMIT);
        assert!(
            output.status.success() && out(&output).contains("ipcrm"),
            "{shell}: {}",
            err(&output)
        );
    }
}

#[test]
fn wrong_usage_is_status_2() {
    for args in [
        &["--nonsense"][..],
        &["ipcs", "--nonsense"],
        &["ftok", "/"],
        &["ftok", "/", "0"],
        &["run"],
        &[],
    ] {
        let output = finish(&mut vshmem(args), LIMIT);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", err(&output));
    }
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    use std::process::Stdio;
    let (reader, writer) = std::io::pipe().expect("pipe");
    drop(reader);
    let child = vshmem(&["completions", "bash"])
        .stdout(writer)
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    let output = support::finish_child(child, LIMIT);
    assert_eq!(err(&output), "");
    use std::os::unix::process::ExitStatusExt;
    assert_eq!(output.status.signal(), Some(libc::SIGPIPE));
}

#[test]
fn ftok_is_the_same_everywhere() {
    // Pinned: programs in other domains and other versions must come to the same key.
    assert_eq!(
        out(&finish(&mut vshmem(&["ftok", "--text", "/srv/app", "A"]), LIMIT)),
        "0x417b69b1 1098607025\n"
    );
    assert_eq!(
        out(&finish(&mut vshmem(&["ftok", "--text", "/srv/app", "65"]), LIMIT)),
        "0x417b69b1 1098607025\n"
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let folder = folder.path().canonicalize().expect("canonical");
    std::os::unix::fs::symlink(&folder, folder.join("link")).expect("link");
    let text = |path: &std::path::Path| out(&finish(vshmem(&["ftok", "--json"]).arg(path).arg("7"), LIMIT));
    assert_eq!(text(&folder), text(&folder.join("link")), "links are followed");
    let json: serde_json::Value = serde_json::from_str(&text(&folder)).expect("JSON");
    assert_eq!(json["project"], 7);
    let missing = finish(&mut vshmem(&["ftok", "/no/such/file", "1"]), LIMIT);
    assert_eq!(missing.status.code(), Some(1));
    assert_eq!(
        err(&missing),
        "vshmem: /no/such/file: No such file or directory; name an existing file, or use --text to hash the text alone\n"
    );
}
