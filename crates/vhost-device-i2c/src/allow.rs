// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which addresses of its bus a guest may talk to.

use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::backend::{Address, NoAddress};

/// The addresses that a guest may talk to. Each message is checked against it, not each transfer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowList(Vec<RangeInclusive<Address>>);

/// A text that is not a list of addresses.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// An element that is not an address.
    #[error(transparent)]
    Address(#[from] NoAddress),
    /// A range that ends before it starts, or among addresses of another length.
    #[error("{0:?} is not a range of addresses")]
    Range(String),
    /// On the wire, these announce an address of ten bits.
    #[error("{0:#04x} is no device's address; is it one of 8 bits, which would be {half:#04x} here?", half = .0 >> 1)]
    Reserved(u8),
}

impl AllowList {
    /// Every address that there is.
    pub fn all() -> Self {
        Self(vec![
            Address::Seven(0)..=Address::Seven(0x7f),
            Address::Ten(0)..=Address::Ten(0x3ff),
        ])
    }

    /// Whether it has `address`.
    pub fn allows(&self, address: Address) -> bool {
        self.0.iter().any(|range| range.contains(&address))
    }

    /// An address that `other` has, too.
    pub fn overlap(&self, other: &Self) -> Option<Address> {
        let starts = |list: &Self| list.0.iter().map(|range| *range.start()).collect::<Vec<_>>();
        // Two ranges that overlap have the start of one of them in common.
        let mut common = starts(self).into_iter().chain(starts(other));
        common.find(|address| self.allows(*address) && other.allows(*address))
    }
}

impl FromStr for AllowList {
    type Err = ListError;

    /// Reads `0x20,0x50-0x57,t0x150`.
    fn from_str(text: &str) -> Result<Self, ListError> {
        let ranges = text.split(',').map(range).collect::<Result<_, _>>()?;
        Ok(Self(ranges))
    }
}

fn range(text: &str) -> Result<RangeInclusive<Address>, ListError> {
    let (start, end) = match text.split_once('-') {
        Some((start, end)) => (start.parse()?, end.parse()?),
        None => {
            let address = text.parse()?;
            (address, address)
        }
    };
    for address in [start, end] {
        if let Address::Seven(number @ 0x78..=0x7b) = address {
            return Err(ListError::Reserved(number));
        }
    }
    match (start, end) {
        (Address::Seven(a), Address::Seven(b)) if a <= b => Ok(start..=end),
        (Address::Ten(a), Address::Ten(b)) if a <= b => Ok(start..=end),
        _ => Err(ListError::Range(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::{AllowList, ListError};
    use crate::backend::Address::{self, Seven, Ten};

    fn list(text: &str) -> AllowList {
        text.parse().unwrap()
    }

    fn everything() -> impl Iterator<Item = Address> {
        (0..0x80).map(Seven).chain((0..0x400).map(Ten))
    }

    #[test]
    fn a_list_has_what_it_names_and_nothing_else() {
        for (text, addresses) in [
            ("0x20", vec![Seven(0x20)]),
            ("0x20,33", vec![Seven(0x20), Seven(0x21)]),
            ("0x50-0x52", vec![Seven(0x50), Seven(0x51), Seven(0x52)]),
            ("0x50-0x50,t0x50", vec![Seven(0x50), Ten(0x50)]),
            ("t0x3fe-t0x3ff", vec![Ten(0x3fe), Ten(0x3ff)]),
        ] {
            let list = list(text);
            assert_eq!(
                everything().filter(|a| list.allows(*a)).collect::<Vec<_>>(),
                addresses
            );
        }
        assert!(everything().all(|a| AllowList::all().allows(a)));
    }

    #[test]
    fn a_wrong_list_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "\"\" is not an address"),
            ("0x20,", "\"\" is not an address"),
            ("0x20;0x21", "\"0x20;0x21\" is not an address"),
            ("0x80", "\"0x80\" is not an address"),
            ("0x22-0x20", "\"0x22-0x20\" is not a range"),
            ("0x20-t0x30", "\"0x20-t0x30\" is not a range"),
            (
                "0x78",
                "0x78 is no device's address; is it one of 8 bits, which would be 0x3c here?",
            ),
        ] {
            let error = text.parse::<AllowList>().unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
        assert_eq!("0x70-0x7b".parse::<AllowList>(), Err(ListError::Reserved(0x7b)));
    }

    #[test]
    fn two_lists_overlap_where_both_have_an_address() {
        for (one, other, overlap) in [
            ("0x20", "0x21", None),
            ("0x50-0x57", "0x20,0x53", Some(Seven(0x53))),
            ("0x20,0x53", "0x50-0x57", Some(Seven(0x53))),
            ("0x40-0x50", "0x50-0x57", Some(Seven(0x50))),
            ("0x50", "t0x50", None),
        ] {
            assert_eq!(list(one).overlap(&list(other)), overlap);
        }
        assert_eq!(AllowList::all().overlap(&list("t0x3ff")), Some(Ten(0x3ff)));
    }
}
