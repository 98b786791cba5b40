// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every device has to pass, against the real daemon.

vu_testkit::conformance! {
    device: vu_testkit::devices::input(),
    daemon: env!("CARGO_BIN_EXE_vhost-device-input"),
    args: vu_testkit::devices::input::ARGS,
}
