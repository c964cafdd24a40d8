//! Which keys are Vshmem's and which are the kernel's.
//!
//! The text is a list of keys and ranges, `0x1000-0x1fff,42,private`; IPC_PRIVATE is Vshmem's only if `private` is listed. `all` and `none` say what
//! they say. Not for ids: those the preload library and the supervisor of `run --strict` tell apart.

/// A set of keys.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Keys {
    all: bool,
    private: bool,
    ranges: Vec<(u32, u32)>,
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => u32::from_str_radix(hex, 16).ok(),
        None => text
            .parse::<i64>()
            .ok()
            .and_then(|n| u32::try_from(n).or(i32::try_from(n).map(|n| n as u32)).ok()),
    }
}

impl Keys {
    /// The keys that a text means; all of them if there is none. What is no key is reported and left out.
    pub fn parse(text: Option<&str>) -> Keys {
        let mut keys = Keys::default();
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
            keys.all = true;
            keys.private = true;
            return keys;
        };
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part {
                "all" => {
                    keys.all = true;
                    keys.private = true;
                }
                "none" => {}
                "private" => keys.private = true,
                _ => {
                    let range = match part.split_once('-').filter(|(low, _)| !low.is_empty()) {
                        Some((low, high)) => number(low).zip(number(high)),
                        None => number(part).map(|key| (key, key)),
                    };
                    match range {
                        Some(range) => keys.ranges.push(range),
                        None => crate::error!("keys: `{part}` is neither a key nor a range of keys: ignored"),
                    }
                }
            }
        }
        keys
    }

    /// Whether the key is Vshmem's.
    pub fn contain(&self, key: i32) -> bool {
        let within = |&(low, high): &(u32, u32)| (low..=high).contains(&(key as u32));
        match key {
            libc::IPC_PRIVATE => self.private,
            _ => self.all || self.ranges.iter().any(within),
        }
    }

    /// Whether no key at all is the kernel's.
    pub fn are_all(&self) -> bool {
        self.all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_numbers_ranges_and_words() {
        let keys = Keys::parse(Some("0x1000-0x1fff, 42,private, -1"));
        assert_eq!(keys.ranges, [(0x1000, 0x1fff), (42, 42), (u32::MAX, u32::MAX)]);
        assert!(keys.private && !keys.all);
        assert!(keys.contain(42) && keys.contain(-1) && keys.contain(0) && !keys.contain(43));
        assert_eq!(Keys::parse(Some("all")), Keys::parse(None));
        assert_eq!(Keys::parse(Some("none")), Keys::default());
    }
}
