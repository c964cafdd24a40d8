//! The limits below `/proc/sys/kernel`: the names of their files, and what a text written there asks for.
//!
//! Not for files: [`crate::proc_text`] gives their texts, and who writes is the preload library's and the supervisor's to hear of.

use vshmem_runtime::{Errno, Result, Runtime};
use vshmem_wire::{Kind, Setting};

/// The files, and what writing to them sets.
pub const FILES: [(&str, Setting); 11] = [
    ("shmmax", Setting::Shmmax),
    ("shmall", Setting::Shmall),
    ("shmmni", Setting::Shmmni),
    ("sem", Setting::Sem),
    ("msgmax", Setting::Msgmax),
    ("msgmnb", Setting::Msgmnb),
    ("msgmni", Setting::Msgmni),
    ("shm_rmid_forced", Setting::ShmRmidForced),
    ("shm_next_id", Setting::NextId(Kind::Shm)),
    ("sem_next_id", Setting::NextId(Kind::Sem)),
    ("msg_next_id", Setting::NextId(Kind::Msg)),
];
/// Longer texts say nothing.
pub const LONGEST: usize = 256;

/// The setting of a file below `/proc/sys/kernel`.
pub fn by_name(name: &[u8]) -> Option<Setting> {
    let (_, setting) = FILES.iter().find(|(known, _)| known.as_bytes() == name)?;
    Some(*setting)
}

fn number(word: &str) -> Option<u64> {
    match word.strip_prefix("0x").or_else(|| word.strip_prefix("0X")) {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None if word.len() > 1 && word.starts_with('0') => u64::from_str_radix(&word[1..], 8).ok(),
        None => word.parse().ok(),
    }
}

/// What a text asks for.
pub fn set(setting: Setting, text: &[u8]) -> Result<()> {
    let text = std::str::from_utf8(text).map_err(|_| Errno::EINVAL)?;
    let most = if setting == Setting::Sem { 4 } else { 1 };
    let words = text
        .split([' ', '\t', '\n', '\0'])
        .filter(|word| !word.is_empty());
    let values: Option<Vec<u64>> = words.take(most).map(number).collect();
    let values = values.filter(|values| !values.is_empty()).ok_or(Errno::EINVAL)?;
    Runtime::global().set_limit(setting, values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_in_c() {
        let read = ["7", "0x10", "010", "0", "18446744073709551615"].map(number);
        assert_eq!(read, [Some(7), Some(16), Some(8), Some(0), Some(u64::MAX)]);
        assert_eq!(
            ["-1", "12x", "z", "18446744073709551616", "08"].map(number),
            [None; 5]
        );
    }

    #[test]
    fn files_are_known_by_name() {
        assert_eq!(by_name(b"sem"), Some(Setting::Sem));
        assert_eq!(by_name(b"hostname"), None);
    }
}
