// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tongtu vNIC: the virtual RDMA NIC as a library.
//!
//! [`device::Device`] is the whole NIC, [`port::Port`] what one guest sees of it. The vhost-user
//! front (`backend`) turns virtqueues into commands and [`port::Port`] calls; the engine's workers
//! move the data.

pub mod backend;
pub mod ctrl;
pub mod device;
pub mod engine;
pub mod fabric;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod object;
pub mod pages;
pub mod port;
pub mod ring;
pub mod session;
pub mod status;
pub mod wire;
