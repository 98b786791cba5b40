// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What `VhostUserDaemon` does not do: the evidence for docs/adr/0001-own-session.md. When one of these fails
//! after an update of vhost-user-backend, that decision is to be looked at again.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Instant;

use vu_testkit::frontend::Error;
use vu_testkit::frontend::wire::{feature, protocol};
use vu_testkit::guest::Guest;

use crate::adapter::{Daemon, Stock};
use crate::options;
use crate::support::{DEADLINE, ECHO, Echo, HELD, SECOND};

fn boot() -> (Guest, Daemon) {
    let (front, daemon) = Stock::serve();
    let mut guest = Guest::boot(front, &Echo, &options(true)).unwrap();
    // Twice, so that the events of enabling the rings are behind us.
    for _ in 0..2 {
        for lane in &mut guest.lanes {
            lane.round_trip(&Echo, 20).unwrap();
        }
    }
    assert!(worker_runs(&daemon));
    (guest, daemon)
}

/// Whether the only worker thread of the daemon runs: it holds its event loop, as do the daemon and we.
fn worker_runs(daemon: &Daemon) -> bool {
    Arc::strong_count(&daemon.daemon.get_epoll_handlers()[0]) == 3
}

fn wait_for_the_end_of_the_worker(daemon: &Daemon) {
    let end = Instant::now() + DEADLINE;
    while worker_runs(daemon) {
        assert!(Instant::now() < end, "the worker goes on");
        std::thread::yield_now();
    }
}

fn is_closed<T: std::fmt::Debug>(result: &Result<T, Error>) {
    assert!(matches!(result, Err(Error::Closed(_))), "{result:?}");
}

fn negotiated() -> (vu_testkit::frontend::FrontEnd, Daemon) {
    let (mut front, daemon) = Stock::serve();
    front.get_features().unwrap();
    front.get_protocol_features().unwrap();
    front
        .set_protocol_features(protocol::REPLY_ACK | protocol::INFLIGHT_SHMFD)
        .unwrap();
    front.set_owner().unwrap();
    (front, daemon)
}

#[test]
fn stock_hangs_up_when_asked_for_an_inflight_region() {
    let (front, _daemon) = negotiated();
    is_closed(&front.get_inflight_fd(1, 64));
}

#[test]
fn stock_hangs_up_after_a_refused_message() {
    let (front, _daemon) = negotiated();
    let refused = front.set_vring_num(ECHO as u32, 0);
    assert!(matches!(refused, Err(Error::Refused(..))), "{refused:?}");
    is_closed(&front.get_features());
}

#[test]
fn stock_hangs_up_over_a_feature_bit_that_qemu_forces() {
    let (front, _daemon) = negotiated();
    let refused = front.set_features(feature::VERSION_1 | feature::ANY_LAYOUT);
    assert!(matches!(refused, Err(Error::Refused(..))), "{refused:?}");
    is_closed(&front.get_features());
}

#[test]
fn stock_acknowledges_a_ring_size_that_it_ignores() {
    let (front, _daemon) = negotiated();
    front.set_vring_num(ECHO as u32, 100).unwrap();
}

#[test]
fn stock_serves_one_connection_only() {
    let (front, mut daemon) = negotiated();
    drop(front);
    assert!(daemon.daemon.wait().is_err(), "a disconnection is an error to it");
    let mut front = daemon.connect();
    front.get_features().unwrap();
    front.set_protocol_features(protocol::REPLY_ACK).unwrap();
    let refused = front.set_owner();
    assert!(matches!(refused, Err(Error::Refused(..))), "{refused:?}");
    is_closed(&front.get_features());
}

#[test]
fn stock_worker_ends_when_the_device_reports_an_error_once() {
    let (guest, daemon) = boot();
    *daemon.device.hook.lock().unwrap() = Some(Box::new(|_| Err(io::Error::other("once"))));
    guest.lanes[ECHO].queue.force_kick();
    wait_for_the_end_of_the_worker(&daemon);
    guest.front.get_features().unwrap();
}

#[test]
fn stock_worker_ends_at_a_kick_that_another_has_read() {
    let (guest, daemon) = boot();
    let (entered, entries) = channel();
    let (go, gate) = channel::<()>();
    *daemon.device.hook.lock().unwrap() = Some(Box::new(move |queue| {
        entered.send(usize::from(queue)).unwrap();
        gate.recv_timeout(DEADLINE).map_err(io::Error::other)
    }));
    let next = || entries.recv_timeout(DEADLINE).unwrap();
    // While the worker is in one virtqueue, two others are kicked: it sees both kicks at once.
    guest.lanes[SECOND].queue.force_kick();
    assert_eq!(next(), SECOND);
    guest.lanes[ECHO].queue.force_kick();
    guest.lanes[HELD].queue.force_kick();
    go.send(()).unwrap();
    assert_eq!(next(), ECHO);
    // The second is read by somebody else before the worker comes to it.
    assert_eq!(guest.lanes[HELD].queue.kick.drain(), 1);
    go.send(()).unwrap();
    wait_for_the_end_of_the_worker(&daemon);
    guest.front.get_features().unwrap();
}
