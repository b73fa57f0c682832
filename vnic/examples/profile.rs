// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Carries out requests in one thread, for a profiler that counts.
//!
//! ```text
//! cargo build --release -p vnic --example profile
//! valgrind --tool=callgrind target/release/examples/profile write 10000
//! ```
//!
//! Without a number of requests it makes everything ready and ends: what a run costs beyond that is theirs.

#[path = "../benches/rig/mod.rs"]
mod rig;

use rig::{Load, Work};
use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let named = |name: &str| {
        Work::ALL.into_iter().find(|work| format!("{work:?}").eq_ignore_ascii_case(name))
    };
    let (work, requests) = match &words[..] {
        [name] => (named(name), Some(0)),
        [name, number] => (named(name), number.parse().ok()),
        _ => (None, None),
    };
    let (Some(work), Some(requests)) = (work, requests) else {
        eprintln!("usage: profile WORK [REQUESTS]; WORK is one of {:?}", Work::ALL);
        return ExitCode::FAILURE;
    };
    let mut load = Load::new(work, 1);
    load.run(requests);
    ExitCode::SUCCESS
}
