// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Control commands: bytes in, bytes out.
//!
//! [`parse`] turns the bytes of one command into a [`Command`] of host types, and refuses whatever
//! is not exactly a command. [`dispatch`] calls the port and makes the reply. Neither knows of
//! virtqueues, and neither judges values: whether a handle exists, a state allows a change or a
//! depth is sensible is the [`Port`](crate::port::Port)'s business.

mod command;
mod dispatch;
mod parse;
mod reply;

pub use command::Command;
pub use dispatch::dispatch;
pub use parse::parse;
pub use reply::Reply;

/// Bytes of the longest command that is looked at. The longest that exists is far shorter; the rest
/// is room for later versions.
pub const MAX_COMMAND: usize = 4096;
