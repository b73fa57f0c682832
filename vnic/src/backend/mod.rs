// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The vhost-user front of the device: queues in, commands out.
//!
//! | module | is |
//! |---|---|
//! | [`server`] | one listening socket per port, one connection at a time, for ever |
//! | [`connection`] | what one front end (a VM) sees: features, configuration space, four queues |
//! | [`ring`] | a virtqueue that survives what drivers and front ends do to it |
//! | [`memory`] | what a front end may offer as its guest's memory |
//! | [`chain`] | one descriptor chain: request copied out once, reply written back |
//! | [`control`] | serves the control queue |
//! | [`upcall`] | events and page requests on their way to the driver |
//! | [`socket`] | takes over the path of a listening socket |
//! | [`rate`] | keeps guests from filling the log |
//!
//! Each connection has three threads: one speaks the vhost-user protocol, one serves the control,
//! event and page request queues, and one waits for kicks, so that a kick never waits for a command.
//! None of them is shared with another port.
//!
//! Invariants:
//!
//! - After the reply to `GET_VRING_BASE`, `RESET_DEVICE` or `SET_FEATURES`, and after a front end
//!   has gone, nothing touches that guest's memory until a driver starts the device anew
//!   ([`connection`] says how).
//! - The locks are taken in this order, and each may be skipped: commands in progress
//!   ([`connection`]), port, backlog ([`upcall`]), ring. The port is called with the first of them
//!   held at most; its workers take the last two and never the first.

pub mod chain;
pub mod connection;
pub mod control;
pub mod memory;
pub mod rate;
pub mod ring;
pub mod server;
pub mod socket;
pub mod upcall;

pub use server::{PortServer, PortSpec, ServerError};
