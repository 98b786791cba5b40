// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Tells when the node of a device goes, so that nobody has to look.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};

/// A thread that waits for changes of a file; it ends with this, or when the file has gone.
pub(super) struct Watch {
    inotify: Arc<OwnedFd>,
    id: i32,
}

impl Watch {
    /// Calls `changed` when there may be a link less to the file at `path`, and when it has gone.
    pub(super) fn start(path: &Path, changed: impl Fn() + Send + 'static) -> io::Result<Self> {
        let inotify = Arc::new(inotify::init(CreateFlags::CLOEXEC)?);
        // The number of links is an attribute; the file itself stays while it is open.
        let id = inotify::add_watch(&inotify, path, WatchFlags::ATTRIB | WatchFlags::DELETE_SELF)?;
        let its = inotify.clone();
        let wait = move || {
            let mut buffer = [MaybeUninit::uninit(); 512];
            let mut events = Reader::new(&*its, &mut buffer);
            while let Ok(event) = events.next() {
                let end = event.events().contains(ReadFlags::IGNORED);
                changed();
                if end {
                    break;
                }
            }
        };
        vu_common::thread::spawn("i2c-watch", wait)?;
        Ok(Self { inotify, id })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // The thread gets a last event by this. If it is not there any more, it has had that event.
        let _ = inotify::remove_watch(&self.inotify, self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::MetadataExt;
    use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
    use std::time::Duration;

    use vu_testkit::spawn::TempDir;

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn watched(path: &Path) -> (Watch, Receiver<()>) {
        let (sender, receiver) = channel();
        let watch = Watch::start(path, move || sender.send(()).unwrap_or_default()).unwrap();
        (watch, receiver)
    }

    /// Waits for the thread to end: what it calls goes with it.
    fn ends(told: &Receiver<()>) {
        loop {
            match told.recv_timeout(LONG) {
                Ok(()) => {}
                Err(end) => return assert_eq!(end, RecvTimeoutError::Disconnected),
            }
        }
    }

    #[test]
    fn a_node_that_goes_is_told_while_it_is_open() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("node");
        let file = File::create(&path).unwrap();
        let (_watch, told) = watched(&path);
        fs::remove_file(&path).unwrap();
        told.recv_timeout(LONG).unwrap();
        assert_eq!(file.metadata().unwrap().nlink(), 0);
        drop(file);
        ends(&told);
    }

    #[test]
    fn the_thread_ends_with_the_watch() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("node");
        File::create(&path).unwrap();
        let (watch, told) = watched(&path);
        drop(watch);
        ends(&told);
    }
}
