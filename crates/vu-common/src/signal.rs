// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The signals that end a daemon, as a file descriptor to poll beside the sockets.

// UNSAFETY: neither rustix nor vmm-sys-util wraps signalfd(2), and the signal mask is a libc call.
#![allow(unsafe_code, reason = "signalfd(2) and pthread_sigmask(3)")]

use std::io;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr;

use vmm_sys_util::signal::create_sigset;

use crate::error::SetupError;

/// Size of the kernel's `struct signalfd_siginfo`, whose first four bytes are the signal's number.
const SIGINFO_SIZE: usize = 128;

/// A signal that asks the daemon for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// `SIGTERM`: end quickly and cleanly (the vhost-user specification, "Back-end program conventions").
    Terminate,
    /// `SIGINT`: Ctrl-C; the same as [`Signal::Terminate`].
    Interrupt,
    /// `SIGHUP`: look at the host's side again ([`Device::hang_up`](crate::Device::hang_up)).
    HangUp,
}

/// The signals of [`Signal`], blocked in every thread and readable from a file descriptor.
#[derive(Debug)]
pub(crate) struct Signals {
    fd: OwnedFd,
}

impl Signals {
    /// Blocks the signals in this thread and all that it starts from now on, so call it before the first.
    ///
    /// # Errors
    /// [`SetupError::System`] when the kernel has no file descriptor or memory left.
    pub(crate) fn block() -> Result<Self, SetupError> {
        Self::try_block().map_err(|source| SetupError::System {
            what: "set up the signals",
            source,
        })
    }

    fn try_block() -> io::Result<Self> {
        let set = create_sigset(&[libc::SIGTERM, libc::SIGINT, libc::SIGHUP])?;
        // SAFETY: `set` is an initialised signal set, and a null pointer asks for no old mask.
        let error = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
        if error != 0 {
            return Err(io::Error::from_raw_os_error(error));
        }
        // SAFETY: -1 asks for a new descriptor and `set` is an initialised signal set.
        let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made `fd` for us; nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// The next signal; blocks until there is one. Poll [`Signals::as_fd`] first to wait for other things too.
    ///
    /// # Errors
    /// Only what `read(2)` gives for a descriptor that a sandbox forbids: a bug of ours.
    pub(crate) fn wait(&self) -> io::Result<Signal> {
        let mut info = [0; SIGINFO_SIZE];
        let len = rustix::io::retry_on_intr(|| rustix::io::read(&self.fd, &mut info))?;
        let number = match info.first_chunk() {
            Some(number) if len == SIGINFO_SIZE => i32::from_ne_bytes(*number),
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        match number {
            libc::SIGTERM => Ok(Signal::Terminate),
            libc::SIGINT => Ok(Signal::Interrupt),
            libc::SIGHUP => Ok(Signal::HangUp),
            other => Err(io::Error::other(format!("signal {other} was never asked for"))),
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::fd::AsFd;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::{Signal, Signals};

    /// Sends `number` to this thread alone: the other threads of the test run have not blocked it.
    pub(crate) fn raise(number: i32) {
        // SAFETY: raise(3) takes any number and touches no memory; `Signals` has blocked this one.
        assert_eq!(unsafe { libc::raise(number) }, 0);
    }

    fn is_readable(signals: &Signals) -> bool {
        let mut fds = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
        poll(
            &mut fds,
            Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }),
        )
        .unwrap()
            == 1
    }

    #[test]
    fn a_blocked_signal_makes_the_descriptor_readable_and_is_read_once() {
        let signals = Signals::block().unwrap();
        assert!(!is_readable(&signals));
        for (number, expected) in [
            (libc::SIGTERM, Signal::Terminate),
            (libc::SIGINT, Signal::Interrupt),
            (libc::SIGHUP, Signal::HangUp),
        ] {
            raise(number);
            assert!(is_readable(&signals), "{expected:?}");
            assert_eq!(signals.wait().unwrap(), expected);
            assert!(!is_readable(&signals), "{expected:?}");
        }
    }

    #[test]
    fn blocking_twice_is_no_error() {
        let _first = Signals::block().unwrap();
        Signals::block().unwrap();
    }
}
