// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Values of options: sizes, switches, lists.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::spec::ID_LEN;

/// A number of bytes: `4096`, `512K`, `64M`, `1G`, `2T`.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: u64 = match &text[digits.len()..] {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "t" | "T" => 1 << 40,
        _ => return Err("a number of bytes is needed, as 4096, 512K, 64M or 1G".into()),
    };
    let number: u64 = digits
        .parse()
        .map_err(|e| format!("a number of bytes is needed, as 4096, 512K, 64M or 1G ({e})"))?;
    number
        .checked_mul(unit)
        .ok_or_else(|| "2^64 bytes and more".into())
}

/// A size that is at least one sector.
pub(super) fn capacity(text: &str) -> Result<u64, String> {
    match size(text)? {
        0..512 => Err("a disk has at least 512 bytes".into()),
        bytes => Ok(bytes),
    }
}

/// A rate of bytes.
pub(super) fn rate(text: &str) -> Result<NonZeroU64, String> {
    NonZeroU64::new(size(text)?).ok_or_else(|| "a rate of 0 stops everything".into())
}

/// `on` or `off`.
pub(super) fn switch(text: &str) -> Result<bool, String> {
    match text {
        "on" | "true" | "yes" => Ok(true),
        "off" | "false" | "no" => Ok(false),
        _ => Err("on or off is needed".into()),
    }
}

/// Bytes of a logical block.
pub(super) fn block_size(text: &str) -> Result<u32, String> {
    match size(text)? {
        bytes @ (512 | 1024 | 2048 | 4096) => Ok(bytes as u32),
        _ => Err("512, 1024, 2048 or 4096 is needed".into()),
    }
}

/// A device id string.
pub(super) fn serial(text: &str) -> Result<String, String> {
    if text.len() > ID_LEN {
        Err(format!(
            "{} bytes, and the driver takes at most {ID_LEN}",
            text.len()
        ))
    } else if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        Ok(text.to_owned())
    } else {
        Err("printable ASCII is needed".into())
    }
}

/// Seconds, with a fraction.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text.parse().map_err(|e| format!("{e}"))?;
    Duration::try_from_secs_f64(number).map_err(|e| format!("{e}"))
}

/// Processors, counted from 0: `0,2-3`.
pub(super) fn cpus(text: &str) -> Result<Vec<usize>, String> {
    let number = |text: &str| match text.parse::<usize>() {
        Ok(cpu) if cpu < rustix::thread::CpuSet::MAX_CPU => Ok(cpu),
        _ => Err(format!("`{text}` is not the number of a CPU")),
    };
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(format!("`{part}` is empty"));
        }
        cpus.extend(first..=last);
    }
    Ok(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("512K", 512 << 10),
            ("64M", 64 << 20),
            ("1g", 1 << 30),
            ("16777215T", 16_777_215 << 40),
        ] {
            assert_eq!(size(text), Ok(bytes));
        }
        for text in ["", "M", "1X", "1MB", "1.5G", "-1", "16777216T", "M1", "1 G", "é"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert!(capacity("511").is_err() && rate("0").is_err());
    }

    #[test]
    fn cpus_are_numbers_and_ranges() {
        assert_eq!(cpus("0,2-3"), Ok(vec![0, 2, 3]));
        assert_eq!(cpus("5"), Ok(vec![5]));
        for text in ["", "a", "3-2", "1,,2", "-", "1024", "0-18446744073709551615"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_serial_number_is_short_and_printable() {
        assert!(serial("12345678901234567890").is_ok());
        assert!(
            serial("123456789012345678901")
                .unwrap_err()
                .contains("at most 20")
        );
        assert!(serial("a\nb").is_err() && serial("é").is_err());
    }

    #[test]
    fn the_rest_has_bounds() {
        assert!(block_size("4K").is_ok() && block_size("8192").is_err());
        assert_eq!(seconds("0.5"), Ok(Duration::from_millis(500)));
        assert!(seconds("-1").is_err() && seconds("inf").is_err());
        assert_eq!((switch("on"), switch("off")), (Ok(true), Ok(false)));
        assert!(switch("maybe").is_err());
    }
}
