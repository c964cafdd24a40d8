//! Virtual CPUs: as many as the host's that were named, each on its own.

use crate::harness::{eventually, family, guest, start};

#[test]
fn virtual_cpus_are_pinned_each_to_one_of_the_hosts() {
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        println!("skipped: virtual_cpus_are_pinned: this host has one CPU");
        return;
    }
    let Some(mut command) = guest("virtual_cpus_are_pinned", &["--cpus", "1,0"]) else {
        return;
    };
    let job = start(command.args(["--", "sh", "-c", "nproc; sleep 4"]));
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let allowed = eventually("no pinned virtual CPUs", || {
        let tasks = family(job.child.id()).into_iter().flat_map(|pid| {
            let tasks = std::fs::read_dir(format!("/proc/{pid}/task"))
                .into_iter()
                .flatten();
            tasks.flatten().map(|task| task.path()).collect::<Vec<_>>()
        });
        let mut found: Vec<(String, String)> = tasks
            .filter_map(|task| {
                let name = read(task.join("comm"));
                let status = read(task.join("status"));
                let cpus = status
                    .lines()
                    .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
                Some((
                    name.strip_prefix("CPU ")?.split('/').next()?.to_owned(),
                    cpus.trim().to_owned(),
                ))
            })
            .collect();
        found.sort();
        Some(found).filter(|found| found.len() == 2 && found.iter().all(|(_, cpus)| cpus.len() == 1))
    });
    let own = |text: &str| text.to_owned();
    assert_eq!(allowed, [(own("0"), own("1")), (own("1"), own("0"))]);
    let ended = job.finish();
    assert_eq!(
        (ended.code, ended.stdout().as_str()),
        (Some(0), "2\n"),
        "{}",
        ended.stderr
    );
}
