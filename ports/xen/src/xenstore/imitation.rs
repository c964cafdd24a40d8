//! A `xenstored` that knows what it was told, for tests: no rights, no quota, no watches.

use super::{DIRECTORY, ERROR, READ, REMOVE, SET_PERMS, WRITE, Xenstore};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::sync::{Arc, Mutex};

/// What stands where.
pub(crate) type Tree = Arc<Mutex<BTreeMap<String, String>>>;

/// A connection, and its other end.
pub(crate) fn pair() -> (Xenstore, File) {
    let (flags, kind) = (SocketFlags::CLOEXEC, SocketType::STREAM);
    let (ours, theirs) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None).unwrap();
    (Xenstore::over(File::from(ours)), File::from(theirs))
}

/// A connection to one that knows this.
pub(crate) fn knowing(tree: &Tree) -> Xenstore {
    let (xenstore, mut device) = pair();
    let tree = Arc::clone(tree);
    std::thread::spawn(move || while serve(&mut device, &tree).is_some() {});
    xenstore
}

/// One that knows this.
pub(crate) fn tree(known: &[(&str, &str)]) -> Tree {
    let known = known
        .iter()
        .map(|(path, value)| (path.to_string(), value.to_string()));
    Arc::new(Mutex::new(known.collect()))
}

/// An answer as it goes over the device.
pub(crate) fn message(what: u32, number: u32, body: &[u8]) -> Vec<u8> {
    let header = [what, number, 0, body.len() as u32];
    header
        .iter()
        .flat_map(|word| word.to_le_bytes())
        .chain(body.iter().copied())
        .collect()
}

/// The next request: what it is, its number, its body.
pub(crate) fn request(device: &mut File) -> Option<(u32, u32, Vec<u8>)> {
    let mut header = [0; 16];
    device.read_exact(&mut header).ok()?;
    let word = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
    let mut body = vec![0; word(12) as usize];
    device.read_exact(&mut body).ok()?;
    Some((word(0), word(4), body))
}

fn serve(device: &mut File, tree: &Tree) -> Option<()> {
    let (what, number, body) = request(device)?;
    let end = body.iter().position(|byte| *byte == 0)?;
    let (path, rest) = (String::from_utf8_lossy(&body[..end]), &body[end + 1..]);
    let below = format!("{path}/");
    let mut tree = tree.lock().unwrap();
    let here = tree.get(&*path).map(|value| value.clone().into_bytes());
    let names = tree.keys().filter_map(|key| key.strip_prefix(&below));
    let mut names: Vec<&str> = names.filter_map(|name| name.split('/').next()).collect();
    names.dedup();
    let there = here.is_some() || !names.is_empty();
    let answer = match what {
        READ => here.or(there.then(Vec::new)),
        DIRECTORY => there.then(|| {
            names
                .iter()
                .flat_map(|name| [name.as_bytes(), &[0]].concat())
                .collect()
        }),
        SET_PERMS => there.then(Vec::new),
        WRITE => {
            tree.insert(path.into_owned(), String::from_utf8_lossy(rest).into_owned());
            Some(Vec::new())
        }
        REMOVE => {
            tree.retain(|key, _| *key != path && !key.starts_with(&below));
            there.then(Vec::new)
        }
        _ => None,
    };
    let answer = match answer {
        Some(body) => message(what, number, &body),
        None => message(ERROR, number, b"ENOENT\0"),
    };
    device.write_all(&answer).ok()
}
