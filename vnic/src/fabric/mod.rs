// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ways between a requester and its responder.

pub mod ahead;
mod atomic;
mod bytes;
pub mod direct;
pub mod local;
pub mod pages;
pub mod relay;
pub mod spans;
