//! The programs of the demonstration: the examples, compiled on the spot with `cc`.

use crate::trouble::Trouble;
use std::path::Path;
use std::process::Command;

macro_rules! example {
    ($path:literal) => {
        include_str!(concat!("../../../examples/", $path))
    };
}

/// Headers, by name.
const HEADERS: &[(&str, &str)] = &[
    ("exchange.h", example!("ping-pong/exchange.h")),
    ("letter.h", example!("queue/letter.h")),
];

/// Programs, by name.
const PROGRAMS: &[(&str, &str)] = &[
    ("ping", example!("ping-pong/ping.c")),
    ("pong", example!("ping-pong/pong.c")),
    ("post", example!("queue/post.c")),
    ("inbox", example!("queue/inbox.c")),
    ("tcp", example!("tcp/tcp.c")),
];

/// Compiles them into a folder.
pub(crate) fn compile(folder: &Path) -> Result<(), Trouble> {
    let trouble = |error: std::io::Error| Trouble::new("demo programs", error);
    for (name, text) in HEADERS {
        std::fs::write(folder.join(name), text).map_err(trouble)?;
    }
    for (name, text) in PROGRAMS {
        let source = folder.join(format!("{name}.c"));
        std::fs::write(&source, text).map_err(trouble)?;
        let output = Command::new("cc")
            .args(["-O2", "-o"])
            .arg(folder.join(name))
            .arg(&source)
            .output();
        let output = output.map_err(|error| {
            Trouble::new(
                "demo programs",
                format!("the C compiler `cc` cannot be run: {error}"),
            )
            .remedy("on Debian and Ubuntu: apt-get install gcc libc6-dev")
        })?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let first = said
                .lines()
                .find(|line| line.contains("error"))
                .unwrap_or("it did not say why");
            return Err(
                Trouble::new("demo programs", format!("cc failed on {name}.c: {first}"))
                    .remedy("on Debian and Ubuntu: apt-get install gcc libc6-dev"),
            );
        }
    }
    Ok(())
}
