// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Descriptor chains that no sane driver builds (T2, T4, T8, T11).

use anyhow::{Context as _, ensure};

use super::{Fate, chain};
use crate::chains::{Descriptor, Framing, NEXT, Placement, WRITE};
use crate::conformance::{Cx, Result};
use crate::frontend::wire::feature;
use crate::guest::{ADJACENT, ADJACENT_SIZE, BUFFERS, BUFFERS_SIZE, Lane, NOWHERE, Options};

fn buffer(lane: &mut Lane) -> Descriptor {
    Descriptor::writable(lane.allocate(64, 16), 64)
}

fn refused(cx: &Cx, build: impl FnOnce(&mut Lane) -> Vec<Descriptor>) -> Result<()> {
    chain(cx, Fate::Refused, |lane| {
        let descriptors = build(lane);
        lane.queue.add_raw(&descriptors)
    })
}

pub(crate) fn loop_of_one(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| vec![buffer(lane).then(0)])
}

pub(crate) fn loop_of_two(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| vec![buffer(lane).then(1), buffer(lane).then(0)])
}

pub(crate) fn loop_that_starts_late(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        vec![buffer(lane).then(1), buffer(lane).then(2), buffer(lane).then(1)]
    })
}

pub(crate) fn next_at_the_ring_size(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| vec![buffer(lane).then(lane.queue.size)])
}

pub(crate) fn next_far_outside(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| vec![buffer(lane).then(u16::MAX)])
}

pub(crate) fn zero_length_alone(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        vec![Descriptor {
            len: 0,
            ..buffer(lane)
        }]
    })
}

pub(crate) fn zero_length_among_others(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        vec![
            buffer(lane).then(1),
            Descriptor {
                len: 0,
                ..buffer(lane)
            }
            .then(2),
            buffer(lane),
        ]
    })
}

pub(crate) fn zero_length_and_unmapped(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| vec![Descriptor::writable(NOWHERE, 0)])
}

pub(crate) fn unmapped_address(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| vec![Descriptor::writable(NOWHERE, 64)])
}

pub(crate) fn unmapped_readable_address(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        vec![Descriptor::readable(NOWHERE, 64).then(1), buffer(lane)]
    })
}

pub(crate) fn unmapped_second_part(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        vec![buffer(lane).then(1), Descriptor::writable(NOWHERE, 64)]
    })
}

pub(crate) fn address_wraps(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| vec![Descriptor::writable(u64::MAX - 31, 64)])
}

pub(crate) fn address_at_the_top(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| vec![Descriptor::writable(u64::MAX, 1)])
}

pub(crate) fn length_of_4_gib(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| vec![Descriptor::writable(BUFFERS, u32::MAX)])
}

pub(crate) fn end_beyond_the_region(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| {
        vec![Descriptor::writable(BUFFERS + BUFFERS_SIZE - 32, 64)]
    })
}

pub(crate) fn end_in_the_hole_behind_adjacent_regions(cx: &mut Cx) -> Result<()> {
    let len = u32::try_from(ADJACENT_SIZE)? + 64;
    refused(cx, |_| vec![Descriptor::writable(ADJACENT - 32, len)])
}

pub(crate) fn start_in_the_hole(cx: &mut Cx) -> Result<()> {
    refused(cx, |_| vec![Descriptor::writable(BUFFERS - 32, 64)])
}

pub(crate) fn readable_after_writable(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        let readable = Descriptor::readable(lane.allocate(64, 16), 64);
        vec![buffer(lane).then(1), readable]
    })
}

pub(crate) fn readable_between_writable(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| {
        let readable = Descriptor::readable(lane.allocate(64, 16), 64);
        vec![buffer(lane).then(1), readable.then(2), buffer(lane)]
    })
}

pub(crate) fn nothing_writable(cx: &mut Cx) -> Result<()> {
    refused(cx, |lane| vec![Descriptor::readable(lane.allocate(64, 16), 64)])
}

/// Flags that no ring format of ours knows.
pub(crate) fn unknown_flags(cx: &mut Cx) -> Result<()> {
    for bit in 3..16 {
        let odd = |lane: &mut Lane| {
            let descriptor = buffer(lane);
            let flags = descriptor.flags | 1 << bit;
            lane.queue.add_raw(&[Descriptor { flags, ..descriptor }])
        };
        chain(cx, Fate::Returned, odd).with_context(|| format!("flag bit {bit}"))?;
    }
    Ok(())
}

/// The last descriptor's `next` means nothing without the flag.
pub(crate) fn next_without_its_flag_is_ignored(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.usual_guest()?;
    for next in [0, 1, 64, u16::MAX] {
        let lane = guest.lane();
        let request = lane.next_request(&*profile, 64);
        let pending = lane.place(request, Framing::Whole, Placement::Direct);
        let table = lane.queue.table();
        let mut index = pending.head;
        loop {
            let at = 16 * usize::from(index);
            let word = table.load_u64(at + 8, std::sync::atomic::Ordering::Relaxed);
            let (flags, following) = ((word >> 32) as u16, (word >> 48) as u16);
            if flags & NEXT == 0 {
                let word = word & 0xffff_ffff_ffff | u64::from(next) << 48;
                table.store_u64(at + 8, word, std::sync::atomic::Ordering::Relaxed);
                break;
            }
            index = following;
        }
        lane.queue.submit();
        let used = lane.queue.wait(lane.end())?;
        lane.check(&*profile, &pending, used)
            .with_context(|| format!("next = {next} without NEXT"))?;
    }
    Ok(())
}

/// A chain as long as the ring, which is the longest that a driver may build.
pub(crate) fn chain_as_long_as_the_ring(cx: &mut Cx) -> Result<()> {
    chain(cx, Fate::Returned, |lane| {
        let size = lane.queue.size;
        let start = lane.allocate(u64::from(size) * 4, 16);
        let link = |index: u16| {
            let descriptor = Descriptor::writable(start + u64::from(index) * 4, 4);
            if index + 1 == size {
                descriptor
            } else {
                descriptor.then(index + 1)
            }
        };
        let descriptors: Vec<_> = (0..size).map(link).collect();
        lane.queue.add_raw(&descriptors)
    })
}

/// The buffer is the ring itself: the guest harms only itself.
pub(crate) fn buffer_over_its_own_ring(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for part in 0..3 {
        let mut guest = cx.usual_guest()?;
        guest.lane().round_trip(&*profile, 16)?;
        let lane = guest.lane();
        let address = lane.queue.address;
        let target = [address.descriptor, address.available, address.used][part];
        lane.queue.add_raw(&[Descriptor::writable(target, 128)]);
        lane.queue.publish();
        lane.queue.force_kick();
        guest
            .front
            .get_features()
            .context("the connection, after the ring was overwritten")?;
        drop(guest);
        cx.still_serves()
            .with_context(|| format!("after ring part {part} was overwritten"))?;
    }
    Ok(())
}

/// T11: thousands of bad chains among good ones, each head back exactly once (the driver's bookkeeping sees to that).
pub(crate) fn many_bad_among_good(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 256,
        ..Options::default()
    })?;
    for _ in 0..100 {
        let lane = guest.lane();
        let mut good = Vec::new();
        let mut bad = Vec::new();
        for number in 0..20 {
            good.push(lane.place_next(&*profile, 32));
            let descriptor = match number % 4 {
                0 => Descriptor::writable(NOWHERE, 64),
                1 => Descriptor::writable(u64::MAX - 3, 64),
                2 => Descriptor {
                    len: 0,
                    ..buffer(lane)
                },
                _ => Descriptor::writable(BUFFERS, u32::MAX),
            };
            bad.push(u32::from(lane.queue.add(&[descriptor], None)));
        }
        lane.queue.submit();
        let end = lane.end();
        for used in lane.queue.wait_all(end)? {
            match good.iter().find(|pending| u32::from(pending.head) == used.id) {
                Some(pending) => lane.check(&*profile, pending, used)?,
                None => ensure!(used.len == 0, "a bad chain was served: used length {}", used.len),
            }
        }
    }
    drop(guest);
    cx.still_serves()
}

/// T16: another thread scribbles on the descriptors while the device reads them.
pub(crate) fn descriptors_change_while_they_are_read(cx: &mut Cx) -> Result<()> {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let profile = cx.profile.clone();
    let mut guest = cx.guest(Options {
        size: 64,
        ..Options::default()
    })?;
    let table = guest.lane().queue.table();
    let stop = Arc::new(AtomicBool::new(false));
    let flag = stop.clone();
    let mutator = std::thread::spawn(move || {
        // Odd values of address, length, flags and next, in turns; a small generator picks the victim.
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let odd = [NOWHERE, u64::MAX - 8, 0, BUFFERS + BUFFERS_SIZE - 1, 1 << 63];
        while !flag.load(Ordering::Relaxed) {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let at = 16 * ((state >> 8) % 64) as usize;
            let pick = odd[(state >> 20) as usize % odd.len()];
            if state & 1 == 0 {
                table.store_u64(at, pick, Ordering::Relaxed);
            } else {
                let flags = u64::from(NEXT | WRITE) & (state >> 40);
                table.store_u64(
                    at + 8,
                    (pick & 0xffff_ffff) | flags << 32 | (state >> 30 & 0xff) << 48,
                    Ordering::Relaxed,
                );
            }
        }
    });
    let mut result = Ok(());
    let mut count = 0;
    while result.is_ok() && count < 20_000 {
        let lane = guest.lane();
        for _ in 0..20 {
            lane.place_next(&*profile, 64);
            count += 1;
        }
        lane.queue.submit();
        let end = lane.end();
        result = lane.queue.wait_all(end).map(drop);
    }
    stop.store(true, Ordering::Relaxed);
    let _ = mutator.join();
    match result {
        // The device may write a wrong length here, for the driver's own memory of the chain is no longer true.
        Ok(()) | Err(crate::driver::Error::TooLong { .. }) => {}
        Err(error) => return Err(error).with_context(|| format!("after {count} requests")),
    }
    drop(guest);
    cx.still_serves()
}

/// INDIRECT without negotiation: "The driver MUST NOT set the flag unless the feature was negotiated."
pub(crate) fn indirect_that_was_not_negotiated(cx: &mut Cx) -> Result<()> {
    let features = feature::VERSION_1 | feature::EVENT_IDX | feature::PROTOCOL_FEATURES;
    let options = Options {
        features,
        ..Options::default()
    };
    super::chain_for(cx, options, Fate::Returned, |lane| {
        let table = lane.allocate(64, 16);
        let inner = buffer(lane);
        let descriptor = crate::driver::write_indirect(&lane.memory, table, &[inner]);
        lane.queue.add_raw(&[descriptor])
    })
}
