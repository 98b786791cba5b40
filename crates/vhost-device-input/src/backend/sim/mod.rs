// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Simulated devices, which are used by scripts and by tests, or do again what was recorded. They need no hardware.
//!
//! | file | what it answers |
//! |---|---|
//! | `kind.rs` | what there is to be simulated |
//! | `command.rs` | what a command does |
//! | `recording/` | what was recorded of a device |
//! | `replay.rs` | when it happens again |
//! | `client.rs`, `world.rs` | who sends commands, and the thread that serves them |

mod client;
mod command;
mod kind;
mod recording;
mod replay;
mod world;

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io;
use std::mem;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustix::event::{EventfdFlags, eventfd};
use vu_common::SocketPath;

pub use command::Outcome;
pub use kind::{Kind, SLOTS};
pub use recording::{BadRecording, Recording};
pub use replay::Pace;

use self::client::Client;
use self::replay::Playing;
use self::world::World;
use super::{Change, Source, names};
use crate::config::Description;
use crate::request::Event;
use crate::state::State;

/// Frames that wait for the worker until no more commands are taken.
const MAX_FRAMES: usize = 1024;
/// Events that the worker gets at a time, unless a frame has more.
const MAX_EVENTS: usize = 1024;
/// Pieces of news that are kept for those who watch.
const MAX_NEWS: usize = 4096;
/// The path that stands for standard input and output.
pub const STANDARD: &str = "-";

/// A simulated device, between those who use it and the guest.
pub struct Desk {
    description: Description,
    /// What was recorded of it: frames, and when they are due.
    frames: Vec<(Duration, Vec<Event>)>,
    inner: Mutex<Inner>,
    /// Can be read when there are changes for the guest.
    event: OwnedFd,
    /// Can be read when there is something to do for those who use it.
    news: OwnedFd,
}

#[derive(Default)]
struct Inner {
    changes: VecDeque<Change>,
    state: State,
    /// There while the recording is played.
    playing: Option<Playing>,
    /// What the guest says of LEDs and sounds, by type and code.
    statuses: BTreeMap<(u16, u16), i32>,
    /// A driver is there.
    attached: bool,
    /// The number of the last contact.
    contact: i32,
    /// Somebody watches.
    watched: bool,
    news: Vec<String>,
    /// There was more news than is kept.
    lost: bool,
}

/// Sets up a device, and the thread that serves those who use it: the file `script`, and whoever connects to the
/// socket `control`. [`STANDARD`] stands for standard input, whose answers go to standard output.
///
/// # Errors
/// What the host refused.
pub fn open(kind: Kind, script: Option<&Path>, control: Option<&Path>) -> anyhow::Result<Box<dyn Source>> {
    let mut clients = Vec::new();
    if let Some(path) = script {
        let file = File::open(path).with_context(|| path.display().to_string())?;
        clients.push(Client::script(path, file.into()));
    }
    start(Desk::new(kind)?, clients, control)
}

/// Sets up a device that was recorded. What happened then happens at `pace` when a guest is there, or when somebody asks
/// for it at the socket `control`.
///
/// # Errors
/// What the host refused.
pub fn open_recording(
    recording: Recording,
    pace: Option<Pace>,
    control: Option<&Path>,
) -> anyhow::Result<Box<dyn Source>> {
    let desk = Desk::of(recording.description, recording.state, recording.frames)?;
    desk.lock().playing = pace.map(Playing::for_guest);
    start(desk, Vec::new(), control)
}

fn start(
    desk: Arc<Desk>,
    mut clients: Vec<Client>,
    control: Option<&Path>,
) -> anyhow::Result<Box<dyn Source>> {
    let (mut listener, mut bound) = (None, None);
    match control {
        None => {}
        Some(path) if path == Path::new(STANDARD) => clients.push(Client::standard()?),
        Some(path) => {
            let (socket, path) = vu_common::listen(path)?;
            (listener, bound) = (Some(socket), Some(path));
        }
    }
    World::start(desk.clone(), listener, clients)?;
    Ok(Box::new(SimSource { desk, _bound: bound }))
}

impl Desk {
    /// A device that nobody uses yet.
    ///
    /// # Errors
    /// No event could be made.
    pub fn new(kind: Kind) -> io::Result<Arc<Self>> {
        Self::of(kind.description(), State::default(), Vec::new())
    }

    fn of(
        description: Description,
        state: State,
        frames: Vec<(Duration, Vec<Event>)>,
    ) -> io::Result<Arc<Self>> {
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        Ok(Arc::new(Self {
            description,
            frames,
            inner: Mutex::new(Inner {
                state,
                ..Inner::default()
            }),
            event: event()?,
            news: event()?,
        }))
    }

    /// The source, for a guest.
    #[must_use]
    pub fn source(self: &Arc<Self>) -> Box<dyn Source> {
        Box::new(SimSource {
            desk: self.clone(),
            _bound: None,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a driver is there.
    fn is_attached(&self) -> bool {
        self.lock().attached
    }

    /// Whether those who use it are to wait.
    fn is_full(&self) -> bool {
        self.lock().is_full()
    }

    /// Carries out a command that does not wait, and returns the lines of its answer.
    ///
    /// # Errors
    /// What is wrong with it, or that the guest does not take what happened before.
    pub fn inject(&self, line: &str) -> anyhow::Result<Vec<String>> {
        anyhow::ensure!(!self.is_full(), "the guest does not take the events so far");
        match self.command(line, &mut Vec::new()) {
            Outcome::Nothing => anyhow::bail!("no command"),
            Outcome::Answer(text) => match text.strip_prefix("error: ") {
                Some(error) => anyhow::bail!("{error}"),
                None => Ok(text
                    .lines()
                    .filter(|line| *line != "ok")
                    .map(str::to_owned)
                    .collect()),
            },
            _ => anyhow::bail!("{line}: only a script or a socket of the device can wait"),
        }
    }

    /// Takes the news so far; from now on it is kept if somebody watches.
    fn take_news(&self, watched: bool) -> Vec<String> {
        let mut inner = self.lock();
        inner.watched = watched;
        if mem::take(&mut inner.lost) {
            inner.news.push("error: news was lost".into());
        }
        mem::take(&mut inner.news)
    }
}

impl Inner {
    fn is_full(&self) -> bool {
        self.changes.len() >= MAX_FRAMES
    }

    /// A frame happens. Without a driver nobody sees it, but what is held down stays so.
    fn play(&mut self, frame: Vec<Event>) {
        frame.iter().for_each(|event| self.state.apply(*event));
        if self.attached {
            self.changes.push_back(Change::Frame(frame));
        }
    }

    fn tell(&mut self, news: String) {
        if self.watched && self.news.len() < MAX_NEWS {
            self.news.push(news);
        } else {
            self.lost |= self.watched;
        }
    }

    fn set_attached(&mut self, attached: bool) {
        self.attached = attached;
        self.changes.clear();
        self.tell(format!("guest {}", u8::from(attached)));
    }
}

/// Makes an event readable.
fn signal(event: &OwnedFd) {
    // Full means that it is already.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}

/// Makes an event unreadable.
fn clear(event: &OwnedFd) {
    let _ = rustix::io::read(event, &mut [0; 8]);
}

struct SimSource {
    desk: Arc<Desk>,
    /// The path of its control socket.
    _bound: Option<SocketPath>,
}

impl Source for SimSource {
    fn desk(&self) -> Option<Arc<Desk>> {
        Some(self.desk.clone())
    }

    fn description(&self) -> &Description {
        &self.desk.description
    }

    fn attach(&mut self) {
        let mut inner = self.desk.lock();
        inner.set_attached(true);
        let now = inner.state.clone();
        inner.changes.push_back(Change::State(now));
        signal(&self.desk.event);
        signal(&self.desk.news);
    }

    fn detach(&mut self) {
        self.desk.lock().set_attached(false);
        signal(&self.desk.news);
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.desk.event.as_fd()
    }

    fn read(&mut self, changes: &mut Vec<Change>) {
        clear(&self.desk.event);
        let mut inner = self.desk.lock();
        let was_full = inner.is_full();
        let mut events = 0;
        while events < MAX_EVENTS
            && let Some(change) = inner.changes.pop_front()
        {
            events += if let Change::Frame(frame) = &change {
                frame.len()
            } else {
                1
            };
            changes.push(change);
        }
        if !inner.changes.is_empty() {
            signal(&self.desk.event);
        }
        if was_full {
            signal(&self.desk.news);
        }
    }

    fn waits(&self) -> bool {
        true
    }

    fn status(&mut self, events: &[Event]) {
        let mut inner = self.desk.lock();
        for event in events
            .iter()
            .filter(|event| self.desk.description.has(event.kind, event.code))
        {
            let before = inner.statuses.insert((event.kind, event.code), event.value);
            if before != Some(event.value) {
                inner.tell(names::status(*event));
            }
        }
        signal(&self.desk.news);
    }
}
