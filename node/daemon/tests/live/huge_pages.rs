//! Pools in huge pages: by the configuration, by a guest's start while they are in use, and over a killed daemon. Where the kernel has none the tests say so and end.

use crate::harness::*;
use vshmem_wire::{HugeBytes, Kind, Reply, Request};
use vshmem_words::{Ordering, Words};

const HUGE: u64 = 2 << 20;

/// Bytes of the first pool in huge pages and in ordinary ones, once nothing more of it is put into huge pages.
fn huge(client: &mut Client) -> Option<(u64, u64)> {
    let mut found = || {
        client.status().groups[0]
            .huge
            .map(|HugeBytes { huge, ordinary }| (huge, ordinary))
    };
    let mut last = found()?;
    for _ in 0..5 {
        if last.1 == 0 {
            break;
        }
        // It goes on with each second.
        std::thread::sleep(std::time::Duration::from_millis(1100));
        last = found()?;
    }
    Some(last)
}

fn blocks(client: &mut Client) -> u64 {
    huge(client).map_or(0, |(huge, ordinary)| (huge + ordinary) / HUGE)
}

fn put_into_huge_pages(client: &mut Client) -> bool {
    match client.ask(Request::UseHugePages { domain: "a".into() }) {
        Ok(Reply::Done) => true,
        other => {
            println!("skipped: {other:?}");
            false
        }
    }
}

#[test]
fn a_configured_pool_lies_in_huge_pages_and_its_contents_outlive_the_daemon() {
    let plain = Daemon::serve();
    if !put_into_huge_pages(&mut plain.client()) {
        return;
    }
    let daemon = Daemon::serve_with(&[], "[group]\npool = \"64M\"\nhugepages = true\nnuma_node = 0\n");
    let mut client = daemon.client();
    assert_eq!(blocks(&mut client), 1, "that of the first page");
    let segment = client.shm_get(1, 3 * HUGE).unwrap();
    let set = client.sem_get(2, 4);
    assert_eq!(blocks(&mut client), 4);
    let mapped = client.attach(segment);
    mapped.words.store64(4096, 7, Ordering::Relaxed);
    daemon.kill();
    let (mut again, _) = Client::hello(&daemon.socket(), Some(client.welcome.client)).unwrap();
    assert_eq!(blocks(&mut again), 4);
    assert_eq!(mapped.words.load64(4096, Ordering::Relaxed), 7);
    // What is removed by a later daemon is given back, and what comes in its place is zeroed.
    again.ask(Request::ShmDetach { id: segment }).unwrap();
    let kind = Kind::Shm;
    again.ask(Request::Remove { kind, id: segment }).unwrap();
    until("the segment is given back", || {
        (blocks(&mut again) == 1).then_some(())
    });
    let next = again.shm_get(3, 3 * HUGE).unwrap();
    assert_eq!(again.attach(next).words.load64(4096, Ordering::Relaxed), 0);
    again
        .ask(Request::Remove {
            kind: Kind::Sem,
            id: set,
        })
        .unwrap();
}

#[test]
fn a_pool_in_use_is_put_into_huge_pages_and_stays_there_when_the_daemon_is_killed() {
    let daemon = Daemon::serve();
    let mut client = daemon.client();
    let segment = client.shm_get(1, HUGE).unwrap();
    let mapped = client.attach(segment);
    mapped.words.store64(8, 5, Ordering::Relaxed);
    assert_eq!(huge(&mut client), None);
    if !put_into_huge_pages(&mut client) {
        return;
    }
    assert_eq!(blocks(&mut client), 2);
    assert_eq!(mapped.words.load64(8, Ordering::Relaxed), 5);
    daemon.kill();
    daemon.kill();
    let mut again = daemon.client();
    assert_eq!(blocks(&mut again), 2);
    assert!(put_into_huge_pages(&mut again), "once more is fine");
    assert_eq!(mapped.words.load64(8, Ordering::Relaxed), 5);
}

#[test]
fn a_node_that_is_not_there_is_refused_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("vshmem.toml");
    std::fs::write(&file, "[group]\nnuma_node = 900\n").unwrap();
    let mut command = Daemon::command();
    command
        .args(["serve", "--runtime-dir"])
        .arg(dir.path().join("run"))
        .arg("--config")
        .arg(&file);
    let said = command.output().unwrap();
    let text = String::from_utf8_lossy(&said.stderr);
    assert!(!said.status.success());
    assert!(
        text.contains("no NUMA node 900") && text.contains("/sys/devices/system/node"),
        "{text}"
    );
    assert!(!dir.path().join("run").exists(), "it leaves nothing");
}
