//! What a program finds in a guest: the host's tree, its caller's folder, rights and environment, and services.

use std::process::Stdio;

use crate::PORT;
use crate::harness::{guest, run};

#[test]
fn a_program_finds_its_callers_world_and_writes_only_where_it_may() {
    let kept = tempfile::tempdir().expect("a folder");
    let seen = tempfile::tempdir().expect("a folder");
    std::fs::write(seen.path().join("file"), "from the host\n").expect("writing");
    let bind = kept.path().to_str().expect("a plain name");
    let Some(mut command) = guest(
        "a_program_finds_its_callers_world",
        &["--domain", "b", "--bind", bind],
    ) else {
        return;
    };
    let script = r#"
        echo "$1|$2|$WORD|$(hostname)|$(cat file)|$(pwd)|$(id -u):$(id -g)|$(umask)"
        echo changed > file; echo new > other; rm -r /etc/apt; mv /srv /srv-moved && echo renamed
        echo kept > "$KEPT/file"; mkdir "$KEPT/folder"
        cat file; ls /etc/apt 2>&1 | wc -l
        echo on > /dev/shm/a && echo shm; test -c /dev/ptmx && echo ptmx; : > /dev/null && echo null
        readlink /proc/1/exe; grep -c . /proc/net/route; head -c 8 /dev/random | wc -c
        /usr/bin/python3 -c 'import socket; s = socket.create_server(("127.0.0.1", 0)); socket.create_connection(s.getsockname()); print("lo")'
        (trap "" TERM; sleep 1000) & sleep 1000 &
        exit 0
    "#;
    let ended = run(command
        .current_dir(seen.path())
        .env("WORD", "two words")
        .env("KEPT", kept.path())
        .args(["--", "sh", "-c", script, "sh", "a b", "\"'$x"]));
    let said = ended.stdout();
    let (first, rest) = said.split_once('\n').expect("lines");
    let id = format!(
        "{}:{}",
        rustix::process::getuid().as_raw(),
        rustix::process::getgid().as_raw()
    );
    let folder = seen.path().canonicalize().expect("a path");
    let wanted = [
        "a b",
        "\"'$x",
        "two words",
        "b",
        "from the host",
        folder.to_str().expect("plain"),
        &id,
        "0022",
    ];
    assert_eq!(first, wanted.join("|"), "{}", ended.stderr);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    for word in [
        "renamed\n",
        "changed\n",
        "shm\nptmx\nnull\n",
        "vshmem-guest\n",
        "8\n",
        "lo\n",
    ] {
        assert!(rest.contains(word), "no {word:?} in {rest}\n{}", ended.stderr);
    }
    assert_eq!(
        std::fs::read_to_string(seen.path().join("file")).expect("reading"),
        "from the host\n"
    );
    assert!(!seen.path().join("other").exists(), "a write reached the host");
    assert!(
        std::path::Path::new("/etc/apt").is_dir(),
        "a removal reached the host"
    );
    assert_eq!(
        std::fs::read_to_string(kept.path().join("file")).expect("reading"),
        "kept\n"
    );
    assert!(kept.path().join("folder").is_dir());
}

#[test]
fn services_are_ready_before_the_program_and_go_after_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let socket = folder.path().join("socket");
    // What a service of the host left: it must not pass for the guest's.
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("binding"));
    let service = folder.path().join("service");
    let body = format!(
        "import os, signal, socket, sys, time\n\
         time.sleep(0.3)\n\
         os.unlink('{0}')\n\
         s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n\
         s.bind('{0}'); os.chmod('{0}', 0o777); s.listen()\n\
         def end(*_): open('{1}/ended', 'w').write('asked'); sys.exit()\n\
         signal.signal(signal.SIGTERM, end)\n\
         while True: s.accept()\n",
        socket.display(),
        folder.path().display(),
    );
    std::fs::write(&service, body).expect("writing");
    let words = format!("/usr/bin/python3 {}", service.display());
    let (ready, bind) = (
        socket.to_str().expect("plain"),
        folder.path().to_str().expect("plain"),
    );
    let Some(mut command) = guest(
        "services_are_ready",
        &["--bind", bind, "--service", &words, "--ready", ready],
    ) else {
        return;
    };
    let program = "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); print('met')";
    let ended = run(command.args(["--", "/usr/bin/python3", "-c", program, ready]));
    assert_eq!(
        (ended.code, ended.stdout().as_str()),
        (Some(0), "met\n"),
        "{}",
        ended.stderr
    );
    assert_eq!(
        std::fs::read_to_string(folder.path().join("ended")).expect("the service was asked to end"),
        "asked"
    );
}

#[test]
fn a_service_that_ends_at_once_is_an_error_with_its_own_words() {
    let options = ["--service", "ls /no-such-folder", "--ready", "/run/none"];
    let Some(mut command) = guest("a_service_that_ends_at_once", &options) else {
        return;
    };
    let ended = run(command.args(["--", "true"]).stdin(Stdio::null()));
    assert_eq!(ended.code, Some(125));
    assert!(
        ended
            .stderr
            .contains("ls /no-such-folder ended before it was ready"),
        "{}",
        ended.stderr
    );
    assert!(ended.stderr.contains("| ls: cannot access"), "{}", ended.stderr);
}

#[test]
fn the_pool_is_the_same_memory_in_the_guest_and_on_the_host() {
    let file = tempfile::NamedTempFile::new().expect("a file");
    file.as_file().set_len(16 << 20).expect("its size");
    std::os::unix::fs::FileExt::write_all_at(file.as_file(), b"from the host", 5 << 20).expect("writing");
    let pool = file.path().to_str().expect("plain");
    let Some(mut command) = guest("the_pool_is_the_same_memory", &["--pool", pool]) else {
        return;
    };
    if PORT == "xen" {
        println!("skipped: the_pool_is_the_same_memory: port {PORT} shows no pool");
        return;
    }
    let program = "import glob, mmap, os\n\
                   bars = [d for d in glob.glob('/sys/bus/pci/devices/*') if open(d + '/device').read() == '0x1110\\n']\n\
                   bars and open(bars[0] + '/enable', 'w').write('1')\n\
                   m = mmap.mmap(os.open(bars[0] + '/resource2' if bars else '/dev/mmapper', os.O_RDWR), 16 << 20)\n\
                   print(m[5 << 20:(5 << 20) + 13].decode())\n\
                   m[9 << 20:(9 << 20) + 14] = b'from the guest'\n";
    let ended = run(command.args(["--", "/usr/bin/python3", "-c", program]));
    assert_eq!(
        (ended.code, ended.stdout().as_str()),
        (Some(0), "from the host\n"),
        "{}",
        ended.stderr
    );
    let mut said = [0_u8; 14];
    std::os::unix::fs::FileExt::read_exact_at(file.as_file(), &mut said, 9 << 20).expect("reading");
    assert_eq!(&said, b"from the guest");
}

#[test]
fn the_hosts_tree_cannot_be_written_to_even_where_it_is_mounted_anew() {
    let kept = tempfile::tempdir().expect("a folder");
    let bare = tempfile::tempdir().expect("a folder");
    let bind = kept.path().to_str().expect("a plain name");
    // Only machines that show the tree by a daemon are held to this: elsewhere the guest's root is the host's user.
    let Some(mut command) = guest("the_hosts_tree_cannot_be_written_to", &["--bind", bind]) else {
        return;
    };
    if PORT != "qemu" {
        println!("skipped: the_hosts_tree_cannot_be_written_to: port {PORT} trusts its guests' root");
        return;
    }
    let script = "mkdir /run/t && mount -t virtiofs vshmem-host /run/t && touch /run/t$1/kept && echo kept; touch /run/t$2/bad";
    let ended = run(command
        .args(["--", "sh", "-c", script, "sh", bind])
        .arg(bare.path()));
    assert_eq!(ended.stdout(), "kept\n", "{}", ended.stderr);
    assert!(ended.stderr.contains("Read-only file system"), "{}", ended.stderr);
    assert!(kept.path().join("kept").exists() && !bare.path().join("bad").exists());
}
