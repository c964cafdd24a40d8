//! Who made something that outlives processes, so that it can be told whether he is still there: marks in Xenstore, `PID START` for each process.
//!
//! Numbers of processes are given out again; when a process began tells it from another one of its number.

/// When a process began, if it runs: one that has ended, and whose parent has not heard of that yet, does nothing for anybody.
fn began(pid: &str) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut after = stat.rsplit_once(')')?.1.split_whitespace();
    let state = after.next()?;
    after
        .nth(18)
        .filter(|_| !["Z", "X", "x"].contains(&state))
        .map(str::to_owned)
}

/// One process.
pub(crate) fn of(pid: i32) -> Option<String> {
    Some(format!("{pid} {}", began(&pid.to_string())?))
}

/// This process.
pub(crate) fn this() -> String {
    of(std::process::id() as i32).unwrap_or_default()
}

/// This process and the one that would start it anew.
pub(crate) fn this_and_keeper() -> String {
    let parent = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get());
    // The first process of all keeps nothing.
    let parent = parent.filter(|&pid| pid != 1).and_then(of);
    std::iter::once(this())
        .chain(parent)
        .collect::<Vec<_>>()
        .join(" ")
}

/// The number of one of the processes that a mark names, if one is there.
pub(crate) fn alive(mark: &str) -> Option<&str> {
    let words: Vec<&str> = mark.split_whitespace().collect();
    let mut pairs = words.chunks_exact(2);
    pairs
        .find(|pair| began(pair[0]).as_deref() == Some(pair[1]))
        .map(|pair| pair[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_holds_as_long_as_one_of_its_processes() {
        let own = std::process::id().to_string();
        assert_eq!(alive(&this()), Some(&*own));
        assert!(alive(&this_and_keeper()).is_some());
        assert!(alive("").is_none() && alive("4194999 12").is_none());
        assert!(alive(&format!("{own} 1")).is_none());
        assert!(alive(&format!("4194999 12 {}", this_and_keeper())).is_some());
    }

    #[test]
    fn one_that_has_ended_and_that_nobody_has_heard_of_is_gone() {
        let mut child = std::process::Command::new("/bin/sleep")
            .arg("1000")
            .spawn()
            .unwrap();
        let mark = of(child.id() as i32).unwrap();
        assert!(alive(&mark).is_some());
        child.kill().unwrap();
        let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while alive(&mark).is_some() {
            assert!(std::time::Instant::now() < until, "it is not gone");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
    }
}
