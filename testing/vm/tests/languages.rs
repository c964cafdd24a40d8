//! System V IPC as interpreted languages and Debian's own tools use it: Perl, PHP, fakeroot. And what is refused: other C libraries.

use anyhow::{Result, ensure};
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::{Machine, containers_available, missing, uml_available};

const LIMIT: Duration = Duration::from_secs(60);

fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Whether a command succeeds here, outside Vshmem.
fn works(argv: &[&str]) -> bool {
    let mut command = Command::new(argv[0]);
    finish(command.args(&argv[1..]), LIMIT).is_ok_and(|out| out.status.success())
}

/// Runs the same on the host, in a container and in a UML guest: the output must be as expected, and nothing may be left.
fn everywhere(row: &str, argv: &[&str], expected: &str) -> Result<()> {
    let machine = Machine::start()?;
    let mut commands = vec![("host", machine.command(&["run", "--"]))];
    if containers_available() {
        commands.push(("container", machine.contained(&["run", "--"])));
    } else {
        missing(row, "in a container: unshare is not permitted or not installed");
    }
    if uml_available() {
        let run = [
            "vm",
            "run",
            "--port",
            "uml",
            "--domain",
            "a",
            "--timeout",
            "60",
            "--",
        ];
        commands.push(("guest", machine.command(&run)));
    } else {
        missing(row, "in a UML guest: linux.uml is not installed");
    }
    for (place, mut command) in commands {
        let out = finish(command.args(argv), 2 * LIMIT)?;
        ensure!(out.status.success(), "{place}: {}", text(&out));
        let said = String::from_utf8_lossy(&out.stdout);
        ensure!(said.trim() == expected, "{place}: {}, not {expected}", text(&out));
        let listed = text(&machine.vshmem(&["ipcs"])?);
        ensure!(!listed.contains("0x"), "{place}: something is left:\n{listed}");
    }
    Ok(())
}

#[test]
fn perl() -> Result<()> {
    if !works(&["perl", "-MIPC::SysV", "-e", "1"]) {
        missing("perl", "perl with IPC::SysV is not installed");
        return Ok(());
    }
    let script = r#"use strict; use IPC::SysV qw(IPC_RMID SETVAL GETVAL);
        my $m = shmget(0x99, 1000, 01600) // die "shmget $!"; my ($read, $got);
        shmwrite($m, "hello", 0, 5) or die "shmwrite $!"; shmread($m, $read, 0, 5) or die "shmread $!";
        my $s = semget(0x99, 1, 01600) // die "semget $!"; semctl($s, 0, SETVAL, 2) or die "SETVAL $!";
        semop($s, pack("s!3", 0, -1, 0)) or die "semop $!";
        my $q = msgget(0x99, 01600) // die "msgget $!"; msgsnd($q, pack("l! a*", 5, "text"), 0) or die "msgsnd $!";
        msgrcv($q, $got, 100, 0, 0) or die "msgrcv $!";
        print join(" ", $read, semctl($s, 0, GETVAL, 0) + 0, unpack("l! a*", $got)), "\n";
        shmctl($m, IPC_RMID, 0); semctl($s, 0, IPC_RMID, 0); msgctl($q, IPC_RMID, 0);"#;
    everywhere("perl", &["perl", "-e", script], "hello 1 5 text")
}

#[test]
fn perl_shareable() -> Result<()> {
    if !works(&["perl", "-MIPC::Shareable", "-e", "1"]) {
        missing("perl_shareable", "libipc-shareable-perl is not installed");
        return Ok(());
    }
    let script = r#"use strict; use IPC::Shareable; use POSIX;
        my %o = (create => 1, mode => 0600, destroy => 1);
        tie my %h, 'IPC::Shareable', 'abcd', {%o}; tie my $count, 'IPC::Shareable', 'cnt1', {%o};
        $count = 0; $h{x} = {y => 1}; my @children;
        for (1 .. 4) {
            my $p = fork // die; push @children, $p; next if $p;
            for (1 .. 25) { (tied $count)->lock; $count++; (tied $count)->unlock; }
            POSIX::_exit(0);
        }
        waitpid $_, 0 for @children;
        print "$count $h{x}{y}\n"; IPC::Shareable->clean_up_all;"#;
    everywhere("perl_shareable", &["perl", "-e", script], "100 1")
}

#[test]
fn php() -> Result<()> {
    let there =
        "exit(function_exists('shm_attach') && function_exists('shmop_open') && function_exists('sem_get')
        && function_exists('msg_get_queue') && function_exists('pcntl_fork') ? 0 : 1);";
    if !works(&["php", "-r", there]) {
        missing(
            "php",
            "php with sysvshm, sysvsem, sysvmsg, shmop and pcntl is not installed",
        );
        return Ok(());
    }
    let script = r#"$k = 0x5151; $m = shm_attach($k, 10000, 0600); shm_put_var($m, 1, ["a" => 0]);
        $s = sem_get($k, 1, 0600, true); $q = msg_get_queue($k, 0600);
        for ($i = 0; $i < 4; $i++) {
            if (pcntl_fork()) continue;
            for ($j = 0; $j < 100; $j++) {
                sem_acquire($s); $v = shm_get_var($m, 1); $v["a"]++; shm_put_var($m, 1, $v); sem_release($s);
            }
            msg_send($q, 7, ["done", $i]); exit(0);
        }
        for ($i = 0; $i < 4; $i++) { msg_receive($q, 7, $type, 10000, $got); pcntl_wait($status); }
        $sum = shm_get_var($m, 1)["a"]; $left = msg_stat_queue($q)["msg_qnum"];
        shm_remove($m); sem_remove($s); msg_remove_queue($q);
        $o = shmop_open(0x5252, "n", 0600, 100); shmop_write($o, "shmop", 0);
        $p = shmop_open(0x5252, "a", 0, 0); $read = shmop_read($p, 0, 5); $size = shmop_size($p); shmop_delete($o);
        echo "$sum $left $got[0] $read $size\n";"#;
    everywhere("php", &["php", "-r", script], "400 0 done shmop 100")
}

/// Its library and its server speak by message queues, for a user who may not do what it pretends.
#[test]
fn fakeroot() -> Result<()> {
    if !Path::new("/usr/bin/fakeroot-sysv").exists() {
        missing("fakeroot", "fakeroot is not installed");
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        missing("fakeroot", "it asks for root, to become another user");
        return Ok(());
    }
    let script = r#"cd "$(mktemp -d)"; fakeroot-sysv -- sh -c '
        touch x; chown 0:0 x; stat -c %u x; chown 5:6 x; stat -c %u:%g x; mknod n c 1 3; stat -c %F n
        ipcs -q | grep -c nobody'
        # Its server cleans up after itself, unless the container ends before that.
        for i in $(seq 50); do ipcs | grep -q nobody || exit 0; sleep 0.1; done"#;
    let argv = [
        "setpriv",
        "--reuid=nobody",
        "--regid=nogroup",
        "--clear-groups",
        "sh",
        "-c",
        script,
    ];
    // Two queues, and Vshmem has them.
    everywhere("fakeroot", &argv, "0\n5:6\ncharacter special file\n2")
}

/// A program that the preload library cannot serve is not run on the kernel's IPC without a word.
#[test]
fn programs_of_another_c_library_are_refused() -> Result<()> {
    if !Path::new("/usr/bin/musl-gcc").exists() {
        missing(
            "programs_of_another_c_library_are_refused",
            "musl-tools is not installed",
        );
        return Ok(());
    }
    let machine = Machine::start()?;
    let source = machine.runtime().join("program.c");
    std::fs::write(
        &source,
        "#include <sys/shm.h>\nint main(void) { return shmget(0x77, 100, 01600) < 0; }\n",
    )?;
    for (flags, reason) in [(&[][..], "musl"), (&["-static"][..], "statically linked")] {
        let program = machine.runtime().join("program");
        let mut cc = Command::new("musl-gcc");
        let out = finish(cc.args(flags).arg("-o").arg(&program).arg(&source), LIMIT)?;
        ensure!(out.status.success(), "{}", text(&out));
        let program = program.to_string_lossy();
        let out = machine.run(&[&program], LIMIT)?;
        let said = text(&out);
        ensure!(!out.status.success() && said.contains(reason), "{said}");
        ensure!(said.contains("--force"), "it does not say what to do: {said}");
    }
    let kernel = finish(&mut Command::new("ipcs"), LIMIT)?;
    ensure!(!text(&kernel).contains("0x00000077"), "it ran all the same");
    Ok(())
}
