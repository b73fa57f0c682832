// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine underneath: what it is made of, whether figures from it can be trusted, and where its
//! processors' time goes.
//!
//! - [`processors`]: which processors there are, and which share a core or a NUMA node.
//! - [`conditions`]: what moves figures from outside; [`watch`] looks at it over a whole run.
//! - [`time`]: processor time of machines, processes and threads, as the kernel tells it.
//! - [`pages`]: pages of 2 MiB that the memory of guests can be made of.
//! - [`pin`]: which thread gets which processor.

pub mod conditions;
pub mod pages;
pub mod pin;
pub mod processors;
pub mod time;
pub mod watch;

pub use self::{
    conditions::Conditions,
    pin::Plan,
    processors::{Processor, Processors},
    watch::{Over, Watch},
};
