//! The paper's programs: they run, agree, and refuse what cannot be.

mod support;

use std::collections::BTreeSet;
use std::time::Duration;
use support::{build_preload, err, finish, out, vshmem};

const LIMIT: Duration = Duration::from_secs(170);

fn compiler() -> bool {
    let here = std::process::Command::new("cc").arg("--version").output().is_ok();
    if !here {
        println!("skipped: no C compiler is installed");
    }
    here
}

/// The C library beside the command, of this version: teams are its.
fn build_c_library() {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(cargo);
    command
        .args(["build", "--quiet", "--offline", "-p", "vshmem-capi"])
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    let output = finish(&mut command, Duration::from_secs(600));
    assert!(output.status.success(), "{}", err(&output));
}

/// The models that measured something, of samples as JSON lines.
fn models(json: &str) -> BTreeSet<String> {
    json.lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("a sample"))
        .map(|sample| {
            assert!(
                sample["nanoseconds"].as_f64().is_some_and(|n| n > 0.0),
                "{sample}"
            );
            sample["model"].as_str().expect("a model").to_owned()
        })
        .collect()
}

#[test]
fn laplace_gives_the_known_answer_in_every_model_that_is_here() {
    if !compiler() {
        return;
    }
    build_preload();
    let arguments = [
        "bench", "laplace", "--guests", "none", "--rounds", "2", "--sizes", "32,100", "--json",
    ];
    let output = finish(&mut vshmem(&arguments), LIMIT);
    assert!(output.status.success(), "{}", err(&output));
    let models = models(&out(&output));
    for model in ["serial", "kernel System V", "Vshmem, one domain", "OpenMP"] {
        assert!(models.contains(model), "{models:?}\n{}", err(&output));
    }
    // What is not here is named.
    for missing in ["Vshmem, two VMs", "Vshmem, one VM"] {
        assert!(
            err(&output).contains(&format!("left out: programs: {missing}")),
            "{}",
            err(&output)
        );
    }
}

#[test]
fn control_passes_and_what_is_missing_is_named() {
    if !compiler() {
        return;
    }
    build_preload();
    let arguments = [
        "bench", "peers", "--guests", "none", "--rounds", "1", "--sizes", "64", "--json",
    ];
    let mut command = vshmem(&arguments);
    // No cache: the program for iceoryx2 is not built there.
    let cache = tempfile::tempdir().expect("temporary folder");
    let output = finish(command.env("XDG_CACHE_HOME", cache.path()), LIMIT);
    assert!(output.status.success(), "{}", err(&output));
    let models = models(&out(&output));
    for model in ["POSIX shm + futex", "Vshmem queue, one domain", "kernel queue"] {
        assert!(models.contains(model), "{models:?}\n{}", err(&output));
    }
    assert!(
        err(&output).contains("vshmem bench peers --build"),
        "{}",
        err(&output)
    );
}

#[test]
fn sizes_that_cannot_be_are_refused_before_anything_runs() {
    if !compiler() {
        return;
    }
    for (program, size, reason) in [
        ("laplace", "0", "sizes begin at 1"),
        ("blas", "10000000", "there is room for"),
        ("sync", "0", "sizes begin at 1"),
        ("sync", "99999999", "at most 1 MiB"),
    ] {
        let output = finish(
            &mut vshmem(&["bench", program, "--guests", "none", "--sizes", size]),
            LIMIT,
        );
        assert!(
            !output.status.success() && err(&output).contains(reason),
            "{program} {size}: {}",
            err(&output)
        );
    }
}

#[test]
fn a_program_that_fails_is_left_out_as_a_whole() {
    if !compiler() {
        return;
    }
    build_preload();
    // A grid of 3 rows has one inner row: not enough for two parties, enough for one.
    let arguments = [
        "bench", "laplace", "--guests", "none", "--rounds", "1", "--sizes", "64,3", "--json",
    ];
    let output = finish(&mut vshmem(&arguments), LIMIT);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    assert_eq!(models(&out(&output)), BTreeSet::from(["serial".to_owned()]));
    assert!(
        err(&output).contains("cannot be divided among 2 parties"),
        "{}",
        err(&output)
    );
}

#[test]
fn without_a_compiler_the_reason_is_said() {
    build_preload();
    let nothing = tempfile::tempdir().expect("temporary folder");
    let mut command = vshmem(&["bench", "pi", "--guests", "none"]);
    let output = finish(command.env("PATH", nothing.path()), LIMIT);
    assert!(
        !output.status.success() && err(&output).contains("install `gcc libc6-dev`"),
        "{}",
        err(&output)
    );
}

#[test]
fn a_short_report_of_guests_and_all_is_whole() {
    if !compiler() {
        return;
    }
    build_preload();
    build_c_library();
    let folder = tempfile::tempdir().expect("temporary folder");
    let report = folder.path().join("report");
    let mut command = vshmem(&["bench", "report", "--short", "--rounds", "1", "--out"]);
    // Less than three minutes by itself; here other tests run beside it.
    let output = finish(command.arg(&report), Duration::from_secs(280));
    let read =
        |name: &str| std::fs::read_to_string(report.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).expect("JSON");
    // An MPI that hangs on a busy machine is said to have failed, and is no fault of this report; anything else would be.
    let failed: Vec<&str> = json["gaps"]
        .as_array()
        .expect("gaps")
        .iter()
        .filter(|gap| gap["failed"] == true)
        .filter_map(|gap| gap["name"].as_str())
        .collect();
    assert!(failed.iter().all(|name| name.contains("MPI")), "{}", err(&output));
    assert_eq!(
        output.status.code(),
        Some(i32::from(!failed.is_empty())),
        "{}",
        err(&output)
    );
    let samples = json["samples"].as_array().expect("samples");
    let of = |model: &str| samples.iter().filter(|s| s["model"] == model).count();
    // Every model's runs are whole, or it is named as not measured.
    assert_eq!(read("samples.csv").lines().count(), samples.len() + 1);
    assert!(of("kernel System V") > 20 && of("Vshmem, one domain") == of("kernel System V"));
    let gaps = json["gaps"].to_string();
    let guests = of("Vshmem, two VMs");
    assert!(
        guests == of("kernel System V") || gaps.contains("Vshmem, two VMs"),
        "{guests}: {gaps}"
    );
    let page = read("index.html");
    for figure in [
        "Figure 4",
        "Figure 7",
        "Figure 8",
        "Figure 9",
        "Figure 10",
        "Figure 11",
        "Claimed and measured",
    ] {
        assert!(page.contains(figure), "{figure}");
    }
    // Every target with what came of it, the same on the terminal, in the file and on the page.
    let (met, missed) = (json["met"].as_u64(), json["missed"].as_u64());
    let counted = format!(
        "{} targets met, {} missed",
        met.expect("met"),
        missed.expect("missed")
    );
    assert!(out(&output).contains(&counted), "{counted}: {}", out(&output));
    assert_eq!(
        page.matches("class=\"missed\">missed: <a href=").count() as u64,
        missed.unwrap_or(0)
    );
    assert!(
        err(&output).contains("left"),
        "progress and the time left: {}",
        err(&output)
    );
}

#[test]
fn an_interrupted_measurement_leaves_no_process_no_file_and_nothing_in_the_kernel() {
    build_preload();
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut command = vshmem(&[
        "bench",
        "micro",
        "--guests",
        "none",
        "--only",
        "sem_uncontended",
        "--rounds",
        "1000",
    ]);
    command
        .env("TMPDIR", folder.path())
        .stdout(std::process::Stdio::null());
    let child = command
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("started");
    let pid = rustix::process::Pid::from_child(&child);
    // The key of its first row, in the kernel.
    let key = format!("{:#010x}", (0x0bec_0000 | (child.id() & 0xfff) << 4) + 1);
    let kernel = || out(&finish(std::process::Command::new("ipcs").arg("-s"), LIMIT));
    let until = std::time::Instant::now() + LIMIT;
    while !kernel().contains(&key) {
        assert!(std::time::Instant::now() < until, "it does not begin");
        std::thread::sleep(Duration::from_millis(20));
    }
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("signalled");
    let output = support::finish_child(child, LIMIT);
    assert_eq!(output.status.code(), Some(143), "{}", err(&output));
    assert_eq!(err(&output), "vshmem: bench: interrupted\n");
    assert!(!kernel().contains(&key), "{key} is left");
    assert_eq!(std::fs::read_dir(folder.path()).expect("the folder").count(), 0);
    let its = folder.path().to_string_lossy().into_owned();
    for process in std::fs::read_dir("/proc").expect("/proc").flatten() {
        let words = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let words = String::from_utf8_lossy(&words).replace('\0', " ");
        assert!(!words.contains(&its), "left: {words}");
    }
}

#[test]
fn rows_and_factors_that_do_not_exist_are_refused() {
    for factor in ["nan", "inf", "0", "-1", "x"] {
        let scale = format!("--scale={factor}");
        let output = finish(&mut vshmem(&["bench", "micro", &scale]), LIMIT);
        assert_eq!(output.status.code(), Some(2), "{factor}: {}", err(&output));
    }
    let output = finish(
        &mut vshmem(&["bench", "micro", "--guests", "none", "--only", "no_such_row"]),
        LIMIT,
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(
        err(&output).contains("no row has \"no_such_row\""),
        "{}",
        err(&output)
    );
}

#[test]
fn a_port_that_is_named_and_starts_no_guests_here_is_refused_before_anything_is_measured() {
    if std::fs::read_to_string("/proc/xen/capabilities").is_ok_and(|said| said.contains("control_d")) {
        println!("skipped: this is dom0 of Xen, where guests of port xen can be had");
        return;
    }
    for what in ["micro", "scale"] {
        let output = finish(&mut vshmem(&["bench", what, "--guests", "xen"]), LIMIT);
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        for words in ["port xen", "does not run on Xen", "--guests none"] {
            assert!(said.contains(words), "{said}");
        }
        assert_eq!(out(&output), "", "{said}");
    }
}
