//! PostgreSQL, unchanged, with all its shared memory System V's: on the host and within a guest.
//!
//! Not a benchmark: what is asked is that it works, survives the death of a back-end of its own, and that a second server on the same data is refused,
//! which rests on nattch.

use anyhow::{Context, Result, ensure};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};
use vshmem_testing_vm::machine::finish;
use vshmem_testing_vm::{Machine, containers_available, missing, uml_available};

/// Where Debian keeps the programs, a folder for each version.
const VERSIONS: &str = "/usr/lib/postgresql";
/// Makes a cluster in $D and starts it.
const START: &str = r#"set -e; cd "$D"
"$B/initdb" -D data -A trust -N >initdb.log 2>&1 || { cat initdb.log; exit 1; }
cat >>data/postgresql.conf <<END
shared_memory_type = sysv
dynamic_shared_memory_type = sysv
listen_addresses = ''
unix_socket_directories = '$D'
shared_buffers = 16MB
max_connections = 20
fsync = off
END
"$B/pg_ctl" -D data -l log -w -t 60 start >start.log 2>&1 || { cat start.log log; exit 1; }
"#;
/// Fills it, works on it for $SECONDS_OF_WORK and counts in parallel, through segments made for the occasion.
const WORK: &str = r#"set -e; cd "$D"
"$B/pgbench" -h "$D" -i -q postgres 2>&1 || { tail log; exit 1; }
"$B/pgbench" -h "$D" -c 4 -T "$SECONDS_OF_WORK" postgres 2>&1 || { tail log; exit 1; }
psql() { "$B/psql" -h "$D" -At -v ON_ERROR_STOP=1 -c "$1" postgres; }
psql "set max_parallel_workers_per_gather = 2; set parallel_setup_cost = 0; set parallel_tuple_cost = 0;
  set min_parallel_table_scan_size = 0; select 'parallel', count(*) from pgbench_accounts"
psql "select 'balanced', (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)
  and (select sum(abalance) from pgbench_accounts) = (select sum(delta) from pgbench_history)"
"#;
const STOP: &str = r#"cd "$D"; "$B/pg_ctl" -D data -m fast -w -t 30 stop"#;

fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// The folder of its programs, or why it cannot run here.
fn programs() -> Result<PathBuf, &'static str> {
    if !rustix::process::geteuid().is_root() {
        return Err("it asks for root, to become the user postgres");
    }
    let versions = std::fs::read_dir(VERSIONS).into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin"));
    found
        .filter(|programs| ["initdb", "pgbench"].iter().all(|p| programs.join(p).exists()))
        .max()
        .ok_or("PostgreSQL is not installed (Debian: postgresql)")
}

/// A cluster in a folder of its own, stopped with the test.
struct Cluster<'a> {
    machine: &'a Machine,
    programs: &'a Path,
    folder: tempfile::TempDir,
}

impl<'a> Cluster<'a> {
    fn make(machine: &'a Machine, programs: &'a Path) -> Result<Cluster<'a>> {
        let folder = tempfile::tempdir()?;
        let mut chown = Command::new("chown");
        let out = finish(
            chown.arg("postgres:postgres").arg(folder.path()),
            Duration::from_secs(10),
        )?;
        ensure!(out.status.success(), "{}", text(&out));
        let cluster = Cluster {
            machine,
            programs,
            folder,
        };
        cluster.run(START, Duration::from_secs(90))?;
        Ok(cluster)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = self.machine.command(&["run", "--"]);
        self.user(&mut command, script);
        command
    }

    /// Has the command run a script as the server's user.
    fn user<'c>(&self, command: &'c mut Command, script: &str) -> &'c mut Command {
        command
            .args([
                "setpriv",
                "--reuid=postgres",
                "--regid=postgres",
                "--clear-groups",
            ])
            .args(["sh", "-c", script])
            .env("B", self.programs)
            .env("D", self.folder.path())
            .env("SECONDS_OF_WORK", "8")
    }

    fn run(&self, script: &str, limit: Duration) -> Result<String> {
        let out = finish(&mut self.command(script), limit)?;
        ensure!(out.status.success(), "{}", text(&out));
        Ok(text(&out))
    }

    fn sql(&self, query: &str) -> Result<String> {
        let script = format!(r#"exec "$B/psql" -h "$D" -At -c "{query}" postgres"#);
        Ok(self.run(&script, Duration::from_secs(20))?.trim().to_string())
    }

    /// Asks until there is an answer: recovery takes a moment.
    fn sql_eventually(&self, query: &str) -> Result<String> {
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            match self.sql(query) {
                Err(_) if Instant::now() < until => std::thread::sleep(Duration::from_millis(200)),
                other => return other,
            }
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Cluster<'_> {
    fn drop(&mut self) {
        let script =
            r#"cd "$D"; [ ! -f data/postmaster.pid ] || "$B/pg_ctl" -D data -m immediate -w -t 20 stop"#;
        let _ = finish(&mut self.command(script), Duration::from_secs(30));
    }
}

/// Segments listed by `vshmem ipcs` that belong to the user postgres.
fn segments(machine: &Machine) -> Result<usize> {
    let listed = text(&machine.vshmem(&["ipcs"])?);
    Ok(listed.lines().filter(|line| line.contains("postgres")).count())
}

#[test]
fn postgres_on_the_host() -> Result<()> {
    let programs = match programs() {
        Ok(programs) => programs,
        Err(why) => {
            missing("postgres_on_the_host", why);
            return Ok(());
        }
    };
    let machine = Machine::start()?;
    let cluster = Cluster::make(&machine, &programs)?;
    ensure!(segments(&machine)? > 0, "its segments are elsewhere");
    let said = cluster.run(WORK, Duration::from_secs(90))?;
    println!("{said}");
    ensure!(
        said.contains("parallel|100000") && said.contains("balanced|t"),
        "{said}"
    );

    // One of its back-ends is killed in the middle of work: it recovers, with new segments.
    let script = r#""$B/pgbench" -n -h "$D" -c 4 -T 20 postgres"#;
    let mut busy = cluster.command(script).spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    let busy_ones = "select pid from pg_stat_activity where application_name = 'pgbench' limit 1";
    let victim: i32 = cluster.sql(busy_ones)?.parse().context("no back-end is busy")?;
    vshmem_testing_vm::machine::signal(victim, rustix::process::Signal::KILL)?;
    let ended = vshmem_testing_vm::machine::wait(&mut busy, Duration::from_secs(20))?;
    ensure!(!ended.success(), "nobody noticed the death of {victim}");
    let balanced =
        "select (select sum(bbalance) from pgbench_branches) = (select sum(delta) from pgbench_history)";
    ensure!(cluster.sql_eventually(balanced)? == "t", "{}", cluster.log());
    ensure!(cluster.log().contains("reinitializing"), "{}", cluster.log());

    second_server_is_refused(&cluster)?;
    println!("{}", cluster.run(STOP, Duration::from_secs(60))?);
    ensure!(
        segments(&machine)? == 0,
        "segments are left: {}",
        text(&machine.vshmem(&["ipcs"])?)
    );
    Ok(())
}

/// Even when the lock file is lost: the segment is still attached.
fn second_server_is_refused(cluster: &Cluster<'_>) -> Result<()> {
    let script = r#"cd "$D"; mv data/postmaster.pid kept; timeout 20 "$B/postgres" -D data 2>&1; mv kept data/postmaster.pid"#;
    let said = cluster.run(script, Duration::from_secs(40))?;
    ensure!(
        said.contains("pre-existing shared memory block") && said.contains("still in use"),
        "a second server was not refused: {said}"
    );
    if containers_available() {
        // There the lock file names a process that nobody sees: only the segment tells. The kernel's own would be in another IPC namespace.
        let script = r#"cd "$D"; cp data/postmaster.pid kept; timeout 20 "$B/postgres" -D data 2>&1; cp kept data/postmaster.pid"#;
        let mut contained = cluster.machine.contained(&["run", "--"]);
        let out = finish(cluster.user(&mut contained, script), Duration::from_secs(40))?;
        let said = text(&out);
        ensure!(
            said.contains("pre-existing shared memory block") && said.contains("still in use"),
            "a second server in a container was not refused: {said}"
        );
    } else {
        missing(
            "second server in a container",
            "unshare is not permitted or not installed",
        );
    }
    ensure!(cluster.sql("select 1")? == "1", "the first server suffered");
    Ok(())
}

#[test]
fn postgres_in_a_uml_guest() -> Result<()> {
    let row = "postgres_in_a_uml_guest";
    let programs = match programs() {
        Ok(programs) => programs,
        Err(why) => {
            missing(row, why);
            return Ok(());
        }
    };
    if !uml_available() {
        missing(row, "linux.uml is not installed");
        return Ok(());
    }
    let machine = Machine::start()?;
    let script = format!(
        "export B={} D=$(mktemp -d) SECONDS_OF_WORK=4; chown postgres \"$D\"\n\
         as() {{ setpriv --reuid=postgres --regid=postgres --clear-groups sh -c \"$1\"; }}\n\
         as '{}' && as '{}' && as '{}'; result=$?; cat \"$D/log\"; exit $result",
        programs.display(),
        quoted(START),
        quoted(WORK),
        quoted(STOP)
    );
    let mut command = machine.command(&["vm", "run", "--port", "uml", "--domain", "a", "--mem", "512M"]);
    command.args(["--timeout", "150", "--", "sh", "-c", &script]);
    let out = finish(&mut command, Duration::from_secs(220))?;
    let said = text(&out);
    println!("{said}");
    ensure!(out.status.success(), "it failed");
    ensure!(said.contains("parallel|100000") && said.contains("balanced|t"));
    ensure!(!said.contains("terminated by signal"));
    ensure!(
        segments(&machine)? == 0,
        "segments are left: {}",
        text(&machine.vshmem(&["ipcs"])?)
    );
    Ok(())
}

/// For use within single quotes.
fn quoted(script: &str) -> String {
    script.replace('\'', r"'\''")
}
