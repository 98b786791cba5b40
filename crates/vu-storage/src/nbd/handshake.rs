// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The handshake: fixed newstyle, structured replies, and `NBD_OPT_GO` with the server's block sizes.
//!
//! It reads and writes any stream. What a server may send is bounded in each message and in their number; how
//! long it may take is the stream's business.

use std::io::{self, Read, Write};

use super::spec::{
    DEFAULT_MAX_PAYLOAD, FLAG_FIXED_NEWSTYLE, FLAG_NO_ZEROES, Fields, INFO_BLOCK_SIZE, INFO_EXPORT,
    INIT_MAGIC, MAX_STRING, OPT_GO, OPT_LIST, OPT_STRUCTURED_REPLY, OPTION_MAGIC, OPTION_REPLY_MAGIC,
    REP_ACK, REP_ERR_POLICY, REP_ERR_SHUTDOWN, REP_ERR_TLS_REQD, REP_ERR_UNKNOWN, REP_ERR_UNSUP,
    REP_FLAG_ERROR, REP_INFO, REP_SERVER,
};

/// Most replies to one option.
const MAX_REPLIES: usize = 10_000;
/// Longest reply: a name and a description, and their lengths.
const MAX_REPLY: usize = 2 * MAX_STRING + 64;
/// Most names of exports that are kept for a message.
const MAX_NAMES: usize = 16;
/// Most characters of a text of the server in a message.
const MAX_SHOWN: usize = 100;
/// Largest minimum block size that the specification allows.
const MAX_MINIMUM: u32 = 64 << 10;

/// What a server says of an export.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Export {
    /// Bytes.
    pub size: u64,
    /// Transmission flags.
    pub flags: u16,
    /// Requests are multiples of this; a power of two.
    pub minimum: u32,
    /// Best unit of requests; a power of two. `None` if the server does not say.
    pub preferred: Option<u32>,
    /// Longest data of one request, a multiple of `minimum`.
    pub max_payload: u32,
    /// Reads are answered in chunks.
    pub structured: bool,
}

impl Export {
    /// Whether all of the transmission flags `flags` are set.
    pub(super) fn has(&self, flags: u16) -> bool {
        self.flags & flags == flags
    }
}

/// Why there is no agreement with a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandshakeError {
    /// It cannot be reached, hung up, or did not answer in time.
    #[error("{}", plain(.0))]
    Io(#[from] io::Error),
    /// It speaks something else.
    #[error("not an NBD server")]
    NotNbd,
    /// It does not have the fixed newstyle handshake with `NBD_OPT_GO`.
    #[error("the server speaks an old version of the protocol only")]
    TooOld,
    /// It insists on encryption.
    #[error("the server insists on TLS, which is not supported")]
    Tls,
    /// There is no such export.
    #[error("{}", no_export(export, exports.as_ref()))]
    NoExport {
        /// What was asked for.
        export: String,
        /// Those that there are, if the server tells.
        exports: Option<Vec<String>>,
    },
    /// It is about to go.
    #[error("the server is shutting down")]
    ShutDown,
    /// It does not want to, for a reason of its own.
    #[error("the server refused export '{}' (error {code}){}", shown(export), says(text))]
    Refused {
        /// What was asked for.
        export: String,
        /// The number of the error, without its highest bit.
        code: u32,
        /// What the server says about it.
        text: String,
    },
    /// The export is there again, but no longer fit for the disk that it was.
    #[error("{0}")]
    Changed(&'static str),
    /// It breaks the protocol.
    #[error("the server does not keep to the protocol: {0}")]
    Violation(&'static str),
}

/// `error` without its number, in lower case.
pub(super) fn plain(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut chars = text.chars();
    chars
        .next()
        .map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// As much of what a server says as is worth showing, without what a terminal would take for more than text.
fn shown(text: &str) -> String {
    text.chars()
        .take(MAX_SHOWN)
        .flat_map(char::escape_debug)
        .collect()
}

fn says(text: &str) -> String {
    match text {
        "" => String::new(),
        _ => format!(": {}", shown(text)),
    }
}

fn no_export(export: &str, exports: Option<&Vec<String>>) -> String {
    let missing = format!("export '{}' is not there", shown(export));
    let Some(exports) = exports else {
        return missing;
    };
    let name = |name: &String| match name.as_str() {
        "" => "the default one".into(),
        name => shown(name),
    };
    let mut names: Vec<_> = exports.iter().map(name).take(MAX_NAMES).collect();
    if exports.len() > names.len() {
        names.push("...".into());
    }
    match names.as_slice() {
        [] => format!("{missing} (no exports here)"),
        names => format!("{missing} (exports here: {})", names.join(", ")),
    }
}

/// Agrees with the server behind `stream` on the use of `export`: what follows are requests.
pub(super) fn negotiate(stream: &mut (impl Read + Write), export: &str) -> Result<Export, HandshakeError> {
    greet(stream)?;
    ask(stream, OPT_STRUCTURED_REPLY, &[])?;
    let answer = reply(stream, OPT_STRUCTURED_REPLY)?;
    let structured = match answer.kind {
        REP_ACK => true,
        REP_ERR_TLS_REQD => return Err(HandshakeError::Tls),
        kind if kind & REP_FLAG_ERROR != 0 => false,
        _ => {
            return Err(HandshakeError::Violation(
                "structured replies are neither accepted nor refused",
            ));
        }
    };
    go(stream, export, structured)
}

/// The first words of both sides.
fn greet(stream: &mut (impl Read + Write)) -> Result<(), HandshakeError> {
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting)?;
    let mut fields = Fields(&greeting);
    if fields.u64() != Some(INIT_MAGIC) {
        return Err(HandshakeError::NotNbd);
    }
    let flags = match (fields.u64(), fields.u16()) {
        (Some(OPTION_MAGIC), Some(flags)) if flags & FLAG_FIXED_NEWSTYLE != 0 => flags,
        _ => return Err(HandshakeError::TooOld),
    };
    let ours = u32::from(flags & (FLAG_FIXED_NEWSTYLE | FLAG_NO_ZEROES));
    stream.write_all(&ours.to_be_bytes())?;
    Ok(())
}

/// Sends an option.
fn ask(stream: &mut impl Write, option: u32, data: &[&[u8]]) -> io::Result<()> {
    let data = data.concat();
    let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
    bytes.extend(option.to_be_bytes());
    bytes.extend((data.len() as u32).to_be_bytes());
    bytes.extend(data);
    stream.write_all(&bytes)
}

struct Answer {
    kind: u32,
    data: Vec<u8>,
}

impl Answer {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.data).into_owned()
    }
}

/// Receives one reply to `option`.
fn reply(stream: &mut impl Read, option: u32) -> Result<Answer, HandshakeError> {
    let mut header = [0; 20];
    stream.read_exact(&mut header)?;
    let mut fields = Fields(&header);
    let starts = (fields.u64(), fields.u32());
    let (Some(kind), Some(len)) = (fields.u32(), fields.u32()) else {
        return Err(HandshakeError::Violation("a short header"));
    };
    if starts != (Some(OPTION_REPLY_MAGIC), Some(option)) {
        return Err(HandshakeError::Violation(
            "a reply to an option that was not asked for",
        ));
    }
    if len as usize > MAX_REPLY {
        return Err(HandshakeError::Violation("a reply that is too long"));
    }
    let mut data = vec![0; len as usize];
    stream.read_exact(&mut data)?;
    Ok(Answer { kind, data })
}

/// Chooses the export.
fn go(stream: &mut (impl Read + Write), name: &str, structured: bool) -> Result<Export, HandshakeError> {
    let len = (name.len() as u32).to_be_bytes();
    let (one, block_size) = (1_u16.to_be_bytes(), INFO_BLOCK_SIZE.to_be_bytes());
    ask(stream, OPT_GO, &[&len, name.as_bytes(), &one, &block_size])?;
    let mut facts = None;
    let mut sizes = None;
    for _ in 0..MAX_REPLIES {
        let answer = reply(stream, OPT_GO)?;
        match answer.kind {
            REP_INFO => info(&answer.data, &mut facts, &mut sizes)?,
            REP_ACK => {
                let (size, flags) = facts.ok_or(HandshakeError::Violation("an export without a size"))?;
                return checked(size, flags, sizes, structured);
            }
            REP_ERR_UNSUP => return Err(HandshakeError::TooOld),
            REP_ERR_TLS_REQD => return Err(HandshakeError::Tls),
            REP_ERR_SHUTDOWN => return Err(HandshakeError::ShutDown),
            REP_ERR_UNKNOWN | REP_ERR_POLICY => {
                return Err(HandshakeError::NoExport {
                    export: name.into(),
                    exports: list(stream).ok(),
                });
            }
            code if code & REP_FLAG_ERROR != 0 => {
                return Err(HandshakeError::Refused {
                    export: name.into(),
                    code: code & !REP_FLAG_ERROR,
                    text: answer.text(),
                });
            }
            _ => return Err(HandshakeError::Violation("an unknown reply")),
        }
    }
    Err(HandshakeError::Violation("too many replies"))
}

/// Minimum and preferred block size, and most data of one request.
type Sizes = (u32, u32, u32);

/// One `NBD_REP_INFO`; kinds that were not asked for are left out.
fn info(
    data: &[u8],
    facts: &mut Option<(u64, u16)>,
    sizes: &mut Option<Sizes>,
) -> Result<(), HandshakeError> {
    let mut fields = Fields(data);
    let short = || HandshakeError::Violation("a short reply");
    match fields.u16().ok_or_else(short)? {
        INFO_EXPORT => *facts = Some(fields.u64().zip(fields.u16()).ok_or_else(short)?),
        INFO_BLOCK_SIZE => {
            let all = (|| Some((fields.u32()?, fields.u32()?, fields.u32()?)))();
            *sizes = Some(all.ok_or_else(short)?);
        }
        _ => {}
    }
    Ok(())
}

/// Checks what the server says against the specification's section "Size constraints".
fn checked(size: u64, flags: u16, sizes: Option<Sizes>, structured: bool) -> Result<Export, HandshakeError> {
    // A client that asked for block sizes and got none may use the smallest ones.
    let (minimum, preferred, maximum) = sizes.unwrap_or((1, 1, DEFAULT_MAX_PAYLOAD));
    if !minimum.is_power_of_two() || minimum > MAX_MINIMUM {
        return Err(HandshakeError::Violation(
            "a minimum block size that is no power of two up to 64 KiB",
        ));
    }
    if !preferred.is_power_of_two() || preferred < minimum {
        return Err(HandshakeError::Violation(
            "a preferred block size that is no power of two, or below the minimum",
        ));
    }
    // What is above the default would only need more memory at the other end.
    let max_payload = maximum.min(DEFAULT_MAX_PAYLOAD) / minimum * minimum;
    if maximum < preferred || max_payload == 0 {
        return Err(HandshakeError::Violation("a maximum block size below the others"));
    }
    if i64::try_from(size).is_err() {
        return Err(HandshakeError::Violation("a size above 2^63 - 1"));
    }
    Ok(Export {
        size,
        flags,
        minimum,
        preferred: sizes.map(|(_, preferred, _)| preferred),
        max_payload,
        structured,
    })
}

/// The names of the exports, as many as are worth telling and one more.
fn list(stream: &mut (impl Read + Write)) -> Result<Vec<String>, HandshakeError> {
    ask(stream, OPT_LIST, &[])?;
    let mut names = Vec::new();
    for _ in 0..MAX_REPLIES {
        let answer = reply(stream, OPT_LIST)?;
        match answer.kind {
            REP_ACK => return Ok(names),
            REP_SERVER => {
                let mut fields = Fields(&answer.data);
                let name = fields.u32().and_then(|len| fields.bytes(len as usize));
                let name = name.ok_or(HandshakeError::Violation("a short reply"))?;
                if names.len() <= MAX_NAMES {
                    names.push(String::from_utf8_lossy(name).into_owned());
                }
            }
            _ => return Err(HandshakeError::Violation("no list")),
        }
    }
    Err(HandshakeError::Violation("too many replies"))
}

#[cfg(test)]
mod tests {
    use std::io::{self, Cursor, Read, Write};

    use super::{Export, HandshakeError, negotiate};

    /// What a server would have said, whatever it was asked.
    struct Script(Cursor<Vec<u8>>, Vec<u8>);

    impl Read for Script {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            self.0.read(bytes)
        }
    }

    impl Write for Script {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn greeting() -> Vec<u8> {
        b"NBDMAGICIHAVEOPT\0\x03".to_vec()
    }

    fn reply(option: u32, kind: u32, data: &[&[u8]]) -> Vec<u8> {
        let data = data.concat();
        let mut bytes = 0x0003_e889_0455_65a9_u64.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((data.len() as u32).to_be_bytes());
        bytes.extend(data);
        bytes
    }

    fn export(size: u64) -> Vec<u8> {
        reply(7, 3, &[&[0, 0], &size.to_be_bytes(), &[0x01, 0x2d]])
    }

    fn sizes(minimum: u32, preferred: u32, maximum: u32) -> Vec<u8> {
        let sizes = [minimum, preferred, maximum].map(u32::to_be_bytes).concat();
        reply(7, 3, &[&[0, 3], &sizes])
    }

    fn meet(messages: &[Vec<u8>]) -> (Result<Export, HandshakeError>, Vec<u8>) {
        let mut script = Script(Cursor::new(messages.concat()), Vec::new());
        (negotiate(&mut script, "x"), script.1)
    }

    #[test]
    fn an_export_with_its_sizes() {
        let start = [greeting(), reply(8, 1, &[]), export(1 << 40)].concat();
        let (got, said) = meet(&[start, sizes(512, 4096, u32::MAX), reply(7, 1, &[])]);
        let got = got.unwrap();
        assert_eq!(
            (got.size, got.flags, got.minimum, got.preferred, got.max_payload),
            (1 << 40, 0x12d, 512, Some(4096), 32 << 20)
        );
        assert!(got.structured);
        let want = b"\0\0\0\x03IHAVEOPT\0\0\0\x08\0\0\0\0IHAVEOPT\0\0\0\x07\0\0\0\x09\0\0\0\x01x\0\x01\0\x03";
        assert_eq!(said.escape_ascii().to_string(), want.escape_ascii().to_string());
    }

    #[test]
    fn an_export_of_a_plain_server() {
        let (got, _) = meet(&[
            greeting(),
            reply(8, 1 << 31 | 1, &[b"what?"]),
            reply(7, 3, &[&[0, 9], b"unknown"]),
            export(7),
            reply(7, 1, &[]),
        ]);
        let got = got.unwrap();
        assert_eq!(
            (
                got.size,
                got.minimum,
                got.preferred,
                got.structured,
                got.max_payload
            ),
            (7, 1, None, false, 32 << 20)
        );
    }

    #[test]
    fn what_is_refused_and_how_that_is_told() {
        let ready = || [greeting(), reply(8, 1, &[])].concat();
        let go = |code: u32, text: &[u8]| [ready(), reply(7, code, &[text])].concat();
        let with = |more: &[Vec<u8>]| [ready(), export(4096), more.concat(), reply(7, 1, &[])].concat();
        let server = |name: &str| reply(3, 2, &[&(name.len() as u32).to_be_bytes(), name.as_bytes()]);
        let unknown = 1 << 31 | 6;
        let names: Vec<_> = (0..40).map(|i| server(&format!("e{i}"))).collect();
        let violation = |what: &str| format!("the server does not keep to the protocol: {what}");
        let minimum = violation("a minimum block size that is no power of two up to 64 KiB");
        let preferred = violation("a preferred block size that is no power of two, or below the minimum");
        let maximum = violation("a maximum block size below the others");
        for (bytes, want) in [
            (vec![], "failed to fill whole buffer".into()),
            (b"HTTP/1.1 400 Bad Request\r\n".to_vec(), "not an NBD server".into()),
            (b"NBDMAGIC\0\0\x42\x02\x81\x86\x12\x53\0\0".to_vec(), "the server speaks an old version of the protocol only".into()),
            (b"NBDMAGICIHAVEOPT\0\x02".to_vec(), "the server speaks an old version of the protocol only".into()),
            ([greeting(), reply(8, 1 << 31 | 5, &[])].concat(), "the server insists on TLS, which is not supported".into()),
            ([greeting(), reply(8, 2, &[])].concat(), violation("structured replies are neither accepted nor refused")),
            ([greeting(), reply(9, 1, &[])].concat(), violation("a reply to an option that was not asked for")),
            ([greeting(), vec![0; 20]].concat(), violation("a reply to an option that was not asked for")),
            ([greeting(), reply(8, 1 << 31 | 1, &[&[0; 9000]])].concat(), violation("a reply that is too long")),
            (go(1 << 31 | 1, b""), "the server speaks an old version of the protocol only".into()),
            (go(1 << 31 | 5, b""), "the server insists on TLS, which is not supported".into()),
            (go(1 << 31 | 7, b""), "the server is shutting down".into()),
            (go(1 << 31 | 3, b"a\x1bb"), "the server refused export 'x' (error 3): a\\u{1b}b".into()),
            (go(9, b""), violation("an unknown reply")),
            (go(3, b"\0"), violation("a short reply")),
            (go(3, b"\0\0\0"), violation("a short reply")),
            (go(1, b""), violation("an export without a size")),
            (go(unknown, b"no"), "export 'x' is not there".into()),
            ([go(unknown, b""), reply(3, 1 << 31 | 2, &[])].concat(), "export 'x' is not there".into()),
            ([go(unknown, b""), reply(3, 1, &[])].concat(), "export 'x' is not there (no exports here)".into()),
            ([go(unknown, b""), reply(3, 2, &[&[0, 0, 0, 9], b"short"])].concat(), "export 'x' is not there".into()),
            ([go(unknown, b""), server(""), server("a\n"), reply(3, 1, &[])].concat(), "export 'x' is not there (exports here: the default one, a\\n)".into()),
            ([go(unknown, b""), names.concat(), reply(3, 1, &[])].concat(),
             "export 'x' is not there (exports here: e0, e1, e2, e3, e4, e5, e6, e7, e8, e9, e10, e11, e12, e13, e14, e15, ...)".into()),
            ([ready(), export(1 << 63)].concat(), "failed to fill whole buffer".into()),
            ([ready(), export(1 << 63), reply(7, 1, &[])].concat(), violation("a size above 2^63 - 1")),
            (with(&[sizes(0, 4096, 1 << 20)]), minimum.clone()),
            (with(&[sizes(3, 4096, 1 << 20)]), minimum.clone()),
            (with(&[sizes(1 << 17, 1 << 17, 1 << 20)]), minimum),
            (with(&[sizes(512, 256, 1 << 20)]), preferred.clone()),
            (with(&[sizes(512, 768, 1 << 20)]), preferred),
            (with(&[sizes(512, 4096, 0)]), maximum.clone()),
            (with(&[sizes(1, 1, 0)]), maximum),
        ] {
            let (got, _) = meet(std::slice::from_ref(&bytes));
            assert_eq!(got.unwrap_err().to_string(), want, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn replies_without_end_end() {
        let endless = reply(7, 3, &[&[0, 9]]).repeat(10_001);
        let (got, _) = meet(&[greeting(), reply(8, 1, &[]), endless]);
        assert!(got.unwrap_err().to_string().ends_with("too many replies"));
    }
}
