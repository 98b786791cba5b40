// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What a case gets: the back end under test, and ways to reach it.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::{Settings, Subject};
use crate::devices::Profile;
use crate::frontend::wire::protocol;
use crate::frontend::{Error, FrontEnd};
use crate::guest::{Guest, Options};
use crate::process;
use crate::spawn::{Daemon, Launch};

/// What a case returns.
pub type Result<T> = anyhow::Result<T>;

/// The error of a case that could not be tried.
#[derive(Debug, thiserror::Error)]
#[error("skipped: {0}")]
pub struct Skip(pub String);

/// Ends a case that cannot be tried.
pub(crate) fn skip<T>(reason: impl Into<String>) -> Result<T> {
    Err(Skip(reason.into()).into())
}

#[derive(Debug)]
enum Target {
    Spawned(Box<Daemon>),
    Listening(PathBuf),
}

/// The context of one case.
#[derive(Debug)]
pub struct Cx {
    /// The device.
    pub profile: Arc<dyn Profile>,
    /// Deadlines.
    pub settings: Settings,
    target: Target,
    pid: Option<u32>,
}

impl Cx {
    /// Starts or finds the back end.
    pub(super) fn new(profile: Arc<dyn Profile>, subject: &Subject, settings: Settings) -> Result<Self> {
        let target = match subject {
            Subject::Spawned(launch) => {
                Target::Spawned(Box::new(Daemon::spawn(&launch.on(profile.storage().as_deref()))?))
            }
            Subject::Listening(path) => Target::Listening(path.clone()),
        };
        let mut cx = Self {
            profile,
            settings,
            target,
            pid: None,
        };
        cx.pid = match &cx.target {
            Target::Spawned(daemon) => Some(daemon.pid()),
            Target::Listening(_) => cx.connect().context("daemon died or never listened")?.peer_pid(),
        };
        Ok(cx)
    }

    /// Starts the daemon anew with more arguments.
    pub(crate) fn respawn(&mut self, more: &[&str]) -> Result<()> {
        let launch = self.daemon()?.launch().with(more);
        self.respawn_as(&launch)
    }

    /// Starts another daemon, or the same one otherwise, in place of this.
    pub(crate) fn respawn_as(&mut self, launch: &Launch) -> Result<()> {
        self.daemon()?.process().kill()?;
        let daemon = Daemon::spawn(launch)?;
        self.pid = Some(daemon.pid());
        self.target = Target::Spawned(Box::new(daemon));
        Ok(())
    }

    /// Kills the daemon and starts it anew on the same path.
    pub(crate) fn crash(&mut self) -> Result<()> {
        let daemon = self.daemon()?;
        daemon.restart()?;
        self.pid = Some(daemon.pid());
        Ok(())
    }

    /// The daemon, if we started it ourselves.
    pub(crate) fn daemon(&mut self) -> Result<&mut Daemon> {
        match &mut self.target {
            Target::Spawned(daemon) => Ok(daemon),
            Target::Listening(_) => skip("needs a daemon that the runner starts itself"),
        }
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        match &self.target {
            Target::Spawned(daemon) => daemon.socket(),
            Target::Listening(path) => path.clone(),
        }
    }

    /// The process under test; `None` when the system does not tell.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.pid
    }

    /// The process under test, or the case is skipped.
    pub(crate) fn need_pid(&self) -> Result<u32> {
        self.pid
            .map_or_else(|| skip("the back end's process id is unknown"), Ok)
    }

    /// Connects, and makes sure that the connection is served. A daemon that takes its socket away, or drops those who
    /// wait, whenever a connection ends gets time to come back: one case is strict about it, the others are about
    /// other things.
    pub(crate) fn connect(&self) -> Result<FrontEnd> {
        let end = Instant::now() + self.settings.deadline;
        loop {
            let front = self.connect_unseen()?;
            match front.get_features() {
                Ok(_) => return Ok(front),
                Err(Error::Closed(_)) if Instant::now() < end && self.runs() => {}
                Err(error) => return Err(error).context("a fresh connection"),
            }
        }
    }

    /// Connects and sends nothing.
    pub(crate) fn connect_unseen(&self) -> Result<FrontEnd> {
        let end = Instant::now() + self.settings.deadline;
        loop {
            match FrontEnd::connect(&self.socket(), self.settings.deadline) {
                Ok(front) => return Ok(front),
                Err(error) if gone(&error) && Instant::now() < end && self.runs() => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Err(error) => return Err(error).context("cannot connect"),
            }
        }
    }

    /// Hangs up on behalf of `guest`, and connects anew.
    pub(crate) fn connect_after_drop(&self, guest: &mut Guest) -> Result<FrontEnd> {
        let (placeholder, _) = UnixStream::pair()?;
        guest.front = FrontEnd::from_stream(placeholder, self.settings.deadline)?;
        self.connect()
    }

    fn runs(&self) -> bool {
        self.pid.is_none_or(process::alive)
    }

    /// A guest with the given options.
    pub(crate) fn guest(&self, options: Options) -> Result<Guest> {
        let options = Options {
            deadline: self.settings.deadline,
            ..options
        };
        Guest::boot(self.connect()?, &*self.profile, &options)
    }

    /// The usual guest.
    pub(crate) fn usual_guest(&self) -> Result<Guest> {
        self.guest(Options::default())
    }

    /// A guest that uses memory slots, or the case is skipped.
    pub(crate) fn guest_with_slots(&self) -> Result<Guest> {
        self.need_protocol(protocol::CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS")?;
        let protocol = crate::guest::USUAL_PROTOCOL | protocol::CONFIGURE_MEM_SLOTS;
        self.guest(Options {
            protocol,
            ..Options::default()
        })
    }

    /// A connection on which features were negotiated and nothing else.
    pub(crate) fn negotiated(&self) -> Result<FrontEnd> {
        let mut front = self.connect()?;
        let features = front.get_features()?;
        let protocol = front.get_protocol_features()?;
        front.set_protocol_features(protocol & crate::guest::USUAL_PROTOCOL)?;
        front.set_owner()?;
        front.set_features(features)?;
        Ok(front)
    }

    /// Skips the case unless the back end offers the protocol feature.
    pub(crate) fn need_protocol(&self, bit: u64, name: &str) -> Result<()> {
        let front = self.connect()?;
        front.get_features()?;
        if front.get_protocol_features()? & bit == 0 {
            return skip(format!("{name} is not offered"));
        }
        Ok(())
    }

    /// Skips the case unless the back end offers the feature.
    pub(crate) fn need_feature(&self, bit: u64, name: &str) -> Result<()> {
        if self.connect()?.get_features()? & bit == 0 {
            return skip(format!("{name} is not offered"));
        }
        Ok(())
    }

    /// The proof after each attack: a fresh connection gets correct answers, from the same process.
    pub(crate) fn still_serves(&self) -> Result<()> {
        let mut guest = self
            .usual_guest()
            .context("a fresh connection after the attack")?;
        let profile = self.profile.clone();
        for size in [16, 64] {
            guest
                .lane()
                .round_trip(&*profile, size)
                .context("a fresh request after the attack")?;
        }
        let now = guest.front.peer_pid();
        ensure!(
            self.pid.is_none() || now == self.pid,
            "the daemon was replaced: pid {:?} -> {now:?}",
            self.pid
        );
        Ok(())
    }

    /// The text of a failure: the error, the fate of the daemon and the end of its log.
    pub(super) fn explain(&mut self, error: &anyhow::Error) -> String {
        let mut text = format!("{error:#}");
        if !self.runs() {
            text.push_str("; daemon died");
        }
        if let Target::Spawned(daemon) = &mut self.target {
            if let Ok(Some(status)) = daemon.process().try_wait() {
                text.push_str(&format!(" ({status})"));
            }
            for line in daemon.log().tail().iter().rev().take(4).rev() {
                text.push_str("\n    | ");
                text.push_str(line);
            }
        }
        text
    }
}

fn gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
    )
}

/// Whether a request was refused in one of the two allowed ways: by acknowledgement, or by closing the connection.
pub(crate) fn refused(result: std::result::Result<(), Error>) -> Result<bool> {
    match result {
        Ok(()) => Ok(false),
        Err(Error::Refused(..) | Error::Closed(_)) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
