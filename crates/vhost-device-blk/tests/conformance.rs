// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What every device has to pass, against the real daemon, with each of its ways to reach a file.

macro_rules! with_engine {
    ($engine:literal) => {
        vu_testkit::conformance! {
            device: vu_testkit::devices::blk(),
            daemon: env!("CARGO_BIN_EXE_vhost-device-blk"),
            args: vu_testkit::devices::blk::ARGS,
            args: ["--aio", $engine],
        }
    };
}

mod inline {
    with_engine!("inline");
}

mod io_uring {
    with_engine!("io-uring");
}

mod threads {
    with_engine!("threads");
}
