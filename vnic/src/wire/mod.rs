// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The wire between daemons: carriers of messages, and how two daemons come to know each other.
//!
//! | module | is |
//! |---|---|
//! | [`lane`] | what a carrier offers |
//! | [`frame`] | what the engines of two daemons say to each other |
//! | [`link`] | the peer daemons that are there now, and which ports each one has |
//! | [`acquaint`] | how daemons come to know each other |
//! | `meeting` | from the first word of two daemons to the loss of their link |
//! | [`hello`] | what they tell each other beside messages of their guests |
//! | [`carrier`] | what carries the lanes of a daemon |
//! | [`reach`] | what ports are told when the carrier goes |
//! | [`secure`] | connections between daemons that know each other's key |
//! | [`tcp`] | a carrier: lanes over TCP |
//! | `verbs` | another one: lanes over an RDMA device of the host, with the feature of this name |
//! | [`bell`] | how a worker that has lanes sleeps |
//!
//! What the engine does with it is in [`fabric::relay`](crate::fabric::relay).

pub mod acquaint;
pub mod bell;
pub mod carrier;
pub mod frame;
pub mod hello;
pub mod lane;
pub mod link;
mod meeting;
pub mod reach;
pub mod secure;
pub mod tcp;
#[cfg(feature = "verbs")]
pub mod verbs;
