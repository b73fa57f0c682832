// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Child processes that never outlive this one, and what must be tidied when it ends.
//!
//! - [`spawn`] starts a child that the kernel kills when this process dies, however it dies.
//! - [`cleanup`] removes folders and kills children on Ctrl-C, SIGTERM and SIGHUP.

pub mod cleanup;
mod spawn;

pub use spawn::spawn;
