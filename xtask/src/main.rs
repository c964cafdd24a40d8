//! Project tasks: `cargo xtask test`, `cargo xtask demo`, `cargo xtask lint`.
//!
//! Each sets up what it needs first: as root on Debian or Ubuntu it installs missing packages, elsewhere it says which to install and goes
//! on without them. Not for anything a user of an installed Vshmem needs: that is the `vshmem` command.

mod setup;
mod steps;
mod tasks;
mod xen_lab;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <task>

  test [--quick]    every rung of the test ladder in its short setting (--quick: without second kernels)
  rules [PART-OF-A-NAME] [PLACE…]   the System V rules, at kernel, host, strict, containers, uml and qemu if no place is named: a table, rule by rule
  soak [--minutes N] [--seed N]   everything at once with random kills, models checking every result; 10 minutes if nothing is said
  demo [ARGS…]      builds what `vshmem demo` needs and runs it
  lint              format and clippy only
  build [--release] the command, the preload library and the C library
  install [--prefix DIR]   builds with optimisation and copies command, libraries, header, pkg-config file, manual pages and completions
                    below DIR (default /usr/local)
  xen-lab [--timeout SECONDS] [--verbose] [--release] [-- CMD…]   boots a Xen machine in software, of the distribution's packages, and runs CMD (or a
                    shell) in its dom0, which sees this host's own tree (--release: what is built with optimisation, and is built first)
  xen-lab --test [--quick]   runs the scenarios in it (--quick: the short setting)
  xen-lab --hvm …   with emulated hardware virtualisation, and PVH guests instead of paravirtual ones
  setup [--evaluation]   only installs what the other tasks need; with --evaluation what `vshmem bench report` compares with: two MPIs, ZeroMQ
";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let task = args.next().unwrap_or_default();
    let rest: Vec<String> = args.collect();
    if wants_help(&task, &rest) {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = unknown(&task, &rest) {
        eprint!("xtask: {task} takes no {unknown}\n{USAGE}");
        return ExitCode::from(2);
    }
    let result = match task.as_str() {
        "test" => tasks::test(rest.iter().any(|a| a == "--quick")),
        "rules" => tasks::rules(&rest),
        "soak" => tasks::soak(&rest),
        "demo" => tasks::demo(&rest),
        "lint" => tasks::lint(),
        "build" => tasks::build(rest.iter().any(|a| a == "--release")),
        "install" => tasks::install(&rest),
        "xen-lab" => {
            return xen_lab::main(&rest).unwrap_or_else(|error| {
                eprintln!("xtask: {error:#}");
                ExitCode::FAILURE
            });
        }
        "setup" if rest.iter().any(|arg| arg == "--evaluation") => {
            setup::packages_of_the_evaluation();
            Ok(true)
        }
        "setup" => {
            setup::packages();
            setup::packages_of_tests();
            Ok(true)
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether the usage is asked for. `vshmem demo` has its own, and what is behind `--` is another program's.
fn wants_help(task: &str, rest: &[String]) -> bool {
    let help = |arg: &str| matches!(arg, "--help" | "-h");
    help(task)
        || task == "help"
        || task != "demo" && rest.iter().take_while(|arg| *arg != "--").any(|arg| help(arg))
}

/// The first argument that a task with options alone does not know.
fn unknown<'a>(task: &str, rest: &'a [String]) -> Option<&'a String> {
    let known: &[&str] = match task {
        "test" => &["--quick"],
        "soak" => &["--minutes", "--seed"],
        "build" => &["--release"],
        "setup" => &["--evaluation"],
        "lint" => &[],
        _ => return None,
    };
    let value = |at: usize| task == "soak" && at % 2 == 1;
    let mut rest = rest.iter().enumerate();
    rest.find(|(at, arg)| !value(*at) && !known.contains(&arg.as_str()))
        .map(|(_, arg)| arg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(String::from).collect()
    }

    #[test]
    fn tasks_say_what_they_do_not_know() {
        for (task, line, wrong) in [
            ("soak", "--minutes 3 --seed 4", None),
            ("soak", "--minutes 3 --sed 4", Some("--sed")),
            ("soak", "10", Some("10")),
            ("test", "--quick", None),
            ("test", "--quik", Some("--quik")),
            ("lint", "--fix", Some("--fix")),
            ("demo", "--anything", None),
        ] {
            assert_eq!(
                unknown(task, &words(line)).map(String::as_str),
                wrong,
                "{task} {line}"
            );
        }
    }

    #[test]
    fn help_is_given_wherever_it_is_asked_for() {
        assert!(wants_help("soak", &words("--help")) && wants_help("-h", &[]));
        assert!(!wants_help("xen-lab", &words("-- xl --help")) && !wants_help("demo", &words("--help")));
    }
}
