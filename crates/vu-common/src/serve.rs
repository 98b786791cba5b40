// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! From listening sockets to sessions: a thread per socket accepts one front end after the other.
//!
//! A socket is bound once for the life of the process, so a front end that reconnects always finds it. A
//! connection's faults end that connection; other sockets of the process never notice.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread::JoinHandle;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use crate::connection;
use crate::control::{Control, Served, Slot};
use crate::device::Device;
use crate::error::SetupError;
use crate::shutdown::Shutdown;
use crate::signal::{Signal, Signals};
use crate::socket::{Endpoint, Listener};
use crate::{log as logger, notify};

/// Serves one front end on a connected stream, in this thread, until it disconnects: a back end inside
/// another program.
///
/// # Errors
/// The event that a shutdown would need could not be made.
pub fn serve_stream<D: Device>(stream: UnixStream, device: &Arc<D>) -> io::Result<()> {
    connection::run(stream, device, &Shutdown::new()?, &Slot::default());
    Ok(())
}

fn system(what: &'static str) -> impl FnOnce(io::Error) -> SetupError {
    move |source| SetupError::System { what, source }
}

/// Serves each device on its endpoint until a signal comes or every connected endpoint has ended.
pub(crate) fn serve<D: Device>(
    endpoints: Vec<Endpoint>,
    devices: Vec<D>,
    signals: &Signals,
    control: Option<Control>,
) -> Result<(), SetupError> {
    let shutdown = Arc::new(Shutdown::new().map_err(system("make an event"))?);
    let ended = eventfd(0, EventfdFlags::CLOEXEC).map(Arc::new);
    let ended = ended.map_err(|e| system("make an event")(e.into()))?;
    let mut threads: Vec<JoinHandle<()>> = Vec::new();
    let mut served: Vec<Served<D>> = Vec::new();
    let listening = endpoints.iter().any(|e| matches!(e, Endpoint::Listener(_)));
    for (endpoint, device) in endpoints.into_iter().zip(devices) {
        let (shutdown, ended) = (shutdown.clone(), ended.clone());
        let device = Arc::new(device);
        let slot = Arc::<Slot<D>>::default();
        served.push(Served {
            device: Arc::downgrade(&device),
            slot: slot.clone(),
        });
        let work = move || {
            serve_endpoint(endpoint, &device, &shutdown, &slot);
            drop(device);
            let _ = rustix::io::write(&*ended, &1_u64.to_ne_bytes());
        };
        let thread = std::thread::Builder::new().name("session".into()).spawn(work);
        threads.push(thread.map_err(system("start a thread"))?);
    }
    let _control = control
        .map(|control| control.serve(served.clone(), shutdown.clone()))
        .transpose()?;
    if listening {
        logger::announce_listening();
    }
    notify::ready();

    if wait(signals, &ended, &served, &shutdown)? {
        join(threads);
    }
    Ok(())
}

/// Waits until no device is served any more; false if that is not to be waited for.
fn wait<D: Device>(
    signals: &Signals,
    ended: &OwnedFd,
    served: &[Served<D>],
    shutdown: &Shutdown,
) -> Result<bool, SetupError> {
    let mut left = served.len();
    let beat = notify::watchdog();
    let timeout = beat.and_then(|beat| Timespec::try_from(beat).ok());
    while left > 0 {
        if beat.is_some() {
            notify::alive();
        }
        let mut fds = [
            PollFd::new(signals, PollFlags::IN),
            PollFd::new(ended, PollFlags::IN),
        ];
        if let Err(e) = poll(&mut fds, timeout.as_ref())
            && e != rustix::io::Errno::INTR
        {
            return Err(system("wait")(e.into()));
        }
        let [signalled, ending] = fds.map(|fd| !fd.revents().is_empty());
        if ending {
            let mut count = [0; 8];
            if rustix::io::read(ended, &mut count).is_ok() {
                left = left.saturating_sub(u64::from_ne_bytes(count) as usize);
            }
        }
        if !signalled {
            continue;
        }
        match signals.wait().map_err(system("read a signal"))? {
            Signal::HangUp => hang_up(served),
            Signal::Terminate | Signal::Interrupt if stop(shutdown) => return Ok(false),
            Signal::Terminate | Signal::Interrupt => {}
        }
    }
    Ok(true)
}

fn join(threads: Vec<JoinHandle<()>>) {
    for thread in threads {
        if thread.join().is_err() {
            log::error!("a session panicked");
        }
    }
}

/// Tells those devices that are still served.
fn hang_up<D: Device>(served: &[Served<D>]) {
    for device in served.iter().filter_map(|served| served.device.upgrade()) {
        device.hang_up();
    }
}

/// Asks all to end. True if nothing is to be waited for any more.
fn stop(shutdown: &Shutdown) -> bool {
    if shutdown.asked() {
        log::warn!("asked to stop twice: leaving at once");
        return true;
    }
    log::info!("asked to stop");
    notify::stopping();
    shutdown.ask();
    false
}

fn serve_endpoint<D: Device>(endpoint: Endpoint, device: &Arc<D>, shutdown: &Shutdown, slot: &Slot<D>) {
    match endpoint {
        Endpoint::Connected(stream) => connection::run(stream, device, shutdown, slot),
        Endpoint::Listener(listener) => listen(&listener, device, shutdown, slot),
    }
}

fn listen<D: Device>(listener: &Listener, device: &Arc<D>, shutdown: &Shutdown, slot: &Slot<D>) {
    while shutdown.wait_readable(listener) {
        match listener.accept() {
            Ok(stream) => {
                connection::run(stream, device, shutdown, slot);
                if listener.is_one_shot() {
                    return;
                }
            }
            // Whoever gave us the socket has shut it down: nobody can come any more.
            Err(e) if e.kind() == io::ErrorKind::InvalidInput => return,
            // Another process that shares the socket took the front end.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => {
                // Out of descriptors, most likely: the front end waits in the backlog meanwhile.
                log::warn!("cannot accept a front end: {e}");
                shutdown.pause();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::serve;
    use crate::cx::Cx;
    use crate::device::{Device, Spec, Start, Worker};
    use crate::signal::{Signals, tests::raise};
    use crate::socket::Endpoint;
    use std::io;
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Hangs up its front end, too, which ends the daemon.
    struct Told {
        times: Arc<AtomicUsize>,
        front_end: UnixStream,
    }

    impl Worker for () {
        fn queue(&mut self, _cx: &mut Cx<'_>, _q: usize) {}
    }

    impl Device for Told {
        type Worker = ();

        fn spec(&self) -> Spec {
            Spec::new("told", 1, 1)
        }

        fn start(&self, _start: &Start<'_>) -> io::Result<()> {
            Ok(())
        }

        fn hang_up(&self) {
            self.times.fetch_add(1, Ordering::SeqCst);
            self.front_end.shutdown(std::net::Shutdown::Both).unwrap();
        }
    }

    #[test]
    fn a_hang_up_reaches_each_device_and_ends_nothing() {
        let signals = Signals::block().unwrap();
        let times = Arc::<AtomicUsize>::default();
        let connected = || {
            let (ours, theirs) = UnixStream::pair().unwrap();
            let told = Told {
                times: times.clone(),
                front_end: ours,
            };
            (Endpoint::Connected(theirs), told)
        };
        let (endpoints, devices) = [connected(), connected()].into_iter().unzip();
        raise(libc::SIGHUP);
        serve(endpoints, devices, &signals, None).unwrap();
        assert_eq!(times.load(Ordering::SeqCst), 2);
    }
}
