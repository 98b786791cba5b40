// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every device has to pass, against the real daemon: with a bus that answers at once, and with one that may wait.

macro_rules! with_bus {
    ($args:expr) => {
        vu_testkit::conformance! {
            device: vu_testkit::devices::i2c(),
            daemon: env!("CARGO_BIN_EXE_vhost-device-i2c"),
            args: $args,
        }
    };
}

mod inline {
    with_bus!(vu_testkit::devices::i2c::ARGS);
}

mod blocking {
    with_bus!(vu_testkit::devices::i2c::ARGS_BLOCKING);
}
