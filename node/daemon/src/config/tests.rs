//! The example is read whole, and mistakes are named by file, line and field.

use super::*;

fn read(text: &str) -> anyhow::Result<Config> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("vshmem.toml");
    std::fs::write(&path, text)?;
    Config::read(Some(&path), Some(Path::new("/nowhere")))
}

fn complaint(text: &str) -> String {
    format!("{:#}", read(text).unwrap_err())
}

#[test]
fn the_example_is_a_configuration() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vshmem.example.toml");
    let config = Config::read(Some(&path), None).unwrap();
    assert_eq!(config.runtime_dir, Path::new("/run/vshmem"));
    assert_eq!(config.group.pool, 1 << 30);
    assert_eq!(
        config.domains["web"].keys.as_deref(),
        Some("0x1000-0x1fff,private")
    );
    assert!(config.domains["container1"].local);
    assert!(!config.domains["web"].local);
}

/// Every setting of the example stands there with its default or as a choice: with all comments taken off, it must still be read.
#[test]
fn the_examples_commented_settings_are_known_too() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/vshmem.example.toml");
    let text: String = std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(|line| line.strip_prefix("#: ").unwrap_or(line).to_owned() + "\n")
        .collect();
    let config = read(&text).unwrap();
    assert_eq!(config.group.limits.msgmax, 8192);
}

#[test]
fn an_empty_file_is_like_none() {
    assert_eq!(read("").unwrap(), Config::new("/nowhere".into()));
}

#[test]
fn an_unknown_field_is_named_with_file_and_line() {
    let said = complaint("[group]\nname = \"a\"\npol = \"1G\"\n");
    assert!(said.contains("vshmem.toml"), "{said}");
    assert!(said.contains("line 3"), "{said}");
    assert!(said.contains("`pol`"), "{said}");
}

#[test]
fn a_wrong_value_is_named_with_its_line() {
    let said = complaint("[group]\n\npool = \"lots\"\n");
    assert!(
        said.contains("line 3") && said.contains("lots") && said.contains("1G"),
        "{said}"
    );
    let said = complaint("[socket]\nmode = \"rw\"\n");
    assert!(said.contains("line 2") && said.contains("0660"), "{said}");
    let said = complaint("[group]\nuids = \"mixed\"\n");
    assert!(said.contains("line 2") && said.contains("separate"), "{said}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    assert!(complaint("[group]\nmemory = \"memfd\"\npool = \"1G\"\n").contains("there is none"));
    assert!(complaint("[[domain]]\nname = \"a/b\"\n").contains("no name"));
    assert!(complaint("[[domain]]\nname = \"a\"\nport = \"vmware\"\n").contains("uml"));
    assert!(complaint("[[domain]]\nname = \"a\"\n[[domain]]\nname = \"a\"\n").contains("twice"));
    assert!(complaint("[socket]\nowner = \"nobody-of-this-name\"\n").contains("/etc/passwd"));
}

#[test]
fn sizes() {
    assert_eq!(parse_size("4096"), Ok(4096));
    assert_eq!(parse_size("64K"), Ok(65_536));
    assert_eq!(parse_size("1 GiB"), Ok(1 << 30));
    assert!(parse_size("").is_err());
    assert!(parse_size("1X").is_err());
    assert!(parse_size("99999999999T").is_err());
}
