//! Unmodified C programs, each run twice: on the kernel's own System V IPC and on Vshmem. Both must agree with what the program expects.
//!
//! Not for the System V rules one by one: those are `testing/rules`. Here are the things that a preload library gets wrong: fork, signals, threads,
//! closed descriptors, changed users, addresses, pointers, other ways to make the call.

mod daemon;

use daemon::{Daemon, compile, finish};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(90);

fn both(name: &str) {
    let daemon = Daemon::start();
    let program = compile(name, daemon.folder());
    finish(&mut Command::new(&program), PATIENCE).expect_success("on the kernel");
    finish(&mut daemon.command(&program), PATIENCE).expect_success("on Vshmem");
}

/// A program in an IPC namespace of its own, where it may have one: under the kernel a removed id is EIDRM once somebody else has its slot, EINVAL before.
fn apart(program: &Path) -> Command {
    let unshare = || {
        let mut command = Command::new("unshare");
        command.arg("--ipc");
        command
    };
    if !unshare()
        .arg("true")
        .status()
        .is_ok_and(|status| status.success())
    {
        return Command::new(program);
    }
    let mut command = unshare();
    command.arg(program);
    command
}

#[test]
fn signals_interrupt_and_their_handlers_may_use_the_same_constructs() {
    both("signals");
}

#[test]
fn children_are_counted_however_they_are_made_and_end() {
    both("forks");
}

#[test]
fn who_has_waited_for_a_child_finds_its_attachments_and_undo_dealt_with() {
    both("waited");
}

#[test]
fn a_handler_may_wait_for_children_in_the_middle_of_malloc() {
    both("reaping");
}

#[test]
fn what_is_to_undo_may_be_shared_and_left() {
    both("sharing");
}

#[test]
fn what_calls_with_arguments_at_random_give_is_what_the_kernel_gives() {
    let daemon = Daemon::start();
    let program = compile("chaos", daemon.folder());
    for seed in 1..=6 {
        let words = [seed.to_string(), "1000".to_string()];
        let kernel = finish(apart(&program).args(&words), PATIENCE).expect_success("on the kernel");
        let here = finish(daemon.command(&program).args(&words), PATIENCE).expect_success("on Vshmem");
        for (kernel, here) in kernel.lines().zip(here.lines()) {
            assert_eq!(here, kernel, "seed {seed}");
        }
        assert_eq!(kernel.lines().count(), 1000);
    }
}

#[test]
fn addresses_follow_the_rules_of_shmat() {
    both("addresses");
}

#[test]
fn times_are_those_of_time() {
    both("seconds");
}

#[test]
fn arguments_are_checked_and_structures_filled() {
    both("arguments");
}

#[test]
fn wild_pointers_are_efault_and_a_programs_own_faults_stay_its_own() {
    both("wild");
}

#[test]
fn a_program_may_close_all_descriptors() {
    both("closing");
}

#[test]
fn a_program_without_a_free_descriptor_gets_enomem_and_goes_on_when_there_is_one() {
    let daemon = Daemon::start();
    let program = compile("full", daemon.folder());
    finish(&mut daemon.command(&program), PATIENCE).expect_success("on Vshmem");
}

#[test]
fn threads_come_and_go() {
    both("threads");
}

#[test]
fn permission_is_the_present_users() {
    both("identity");
}

#[test]
fn death_in_the_middle_of_things_leaves_nothing_behind() {
    both("deaths");
}

#[test]
fn threads_forks_and_signals_may_come_together() {
    both("storm");
}

#[test]
fn all_names_and_versions_are_the_librarys() {
    let daemon = Daemon::start();
    let program = compile("symbols", daemon.folder());
    finish(&mut daemon.command(program), PATIENCE).expect_success("on Vshmem");
}

#[test]
fn what_need_not_wait_makes_no_system_call_and_allocates_nothing() {
    let daemon = Daemon::start();
    let program = compile("quiet", daemon.folder());
    finish(&mut daemon.command(program), PATIENCE).expect_success("on Vshmem");
}
