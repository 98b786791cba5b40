// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! One measurement: connect, load all queues, warm up, count, drain.

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use virtio_driver::{
    VhostUser, VirtioBlkFeatureFlags, VirtioBlkQueue, VirtioBlkTransport, VirtioFeatureFlags,
};

use crate::Args;
use crate::buffers::Buffers;
use crate::host::{Moment, Spent, pin};
use crate::lane::{Lane, Offsets, Phase, Tally};

pub(crate) fn run(args: &Args) -> Result<Value> {
    pin(&args.cpus)?;
    let mut transport = connect(args)?;
    let lanes = lanes(args, &mut *transport)?;
    let phase = Phase::default();
    let (spent, tally) = thread::scope(|scope| -> Result<_> {
        let phase = &phase;
        let threads: Vec<_> = lanes
            .into_iter()
            .map(|mut lane| scope.spawn(move || lane.drive(phase)))
            .collect();
        let spent = time(args, phase);
        phase.end();
        let mut total = Tally::default();
        for thread in threads {
            let Ok(tally) = thread.join() else {
                bail!("the thread of a queue panicked")
            };
            total.add(&tally?);
        }
        Ok((spent?, total))
    })?;
    Ok(report(&spent, &tally))
}

/// FLUSH is asked for though no request is one: without it a device may not acknowledge a write before it is durable
/// (virtio 1.3, 5.2.6.2), which not every one takes seriously.
fn connect(args: &Args) -> Result<Box<VirtioBlkTransport>> {
    let wanted = VirtioFeatureFlags::VERSION_1 | VirtioFeatureFlags::RING_EVENT_IDX;
    let of_disks = VirtioBlkFeatureFlags::MQ | VirtioBlkFeatureFlags::FLUSH;
    let transport =
        VhostUser::new(&args.socket, wanted.bits() | of_disks.bits()).with_context(|| args.socket.clone())?;
    let transport: Box<VirtioBlkTransport> = Box::new(transport);
    let features = VirtioFeatureFlags::from_bits_truncate(transport.get_features());
    ensure!(
        features.contains(wanted),
        "the back end offers {features:?} only, not all of {wanted:?}"
    );
    Ok(transport)
}

fn lanes<'a>(args: &Args, transport: &mut VirtioBlkTransport) -> Result<Vec<Lane<'a>>> {
    let config = transport.get_config().context("configuration space")?;
    let (capacity, size) = (u64::from(config.capacity) * 512, args.size as u64);
    ensure!(
        capacity >= size && size > 0,
        "no request of {size} bytes fits on a disk of {capacity}"
    );
    let queues = VirtioBlkQueue::setup_queues(transport, args.queues, args.queue_size).context("queues")?;
    let mut lanes = Vec::new();
    for (index, queue) in queues.into_iter().enumerate() {
        let buffers = Buffers::new(args.size, args.depth).context("memory for the requests")?;
        buffers.map(transport).context("memory region")?;
        lanes.push(Lane {
            queue,
            notifier: transport.get_submission_notifier(index),
            interrupt: transport.get_completion_fd(index),
            buffers,
            offsets: Offsets::new(
                size,
                capacity / size,
                args.sequential,
                index as u64,
                args.queues as u64,
            ),
            write: args.write,
            poll: args.poll,
        });
    }
    Ok(lanes)
}

fn time(args: &Args, phase: &Phase) -> Result<Spent> {
    thread::sleep(Duration::from_millis(args.warm_up));
    let before = Moment::now(args.pid)?;
    phase.count();
    thread::sleep(Duration::from_millis(args.time));
    phase.end();
    Ok(before.until(&Moment::now(args.pid)?))
}

/// Times in nanoseconds; `kicks` and `interrupts` are per request.
#[allow(
    clippy::cast_precision_loss,
    reason = "a measurement is no more precise than that"
)]
fn report(spent: &Spent, tally: &Tally) -> Value {
    let requests = tally.requests.max(1) as f64;
    json!({
        "requests": tally.requests,
        "per_second": tally.requests as f64 / spent.time.as_secs_f64(),
        "cpu": spent.daemon.as_nanos() as f64 / requests,
        "driver_cpu": spent.own.as_nanos() as f64 / requests,
        "p50": tally.latencies.quantile(0.5),
        "p99": tally.latencies.quantile(0.99),
        "kicks": tally.kicks as f64 / requests,
        "interrupts": tally.interrupts as f64 / requests,
        "foreign": spent.foreign,
    })
}
