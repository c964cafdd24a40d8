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
    assert_eq!(config.more.len(), 1);
    assert_eq!(config.guests().last(), Some(("web", "uml")));
    assert!(config.guests().any(|guest| guest == ("db", "ivshmem")));
    assert_eq!((config.machines.socket.mode, config.machines.vectors), (0o600, 1));
    assert_eq!(config.registry_group().route("batch", 0x5000), 1);
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
    let granted = "[group]\nmemory = \"grants\"\n[grants]\ntable_pages = ";
    assert!(complaint(&format!("{granted}0\n")).contains("grants.table_pages"));
    let grants = read(&format!("{granted}7\nstock = \"1M\"\n")).unwrap().grants;
    assert_eq!((grants.table_pages, grants.stock), (7, 1 << 20));
    assert!(complaint("[machines]\nvectors = 0\n").contains("machines.vectors"));
    assert!(complaint("[machines]\ngroup = \"no-such-group\"\n").contains("machines.group"));
    assert!(complaint("[socket]\nowner = \"nobody-of-this-name\"\n").contains("/etc/passwd"));
}

#[test]
fn pools_are_placed_where_the_file_says() {
    let text = "[group]\nhugepages = true\n[[groups]]\nname = \"x\"\npool = \"64M\"\nnuma_node = 1\n[[groups]]\nname = \"y\"\n";
    let place = |hugepages, numa_node| PoolPlace { hugepages, numa_node };
    let expected = BTreeMap::from([(0, place(true, None)), (1, place(false, Some(1)))]);
    assert_eq!(read(text).unwrap().places, expected);
    let said = complaint("[group]\nmemory = \"memfd\"\nhugepages = true\n");
    assert!(
        said.contains("for a pool") && said.contains("--group-memory"),
        "{said}"
    );
    let said = complaint("[[groups]]\nname = \"y\"\nhugepages = true\n");
    assert!(
        said.contains("line 3") && said.contains("groups.hugepages"),
        "{said}"
    );
    let said = complaint("[[groups]]\nname = \"y\"\nnuma_node = 0\n");
    assert!(
        said.contains("line 3") && said.contains("groups.numa_node"),
        "{said}"
    );
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

const TWO: &str = "[[groups]]\nname = \"jobs\"\nuids = \"separate\"\n";

#[test]
fn groups_and_routes_are_read() {
    let text = "[[groups]]\nname = \"closed\"\nmemory = \"memfd\"\nmembers = [\"host\", \"b\"]\n\
                [[domain]]\nname = \"a\"\ngroups = [\"default\", \"jobs\"]\n\
                routes = { \"0x5000-0x5fff\" = \"jobs\", \"7\" = \"default\", \"private\" = \"jobs\" }\n\
                [[domain]]\nname = \"b\"\n[[domain]]\nname = \"c\"\n[[domain]]\nname = \"d\"\ngroups = [\"jobs\"]\n";
    let group = read(&format!("{TWO}{text}")).unwrap().registry_group();
    let names: Vec<&str> = group.more.iter().map(|g| g.name.as_str()).collect();
    assert_eq!(names, ["jobs", "closed"]);
    assert_eq!(
        (group.more[0].uids, group.more[1].uids),
        (Uids::Separate, Uids::Shared)
    );
    let of = |name: &str| group.memberships.get(name).map(|m| m.groups.as_slice());
    assert_eq!(of("a"), Some(&[0, 1][..]));
    assert_eq!((of("b"), of("host")), (Some(&[0, 2][..]), Some(&[0, 2][..])));
    assert_eq!((of("c"), of("d")), (None, Some(&[1][..])));
    let routed = [0, 7, 0x4fff, 0x5000, 0x5fff, 0x6000, -1].map(|key| group.route("a", key));
    assert_eq!(routed, [1, 0, 0, 1, 1, 0, 0]);
    assert_eq!((group.route("c", 0x5000), group.route("d", 7)), (0, 1));
}

#[test]
fn every_group_may_have_a_pool_and_a_guest_is_in_those_that_its_port_can_show() {
    let text = "[[groups]]\nname = \"x\"\npool = \"64M\"\n[[groups]]\nname = \"y\"\nmemory = \"pool\"\n\
                [[domain]]\nname = \"both\"\nport = \"ivshmem\"\ngroups = [\"default\", \"x\"]\n\
                [[domain]]\nname = \"one\"\nport = \"uml\"\ngroups = [\"y\"]\n";
    let group = read(&format!("{TWO}{text}")).unwrap().registry_group();
    let stores: Vec<Store> = (0..4).map(|number| group.store_of(number)).collect();
    let pool = |bytes| Store::Pool { bytes };
    assert_eq!(
        stores,
        [pool(1 << 30), Store::PerConstruct, pool(64 << 20), pool(1 << 30)]
    );
    assert_eq!(
        (group.groups_of("both"), group.groups_of("one")),
        (&[0, 2][..], &[3][..])
    );
}

/// What is said of a file that goes on so has these words.
fn says(text: &str, words: &[&str]) {
    let said = complaint(&format!("{TWO}{text}"));
    for word in words.iter().chain(&["vshmem.toml"]) {
        assert!(said.contains(word), "{word:?} is not in: {said}");
    }
}

#[test]
fn guests_in_groups_that_they_cannot_be_shown_are_named_by_line() {
    let guest = "[[domain]]\nname = \"web\"\nport = \"uml\"\n";
    says(
        &format!("{guest}groups = [\"jobs\"]\n"),
        &["line 7", "\"web\"", "guest", "file per construct", "pool ="],
    );
    let member = format!("[[groups]]\nname = \"x\"\nmembers = [\"web\"]\n{guest}");
    says(&member, &["line 6", "\"web\"", "guest", "file per construct"]);
    let pooled = "[[groups]]\nname = \"x\"\npool = \"64M\"\n";
    says(
        &format!("{pooled}{guest}groups = [\"x\", \"default\"]\n"),
        &["line 10", "\"web\"", "shown 1 pool", "x, default"],
    );
}

#[test]
fn mistakes_about_addresses_are_named() {
    let machine =
        |name: &str, cid: &str| format!("[[domain]]\nname = {name:?}\nport = \"ivshmem\"\ncid = {cid}\n");
    says(&machine("a", "2"), &["\"a\"", "no machine has CID 2"]);
    says(&machine("a", "4294967295"), &["no machine has CID 4294967295"]);
    says(&machine("a", "-1"), &["cid"]);
    says(
        &format!("{}{}", machine("a", "42"), machine("b", "42")),
        &["\"a\"", "\"b\"", "the same cid"],
    );
    says("[[domain]]\nname = \"a\"\ncid = 42\n", &["cid is for machines"]);
}

#[test]
fn mistakes_about_groups_are_named_by_line_and_field() {
    let a = "[[domain]]\nname = \"a\"\n";
    let in_jobs = format!("{a}groups = [\"default\", \"jobs\"]\n");
    let route = |keys: &str, to: &str| format!("{in_jobs}routes = {{ {keys:?} = {to:?} }}\n");
    says(
        "[[groups]]\nname = \"jobs\"\n",
        &["line 5", "groups.name", "two groups"],
    );
    says("[[groups]]\nname = \"default\"\n", &["line 5", "two groups"]);
    says("[[groups]]\nname = \"x y\"\n", &["line 5", "groups.name"]);
    says(
        "[[groups]]\nname = \"x\"\nmemory = \"memfd\"\npool = \"1G\"\n",
        &["line 7", "groups.pool", "no pool"],
    );
    says(
        "[[groups]]\nname = \"x\"\npool = \"4K\"\n",
        &["line 6", "groups.pool", "1M to"],
    );
    says(
        "[[groups]]\nname = \"x\"\nmembers = [\"a/b\"]\n",
        &["line 6", "groups.members", "a/b"],
    );
    says(
        &format!("{a}groups = [\"nojobs\"]\n"),
        &["line 6", "groups", "nojobs", "default, jobs"],
    );
    says(
        &format!("{a}groups = [\"jobs\", \"jobs\"]\n"),
        &["line 6", "twice"],
    );
    says(&format!("{a}groups = []\n"), &["\"a\"", "one group at least"]);
    says(&route("0x10", "nojobs"), &["line 7", "routes", "0x10", "nojobs"]);
    says(
        &format!("{a}routes = {{ \"0x10\" = \"jobs\" }}\n"),
        &["line 6", "routes", "not in group"],
    );
    for wrong in ["", "x", "5-", "-5", "0x10-0x5", "0", "0-9", "0x100000000", "all"] {
        says(
            &route(wrong, "jobs"),
            &["line 7", "routes", &format!("{wrong:?}")],
        );
    }
    let overlap = "routes = { \"0x10-0x20\" = \"jobs\",\n \"0x20-0x30\" = \"default\" }\n";
    says(
        &format!("{in_jobs}{overlap}"),
        &["line 8", "routes", "overlaps with 0x10-0x20"],
    );
    let closed = "[[groups]]\nname = \"x\"\nmembers = [\"b\"]\n";
    says(
        &format!("{closed}{a}groups = [\"x\"]\n"),
        &["line 9", "members of \"x\"", "not name it"],
    );
    let listed = "[[domain]]\nname = \"b\"\ngroups = [\"jobs\"]\n";
    says(
        &format!("{closed}{listed}"),
        &["line 6", "groups.members", "\"b\""],
    );
}

#[test]
fn the_host_cannot_be_of_another_port() {
    let said = complaint("[[domain]]\nname = \"host\"\nport = \"ivshmem\"\n");
    assert!(
        said.contains("domain \"host\"") && said.contains("no guest"),
        "{said}"
    );
    assert!(read("[[domain]]\nname = \"host\"\nkeys = \"private\"\n").is_ok());
}
