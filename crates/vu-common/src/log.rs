// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The log: one line on standard error per record, written at once, fit for a terminal, a file or the journal.
//!
//! [`guest_warn!`](crate::guest_warn) is for whatever a guest can trigger: a limit per call site keeps a
//! hostile guest from filling the host's disk.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[doc(hidden)]
pub use log::warn as __warn;
use log::{Level, LevelFilter, Log, Metadata, Record};

use crate::error::SetupError;

/// Lines that one call site of [`guest_warn!`](crate::guest_warn) may log within [`WINDOW_MS`].
const BURST: u64 = 5;
/// Where the system's log listens, and the facility of daemons there.
const SYSLOG: &str = "/dev/log";
const DAEMON: u8 = 3 << 3;
/// Milliseconds after which a call site may log again.
const WINDOW_MS: u64 = 10_000;

/// Sends all records up to `level` to standard error. A second call only changes the level.
pub fn init(level: LevelFilter) {
    // An error means that the logger stands already.
    let _ = log::set_boxed_logger(Box::new(Logger {
        style: Style::detect(),
    }));
    log::set_max_level(level);
}

/// As [`init`], or with `syslog` to the system's log.
///
/// # Errors
/// There is no system's log.
pub(crate) fn start(level: LevelFilter, syslog: bool) -> Result<(), SetupError> {
    if syslog {
        let socket = UnixDatagram::unbound().and_then(|socket| {
            socket.connect(SYSLOG)?;
            Ok(socket)
        });
        let socket = socket.map_err(|source| SetupError::System {
            what: "reach the system's log at /dev/log",
            source,
        })?;
        let program = env::args_os().next().unwrap_or_default();
        let program = Path::new(&program)
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let _ = log::set_boxed_logger(Box::new(Syslog { socket, program }));
    }
    init(level);
    Ok(())
}

/// Prints the line that Kata Containers waits for before it lets a guest connect, to the letter.
pub fn announce_listening() {
    write_line("Waiting for vhost-user socket connection...\n");
}

/// Prints why the daemon ends, whether or not [`init`] was called: `error: ...`.
pub fn print_error(text: impl fmt::Display) {
    let prefix = if Style::detect() == Style::Journal {
        "<3>"
    } else {
        ""
    };
    write_line(&format!("{prefix}error: {text}\n"));
}

/// One `write(2)`, so that lines of several threads or processes never mix.
fn write_line(line: &str) {
    // A log that cannot be written has nobody to tell.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// How a line begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Style {
    /// With the priority of sd-daemon(3): the journal adds the time.
    Journal,
    /// With time and level.
    Plain,
    /// With time and a coloured level.
    Terminal,
}

impl Style {
    fn detect() -> Self {
        let stderr = io::stderr();
        if stderr.is_terminal() {
            let colours = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
            return if colours { Self::Terminal } else { Self::Plain };
        }
        match (env::var("JOURNAL_STREAM"), rustix::fs::fstat(stderr)) {
            (Ok(stream), Ok(stat)) if stream == format!("{}:{}", stat.st_dev, stat.st_ino) => Self::Journal,
            _ => Self::Plain,
        }
    }

    fn line(self, level: Level, since_epoch: Duration, text: &fmt::Arguments<'_>) -> String {
        let (priority, colour) = rank(level);
        let mut line = match self {
            Self::Journal => format!("<{priority}>"),
            Self::Plain => format!("{} {level:<5} ", Utc(since_epoch)),
            Self::Terminal => format!("{} \x1b[{colour}m{level:<5}\x1b[0m ", Utc(since_epoch)),
        };
        // Writing to a string fails only if a `Display` of an operand does: the line then ends there.
        let _ = write!(OneLine(&mut line), "{text}");
        line.push('\n');
        line
    }
}

/// The priority of syslog(3), and the colour of a terminal.
fn rank(level: Level) -> (u8, u8) {
    match level {
        Level::Error => (3, 31),
        Level::Warn => (4, 33),
        Level::Info => (6, 32),
        Level::Debug => (7, 34),
        Level::Trace => (7, 90),
    }
}

/// Escapes control characters, so that no text of a guest looks like a line of ours or drives a terminal.
struct OneLine<'a>(&'a mut String);

impl fmt::Write for OneLine<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            if c.is_control() {
                self.0.extend(c.escape_default());
            } else {
                self.0.push(c);
            }
        }
        Ok(())
    }
}

/// Shows a time since 1970 as RFC 3339 with milliseconds: `2026-11-24T20:31:07.123Z`.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (mut days, time) = (seconds / 86_400, seconds % 86_400);
        let mut year = 1970;
        while days >= days_of_year(year) {
            days -= days_of_year(year);
            year += 1;
        }
        let february = days_of_year(year) - 337;
        let mut month = 1;
        for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
            if days < length {
                break;
            }
            days -= length;
            month += 1;
        }
        let (day, hour, minute, second) = (days + 1, time / 3600, time / 60 % 60, time % 60);
        let millis = self.0.subsec_millis();
        write!(
            f,
            "{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z"
        )
    }
}

/// Days of a year of the Gregorian calendar.
fn days_of_year(year: u64) -> u64 {
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    if leap { 366 } else { 365 }
}

/// To the system's log, in the format of syslog(3) with the facility of daemons; it adds the time.
struct Syslog {
    socket: UnixDatagram,
    program: String,
}

impl Log for Syslog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (priority, _) = rank(record.level());
            let mut line = format!("<{}>{}[{}]: ", DAEMON | priority, self.program, process::id());
            let _ = write!(OneLine(&mut line), "{}", record.args());
            // A log that does not keep up has nobody to tell.
            let _ = self.socket.send(line.as_bytes());
        }
    }

    fn flush(&self) {}
}

struct Logger {
    style: Style,
}

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            write_line(&self.style.line(record.level(), now, record.args()));
        }
    }

    fn flush(&self) {}
}

/// The limit of one call site of [`guest_warn!`](crate::guest_warn).
#[derive(Debug)]
pub struct Limiter {
    /// Milliseconds since the first call at which the window opened; 0 before the first line.
    opened: AtomicU64,
    /// Calls since then.
    calls: AtomicU64,
}

impl Limiter {
    /// A limiter that has seen nothing.
    #[allow(clippy::new_without_default, reason = "made only in a static")]
    pub const fn new() -> Self {
        Self {
            opened: AtomicU64::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// `None` if the line is to be dropped, else how many were dropped in the window that this call closed.
    ///
    /// Costs a clock reading and two atomic operations; threads that race may differ by a few lines.
    pub fn admit(&self) -> Option<u64> {
        // The standard library's clock: that of rustix panics where the vDSO has no `getcpu`, as in User-mode Linux.
        static START: OnceLock<Instant> = OnceLock::new();
        let millis = START.get_or_init(Instant::now).elapsed().as_millis();
        // Zero is taken.
        self.admit_at(u64::try_from(millis).unwrap_or(u64::MAX).saturating_add(1))
    }

    fn admit_at(&self, now: u64) -> Option<u64> {
        let opened = self.opened.load(Ordering::Relaxed);
        let reopen = opened == 0 || now.saturating_sub(opened) >= WINDOW_MS;
        if reopen
            && self
                .opened
                .compare_exchange(opened, now, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            return Some(self.calls.swap(1, Ordering::Relaxed).saturating_sub(BURST));
        }
        (self.calls.fetch_add(1, Ordering::Relaxed) < BURST).then_some(0)
    }
}

/// `log::warn!` for anything that a guest or a front end can trigger at will.
///
/// Each call site logs at most 5 lines in 10 seconds. When it may log again, it first tells how many lines it
/// dropped: `(1234 similar lines suppressed)`. A dropped line is not formatted and its operands are not evaluated.
///
/// ```
/// # let (queue, len) = (0, 7);
/// vu_common::guest_warn!("queue {queue}: a request of {len} bytes is too short");
/// ```
#[macro_export]
macro_rules! guest_warn {
    ($($text:tt)+) => {{
        static LIMITER: $crate::log::Limiter = $crate::log::Limiter::new();
        if let Some(suppressed) = LIMITER.admit() {
            if suppressed > 0 {
                $crate::log::__warn!("({suppressed} similar lines suppressed)");
            }
            $crate::log::__warn!($($text)+);
        }
    }};
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use log::{Level, Log as _};

    use super::{BURST, Limiter, Style, Utc, WINDOW_MS};

    fn utc(seconds: u64) -> String {
        Utc(Duration::from_secs(seconds)).to_string()
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(
            Utc(Duration::from_millis(1_795_552_267_123)).to_string(),
            "2026-11-24T20:31:07.123Z"
        );
        assert_eq!(utc(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(utc(951_782_400), "2000-02-29T00:00:00.000Z");
        assert_eq!(utc(978_307_199), "2000-12-31T23:59:59.000Z");
        assert_eq!(utc(1_709_164_800), "2024-02-29T00:00:00.000Z");
        assert_eq!(utc(1_740_787_200), "2025-03-01T00:00:00.000Z");
        assert_eq!(utc(4_107_542_400), "2100-03-01T00:00:00.000Z");
    }

    fn line(style: Style, level: Level, text: &str) -> String {
        style.line(level, Duration::from_millis(1), &format_args!("{text}"))
    }

    #[test]
    fn a_plain_line_has_time_and_level() {
        assert_eq!(
            line(Style::Plain, Level::Warn, "text"),
            "1970-01-01T00:00:00.001Z WARN  text\n"
        );
        assert_eq!(
            line(Style::Plain, Level::Error, "text"),
            "1970-01-01T00:00:00.001Z ERROR text\n"
        );
    }

    #[test]
    fn the_system_log_gets_priority_and_name() {
        let (socket, other) = std::os::unix::net::UnixDatagram::pair().unwrap();
        let log = super::Syslog {
            socket,
            program: "rng".into(),
        };
        log::set_max_level(log::LevelFilter::Warn);
        let record = |level, text| log.log(&log::Record::builder().level(level).args(text).build());
        record(Level::Warn, format_args!("a\nb"));
        record(Level::Debug, format_args!("not asked for"));
        record(Level::Error, format_args!("c"));
        let mut line = [0; 64];
        for text in ["<28>rng[PID]: a\\nb", "<27>rng[PID]: c"] {
            let len = other.recv(&mut line).unwrap();
            let expected = text.replace("PID", &std::process::id().to_string());
            assert_eq!(std::str::from_utf8(&line[..len]).unwrap(), expected);
        }
    }

    #[test]
    fn the_journal_gets_priorities_only() {
        let priorities = Level::iter()
            .map(|level| line(Style::Journal, level, "x"))
            .collect::<String>();
        assert_eq!(priorities, "<3>x\n<4>x\n<6>x\n<7>x\n<7>x\n");
    }

    #[test]
    fn a_terminal_gets_a_coloured_level() {
        let expected = "1970-01-01T00:00:00.001Z \x1b[32mINFO \x1b[0m text\n";
        assert_eq!(line(Style::Terminal, Level::Info, "text"), expected);
    }

    #[test]
    fn no_text_can_forge_a_line_or_drive_a_terminal() {
        let text = "a\n<3>b\r\x1b[2Jc\u{9b}d\té";
        assert_eq!(
            line(Style::Journal, Level::Info, text),
            "<6>a\\n<3>b\\r\\u{1b}[2Jc\\u{9b}d\\té\n"
        );
    }

    #[test]
    fn a_call_site_is_quiet_after_its_burst_until_the_window_reopens() {
        let limiter = Limiter::new();
        let first = 12_345;
        for call in 0..BURST {
            assert_eq!(limiter.admit_at(first + call), Some(0));
        }
        for call in 0..7 {
            assert_eq!(limiter.admit_at(first + WINDOW_MS - 1 - call), None);
        }
        assert_eq!(limiter.admit_at(first + WINDOW_MS), Some(7));
        assert_eq!(limiter.admit_at(first + WINDOW_MS + 1), Some(0));
        assert_eq!(limiter.admit_at(first + 3 * WINDOW_MS), Some(0));
    }

    #[test]
    fn suppressed_operands_are_not_evaluated() {
        let mut evaluated = 0;
        log::set_max_level(log::LevelFilter::Warn);
        for _ in 0..1000 {
            crate::guest_warn!("{}", {
                evaluated += 1;
                evaluated
            });
        }
        assert_eq!(evaluated, BURST);
    }
}
