// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The carrier over an RDMA device of the host (rxe, mlx5), through libibverbs: each lane is a reliable connection.
//!
//! | module | is |
//! |---|---|
//! | [`device`] | opening a device of the host |
//! | [`events`] | what it says of its own accord |
//! | [`gid`] | by which of its addresses a port is reached |
//! | [`staging`] | the memory that is registered with it, and nothing else is |
//! | [`credit`] | how many messages the peer has room for |
//! | [`header`] | what is before each message |
//! | [`endpoint`] | what the ends of a lane have to know of each other |
//! | [`queues`] | a queue pair of the host and its completion queue |
//! | [`lane`] | a lane of those |
//! | [`watch`] | whether the device can be used |

pub mod credit;
pub mod device;
pub mod endpoint;
pub mod events;
pub mod gid;
pub mod header;
pub mod lane;
mod queues;
mod staging;
pub mod watch;
