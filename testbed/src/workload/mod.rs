// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs that are run between two guests, and what they measured.
//!
//! - [`end`]: where one of the two programs runs, and on which device.
//! - [`perftest`]: the `ib_*_lat` and `ib_*_bw` programs over any RDMA device.
//! - [`pingpong`]: `ibv_rc_pingpong`, which can check contents.
//! - [`rxe`]: an RDMA device in software over the guests' network card, to compare with.
//! - [`vnic`]: the RDMA device of this project.
//! - [`tcp`]: TCP ping-pong by sockperf; [`qperf`] streams.

pub mod end;
pub mod perftest;
pub mod pingpong;
pub mod qperf;
pub mod rdma;
pub mod rxe;
pub(crate) mod server;
pub mod tcp;
pub mod vnic;
