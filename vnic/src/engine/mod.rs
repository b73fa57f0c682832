// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The engine: workers that take requests from send queues and carry them out.

pub mod copy;
pub mod core;
pub mod doorbells;
pub mod lock;
pub mod recent;
pub mod request;
pub mod requester;
pub mod responder;
pub mod schedule;
pub mod slots;
pub mod stream;
pub mod timer;
pub mod wait;
pub mod watch;
pub mod worker;
