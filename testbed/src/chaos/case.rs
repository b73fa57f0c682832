// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a case is made of.

use std::time::Duration;

use super::{cases::CASES, disturb::Disturbance};

/// One thing, or several at once, that happen to memory under traffic.
#[derive(Debug)]
pub struct Case {
    /// Its name on the command line.
    pub name: &'static str,
    /// What happens to the memory, for `--list`.
    pub about: &'static str,
    /// The machines that it needs.
    pub(super) shape: Shape,
    /// The programs that run in both guests, each pair with traffic of its own.
    pub(super) programs: &'static [Program],
    /// What is done to both guests from outside their programs.
    pub(super) disturbances: &'static [&'static Disturbance],
    /// Whether memory modules are plugged in and out.
    pub(super) dimms: bool,
    /// Whether further pairs of programs run of which one dies in the middle, and how.
    pub(super) deaths: &'static [Death],
    /// What shows that it happened, in each of the guests.
    pub(super) evidence: &'static [Evidence],
    /// Whether it is the one in which everything happens, which takes longer.
    pub(super) long: bool,
}

/// The machines of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Two nodes with a processor each and a slow one without, disks, persistent memory, room for
    /// modules.
    Usual,
    /// Memory for a page of 1 GiB.
    Gigantic,
    /// Less memory than the buffers, and a disk to swap to.
    Small,
}

/// A pair of programs, one in each guest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program {
    /// Kind of the memory, as the program names it.
    pub memory: &'static str,
    /// What the program itself does to its memory, as it names it.
    pub mutate: &'static str,
    /// Queue pairs.
    pub qps: u32,
    /// Size of the buffer at each end.
    pub mib: u32,
    /// One pass over a buffer that is larger than the machine, in place of traffic for a time.
    pub overcommit: bool,
}

impl Program {
    /// Memory of a kind that the program leaves alone.
    pub(super) const fn of(memory: &'static str) -> Self {
        Self { memory, mutate: "none", qps: 4, mib: 48, overcommit: false }
    }

    /// Anonymous memory that the program mutates.
    pub(super) const fn that_does(mutate: &'static str) -> Self {
        Self { mutate, ..Self::of("anon") }
    }
}

/// How a program dies in the middle of traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Death {
    /// It returns, with all its objects in use.
    Exit,
    /// SIGKILL.
    Kill,
}

/// A counter that tells that something happened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Evidence {
    /// Counters of `/proc/vmstat` and of the testbed's own, which are added up. A kernel may lack
    /// some of several.
    pub counters: &'static [&'static str],
    /// By how much they grow at least in a run of twenty seconds; in a shorter one, in proportion.
    pub least: u64,
    /// Whether they have to grow in the left guest only, since the right one has no part in it.
    pub left_only: bool,
}

impl Evidence {
    /// A counter that must have grown by at least `least`.
    pub(super) const fn of(counter: &'static [&'static str], least: u64) -> Self {
        Self { counters: counter, least, left_only: false }
    }

    /// The same, but only in the left guest, whose program listens.
    pub(super) const fn of_left(counter: &'static [&'static str], least: u64) -> Self {
        Self { left_only: true, ..Self::of(counter, least) }
    }
}

impl Case {
    /// Cases by what a user types: their name, or the beginning of their names up to a dash.
    ///
    /// # Errors
    /// When no case is meant, with the list of those that there are.
    pub fn find(word: &str) -> Result<Vec<&'static Self>, String> {
        let family = format!("{word}-");
        let meant = |case: &&Case| case.name == word || case.name.starts_with(&family);
        let found = CASES.iter().filter(meant).collect::<Vec<_>>();
        if found.is_empty() {
            let names = CASES.iter().map(|case| case.name).collect::<Vec<_>>().join(", ");
            return Err(format!("no case is called {word}; there are: {names}"));
        }
        Ok(found)
    }

    /// How long it runs, where each of the others runs for `each`.
    pub(super) fn time(&self, each: Duration, long: Duration) -> Duration {
        if self.long { long } else { each }
    }
}
