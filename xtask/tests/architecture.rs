//! The architecture, enforced: who may depend on whom, who may name a hypervisor, what things may be called, and how long files and functions are.
//!
//! It reads `cargo metadata` and the source text. Not for style that clippy and rustfmt see to.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Files of more lines than this, and functions of more lines than that, are counted; the counts may only shrink.
const LONG_FILE: usize = 700;
const LONG_FUNCTION: usize = 70;
/// How many there are. Lower these whenever the test says that there are fewer; never raise them: split the file or the function instead.
const LONG_FILES: isize = 0;
const LONG_FUNCTIONS: isize = 9;

/// Names that say nothing.
const EMPTY_NAMES: [&str; 5] = ["util", "common", "base", "helpers", "misc"];
/// Hypervisors: words that mean a port.
const PORTS: [&str; 4] = ["uml", "ivshmem", "xen", "qemu"];

struct Package {
    name: String,
    /// Its folder below the workspace's root.
    folder: String,
    /// Packages of this workspace that it depends on, with the kind of dependency.
    needs: Vec<(String, Kind)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Normal,
    Dev,
}

fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("xtask lies in the workspace").to_owned()
}

/// The workspace's packages, by name.
fn packages() -> BTreeMap<String, Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .expect("cargo metadata runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let all: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let packages = all["packages"].as_array().expect("packages");
    let own: Vec<String> = packages.iter().map(|p| text(&p["name"])).collect();
    let package = |p: &serde_json::Value| {
        let manifest = PathBuf::from(text(&p["manifest_path"]));
        let folder = manifest.parent().and_then(|f| f.strip_prefix(root()).ok());
        let dependencies = p["dependencies"].as_array().into_iter().flatten();
        let needs = dependencies
            .map(|d| {
                (
                    text(&d["name"]),
                    if d["kind"] == "dev" {
                        Kind::Dev
                    } else {
                        Kind::Normal
                    },
                )
            })
            .filter(|(name, _)| own.contains(name))
            .collect();
        Package {
            name: text(&p["name"]),
            folder: folder.expect("a package below the root").display().to_string(),
            needs,
        }
    };
    packages.iter().map(|p| (text(&p["name"]), package(p))).collect()
}

fn is_port(folder: &str) -> bool {
    folder.starts_with("ports/") && folder != "ports/api" && folder != "ports/select"
}

/// Whether a package in `from` may depend on one in `to`.
fn allowed(from: &str, to: &str, kind: Kind) -> bool {
    let layer = |folder: &str| folder.split('/').next().unwrap_or_default().to_owned();
    if is_port(to) {
        // Tests of a port may use another port's store.
        return from == "ports/select" || (kind == Kind::Dev && is_port(from));
    }
    if layer(to) == "testing" {
        return layer(from) == "testing";
    }
    match (layer(from).as_str(), layer(to).as_str()) {
        (_, "xtask" | "cli") => false,
        (_, "core") => true,
        ("core", _) => false,
        ("ports", "ports") => to == "ports/api",
        ("ports", _) => false,
        (_, "ports") => true,
        ("node", to) => to == "node",
        ("client", to) => to == "client",
        ("bench", to) => matches!(to, "client" | "node"),
        ("cli", _) => true,
        ("testing", _) => true,
        _ => false,
    }
}

#[test]
fn dependencies_point_inwards() {
    let packages = packages();
    let mut wrong = Vec::new();
    for package in packages.values() {
        for (name, kind) in &package.needs {
            let to = &packages[name].folder;
            if !allowed(&package.folder, to, *kind) {
                wrong.push(format!(
                    "{} ({}) may not depend on {name} ({to})",
                    package.name, package.folder
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rules_of_direction_refuse_what_they_should() {
    for (from, to) in [
        ("core/ipc", "ports/api"),
        ("core/collective", "client/vshmem"),
        ("core/wire", "node/registry"),
        ("ports/uml", "ports/local"),
        ("ports/api", "node/daemon"),
        ("node/daemon", "ports/uml"),
        ("node/registry", "client/runtime"),
        ("client/runtime", "node/daemon"),
        ("cli", "ports/local"),
        ("bench", "testing/vm"),
        ("client/vshmem", "cli"),
    ] {
        assert!(!allowed(from, to, Kind::Normal), "{from} → {to}");
    }
    for (from, to) in [
        ("core/ipc", "core/words"),
        ("ports/uml", "ports/api"),
        ("ports/select", "ports/uml"),
        ("node/daemon", "ports/select"),
        ("client/runtime", "core/wire"),
        ("cli", "node/guest"),
    ] {
        assert!(allowed(from, to, Kind::Normal), "{from} → {to}");
    }
}

/// Rust sources below the root, by path relative to it.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder)
            .expect("a folder of the workspace")
            .flatten()
        {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else if name.ends_with(".rs") {
                let text = std::fs::read_to_string(&path).expect("a source file");
                let path = path
                    .strip_prefix(root())
                    .expect("below the root")
                    .display()
                    .to_string();
                found.push((path, text));
            }
        }
    }
    found.sort();
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// A line's code, without a comment that ends it. A `//` within a string cuts too much, which hides nothing that matters here.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or_default()
}

fn words(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_ascii_alphanumeric())
        .map(str::to_ascii_lowercase)
}

#[test]
fn hypervisors_are_named_in_port_crates_only() {
    let mut wrong = Vec::new();
    for (path, text) in sources() {
        let above_ports = ["core/", "node/", "client/"].iter().any(|l| path.starts_with(l));
        // Tests may name the port they run on.
        let tests = path.contains("/tests/") || path.ends_with("/tests.rs");
        for (number, line) in text.lines().enumerate() {
            if line.trim() == "#[cfg(test)]" {
                break;
            }
            let names_one = || words(code(line)).any(|word| PORTS.contains(&word.as_str()));
            let decides = || {
                let decision = PORTS.iter().any(|port| {
                    let name = format!("\"{port}\"");
                    [
                        format!("{name} =>"),
                        format!("== {name}"),
                        format!("!= {name}"),
                        format!("{name} |"),
                    ]
                    .iter()
                    .any(|shape| line.contains(shape.as_str()))
                });
                decision || (line.contains("cfg") && names_one())
            };
            let bad = (above_ports && !tests && names_one()) || (path.starts_with("cli/src") && decides());
            if bad {
                wrong.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "ask the port, or `vshmem-port-select`:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn nothing_has_an_empty_name() {
    let mut wrong: Vec<String> = packages()
        .into_values()
        .filter(|p| words(&p.name).any(|word| EMPTY_NAMES.contains(&word.as_str())))
        .map(|p| p.name)
        .collect();
    let empty = |path: &str| {
        let mut parts = Path::new(path).with_extension("").display().to_string();
        parts.make_ascii_lowercase();
        parts.split('/').any(|part| EMPTY_NAMES.contains(&part))
    };
    wrong.extend(
        sources()
            .into_iter()
            .map(|(path, _)| path)
            .filter(|path| empty(path)),
    );
    assert!(wrong.is_empty(), "say what it is for: {wrong:?}");
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = sources()
        .into_iter()
        .filter(|(_, text)| !text.trim_start_matches("#!/usr/bin/env").starts_with("//!"))
        .map(|(path, _)| path)
        .collect();
    assert!(silent.is_empty(), "begin with a //! head: {silent:?}");
}

/// First line and length of the functions of a formatted file: a body ends at the next closing brace of the same indentation.
fn functions(text: &str) -> Vec<(usize, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let trimmed = line.trim_start();
        let before = trimmed.split("fn ").next().unwrap_or_default();
        let qualifiers = [
            "pub", "const", "async", "unsafe", "extern", "\"C\"", "crate", "super", "in",
        ];
        let is_function = trimmed.contains("fn ")
            && before
                .split(|c: char| c.is_whitespace() || c == '(' || c == ')')
                .all(|word| word.is_empty() || qualifiers.contains(&word));
        if !is_function {
            continue;
        }
        let indentation = &line[..line.len() - trimmed.len()];
        let Some(opening) = (first..lines.len()).find(|&i| lines[i].ends_with(['{', ';', '}'])) else {
            continue;
        };
        if !lines[opening].ends_with('{') {
            continue;
        }
        let closing = format!("{indentation}}}");
        if let Some(length) = lines[opening..].iter().position(|l| *l == closing) {
            found.push((first + 1, opening - first + length + 1));
        }
    }
    found
}

#[test]
fn functions_are_measured() {
    let text = "fn a() {\n    1\n}\n\nimpl X {\n    pub(crate) const fn b(\n        x: u8,\n    ) -> u8 {\n        x\n    }\n    fn c();\n}\n";
    assert_eq!(functions(text), [(1, 3), (6, 5)]);
}

#[test]
fn long_files_and_functions_only_become_fewer() {
    let (mut files, mut long) = (Vec::new(), Vec::new());
    for (path, text) in sources() {
        let lines = text.lines().count();
        if lines > LONG_FILE {
            files.push(format!("{path}: {lines} lines"));
        }
        let functions = functions(&text)
            .into_iter()
            .filter(|(_, length)| *length > LONG_FUNCTION);
        long.extend(functions.map(|(line, length)| format!("{path}:{line}: {length} lines")));
    }
    let (many_files, many_functions) = (files.len() as isize, long.len() as isize);
    assert!(
        many_files <= LONG_FILES,
        "{many_files} files of more than {LONG_FILE} lines, {LONG_FILES} were known:\n{}",
        files.join("\n")
    );
    assert!(
        many_functions <= LONG_FUNCTIONS,
        "{many_functions} functions of more than {LONG_FUNCTION} lines, {LONG_FUNCTIONS} were known:\n{}",
        long.join("\n")
    );
    if many_files < LONG_FILES || many_functions < LONG_FUNCTIONS {
        println!("fewer than known: lower LONG_FILES to {many_files} and LONG_FUNCTIONS to {many_functions}");
    }
}

#[test]
fn no_two_promises_and_no_two_decisions_have_one_number() {
    let text = std::fs::read_to_string(root().join("SPECIFICATION.md")).unwrap();
    let rows = text
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split_once(" |"));
    let promises = rows
        .map(|(number, _)| number.to_owned())
        .filter(|n| n.ends_with(|c: char| c.is_ascii_digit()));
    let folder = std::fs::read_dir(root().join("docs/decisions")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let decisions = names.filter_map(|name| Some(name.split_once('-')?.0.to_owned()));
    let mut seen = std::collections::HashSet::new();
    let twice: Vec<String> = promises
        .chain(decisions)
        .filter(|number| !seen.insert(number.clone()))
        .collect();
    assert!(twice.is_empty(), "given twice: {twice:?}");
    assert!(seen.len() > 100, "{} numbers found", seen.len());
}
