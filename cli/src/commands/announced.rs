//! `vshmem ipcs --announced`: constructs that the host announces to this machine by its port's own means. No daemon is asked, neither here nor there.
//!
//! Not for whether they may be used: that the back-end says when they are.

use crate::inventory::user;
use crate::trouble::{Outcome, Trouble};
use serde_json::{Map, Value, json};
use vshmem_port_select::Announced;
use vshmem_wire::Kind;

/// Prints those of these kinds.
pub(crate) fn run(kinds: &[Kind], as_json: bool) -> Outcome {
    let all = vshmem_port_select::announced().map_err(|why| {
        Trouble::new("announced constructs", format!("{why:#}"))
            .remedy("leave --announced out: the daemon knows all that there are")
    })?;
    if as_json {
        let of = |kind: &Kind| {
            (
                name(*kind).to_owned(),
                all.iter().filter(|one| one.kind == *kind).map(object).collect(),
            )
        };
        println!("{:#}", Value::Object(kinds.iter().map(of).collect::<Map<_, _>>()));
        return Ok(0);
    }
    for kind in kinds {
        println!("\n{}", heading(*kind));
        for one in all.iter().filter(|one| one.kind == *kind) {
            println!("{}", line(one));
        }
    }
    println!();
    Ok(0)
}

fn name(kind: Kind) -> &'static str {
    match kind {
        Kind::Msg => "msg",
        Kind::Shm => "shm",
        Kind::Sem => "sem",
    }
}

fn heading(kind: Kind) -> String {
    let (title, id) = match kind {
        Kind::Msg => ("Message Queues", "msqid"),
        Kind::Shm => ("Shared Memory Segments", "shmid"),
        Kind::Sem => ("Semaphore Arrays", "semid"),
    };
    format!(
        "------ {title} --------\n{}",
        cells(&["key", id, "owner", "perms", "bytes", "domain"])
    )
}

fn said<'a>(one: &'a Announced, what: &str) -> &'a str {
    one.said.get(what).map_or("", String::as_str)
}

fn line(one: &Announced) -> String {
    let id = one.id.to_string();
    let owner = said(one, "uid").parse().map_or_else(|_| String::new(), user);
    let [key, mode, bytes, domain] = ["key", "mode", "bytes", "domain"].map(|what| said(one, what));
    cells(&[key, &id, &owner, mode, bytes, domain])
}

/// Ten characters a cell.
fn cells(cells: &[&str]) -> String {
    let line: String = cells.iter().map(|cell| format!("{cell:<10} ")).collect();
    line.trim_end().to_owned()
}

fn object(one: &Announced) -> Value {
    let number = |what| said(one, what).parse::<u64>().ok();
    json!({
        "id": one.id, "key": said(one, "key"), "mode": said(one, "mode"), "uid": number("uid"), "gid": number("gid"),
        "domain": said(one, "domain"), "bytes": number("bytes"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_what_is_said_and_nothing_for_what_is_not() {
        let said = [("key", "0x1234"), ("mode", "600"), ("uid", "0"), ("domain", "a")];
        let one = Announced {
            kind: Kind::Shm,
            id: 7,
            said: said
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into(),
        };
        let line = line(&one);
        assert!(line.starts_with("0x1234     7          root       600"), "{line}");
        assert!(line.ends_with(" a"), "{line}");
        let object = object(&one);
        assert_eq!((&object["uid"], &object["bytes"]), (&json!(0), &Value::Null));
    }
}
