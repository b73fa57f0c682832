// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device of the host by libibverbs.
//!
//! | module | is |
//! |---|---|
//! | [`open`] | the device, and what its queue pairs may have |
//! | [`address`] | addresses of guests on the host's network interface |
//! | [`domain`] | protection domains and memory regions |
//! | [`pair`] | queue pairs |
//! | [`attr`] | their attributes |
//! | [`work`] | their requests and completions |
//! | [`told`] | what the device says of its own accord |

mod address;
mod attr;
mod domain;
mod open;
mod pair;
mod told;
mod work;

pub use open::{Judge, VerbsNic};
