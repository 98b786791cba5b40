// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! The control calls of an I2C character device that `i2cdev` does not have.
// UNSAFETY: an ioctl is as safe as what its number says about its argument, which only this file can know.
#![allow(unsafe_code, reason = "ioctls that no crate we use has a safe call for")]

use std::ffi::c_ulong;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use rustix::ioctl::{Getter, IntegerSetter, Opcode, ioctl};

use super::adapter::Access;

/// The letter of all requests of an adapter.
pub(super) const IOCTLS: u8 = 0x07;

// Numbers of include/uapi/linux/i2c-dev.h.
const RETRIES: Opcode = 0x0701;
const TIMEOUT: Opcode = 0x0702;
const ADDRESS: Opcode = 0x0703;
const TEN_BITS: Opcode = 0x0704;
const FUNCTIONS: Opcode = 0x0705;

impl AsFd for Access {
    fn as_fd(&self) -> BorrowedFd<'_> {
        let raw = match self {
            Self::Messages(bus) => bus.as_raw_fd(),
            Self::Commands(device) => device.as_raw_fd(),
        };
        // SAFETY: the descriptor belongs to a file in `self`, which is borrowed for as long as the result lives.
        unsafe { BorrowedFd::borrow_raw(raw) }
    }
}

/// What the adapter can do, as bits `I2C_FUNC_*`.
pub(super) fn functions(fd: impl AsFd) -> io::Result<c_ulong> {
    // SAFETY: I2C_FUNCS writes one unsigned long to where its argument points, which is what the getter has.
    Ok(unsafe { ioctl(fd, Getter::<FUNCTIONS, c_ulong>::new()) }?)
}

/// How often a transfer is tried again when another host had the bus. Applies to all users of the adapter.
pub(super) fn set_retries(fd: impl AsFd, count: usize) -> io::Result<()> {
    // SAFETY: I2C_RETRIES takes its argument as a number and touches no memory of ours.
    Ok(unsafe { ioctl(fd, IntegerSetter::<RETRIES>::new_usize(count)) }?)
}

/// How many units of 10 ms a transfer may take. Applies to all users of the adapter.
pub(super) fn set_timeout(fd: impl AsFd, units: usize) -> io::Result<()> {
    // SAFETY: I2C_TIMEOUT takes its argument as a number and touches no memory of ours.
    Ok(unsafe { ioctl(fd, IntegerSetter::<TIMEOUT>::new_usize(units)) }?)
}

/// Whether the addresses that follow have ten bits instead of seven.
pub(super) fn set_ten_bits(fd: impl AsFd, ten: bool) -> io::Result<()> {
    // SAFETY: I2C_TENBIT takes its argument as a number and touches no memory of ours.
    Ok(unsafe { ioctl(fd, IntegerSetter::<TEN_BITS>::new_usize(ten.into())) }?)
}

/// Sets whom SMBus commands are for. Refused with `EBUSY` if a driver of the host has that device.
pub(super) fn set_address(fd: impl AsFd, address: u16) -> io::Result<()> {
    // SAFETY: this number takes its argument as a number and touches no memory of ours.
    Ok(unsafe { ioctl(fd, IntegerSetter::<ADDRESS>::new_usize(address.into())) }?)
}
