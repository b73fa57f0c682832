// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Machines that play hosts: where the daemon, guests that are processes, and stock programs run over RDMA devices
//! that the machine underneath may lack.
//!
//! - [`HostVm`] is one such machine, with programs that were built outside; [`two_hosts`] boots a pair of them.
//! - [`Cable`] joins two RDMA devices in a single machine, each in a network namespace of its own.
//! - [`Netem`] makes a cable bad, and [`Counters`] tell what a device did about it.
//! - [`HostDaemon`] is the daemon in such a machine; [`wired`] starts two with a wire between them.
//! - [`programs`] are those that were built outside for all of it.
//! - [`GuestOfHost`] is a virtual machine inside such a machine, [`GuestsOfHosts`] are one inside each of two.

mod cable;
mod counters;
mod daemon;
mod guest;
mod guests;
mod host;
mod netem;
mod programs;
mod wired;

pub use self::{
    cable::{Cable, SIDES},
    counters::Counters,
    daemon::{DaemonPort, HostDaemon, PROGRAM},
    guest::GuestOfHost,
    guests::{GuestPlan, GuestsOfHosts},
    host::{HostVm, two_hosts},
    netem::Netem,
    programs::{WIRE_BENCH, built, programs},
    wired::{DIRECT_PORT, PORT, configuration, start, until_linked, wired},
};
