// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two guests that write, read and send into each other's memory while their kernels move, swap,
//! merge, split and take away that memory, and a table of what came of it.
//!
//! - [`cases`] is the list of what is done to the memory, [`Case`] one of them.
//! - [`run`] runs the chosen ones with each kernel; a case that fails does not end the run.
//! - `machine` says what a pair of guests is made of and readies it, `disturb` what is done from
//!   outside the programs, `dimm` and `death` what takes more than a shell, `program` speaks to the
//!   program in the guests, `observe` reads the kernels' counters.
//! - [`CaseResult`] is what one case showed, and [`report`] how all of them are told.

pub mod case;
mod cases;
mod death;
mod dimm;
mod disturb;
mod machine;
mod observe;
mod program;
mod progress;
pub mod report;
pub mod result;
mod run;
mod trial;

pub use self::{
    case::Case,
    cases::CASES,
    result::{CaseResult, Verdict},
    run::{Options, Outcome, Wire, run},
};
