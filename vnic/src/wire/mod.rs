// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The wire between daemons: carriers of messages, and how two daemons come to know each other.
//!
//! | module | is |
//! |---|---|
//! | [`lane`] | what a carrier offers |

pub mod lane;
