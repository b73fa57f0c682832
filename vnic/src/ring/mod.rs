// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Rings in guest memory, the device's half: fetch work, publish completions.
//!
//! Every ring is written by a guest that may be hostile. An element is copied out once and parsed
//! from the copy; what the device keeps between accesses lives in its own memory.

pub mod cq;
pub mod memory;
pub mod rq;
pub mod sq;
