// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Hostile guests and front ends, and what must become of them.
//!
//! The policy: a bad *chain* comes back exactly once with used length 0 and the queue goes on; a broken *ring* stops
//! that queue, signals its error descriptor and leaves the connection alone; no input ends the daemon, blocks it, or
//! makes it grow. Each case closes with the proof that a fresh connection is served by the same process.

use anyhow::{Context as _, ensure};

use crate::conformance::{Cx, Result};
use crate::guest::{Guest, Lane, Options};

pub(crate) mod chains;
pub(crate) mod indirect;
pub(crate) mod memory;
pub(crate) mod messages;
pub(crate) mod sockets;
pub(crate) mod virtqueues;

/// What must become of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It breaks a rule for drivers: its head comes back with used length 0.
    Refused,
    /// It is odd and the specification leaves it open: its head comes back, with whatever length.
    Returned,
}

/// Sends one odd chain, which `build` puts into the ring, between two good requests.
fn chain(cx: &Cx, fate: Fate, build: impl FnOnce(&mut Lane) -> u16) -> Result<()> {
    chain_for(cx, Options::default(), fate, build)
}

fn chain_for(cx: &Cx, options: Options, fate: Fate, build: impl FnOnce(&mut Lane) -> u16) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(options)?;
    let lane = guest.lane();
    lane.round_trip(&*profile, 16)
        .context("a good request before the bad one")?;
    let head = build(lane);
    lane.queue.submit();
    let end = lane.end();
    let used = lane.queue.wait(end).context("the head of the bad chain")?;
    ensure!(
        used.id == u32::from(head),
        "head {} came back instead of {head}",
        used.id
    );
    ensure!(
        fate == Fate::Returned || used.len == 0,
        "the bad chain was served: used length {}",
        used.len
    );
    for _ in 0..3 {
        guest
            .lane()
            .round_trip(&*profile, 16)
            .context("a good request after the bad one, on the same queue")?;
    }
    drop(guest);
    cx.still_serves()
}

/// Stops a queue whose ring is beyond repair, and starts it on a sane one, on the same connection.
pub(crate) fn replace_ring(guest: &mut Guest) -> Result<()> {
    let index = guest.request_index();
    let (queue, size) = (guest.lanes[index].queue.index, guest.lanes[index].queue.size);
    guest
        .front
        .get_vring_base(queue)
        .context("GET_VRING_BASE of the broken ring")?;
    let mut fresh = crate::driver::Queue::new(&guest.memory, queue, 0x18_0000, size, 0)?;
    fresh.set_event_idx(guest.features & crate::frontend::wire::feature::EVENT_IDX != 0);
    guest.lanes[index].queue = fresh;
    guest
        .front
        .set_vring_err(queue, Some(guest.lanes[index].queue.err.fd()))?;
    guest.start_ring(index, 0)?;
    guest.enable(index, true)
}
