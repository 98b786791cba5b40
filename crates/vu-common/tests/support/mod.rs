// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! A device that tests command from outside, served in this process and driven by `vu-testkit`.
#![allow(dead_code, reason = "each test binary uses its own part of this")]

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{JoinHandle, ThreadId};
use std::time::Duration;

use vu_common::{
    Chain, ConfigChange, Cx, Device, Migration, Ready, Refused, Spec, Start, Token, Waker, Worker,
};
use vu_testkit::chains::{Framing, Placement, Request};
use vu_testkit::devices::{FILL, Profile};
use vu_testkit::frontend::FrontEnd;
use vu_testkit::guest::{Guest, Lane, Options, Pending};

/// Generous: it only bounds how long a failing test takes.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);
/// The virtqueue that is answered at once, on thread 0.
pub(crate) const ECHO: usize = 0;
/// The virtqueue whose chains are held until a test says what becomes of them, on thread 1.
pub(crate) const HELD: usize = 1;
/// Another one that is answered at once, on thread 0.
pub(crate) const SECOND: usize = 2;
/// Length of the configuration space; its bytes from 4 on can be written.
pub(crate) const CONFIG_LEN: usize = 12;

/// What the session called.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Call {
    Start { thread: usize, features: u64 },
    Held,
    Stop(usize),
    Event(Token, Ready),
    Dropped { thread: usize },
    Reset,
    Load(Vec<u8>),
}

/// What a worker does with the chains it holds when their virtqueue stops.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum OnStop {
    GiveBack,
    Keep,
}

type Job = Box<dyn FnOnce(&mut Desk, &mut Cx<'_>) + Send>;

/// The way to a worker from the test's thread.
#[derive(Default)]
struct Remote {
    worker: Mutex<Option<(Sender<Job>, Waker)>>,
    published: Condvar,
}

/// The device.
pub(crate) struct Bench {
    remotes: [Arc<Remote>; 2],
    calls: Sender<Call>,
    config: Mutex<[u8; CONFIG_LEN]>,
    config_change: Mutex<Option<ConfigChange>>,
    pub(crate) on_stop: Arc<Mutex<OnStop>>,
    pub(crate) start_fails: AtomicBool,
    pub(crate) state: Mutex<Vec<u8>>,
    /// The longest busy poll; to be set before a guest boots.
    pub(crate) poll: Mutex<Duration>,
    /// Held chains are answered by a worker that polls.
    pub(crate) answer_polling: Arc<AtomicBool>,
}

impl Bench {
    pub(crate) fn new() -> (Arc<Self>, Calls) {
        let (calls, receiver) = channel();
        let bench = Self {
            remotes: Default::default(),
            calls,
            config: Mutex::new(*b"configspace\0"),
            config_change: Mutex::default(),
            on_stop: Arc::new(Mutex::new(OnStop::GiveBack)),
            start_fails: AtomicBool::new(false),
            state: Mutex::default(),
            poll: Mutex::default(),
            answer_polling: Arc::default(),
        };
        (Arc::new(bench), Calls(receiver))
    }

    /// Runs `job` in the worker of virtqueue `q`, and returns what it returns.
    pub(crate) fn run<T: Send + 'static>(
        &self,
        q: usize,
        job: impl FnOnce(&mut Desk, &mut Cx<'_>) -> T + Send + 'static,
    ) -> T {
        let remote = &self.remotes[q % 2];
        let (sender, receiver) = channel();
        let job: Job = Box::new(move |desk, cx| sender.send(job(desk, cx)).unwrap());
        let worker = remote.worker.lock().unwrap();
        let none = |worker: &mut Option<_>| worker.is_none();
        let (worker, _) = remote
            .published
            .wait_timeout_while(worker, DEADLINE, none)
            .unwrap();
        let (jobs, waker) = worker.as_ref().expect("the worker was started");
        jobs.send(job).unwrap();
        waker.wake();
        drop(worker);
        receiver.recv_timeout(DEADLINE).expect("the worker did the job")
    }

    /// Waits until virtqueue `HELD` has popped `count` chains that nobody answered.
    pub(crate) fn wait_held(&self, calls: &Calls, count: usize) {
        while self.run(HELD, |desk, _| desk.held.len()) < count {
            calls.until(&Call::Held);
        }
    }

    /// Takes the held chains to the test's own thread.
    pub(crate) fn take_held(&self) -> Vec<Chain> {
        self.run(HELD, |desk, _| std::mem::take(&mut desk.held))
    }

    /// The channel that the device was given at its start.
    pub(crate) fn config_change(&self) -> ConfigChange {
        self.config_change
            .lock()
            .unwrap()
            .clone()
            .expect("it was started")
    }
}

/// What the session called, in order.
pub(crate) struct Calls(Receiver<Call>);

impl Calls {
    /// The next call.
    pub(crate) fn next(&self) -> Call {
        self.0.recv_timeout(DEADLINE).expect("a call within the deadline")
    }

    /// Passes over calls until `wanted` comes.
    pub(crate) fn until(&self, wanted: &Call) {
        while self.next() != *wanted {}
    }

    /// All calls so far.
    pub(crate) fn take(&self) -> Vec<Call> {
        self.0.try_iter().collect()
    }
}

impl Device for Bench {
    type Worker = Desk;

    fn spec(&self) -> Spec {
        Spec {
            max_queue_size: 1024,
            features: 0b11,
            config_len: CONFIG_LEN,
            config_changes: true,
            threads: 2,
            poll: *self.poll.lock().unwrap(),
            migration: Migration::Stateful,
            ..Spec::new("bench", 42, 3)
        }
    }

    fn read_config(&self, offset: usize, dst: &mut [u8]) {
        dst.copy_from_slice(&self.config.lock().unwrap()[offset..offset + dst.len()]);
    }

    fn write_config(&self, offset: usize, src: &[u8]) -> Result<(), Refused> {
        if offset < 4 {
            return Err(Refused);
        }
        self.config.lock().unwrap()[offset..offset + src.len()].copy_from_slice(src);
        Ok(())
    }

    fn start(&self, start: &Start<'_>) -> io::Result<Desk> {
        let (thread, features) = (start.thread, start.features);
        if self.start_fails.load(Ordering::SeqCst) {
            return Err(io::Error::other("told to fail"));
        }
        self.calls.send(Call::Start { thread, features }).unwrap();
        *self.config_change.lock().unwrap() = Some(start.config_change.clone());
        let (sender, jobs) = channel();
        Ok(Desk {
            thread,
            home: std::thread::current().id(),
            _not_send: Rc::default(),
            jobs,
            sender: Some(sender),
            remote: self.remotes[thread].clone(),
            calls: self.calls.clone(),
            held: Vec::new(),
            on_stop: self.on_stop.clone(),
            answer_polling: self.answer_polling.clone(),
        })
    }

    fn reset(&self) {
        self.calls.send(Call::Reset).unwrap();
    }

    fn save(&self) -> io::Result<Vec<u8>> {
        Ok(self.state.lock().unwrap().clone())
    }

    fn load(&self, state: &[u8]) -> io::Result<()> {
        if state == b"bad" {
            return Err(io::Error::other("a bad state"));
        }
        self.calls.send(Call::Load(state.to_vec())).unwrap();
        Ok(())
    }
}

/// The worker.
pub(crate) struct Desk {
    thread: usize,
    /// Where it was made, and has to stay.
    home: ThreadId,
    /// Keeps it from being sent to another thread.
    _not_send: Rc<()>,
    jobs: Receiver<Job>,
    sender: Option<Sender<Job>>,
    remote: Arc<Remote>,
    calls: Sender<Call>,
    /// Chains that wait for the test to say what becomes of them.
    pub(crate) held: Vec<Chain>,
    on_stop: Arc<Mutex<OnStop>>,
    answer_polling: Arc<AtomicBool>,
}

impl Desk {
    fn call(&self, call: Call) {
        assert_eq!(std::thread::current().id(), self.home);
        // A test that has seen enough has dropped the other end.
        let _ = self.calls.send(call);
    }
}

impl Worker for Desk {
    fn queue(&mut self, cx: &mut Cx<'_>, q: usize) {
        if let Some(sender) = self.sender.take() {
            *self.remote.worker.lock().unwrap() = Some((sender, cx.waker()));
            self.remote.published.notify_all();
        }
        while let Some(chain) = cx.pop(q) {
            if q == HELD {
                self.held.push(chain);
                self.call(Call::Held);
            } else {
                echo(chain);
            }
        }
    }

    fn event(&mut self, cx: &mut Cx<'_>, token: Token, ready: Ready) {
        if token != Token::WAKER {
            // A watched descriptor stays ready: once is enough.
            cx.unwatch(token);
            return self.call(Call::Event(token, ready));
        }
        while let Ok(job) = self.jobs.try_recv() {
            job(self, cx);
        }
    }

    fn poll(&mut self, _cx: &mut Cx<'_>) {
        if self.answer_polling.load(Ordering::Relaxed) {
            self.held.drain(..).for_each(echo);
        }
    }

    fn stop(&mut self, cx: &mut Cx<'_>, q: usize) {
        if *self.on_stop.lock().unwrap() == OnStop::GiveBack {
            for chain in self.held.extract_if(.., |chain| chain.queue() == q) {
                cx.give_back(chain);
            }
        }
        self.call(Call::Stop(q));
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        *self.remote.worker.lock().unwrap() = None;
        self.call(Call::Dropped { thread: self.thread });
    }
}

/// Copies the device-readable bytes to the device-writable ones, as far as both go.
pub(crate) fn echo(mut chain: Chain) {
    let mut bytes = vec![0; chain.readable_len().min(chain.writable_len())];
    chain.reader().read_exact(&mut bytes).unwrap();
    chain.writer().write_all(&bytes).unwrap();
    chain.complete(bytes.len() as u32);
}

/// How a driver talks to an echo, and what it may expect.
#[derive(Debug)]
pub(crate) struct Echo;

impl Profile for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn virtio_id(&self) -> u32 {
        42
    }

    fn queues(&self) -> u16 {
        3
    }

    fn config_len(&self) -> u32 {
        CONFIG_LEN as u32
    }

    fn request(&self, number: u64, size: usize) -> Request {
        let mut random = Random(number);
        let readable = (0..size).map(|_| random.next() as u8).collect();
        Request {
            readable,
            writable: size,
        }
    }

    fn check(&self, request: &Request, used: u32, answer: &[u8]) -> Result<(), String> {
        let len = request.readable.len().min(request.writable);
        let (written, rest) = answer.split_at(len);
        if used as usize != len {
            return Err(format!("used length {used} instead of {len}"));
        }
        if written != &request.readable[..len] {
            return Err(format!("{written:x?} came back"));
        }
        if rest.iter().any(|byte| *byte != FILL) {
            return Err("bytes behind the used length were written".into());
        }
        Ok(())
    }
}

/// A pseudo-random sequence that is the same on every machine (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }
}

/// A request of any size and shape that takes at most 24 descriptors.
pub(crate) fn place_any(lane: &mut Lane, random: &mut Random) -> Pending {
    let readable = random.below(300);
    let bytes = random.next().to_le_bytes();
    let request = Request {
        readable: (0..readable).map(|at| bytes[at % 8] ^ at as u8).collect(),
        writable: random.below(300).max(usize::from(readable == 0)),
    };
    let total = readable + request.writable;
    let framing = match random.below(4) {
        0 => Framing::Whole,
        1 => Framing::SplitAt(random.below(total)),
        _ => Framing::Pieces(total / 20 + 1 + random.below(40)),
    };
    let placement = [Placement::Direct, Placement::Indirect, Placement::IndirectTail][random.below(3)];
    lane.place(request, framing, placement)
}

/// A session in a thread of its own.
pub(crate) struct Session {
    thread: JoinHandle<()>,
    ended: Receiver<()>,
}

impl Session {
    /// Waits until it has ended, because its front end hung up.
    pub(crate) fn join(self) {
        let ended = self.ended.recv_timeout(DEADLINE);
        assert_ne!(ended, Err(RecvTimeoutError::Timeout), "the session goes on");
        self.thread.join().expect("the session did not panic");
    }
}

/// Serves `device` on a fresh connection.
pub(crate) fn serve<D: Device>(device: &Arc<D>) -> (FrontEnd, Session) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let device = device.clone();
    let (alive, ended) = channel::<()>();
    let thread = std::thread::spawn(move || {
        let _alive = alive;
        vu_common::serve_stream(theirs, &device).unwrap();
    });
    let front = FrontEnd::from_stream(ours, DEADLINE).unwrap();
    (front, Session { thread, ended })
}

/// A guest whose rings run, and the session that serves it.
pub(crate) struct Rig {
    pub(crate) guest: Guest,
    session: Option<Session>,
    device: Arc<Bench>,
}

impl Rig {
    pub(crate) fn boot(device: &Arc<Bench>, options: Options) -> Self {
        let (front, session) = serve(device);
        let options = Options {
            deadline: DEADLINE,
            ..options
        };
        Self {
            guest: Guest::boot(front, &Echo, &options).unwrap(),
            session: Some(session),
            device: device.clone(),
        }
    }

    /// Hangs up, and waits until the session has ended.
    pub(crate) fn disconnect(&mut self) {
        let _ = self.guest.front.stream().shutdown(std::net::Shutdown::Both);
        if let Some(session) = self.session.take() {
            session.join();
        }
    }

    /// Goes on over a new connection, as after a crash of the back end.
    pub(crate) fn reconnect(&mut self) {
        self.disconnect();
        let (front, session) = serve(&self.device);
        self.session = Some(session);
        self.guest.reconnect(front).unwrap();
    }

    /// One request on virtqueue `q`, checked.
    pub(crate) fn round_trip(&mut self, q: usize) {
        self.guest.lanes[q].round_trip(&Echo, 100).unwrap();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.guest.front.stream().shutdown(std::net::Shutdown::Both);
        if !std::thread::panicking()
            && let Some(session) = self.session.take()
        {
            session.join();
        }
    }
}

/// Makes `count` requests available on the held virtqueue, and waits until the device has them.
pub(crate) fn hold(rig: &mut Rig, count: usize) -> Vec<u32> {
    let lane = &mut rig.guest.lanes[HELD];
    let heads = (0..count)
        .map(|_| u32::from(lane.place_next(&Echo, 40).head))
        .collect();
    lane.queue.submit();
    heads
}
