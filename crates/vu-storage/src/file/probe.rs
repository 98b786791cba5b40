// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Which engine suits a file, and why.

use std::fmt;
use std::io;

use super::Aio;
use super::limits::Facts;

/// An engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    IoUring,
    Inline,
    Threads,
}

/// An engine, and what speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Choice {
    pub(super) engine: Kind,
    why: String,
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.engine {
            Kind::IoUring => "io_uring",
            Kind::Inline => "inline",
            Kind::Threads => "threads",
        };
        write!(f, "uses {name}: {}", self.why)
    }
}

/// The engine for a file of which `facts` are known.
///
/// # Errors
/// Why there is no `io_uring`, if that was asked for.
pub(super) fn choose(aio: Aio, facts: &Facts) -> io::Result<Choice> {
    decide(aio, facts.memory, facts.nowait, super::uring::permitted)
}

/// [`choose`] with what it looks at: whether the file is memory, whether it can say "not now", and a trial
/// of `io_uring`.
fn decide(
    aio: Aio,
    memory: Option<&str>,
    nowait: bool,
    ring: impl FnOnce() -> io::Result<()>,
) -> io::Result<Choice> {
    let choice = |engine, why: String| Ok(Choice { engine, why });
    match (aio, memory) {
        (Aio::IoUring, _) => ring().and_then(|()| choice(Kind::IoUring, "as asked".into())),
        (Aio::Inline, _) => choice(Kind::Inline, "as asked".into()),
        (Aio::Threads, _) => choice(Kind::Threads, "as asked".into()),
        (Aio::Auto, Some(kind)) => choice(Kind::Inline, format!("it is memory ({kind})")),
        (Aio::Auto, None) if !nowait => {
            choice(Kind::Threads, "it may wait at any time (no RWF_NOWAIT)".into())
        }
        (Aio::Auto, None) => match ring() {
            Ok(()) => choice(Kind::IoUring, "it knows RWF_NOWAIT".into()),
            Err(error) => choice(Kind::Threads, format!("io_uring is not to be had here: {error}")),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forbidden() -> io::Result<()> {
        Err(io::Error::from_raw_os_error(libc::EPERM))
    }

    fn engine(
        aio: Aio,
        memory: Option<&str>,
        nowait: bool,
        ring: impl FnOnce() -> io::Result<()>,
    ) -> Option<Kind> {
        decide(aio, memory, nowait, ring).ok().map(|choice| choice.engine)
    }

    #[test]
    fn each_kind_of_file_gets_what_suits_it() {
        let ok = || Ok(());
        assert_eq!(engine(Aio::Auto, None, true, ok), Some(Kind::IoUring));
        assert_eq!(engine(Aio::Auto, None, false, ok), Some(Kind::Threads));
        assert_eq!(engine(Aio::Auto, Some("tmpfs"), false, ok), Some(Kind::Inline));
        assert_eq!(engine(Aio::Auto, Some("zram"), true, ok), Some(Kind::Inline));
    }

    #[test]
    fn where_io_uring_is_forbidden_auto_does_without_it_and_a_demand_fails() {
        assert_eq!(engine(Aio::Auto, None, true, forbidden), Some(Kind::Threads));
        let why = decide(Aio::Auto, None, true, forbidden).unwrap().to_string();
        assert!(why.contains("threads") && why.contains("not permitted"), "{why}");
        let error = decide(Aio::IoUring, None, true, forbidden).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EPERM));
    }

    #[test]
    fn what_is_asked_for_is_not_second_guessed() {
        for memory in [None, Some("tmpfs")] {
            assert_eq!(engine(Aio::Inline, memory, true, forbidden), Some(Kind::Inline));
            assert_eq!(engine(Aio::Threads, memory, true, forbidden), Some(Kind::Threads));
            assert_eq!(
                engine(Aio::IoUring, memory, false, || Ok(())),
                Some(Kind::IoUring)
            );
        }
    }
}
