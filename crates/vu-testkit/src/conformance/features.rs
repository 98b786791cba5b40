// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is negotiated.

use anyhow::{Context as _, ensure};

use super::context::{Cx, Result, skip};
use crate::frontend::Error;
use crate::frontend::wire::{NEED_REPLY, VERSION, feature, protocol, request};
use crate::guest::Options;

pub(super) fn version_1_is_offered(cx: &mut Cx) -> Result<()> {
    offers(cx, feature::VERSION_1, "VERSION_1")
}

pub(super) fn protocol_features_are_offered(cx: &mut Cx) -> Result<()> {
    offers(cx, feature::PROTOCOL_FEATURES, "PROTOCOL_FEATURES")
}

pub(super) fn event_idx_is_offered(cx: &mut Cx) -> Result<()> {
    offers(cx, feature::EVENT_IDX, "EVENT_IDX")
}

pub(super) fn indirect_descriptors_are_offered(cx: &mut Cx) -> Result<()> {
    offers(cx, feature::INDIRECT_DESC, "INDIRECT_DESC")
}

fn offers(cx: &mut Cx, bit: u64, name: &str) -> Result<()> {
    let offered = cx.connect()?.get_features()?;
    ensure!(offered & bit != 0, "{name} is missing in {offered:#x}");
    Ok(())
}

pub(super) fn nothing_is_offered_that_is_not_implemented(cx: &mut Cx) -> Result<()> {
    let front = cx.connect()?;
    let offered = front.get_features()?;
    let never =
        feature::RING_PACKED | feature::RING_RESET | feature::NOTIFICATION_DATA | feature::ACCESS_PLATFORM;
    ensure!(
        offered & never == 0,
        "virtio features {:#x} are offered",
        offered & never
    );
    let offered = front.get_protocol_features()?;
    let never = protocol::STATUS | protocol::INBAND_NOTIFICATIONS | protocol::XEN_MMAP | protocol::PAGEFAULT;
    ensure!(
        offered & never == 0,
        "protocol features {:#x} are offered",
        offered & never
    );
    Ok(())
}

pub(super) fn protocol_features_of_the_house_are_offered(cx: &mut Cx) -> Result<()> {
    let front = cx.connect()?;
    front.get_features()?;
    let offered = front.get_protocol_features()?;
    let always = protocol::MQ
        | protocol::REPLY_ACK
        | protocol::CONFIGURE_MEM_SLOTS
        | protocol::RESET_DEVICE
        | protocol::INFLIGHT_SHMFD;
    ensure!(
        offered & always == always,
        "of {always:#x} these are missing: {:#x}",
        always & !offered
    );
    let config = offered & protocol::CONFIG != 0;
    let length = cx.profile.config_len();
    ensure!(
        config == (length > 0),
        "CONFIG offered: {config}, configuration space: {length} bytes"
    );
    Ok(())
}

pub(super) fn features_are_the_same_when_asked_again(cx: &mut Cx) -> Result<()> {
    let guest = cx.usual_guest()?;
    let again = guest.front.get_features()?;
    ensure!(
        again == guest.offered,
        "{again:#x} after SET_FEATURES, {:#x} before",
        guest.offered
    );
    Ok(())
}

pub(super) fn bits_that_qemu_forces_are_accepted(cx: &mut Cx) -> Result<()> {
    let profile = cx.profile.clone();
    for bit in [feature::NOTIFY_ON_EMPTY, feature::ANY_LAYOUT, feature::RING_RESET] {
        let options = Options {
            forced: bit,
            ..Options::default()
        };
        let mut guest = cx
            .guest(options)
            .with_context(|| format!("with feature {bit:#x}"))?;
        guest
            .lane()
            .round_trip(&*profile, 64)
            .with_context(|| format!("with feature {bit:#x}"))?;
    }
    Ok(())
}

pub(super) fn features_it_cannot_honour_are_refused_without_hanging_up(cx: &mut Cx) -> Result<()> {
    for bit in [
        feature::ACCESS_PLATFORM,
        feature::RING_PACKED,
        feature::NOTIFICATION_DATA,
    ] {
        let front = cx.negotiated()?;
        let offered = front.get_features()?;
        if offered & bit != 0 {
            continue;
        }
        if !front.has(protocol::REPLY_ACK) {
            return skip("REPLY_ACK is not offered");
        }
        match front.set_features(offered | bit) {
            Err(Error::Refused(..)) => {}
            other => anyhow::bail!("SET_FEATURES with {bit:#x} that was not offered: {other:?}"),
        }
        front
            .get_features()
            .with_context(|| format!("after the refusal of {bit:#x}"))?;
        front
            .set_features(offered)
            .context("the offered features after a refusal")?;
    }
    cx.still_serves()
}

pub(super) fn works_without_protocol_features(cx: &mut Cx) -> Result<()> {
    let features = feature::VERSION_1 | feature::EVENT_IDX;
    let mut guest = cx.guest(Options {
        features,
        ..Options::default()
    })?;
    let profile = cx.profile.clone();
    guest
        .lane()
        .round_trip(&*profile, 64)
        .context("the ring starts enabled without PROTOCOL_FEATURES")
}

pub(super) fn works_without_any_optional_protocol_feature(cx: &mut Cx) -> Result<()> {
    let mut guest = cx.guest(Options {
        protocol: 0,
        ..Options::default()
    })?;
    let profile = cx.profile.clone();
    guest.lane().burst(&*profile, 100, 64)
}

pub(super) fn works_without_any_optional_ring_feature(cx: &mut Cx) -> Result<()> {
    let features = feature::VERSION_1 | feature::PROTOCOL_FEATURES;
    let mut guest = cx.guest(Options {
        features,
        ..Options::default()
    })?;
    let profile = cx.profile.clone();
    guest.lane().burst(&*profile, 500, 64)
}

pub(super) fn need_reply_changes_nothing_where_a_reply_is_owed(cx: &mut Cx) -> Result<()> {
    let front = cx.negotiated()?;
    front.send(request::GET_FEATURES, VERSION | NEED_REPLY, &[], &[])?;
    let first = front.receive("GET_FEATURES")?;
    ensure!(
        first.request == request::GET_FEATURES && first.payload.len() == 8,
        "{first:?}"
    );
    let protocol = front.get_protocol_features().context("the message after it")?;
    ensure!(protocol != 0, "the second answer is not the protocol features");
    Ok(())
}

pub(super) fn queue_num_is_at_least_what_a_driver_uses(cx: &mut Cx) -> Result<()> {
    cx.need_protocol(protocol::MQ, "MQ")?;
    let number = cx.negotiated()?.get_queue_num()?;
    let used = u64::from(cx.profile.queues());
    ensure!(
        (used..=1024).contains(&number),
        "{number} queues, the driver uses {used}"
    );
    Ok(())
}
