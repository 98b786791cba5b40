// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The daemon `vhost-device-gpio`: options to devices, one chip for each socket; `vu-common` serves them.

use std::process::ExitCode;

use vhost_device_gpio::{ABOUT, Gpio, GpioArgs};

fn main() -> ExitCode {
    vu_common::main(&ABOUT, |args: &GpioArgs| -> anyhow::Result<Vec<Gpio>> {
        let mut gpios = Vec::new();
        for chip in args.chips()? {
            gpios.push(Gpio::new(chip, args.on_disconnect));
        }
        Ok(gpios)
    })
}
