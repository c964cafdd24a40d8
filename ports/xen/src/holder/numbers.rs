//! Which domain of Vshmem is which of Xen's, for as long as it may be granted something.
//!
//! | a number is | how it gets there | what it is good for |
//! |---|---|---|
//! | known | a machine of the domain's name was found | granting, revoking |
//! | former | the domain was introduced again, and its machine is not found yet | revoking: what was granted may still be |
//!
//! A former number that turns out to be another machine's than the domain's is handed back, so that nothing stays granted to it: Xen gives numbers out again.
//! Not for grants themselves: [`super::references`].

use crate::devices::DomId;
use std::collections::BTreeMap;
use vshmem_port::store::Domain;

/// Numbers.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    known: BTreeMap<Domain, DomId>,
    former: BTreeMap<Domain, DomId>,
    /// Names of machines to be looked for.
    awaited: BTreeMap<Domain, String>,
}

impl Numbers {
    /// Those that a record tells.
    pub(super) fn told(known: impl IntoIterator<Item = (Domain, DomId)>) -> Self {
        Numbers {
            known: known.into_iter().collect(),
            ..Numbers::default()
        }
    }

    /// The number that a domain is granted things by.
    pub(super) fn of(&self, domain: Domain) -> Option<DomId> {
        self.known.get(&domain).copied()
    }

    /// The numbers that something of a domain's may be granted to.
    pub(super) fn granted(&self, domain: Domain) -> impl Iterator<Item = DomId> {
        let both = [&self.known, &self.former];
        both.into_iter().filter_map(move |map| map.get(&domain).copied())
    }

    /// The name of the machine to look for, if the domain's number is not known.
    pub(super) fn awaited(&self, domain: Domain) -> Option<&str> {
        let name = self.awaited.get(&domain).map(String::as_str);
        name.filter(|_| !self.known.contains_key(&domain))
    }

    /// A domain comes in, or comes in again: its machine, of that name, is to be looked for.
    pub(super) fn introduce(&mut self, domain: Domain, machine: Option<&str>) {
        // Dom0 is never gone, and its domains share its number.
        if let Some(number) = self.known.remove(&domain).filter(|&number| number != 0) {
            self.former.insert(domain, number);
        }
        match machine {
            Some(name) => self.awaited.insert(domain, name.to_owned()),
            None => self.awaited.remove(&domain),
        };
    }

    /// The number that nothing may be granted to any more once the domain's is `number`.
    pub(super) fn left_by(&self, domain: Domain, number: DomId) -> Option<DomId> {
        let left = self.former.get(&domain).copied();
        left.filter(|&left| left != number && !self.known.values().any(|&known| known == left))
    }

    /// The domain's machine is found.
    pub(super) fn found(&mut self, domain: Domain, number: DomId) {
        self.former.remove(&domain);
        self.known.insert(domain, number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_good_for_revoking_until_another_is_found() {
        let mut numbers = Numbers::told([(1, 7), (2, 0), (3, 0)]);
        numbers.introduce(1, Some("a"));
        assert_eq!((numbers.of(1), numbers.awaited(1)), (None, Some("a")));
        assert_eq!(numbers.granted(1).collect::<Vec<_>>(), [7]);
        // Once more, before anything was found.
        numbers.introduce(1, Some("a"));
        assert_eq!(numbers.granted(1).collect::<Vec<_>>(), [7]);
        // The same machine again leaves nothing behind, another one does.
        assert_eq!((numbers.left_by(1, 7), numbers.left_by(1, 9)), (None, Some(7)));
        numbers.found(1, 9);
        assert_eq!((numbers.of(1), numbers.awaited(1)), (Some(9), None));
        assert_eq!(numbers.granted(1).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn what_others_have_is_not_left() {
        let mut numbers = Numbers::told([(1, 7), (2, 7), (3, 0)]);
        numbers.introduce(1, Some("a"));
        assert_eq!(numbers.left_by(1, 9), None);
        numbers.introduce(3, Some("c"));
        assert_eq!((numbers.left_by(3, 9), numbers.granted(3).next()), (None, None));
    }
}
