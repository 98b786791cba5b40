// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Where an export is: the URI that NBD clients agreed on.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::spec::{MAX_STRING, PORT};

/// An export of a server: `nbd://host[:port]/export` or `nbd+unix:///export?socket=/path`.
///
/// The export's name is what follows the first `/`, with `%xx` decoded; without one it is the server's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Uri {
    /// The server.
    pub address: Address,
    /// The export's name.
    pub export: String,
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A host's name or IP address, and the port.
    Tcp(String, u16),
    /// A Unix socket; in the abstract name space if it starts with a NUL byte.
    Unix(PathBuf),
}

/// Why a text is no [`Uri`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{uri}: {reason}")]
pub struct UriError {
    uri: String,
    reason: Reason,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
enum Reason {
    #[error("TLS is not supported; use a tunnel, or nbd:// within a network that is trusted")]
    Tls,
    #[error("not nbd://host[:port]/export or nbd+unix:///export?socket=/path")]
    Scheme,
    #[error("no host in it")]
    NoHost,
    #[error("a user name is of no use without TLS")]
    User,
    #[error("'{0}' is not a port")]
    Port(String),
    #[error("the address has to be ?socket=/path")]
    NoSocket,
    #[error("'{0}' is not known here")]
    Parameter(String),
    #[error("'%' without two hexadecimal digits, or not UTF-8, or a NUL character")]
    Encoding,
    #[error("the export's name is longer than {MAX_STRING} bytes")]
    TooLong,
}

impl FromStr for Uri {
    type Err = UriError;

    fn from_str(text: &str) -> Result<Self, UriError> {
        parse(text).map_err(|reason| UriError {
            uri: text.into(),
            reason,
        })
    }
}

fn parse(text: &str) -> Result<Uri, Reason> {
    let (scheme, rest) = text.split_once("://").ok_or(Reason::Scheme)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let export = decode(path)?;
    if export.len() > MAX_STRING {
        return Err(Reason::TooLong);
    }
    if export.contains('\0') {
        return Err(Reason::Encoding);
    }
    let socket = socket(query)?;
    let address = match (scheme, socket) {
        ("nbd", None) => tcp(authority)?,
        ("nbd", Some(_)) => return Err(Reason::Parameter("socket".into())),
        ("nbd+unix", Some(path)) if authority.is_empty() => Address::Unix(path.into()),
        ("nbd+unix", _) => return Err(Reason::NoSocket),
        ("nbds" | "nbds+unix", _) => return Err(Reason::Tls),
        _ => return Err(Reason::Scheme),
    };
    Ok(Uri { address, export })
}

/// The one parameter that is known here.
fn socket(query: &str) -> Result<Option<String>, Reason> {
    let mut socket = None;
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("socket", path)) if !path.is_empty() => socket = Some(decode(path)?),
            other => {
                let name = other.map_or(parameter, |(name, _)| name);
                return Err(match name {
                    "socket" => Reason::NoSocket,
                    _ => Reason::Parameter(name.into()),
                });
            }
        }
    }
    Ok(socket)
}

fn tcp(authority: &str) -> Result<Address, Reason> {
    if authority.contains('@') {
        return Err(Reason::User);
    }
    // An IPv6 address stands in brackets and has colons of its own.
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, None),
        Some((host, rest)) => (host, Some(rest.strip_prefix(':').ok_or(Reason::NoHost)?)),
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    let host = decode(host)?;
    if host.is_empty() {
        return Err(Reason::NoHost);
    }
    let port = match port {
        None => PORT,
        Some(port) => match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(Reason::Port(port.into())),
        },
    };
    Ok(Address::Tcp(host, port))
}

fn decode(text: &str) -> Result<String, Reason> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                let (high, low) = digit().zip(digit()).ok_or(Reason::Encoding)?;
                (high * 16 + low) as u8
            }
            _ => byte,
        });
    }
    String::from_utf8(bytes).map_err(|_not_utf8| Reason::Encoding)
}

/// `text` with `%xx` for what would not be read back as itself.
fn encode(text: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b',' => {
                write!(f, "{}", char::from(byte))?;
            }
            _ => write!(f, "%{byte:02x}")?,
        }
    }
    Ok(())
}

impl fmt::Display for Uri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.address {
            Address::Tcp(host, port) => {
                let (open, close) = if host.contains(':') { ("[", "]") } else { ("", "") };
                write!(f, "nbd://{open}")?;
                encode(host, f)?;
                write!(f, "{close}:{port}/")?;
                encode(&self.export, f)
            }
            Address::Unix(path) => {
                f.write_str("nbd+unix:///")?;
                encode(&self.export, f)?;
                f.write_str("?socket=")?;
                encode(&path.to_string_lossy(), f)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Address, Reason, Uri};

    #[test]
    fn what_is_read_and_how_it_is_written() {
        let tcp = |host: &str, port| Address::Tcp(host.into(), port);
        let unix = |path: &str| Address::Unix(path.into());
        for (text, address, export, written) in [
            ("nbd://h", tcp("h", 10809), "", "nbd://h:10809/"),
            ("nbd://h/", tcp("h", 10809), "", "nbd://h:10809/"),
            ("nbd://h//disk", tcp("h", 10809), "/disk", "nbd://h:10809//disk"),
            ("nbd://h:1/a%20b", tcp("h", 1), "a b", "nbd://h:1/a%20b"),
            ("nbd://[::1]/x", tcp("::1", 10809), "x", "nbd://[::1]:10809/x"),
            (
                "nbd://[fe80::1%25eth0]:7/x",
                tcp("fe80::1%eth0", 7),
                "x",
                "nbd://[fe80::1%25eth0]:7/x",
            ),
            (
                "nbd+unix:///x?socket=/run/s",
                unix("/run/s"),
                "x",
                "nbd+unix:///x?socket=/run/s",
            ),
            (
                "nbd+unix://?socket=s%26t",
                unix("s&t"),
                "",
                "nbd+unix:///?socket=s%26t",
            ),
            (
                "nbd+unix:///?socket=%00a",
                unix("\0a"),
                "",
                "nbd+unix:///?socket=%00a",
            ),
        ] {
            let uri: Uri = text.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!((&uri.address, uri.export.as_str()), (&address, export), "{text}");
            assert_eq!(uri.to_string(), written);
        }
    }

    #[test]
    fn what_is_refused_and_why() {
        let long = format!("nbd://h/{}", "x".repeat(4097));
        for (text, reason) in [
            ("", Reason::Scheme),
            ("/dev/sda", Reason::Scheme),
            ("http://h/", Reason::Scheme),
            ("nbds://h/x", Reason::Tls),
            ("nbds+unix:///x?socket=/s", Reason::Tls),
            ("nbd://", Reason::NoHost),
            ("nbd://:1/x", Reason::NoHost),
            ("nbd://[::1]1/x", Reason::NoHost),
            ("nbd://me@h/x", Reason::User),
            ("nbd://h:0/x", Reason::Port("0".into())),
            ("nbd://h:99999/x", Reason::Port("99999".into())),
            ("nbd://h:/x", Reason::Port("".into())),
            ("nbd://h/x?socket=/s", Reason::Parameter("socket".into())),
            ("nbd://h/x?tls-type=psk", Reason::Parameter("tls-type".into())),
            ("nbd+unix:///x", Reason::NoSocket),
            ("nbd+unix:///x?socket=", Reason::NoSocket),
            ("nbd+unix://h/x?socket=/s", Reason::NoSocket),
            ("nbd://h/%4", Reason::Encoding),
            ("nbd://h/%zz", Reason::Encoding),
            ("nbd://h/%ff", Reason::Encoding),
            ("nbd://h/a%00", Reason::Encoding),
            (&long, Reason::TooLong),
        ] {
            let error = text.parse::<Uri>().unwrap_err();
            assert_eq!(error.reason, reason, "{text}");
        }
        let error = "nbd://h:x/".parse::<Uri>().unwrap_err();
        assert_eq!(error.to_string(), "nbd://h:x/: 'x' is not a port");
    }
}
