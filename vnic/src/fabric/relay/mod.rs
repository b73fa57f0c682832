// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The relay: the requester is a guest of one daemon, the responder one of another, and messages go between them
//! over [lanes](crate::wire::lane). Each daemon translates on its own side and asks its own guest for pages.
//!
//! | module | is |
//! |---|---|
//! | [`arrivals`] | what a responder remembers of its requester: where it is, what it still owes |
//! | [`responder`] | what arrives is carried out |
//! | [`owed`] | answers go back when there is room for them |
//! | [`waiting`] | a responder that waits for a page or a receive element |
//! | [`half`] | copying between a guest and a frame |
//! | [`lanes`] | a worker's lanes: what has come is handed out, who waits for room is told |
//!
//! What is sent by the requester is the business of [`requester`](crate::engine::requester).

pub mod arrivals;
pub mod half;
pub mod lanes;
pub mod owed;
pub mod responder;
pub mod waiting;

#[cfg(test)]
mod tests;
