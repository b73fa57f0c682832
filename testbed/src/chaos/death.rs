// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pairs of programs of which one dies in the middle of a transfer, again and again.

use std::time::Duration;

use super::{
    case::{Death, Program},
    machine::Machines,
    program::{Duo, Plan},
    trial::Stop,
};
use crate::error::{Error, Result};

/// What the pair runs of which one dies.
const PROGRAM: Program = Program { qps: 2, mib: 8, ..Program::of("anon") };

/// The one that is to die has traffic for this long. A program counts whole seconds.
const LIFE: Duration = Duration::from_secs(1);

/// Pairs that run at a time: one spends most of its time with starting and ending.
pub(super) const PAIRS: u64 = 3;

/// The other one would go on for this long.
const LIMIT: Duration = Duration::from_secs(90);

impl Death {
    fn words(self) -> &'static [&'static str] {
        match self {
            Self::Exit => &["--die", "exit"],
            Self::Kill => &["--die", "kill"],
        }
    }
}

/// Lets one program of a pair die after the other until it is told to stop; returns how many did.
/// Those that listen and those that connect take turns. `number` tells the pairs apart.
pub(super) fn cycle(machines: &Machines, ways: &[Death], number: u64, stop: &Stop) -> Result<u64> {
    let mut deaths = 0;
    while !stop.is_set() {
        let turn = (deaths + number) as usize;
        let way = ways[turn % ways.len()];
        let dies = turn / ways.len() % 2;
        let mut more: [&[&str]; 2] = [&["--expect-death"]; 2];
        more[dies] = way.words();
        let plan = Plan { program: &PROGRAM, time: LIFE, seed: deaths * PAIRS + number, more };
        let duo = Duo::start(machines, &plan)?;
        let ends = duo.wait(LIMIT);
        let survivor = 1 - dies;
        for (side, end) in ends.into_iter().enumerate() {
            let (output, said) = end?;
            if side == survivor && !said.is_some_and(|said| said.ok) {
                return Err(Error::unfit(
                    format!(
                        "the peer of a program that died is not content:\n{}",
                        output.all_text()
                    ),
                    "It expects errors of a peer that is gone, and nothing else.",
                ));
            }
        }
        deaths += 1;
    }
    Ok(deaths)
}
