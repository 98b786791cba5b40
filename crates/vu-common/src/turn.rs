// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One call of a worker, during which its thread owns the rings: what it pops and answers takes no lock.
//!
//! A chain that is answered on the worker's thread goes to a list of that thread, and from there to the used
//! ring, many at a time. On another thread it goes to its group, whose worker is woken and does the rest.

use std::cell::{Cell, RefCell};
use std::ptr;
use std::sync::{Arc, MutexGuard};

use crate::chain::{Chain, ChainFault, Done, Walk};
use crate::flow::Head;
use crate::group::{Group, Inner};
use crate::guest_warn;
use crate::memory::GuestSlice;
use crate::queue::State;

/// Used elements that stay unpublished at most while a worker goes on popping: enough that publishing costs
/// little per request, and few enough that a driver refills the ring while slow requests are still served.
const BATCH: usize = 16;
/// Vectors for buffers that are kept for reuse, and the most room in one of them.
const SPARE: usize = 1024;
const SPARE_ROOM: usize = 1024;

thread_local! {
    /// The group whose turn this thread is in: to be compared, never followed.
    static OWNED: Cell<*const Group> = const { Cell::new(ptr::null()) };
    static DONE: RefCell<Vec<Done>> = const { RefCell::new(Vec::new()) };
}

/// Takes an answered chain on its way to the used ring.
pub(crate) fn finish(done: Done) {
    let group = done.run.queue.group();
    // A thread that ends has no list any more, and owns nothing.
    let owned = OWNED.try_with(|owned| ptr::eq(owned.get(), Arc::as_ptr(group)));
    if owned.unwrap_or(false) {
        DONE.with_borrow_mut(|list| list.push(done));
    } else {
        let group = group.clone();
        group.send(done);
    }
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ended {
    /// Chains were popped or answered.
    pub(crate) worked: bool,
    /// A virtqueue without a kick descriptor runs.
    pub(crate) polled: bool,
}

/// The rings of a group in the hands of its worker.
pub(crate) struct Turn<'a> {
    group: &'a Arc<Group>,
    inner: MutexGuard<'a, Inner>,
}

impl<'a> Turn<'a> {
    /// Starts a turn on the worker's thread, with what other threads have answered since the last one.
    pub(crate) fn begin(group: &'a Arc<Group>) -> Self {
        let mut turn = Self {
            group,
            inner: group.enter(),
        };
        OWNED.set(Arc::as_ptr(group));
        let mut arrived = std::mem::take(&mut turn.inner.arrived);
        group.receive(&mut arrived);
        arrived.drain(..).for_each(|done| turn.answer(done));
        turn.inner.arrived = arrived;
        turn
    }

    /// The next request of virtqueue `q`, those that were given back first.
    pub(crate) fn pop(&mut self, q: usize) -> Option<Chain> {
        let slot = self.group.slot(q)?;
        loop {
            if DONE.with_borrow(Vec::len) >= BATCH {
                self.settle();
            }
            let head = self.take(slot)?;
            let Inner { states, spare, .. } = &mut *self.inner;
            let state = states.get_mut(slot)?;
            let flow = state.flow()?;
            match Walk::run(flow.ring(), head.index, spare.pop().unwrap_or_default()) {
                Ok(walk) => {
                    let (run, parts) = (flow.run().clone(), walk.finish());
                    state.popped(head.index, parts.readable_len);
                    return Some(Chain::new(run, head, parts));
                }
                Err((fault, slices)) => {
                    refuse(state, head.index, fault);
                    self.recycle(slices);
                }
            }
        }
    }

    /// The next head of the virtqueue in `slot`. When it runs dry, what was answered is published before
    /// the last look, since the driver may wait for just that.
    fn take(&mut self, slot: usize) -> Option<Head> {
        let state = self.inner.states.get_mut(slot)?;
        if state.flow()?.unpublished() >= BATCH {
            state.publish();
        }
        if let Some(head) = state.take() {
            return Some(head);
        }
        self.settle();
        let state = self.inner.states.get_mut(slot)?;
        state.publish();
        let head = state.take();
        if head.is_none() {
            state.rest();
        }
        head
    }

    /// Puts a chain back, to be popped again before all others.
    pub(crate) fn give_back(&mut self, chain: Chain) {
        let queue = chain.queue();
        let mine = self
            .group
            .slot(queue)
            .and_then(|slot| self.inner.states.get_mut(slot));
        let (Some(state), true) = (mine, chain.is_of(self.group)) else {
            // Dropped, which is loud.
            return;
        };
        let readable = chain.readable_len() as u32;
        let Some(done) = chain.into_done(0) else { return };
        if done.run.is_current() {
            state.give_back(done.head);
            state.unpopped(done.head.index, readable);
        }
        self.recycle(done.buffers.slices);
    }

    /// Ends the turn: publishes what was answered, and calls `again` with each virtqueue for which the worker
    /// is to be called again. With `arm` the driver is asked to kick where the worker saw nothing more.
    pub(crate) fn end(mut self, arm: bool, mut again: impl FnMut(usize)) -> Ended {
        self.settle();
        OWNED.set(ptr::null());
        let mut ended = Ended::default();
        let mut stopping = false;
        for state in &mut self.inner.states {
            let (worked, wakes) = state.end_turn(arm);
            ended.worked |= worked;
            ended.polled |= state.is_polled();
            stopping |= state.is_stopping();
            if wakes {
                again(state.index());
            }
        }
        if stopping {
            self.group.turned();
        }
        ended
    }

    /// Puts the chains that this thread has answered into their used rings.
    fn settle(&mut self) {
        DONE.with_borrow_mut(|list| list.drain(..).for_each(|done| self.answer(done)));
    }

    fn answer(&mut self, done: Done) {
        let slot = self.group.slot(done.run.queue.index());
        if let Some(state) = slot.and_then(|slot| self.inner.states.get_mut(slot))
            && done.run.is_current()
        {
            let log = self.group.log();
            if log.is_on() {
                for slice in done.buffers.part(true) {
                    log.mark(slice.guest_addr(), slice.len() as u64);
                }
            }
            state.served(done.head.index, done.written);
            state.answer(done.head.index, done.written);
        }
        self.recycle(done.buffers.slices);
    }

    fn recycle(&mut self, mut slices: Vec<GuestSlice>) {
        if self.inner.spare.len() < SPARE && (1..=SPARE_ROOM).contains(&slices.capacity()) {
            slices.clear();
            self.inner.spare.push(slices);
        }
    }
}

/// Answers a malformed chain: its head comes back with length 0, and the queue goes on.
fn refuse(state: &mut State, head: u16, fault: ChainFault) {
    state.counters.fault(fault);
    state.answer(head, 0);
    guest_warn!(
        "queue {}: bad descriptor chain at {head}: {fault} (the {}. so far)",
        state.index(),
        state.counters.bad_chains()
    );
}

#[cfg(test)]
mod tests {
    use super::{Ended, Turn};
    use crate::chain::Chain;
    use crate::group::Group;
    use crate::memory::Memory;
    use crate::memory::tests::{guest, put};
    use crate::queue::Queue;
    use std::sync::Arc;
    use std::time::Duration;

    const AVAIL: u64 = 0x100;
    const USED: u64 = 0x200;

    /// A running ring of 8 entries whose heads 0 to 5, of one byte each, are available.
    fn running() -> (Arc<Queue>, Arc<Memory>) {
        let memory = guest(&[(0, 0x1000)]);
        for head in 0..8_u16 {
            let desc = [0x800_u64.to_le_bytes(), 0x2_0000_0001_u64.to_le_bytes()].concat();
            put(&memory, 16 * u64::from(head), &desc);
            put(&memory, AVAIL + 4 + 2 * u64::from(head), &head.to_le_bytes());
        }
        put(&memory, AVAIL + 2, &6_u16.to_le_bytes());
        let group = Group::new(0, 1, 1, 8, Arc::default()).expect("a group");
        let queue = Arc::new(Queue::new(0, Arc::new(group)));
        assert!(queue.set_size(8) && queue.set_addr(0, AVAIL, USED));
        queue.set_enabled(true);
        queue.start(memory.clone(), None).expect("it starts");
        (queue, memory)
    }

    fn turn<T>(queue: &Queue, call: impl FnOnce(&mut Turn<'_>) -> T) -> (T, Ended) {
        let mut turn = Turn::begin(queue.group());
        let result = call(&mut turn);
        (result, turn.end(true, |_| ()))
    }

    fn pop<const N: usize>(queue: &Queue) -> [Chain; N] {
        turn(queue, |turn| [(); N].map(|()| turn.pop(0).expect("a chain"))).0
    }

    /// The used ring: its index, and the heads up to there.
    fn used(memory: &Memory) -> Vec<u8> {
        let mut ring = [0; 4 + 8 * 8];
        memory
            .slice(USED, ring.len() as u32)
            .expect("it is mapped")
            .read(0, &mut ring);
        (0..usize::from(ring[2])).map(|at| ring[4 + 8 * at]).collect()
    }

    #[test]
    fn what_is_answered_in_a_turn_is_published_at_its_end() {
        let (queue, memory) = running();
        let (_, ended) = turn(&queue, |turn| {
            for _ in 0..3 {
                turn.pop(0).expect("a chain").complete(1);
            }
            assert!(used(&memory).is_empty());
        });
        assert!(ended.worked);
        assert_eq!(used(&memory), [0, 1, 2]);
        assert!(!turn(&queue, |_| ()).1.worked);
    }

    #[test]
    fn what_is_answered_is_published_before_the_last_look() {
        let (queue, memory) = running();
        turn(&queue, |turn| {
            while let Some(chain) = turn.pop(0) {
                chain.complete(1);
            }
            assert_eq!(used(&memory), [0, 1, 2, 3, 4, 5]);
        });
    }

    #[test]
    fn what_is_answered_outside_of_a_turn_waits_for_the_next_and_wakes_the_worker() {
        let (queue, memory) = running();
        let [here, there] = pop(&queue);
        let is_woken = || {
            let mut fds = [rustix::event::PollFd::from_borrowed_fd(
                queue.group().waker().fd(),
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut fds, Some(&rustix::event::Timespec::default())) == Ok(1)
        };
        assert!(!is_woken());
        here.complete(1);
        assert!(is_woken());
        let (_, ended) = turn(&queue, |_| {
            std::thread::scope(|scope| scope.spawn(|| there.complete(1)).join().expect("no panic"));
        });
        assert!(ended.worked);
        assert_eq!(used(&memory), [0]);
        turn(&queue, |_| ());
        assert_eq!(used(&memory), [0, 1]);
    }

    #[test]
    fn a_chain_of_another_group_is_answered_in_a_turn_of_its_own() {
        let ((one, one_memory), (other, other_memory)) = (running(), running());
        let [chain] = pop(&other);
        turn(&one, |turn| {
            turn.pop(0).expect("a chain").complete(1);
            chain.complete(1);
        });
        assert_eq!((used(&one_memory), used(&other_memory)), (vec![0], vec![]));
        turn(&other, |_| ());
        assert_eq!(used(&other_memory), [0]);
    }

    #[test]
    fn what_is_given_back_is_popped_next() {
        let (queue, memory) = running();
        turn(&queue, |turn| {
            let [first, second] = [(); 2].map(|()| turn.pop(0).expect("a chain"));
            turn.give_back(second);
            turn.give_back(first);
            while let Some(chain) = turn.pop(0) {
                chain.complete(1);
            }
        });
        assert_eq!(used(&memory), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_chain_that_is_still_held_after_a_stop_belongs_to_nobody() {
        let (queue, memory) = running();
        let [answered, given, dropped, late] = pop(&queue);
        queue.begin_stop();
        turn(&queue, |turn| assert!(turn.pop(0).is_none()));
        queue.drain(Duration::ZERO);
        // On its way when the ring stops.
        late.complete(1);
        assert_eq!(queue.stop(true), 4);
        queue.set_enabled(true);
        queue.start(memory.clone(), None).expect("it starts again");
        turn(&queue, |turn| {
            answered.complete(1);
            turn.give_back(given);
            drop(dropped);
        });
        assert!(used(&memory).is_empty());
        turn(&queue, |turn| turn.pop(0).expect("the next one").complete(1));
        assert_eq!(used(&memory), [4]);
    }

    #[test]
    fn a_broken_ring_gives_and_takes_nothing_until_it_is_set_up_anew() {
        let (queue, memory) = running();
        let [held] = pop(&queue);
        turn(&queue, |turn| {
            turn.pop(0).expect("a chain").complete(1);
            // Seen only when what was there before is used up.
            put(&memory, AVAIL + 2, &99_u16.to_le_bytes());
            while let Some(chain) = turn.pop(0) {
                chain.complete(1);
            }
            held.complete(1);
        });
        assert!(!queue.is_running());
        assert!(used(&memory).is_empty());
        queue.stop(true);
        put(&memory, AVAIL + 2, &6_u16.to_le_bytes());
        queue.set_enabled(true);
        queue.start(memory.clone(), None).expect("it starts again");
        assert!(queue.is_running());
    }

    #[test]
    fn a_visit_comes_before_the_next_turn() {
        let (queue, _) = running();
        let first = Turn::begin(queue.group());
        std::thread::scope(|scope| {
            let visitor = scope.spawn(|| queue.set_enabled(false));
            while !queue.group().is_awaited() {
                std::thread::yield_now();
            }
            first.end(true, |_| ());
            turn(&queue, |turn| assert!(turn.pop(0).is_none()));
            visitor.join().expect("no panic");
        });
    }
}
