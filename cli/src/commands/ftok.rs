//! `vshmem ftok`: a key from a path's text, the same in every domain.
//!
//! ftok(3) takes the key from inode and device, which differ between VMs.

use crate::trouble::{Outcome, Trouble};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

/// Makes a key from a path and a project id: the same in every domain, unlike ftok(3).
#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
ftok(3) hashes inode and device numbers, which differ between virtual machines even where the file is the same. This command hashes the
canonical path's text: bits 24 to 31 of the key are the low byte of the project id, as in ftok(3); bits 0 to 23 are the 64-bit FNV-1a
hash of the path's bytes, folded by exclusive or of its bits 0-23, 24-47 and 48-63.

Examples:
  vshmem ftok /srv/app A
  KEY=$(vshmem ftok --text /srv/app 7 | cut -d' ' -f1)

Prints the key in hexadecimal and in decimal. With --json: {\"path\", \"project\", \"key\": \"0x…\", \"number\"}.")]
pub(crate) struct Ftok {
    /// Path of a file; it must exist unless --text is given
    path: OsString,
    /// Project id: a number from 1 to 255, or one character that is not a digit
    #[arg(value_name = "PROJ", value_parser = parse_project)]
    project: u8,
    /// Take the path's text as it stands, without looking at the file system
    #[arg(long)]
    text: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn parse_project(text: &str) -> Result<u8, String> {
    let number = match crate::text::parse_c_number(text) {
        Some(number) => number & 0xff,
        None if text.len() == 1 => i64::from(text.as_bytes()[0]),
        None => return Err("the project id is a number or one character".to_owned()),
    };
    match number {
        0 => Err("the project id's low eight bits must not be zero".to_owned()),
        number => Ok(number as u8),
    }
}

/// Runs the command.
pub(crate) fn run(options: &Ftok) -> Outcome {
    let path = if options.text {
        options.path.clone()
    } else {
        std::fs::canonicalize(&options.path)
            .map_err(|error| {
                let why = crate::trouble::errno_words(error.raw_os_error().unwrap_or(libc::EIO));
                Trouble::new(options.path.to_string_lossy(), why)
                    .remedy("name an existing file, or use --text to hash the text alone")
            })?
            .into_os_string()
    };
    let key = key(&path, options.project);
    if options.json {
        let path = path.to_string_lossy();
        println!(
            "{:#}",
            serde_json::json!({"path": path, "project": options.project, "key": format!("{key:#010x}"), "number": key})
        );
    } else {
        println!("{key:#010x} {key}");
    }
    Ok(0)
}

/// The key.
pub(crate) fn key(path: &OsStr, project: u8) -> i32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in path.as_bytes() {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    let folded = (hash ^ hash >> 24 ^ hash >> 48) as u32 & 0x00ff_ffff;
    (u32::from(project) << 24 | folded) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_project_is_the_high_byte_and_the_path_the_rest() {
        let (a, b) = (
            key(OsStr::new("/srv/app"), b'A'),
            key(OsStr::new("/srv/app"), 0xff),
        );
        assert_eq!((a as u32 >> 24, b as u32 >> 24), (0x41, 0xff));
        assert_eq!(a & 0x00ff_ffff, b & 0x00ff_ffff);
        assert_ne!(a, key(OsStr::new("/srv/apq"), b'A'));
    }

    #[test]
    fn project_ids_are_numbers_or_characters() {
        assert_eq!(parse_project("A"), Ok(65));
        assert_eq!(parse_project("0x41"), Ok(65));
        assert_eq!(parse_project("7"), Ok(7));
        for bad in ["", "AB", "0", "256"] {
            assert!(parse_project(bad).is_err(), "{bad}");
        }
    }
}
