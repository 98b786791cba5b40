// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! How people write an address: `0x50` or `80`, and `t0x150` for one of ten bits.

use std::str::FromStr;

use super::Address;

/// A text that is not an address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not an address: 0 to 0x7f, or t0 to t0x3ff for one of ten bits")]
pub struct NoAddress(String);

impl FromStr for Address {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let address = match text.strip_prefix('t') {
            Some(ten) => number(ten).filter(|n| *n <= 0x3ff).map(Self::Ten),
            None => {
                let seven = number(text).and_then(|n| u8::try_from(n).ok());
                seven.filter(|n| *n <= 0x7f).map(Self::Seven)
            }
        };
        address.ok_or_else(|| NoAddress(text.to_owned()))
    }
}

fn number(text: &str) -> Option<u16> {
    // `from_str_radix` takes a sign, which no address has.
    let digits = |text: &str, radix| {
        let plain = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        plain.then(|| u16::from_str_radix(text, radix).ok()).flatten()
    };
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(hex) => digits(hex, 16),
        None => digits(text, 10),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seven_and_ten_bits_hex_and_decimal() {
        let good = [
            ("0x50", Address::Seven(0x50)),
            ("80", Address::Seven(80)),
            ("0", Address::Seven(0)),
            ("0X7F", Address::Seven(0x7f)),
            ("t0x150", Address::Ten(0x150)),
            ("t80", Address::Ten(80)),
            ("t0x3ff", Address::Ten(0x3ff)),
        ];
        for (text, address) in good {
            assert_eq!(text.parse(), Ok(address), "{text}");
        }
        for text in [
            "", "t", "0x", "0x80", "128", "t0x400", "65616", "+5", "0x+5", "-1", " 1", "50h", "tt1",
        ] {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{text:?} is not an address")),
                "{error}"
            );
        }
    }
}
