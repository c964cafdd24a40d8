//! The header is C of every standard, and C++, without a warning.

use std::process::Command;

const SOURCE: &str = "\
#include <vshmem.h>
int main(void) {
    vshmem_team *team = vshmem_team_join(1, 1, -1, (const struct timespec *) 0);
    vshmem_team_leave(team);
    return vshmem_semtimedop(0, (struct sembuf *) 0, 1, (const struct timespec *) 0);
}
";

fn compile(compiler: &str, language: &str, standard: &str, option: &str) {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("program");
    std::fs::write(&source, SOURCE).unwrap();
    let mut command = Command::new(compiler);
    command
        .args(["-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only"])
        .arg(format!("-std={standard}"))
        .arg(option)
        .args([
            "-I",
            concat!(env!("CARGO_MANIFEST_DIR"), "/include"),
            "-x",
            language,
        ])
        .arg(&source);
    match command.output() {
        Err(why) => println!("skipped: {compiler}: {why}"),
        Ok(output) => assert!(
            output.status.success(),
            "{compiler} -std={standard} {option}: {}",
            String::from_utf8_lossy(&output.stderr)
        ),
    }
}

#[test]
fn the_header_is_taken_by_every_standard_without_a_warning() {
    for option in [
        "-DPLAIN",
        "-D_GNU_SOURCE",
        "-D_XOPEN_SOURCE=600",
        "-DVSHMEM_REPLACE_SYSV",
    ] {
        for standard in ["c89", "c99", "c11", "gnu89", "gnu17"] {
            compile("cc", "c", standard, option);
        }
        for standard in ["c++98", "c++20"] {
            compile("c++", "c++", standard, option);
        }
    }
}
