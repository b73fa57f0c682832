// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connects lanes over an RDMA device of this host to each other, holds them to what lanes promise, and measures.
//!
//! ```text
//! cargo build --release -p vnic --features verbs --example verbs_lane
//! target/release/examples/verbs_lane rxe0
//! ```
//!
//! Each check opens the device twice and connects both ends in this process. It fails with an exit code of 1, and says
//! what was seen. Figures are printed and not judged.

mod ends;
mod figures;
mod losses;
mod messages;
mod resources;

use anyhow::{Context, Result, ensure};
use ends::Bed;
use std::process::ExitCode;
use std::time::Instant;

type Check = fn(&Bed) -> Result<()>;

/// In order; those with figures come last.
const CHECKS: &[(&str, Check)] = &[
    ("messages of many sizes arrive whole, both ways", messages::arrive_whole),
    ("there is room for as many as agreed", messages::room_is_as_agreed),
    ("order survives any order of calls", messages::order_survives),
    ("a sleeper is woken when there is room again", messages::room_wakes),
    ("a message behind many completions is seen before sleep", messages::nothing_is_left_behind),
    ("a peer that is gone is noticed", losses::peer_is_gone),
    ("a peer that was never there is noticed", losses::peer_was_never_there),
    ("a message longer than its room breaks both ends", losses::message_is_too_long),
    ("numbers that make no sense are refused", losses::numbers_make_no_sense),
    ("only staging rings are pinned, and all is given back", resources::are_given_back),
    ("a limit of locked memory is told", resources::limit_is_told),
    ("latency", figures::latency),
    ("bandwidth and rate", figures::bandwidth),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let bed = match &words[..] {
        [name] => Some(Bed::new(name, None)),
        [name, index] => index.parse().ok().map(|index| Bed::new(name, Some(index))),
        _ => None,
    };
    let Some(bed) = bed else {
        eprintln!("usage: verbs_lane DEVICE [GID_INDEX]");
        return ExitCode::FAILURE;
    };
    match run(&bed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:?}");
            ExitCode::FAILURE
        }
    }
}

fn run(bed: &Bed) -> Result<()> {
    let before = bed.times_not_ready();
    for (name, check) in CHECKS {
        let since = Instant::now();
        let checked = check(bed).and_then(|()| {
            let after = bed.times_not_ready();
            ensure!(before == after, "a receive was missing: RNR NAKs, {before:?} to {after:?}");
            Ok(())
        });
        checked.with_context(|| (*name).to_owned())?;
        println!("ok: {name} ({:.2} s)", since.elapsed().as_secs_f64());
    }
    match before {
        Some(_) => println!("ok: the device never lacked a receive (RNR NAK)"),
        None => println!("this device does not count RNR NAKs"),
    }
    Ok(())
}
