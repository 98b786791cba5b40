// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! What is special to this device, seen by a driver over the real socket of the real daemon, and by who plays the world
//! around its simulated board.

mod board;
mod guests;
mod interrupts;
mod requests;
mod support;
