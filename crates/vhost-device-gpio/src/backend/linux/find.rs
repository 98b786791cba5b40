// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which chip a text means: by path, number, name or label.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use gpiocdev::chip::{self, Chip};

/// A chip of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// Its device, without symbolic links.
    pub(crate) path: PathBuf,
    /// The kernel's name: `gpiochip0`.
    pub(crate) name: String,
    label: String,
    lines: u32,
}

/// Why no chip was found. The text lists what is there.
#[derive(Debug, thiserror::Error)]
pub enum NotFound {
    /// None is called so.
    #[error("{0}: no such device ({1})")]
    Nowhere(String, Here),
    /// It is there, but cannot be opened.
    #[error("{0}: {1} ({2})")]
    Refused(String, io::Error, Here),
    /// Several have this label.
    #[error("{0:?} is the label of several chips: name one by its path ({1})")]
    Ambiguous(String, Here),
}

/// The chips of this host, for a message.
#[derive(Debug)]
pub struct Here(Vec<Found>);

impl fmt::Display for Here {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no chips here");
        }
        f.write_str("chips here")?;
        for (at, chip) in self.0.iter().enumerate() {
            let separator = if at == 0 { ':' } else { ',' };
            let Found {
                name, label, lines, ..
            } = chip;
            write!(f, "{separator} {name} {label:?} [{lines} lines]")?;
        }
        Ok(())
    }
}

/// The chip that `text` begins with, and the lines behind it, which a colon separates. Labels may contain colons: the
/// longest part that names a chip counts.
///
/// # Errors
/// [`NotFound`].
pub(crate) fn find(text: &str) -> Result<(Found, Option<&str>), NotFound> {
    find_among(text, here(), open)
}

/// The chips of this host that we may open.
fn here() -> Vec<Found> {
    let paths = chip::chips().unwrap_or_default();
    paths.iter().filter_map(|path| open(path).ok()).collect()
}

fn open(path: &Path) -> io::Result<Found> {
    let chip = Chip::from_path(path).map_err(plain)?;
    let info = chip.info().map_err(plain)?;
    Ok(Found {
        path: chip.path().into(),
        name: info.name,
        label: info.label,
        lines: info.num_lines,
    })
}

fn find_among(
    text: &str,
    chips: Vec<Found>,
    open: impl Fn(&Path) -> io::Result<Found>,
) -> Result<(Found, Option<&str>), NotFound> {
    let cuts = text
        .rmatch_indices(':')
        .map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
    let mut refused = None;
    for (name, lines) in std::iter::once((text, None)).chain(cuts) {
        if name.contains('/') {
            match open(Path::new(name)) {
                Ok(chip) => return Ok((chip, lines)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => refused = Some((name, e)),
            }
            continue;
        }
        let called = |chip: &&Found| chip.name == name || chip.name.strip_prefix("gpiochip") == Some(name);
        if let Some(chip) = chips.iter().find(called) {
            return Ok((chip.clone(), lines));
        }
        let mut labelled = chips.iter().filter(|chip| chip.label == name);
        match (labelled.next(), labelled.next()) {
            (None, _) => {}
            (Some(chip), None) => return Ok((chip.clone(), lines)),
            (Some(_), Some(_)) => return Err(NotFound::Ambiguous(name.into(), Here(chips))),
        }
    }
    Err(match refused {
        Some((name, e)) => NotFound::Refused(name.into(), e, Here(chips)),
        None => {
            let name = text.split(':').next().unwrap_or(text);
            NotFound::Nowhere(name.into(), Here(chips))
        }
    })
}

/// The host's own error, without what the crate says around it.
pub(crate) fn plain(error: gpiocdev::Error) -> io::Error {
    use gpiocdev::Error::{GpioChip, Os, Uapi};
    match error {
        Os(errno) | Uapi(_, gpiocdev_uapi::Error::Os(errno)) => io::Error::from_raw_os_error(errno.0),
        GpioChip(_, what) => io::Error::other(what.to_string()),
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::{Found, find, find_among};

    fn chip(number: u32, label: &str) -> Found {
        let name = format!("gpiochip{number}");
        Found {
            path: Path::new("/dev").join(&name),
            name,
            label: label.into(),
            lines: 8,
        }
    }

    /// The name of the chip and the lines; or the error.
    fn found(text: &str) -> Result<(String, Option<&str>), String> {
        let chips = vec![
            chip(0, "soc"),
            chip(1, "INT34C5:00"),
            chip(12, "twin"),
            chip(13, "twin"),
        ];
        let among = chips.clone();
        let open = |path: &Path| match path.to_str() {
            Some("/dev/locked") => Err(io::ErrorKind::PermissionDenied.into()),
            _ => {
                let chip = among.iter().find(|chip| chip.path == path);
                chip.cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
            }
        };
        let result = find_among(text, chips.clone(), open);
        result
            .map(|(chip, lines)| (chip.name, lines))
            .map_err(|e| e.to_string())
    }

    #[test]
    fn a_chip_has_a_path_a_number_a_name_and_a_label() {
        for text in ["/dev/gpiochip1", "1", "gpiochip1", "INT34C5:00"] {
            assert_eq!(found(text), Ok(("gpiochip1".into(), None)), "{text}");
            let lines = format!("{text}:0-3,led");
            assert_eq!(found(&lines), Ok(("gpiochip1".into(), Some("0-3,led"))), "{text}");
        }
        assert_eq!(
            found("soc:a:b"),
            Ok(("gpiochip0".into(), Some("a:b"))),
            "lines may have colons, too"
        );
    }

    #[test]
    fn who_names_no_chip_is_told_what_there_is() {
        let here = r#"chips here: gpiochip0 "soc" [8 lines], gpiochip1 "INT34C5:00" [8 lines], gpiochip12 "twin" [8 lines], gpiochip13 "twin" [8 lines]"#;
        for (text, name) in [("/dev/gpiochip9:0-3", "/dev/gpiochip9"), ("9", "9"), ("", "")] {
            assert_eq!(found(text), Err(format!("{name}: no such device ({here})")));
        }
        assert_eq!(
            found("twin:0"),
            Err(format!(
                "\"twin\" is the label of several chips: name one by its path ({here})"
            ))
        );
        assert_eq!(
            found("/dev/locked"),
            Err(format!("/dev/locked: permission denied ({here})"))
        );
    }

    #[test]
    fn what_is_no_chip_is_refused() {
        let error = find("/dev/null").unwrap_err().to_string();
        assert!(
            error.starts_with("/dev/null: is not a GPIO character device"),
            "{error}"
        );
    }
}
