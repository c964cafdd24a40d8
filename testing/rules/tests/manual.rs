//! `MANUAL.md`: every rule that it names exists, and every section and every error of the manual pages is in it.

use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use vshmem_testing_rules::rule;

/// The pages, their sections that state a behaviour, and the errors that they list.
const PAGES: [(&str, &[&str], &str); 11] = [
    (
        "shmget(2)",
        &[
            "DESCRIPTION",
            "RETURN VALUE",
            "ERRORS",
            "NOTES",
            "Shared memory limits",
        ],
        "EACCES EEXIST EINVAL ENFILE ENOENT ENOMEM ENOSPC EPERM",
    ),
    (
        "shmop(2)",
        &["shmat()", "shmdt()", "RETURN VALUE", "ERRORS", "NOTES"],
        "EACCES EIDRM EINVAL ENOMEM",
    ),
    (
        "shmctl(2)",
        &["DESCRIPTION", "RETURN VALUE", "ERRORS", "NOTES"],
        "EACCES EFAULT EIDRM EINVAL ENOMEM EOVERFLOW EPERM",
    ),
    (
        "semget(2)",
        &[
            "DESCRIPTION",
            "RETURN VALUE",
            "ERRORS",
            "NOTES",
            "Semaphore initialization",
            "Semaphore limits",
        ],
        "EACCES EEXIST EINVAL ENOENT ENOMEM ENOSPC",
    ),
    (
        "semop(2)",
        &[
            "DESCRIPTION",
            "semtimedop()",
            "RETURN VALUE",
            "ERRORS",
            "NOTES",
            "Semaphore limits",
            "BUGS",
        ],
        "E2BIG EACCES EAGAIN EFAULT EFBIG EIDRM EINTR EINVAL ENOMEM ERANGE",
    ),
    (
        "semctl(2)",
        &[
            "DESCRIPTION",
            "RETURN VALUE",
            "ERRORS",
            "NOTES",
            "The sempid value",
        ],
        "EACCES EFAULT EIDRM EINVAL EPERM ERANGE",
    ),
    (
        "msgget(2)",
        &["DESCRIPTION", "RETURN VALUE", "ERRORS", "NOTES"],
        "EACCES EEXIST ENOENT ENOMEM ENOSPC",
    ),
    (
        "msgop(2)",
        &[
            "DESCRIPTION",
            "msgsnd()",
            "msgrcv()",
            "RETURN VALUE",
            "ERRORS",
            "NOTES",
        ],
        "EACCES EAGAIN EFAULT EIDRM EINTR EINVAL ENOMEM E2BIG ENOMSG ENOSYS",
    ),
    (
        "msgctl(2)",
        &["DESCRIPTION", "RETURN VALUE", "ERRORS", "NOTES"],
        "EACCES EFAULT EIDRM EINVAL EPERM",
    ),
    (
        "sysvipc(7)",
        &[
            "DESCRIPTION",
            "Message queues",
            "Semaphore sets",
            "Shared memory segments",
            "IPC namespaces",
        ],
        "",
    ),
    (
        "proc(5)",
        &[
            "/proc/sys/kernel/msgmax",
            "/proc/sys/kernel/msgmni",
            "/proc/sys/kernel/msgmnb",
            "/proc/sys/kernel/sem",
            "/proc/sys/kernel/shm_rmid_forced",
            "/proc/sys/kernel/shmall",
            "/proc/sys/kernel/shmmax",
            "/proc/sys/kernel/shmmni",
            "/proc/sysvipc",
        ],
        "",
    ),
];

struct Row<'a> {
    page: &'a str,
    section: &'a str,
    sentence: &'a str,
    held_by: &'a str,
}

fn rows(text: &str) -> Result<Vec<Row<'_>>> {
    let mut page = "";
    let mut rows = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            page = title;
        }
        let Some(inner) = line.strip_prefix("| ").and_then(|l| l.strip_suffix(" |")) else {
            continue;
        };
        let cells: Vec<&str> = inner.split(" | ").collect();
        let [section, sentence, held_by] = cells[..] else {
            anyhow::bail!("{line}: three columns");
        };
        if section != "section" {
            rows.push(Row {
                page,
                section,
                sentence,
                held_by,
            });
        }
    }
    Ok(rows)
}

/// The names in a cell: what is in brackets is a remark.
fn names(cell: &str) -> impl Iterator<Item = &str> {
    cell.split(", ")
        .map(|name| name.split_once(" (").map_or(name, |(name, _)| name).trim())
}

#[test]
fn every_sentence_is_held_by_rules_that_exist_or_says_why_not() -> Result<()> {
    let rows = rows(include_str!("../MANUAL.md"))?;
    ensure!(rows.len() > 180, "sentences got lost: {}", rows.len());
    let rules: BTreeSet<String> = rule::all()?.into_iter().map(|r| r.name).collect();
    for row in &rows {
        let at = format!("{}, {}: {}", row.page, row.section, row.sentence);
        match row.held_by.strip_prefix('—') {
            Some(why) => ensure!(why.trim().len() > 10, "{at}: why not?"),
            None => {
                for name in names(row.held_by) {
                    ensure!(rules.contains(name), "{at}: no rule {name}");
                }
            }
        }
    }
    Ok(())
}

#[test]
fn every_section_and_every_error_of_the_pages_is_there() -> Result<()> {
    let rows = rows(include_str!("../MANUAL.md"))?;
    for (page, sections, errors) in PAGES {
        for section in sections {
            rows.iter()
                .find(|r| r.page == page && r.section == *section)
                .with_context(|| format!("{page}: nothing of {section}"))?;
        }
        for error in errors.split_whitespace() {
            let told = |r: &&Row<'_>| r.page == page && r.section == "ERRORS" && r.sentence.contains(error);
            rows.iter()
                .find(told)
                .with_context(|| format!("{page}: nothing of {error}"))?;
        }
    }
    Ok(())
}
