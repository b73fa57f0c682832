// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a guest's module and the daemon count: what is held now, and what was done so far.

use std::{
    collections::BTreeMap,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use serde::Deserialize;
use serde_json::Value;

use crate::{
    daemon::CONTROL,
    error::{Doing, Error, Result},
    guest::Guest,
    topology::Pair,
    workload::vnic,
};

/// Counters of the daemon that say what a guest holds now.
const DAEMON_HOLDS: [&str; 7] =
    ["pasids", "contexts", "pds", "mrs", "cqs", "qps", "page_requests_outstanding"];

/// The same of the guest's module.
const GUEST_HOLDS: [&str; 8] = ["ctx", "pd", "mr", "cq", "qp", "pasid", "pages", "buried"];

/// How long the objects of a program that is gone may take to go.
const FREE_LIMIT: Duration = Duration::from_secs(60);

/// What `vnic status --json` prints, as far as it matters to tests.
#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    ports: Vec<Port>,
}

/// One port of the daemon.
#[derive(Debug, Clone, Deserialize)]
pub struct Port {
    /// A machine is there.
    pub connected: bool,
    /// Machines that have been there.
    pub connections: u64,
    /// The module is loaded.
    pub driver: bool,
    objects: BTreeMap<String, u64>,
}

impl Status {
    /// Asks the daemon of `pair`, or both, whose program is at `program`. That it answers in time shows that
    /// it is well.
    ///
    /// # Errors
    /// When one does not answer within twenty seconds.
    pub fn ask(program: &Path, pair: &Pair) -> Result<Self> {
        let only = pair.run.path().join(CONTROL);
        let mut all = match pair.other {
            Some(_) => pair.daemons().map(|one| Self::of(program, one.control())).collect(),
            // One that was stopped by the test is asked, too, and does not answer.
            None => vec![Self::of(program, &only)],
        }
        .into_iter();
        let Some(first) = all.next() else { return Self::of(program, &only) };
        let mut first = first?;
        for other in all {
            first.ports.append(&mut other?.ports);
        }
        Ok(first)
    }

    /// From what daemons of hosts have said, in the order of their guests.
    ///
    /// # Errors
    /// When one has said something else.
    pub fn joined(said: impl IntoIterator<Item = Value>) -> Result<Self> {
        let mut all = Self { ports: Vec::new() };
        for value in said {
            let one: Self = serde_json::from_value(value).map_err(|error| Error::Unread {
                program: "vnic status".into(),
                what: error.to_string(),
                output: String::new(),
            })?;
            all.ports.extend(one.ports);
        }
        Ok(all)
    }

    fn of(program: &Path, control: &Path) -> Result<Self> {
        // A daemon that hangs must not hang this.
        let mut ask = Command::new("timeout");
        ask.arg("20").arg(program).args(["status", "--json", "--socket"]);
        let output = ask.arg(control).output();
        let output = output.doing(|| "run `vnic status`".into())?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr).into_owned();
            let what = format!("`vnic status` failed ({}): {why}", output.status);
            return Err(Error::unfit(what, "The daemon's log tells more."));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| Error::Unread {
            program: "vnic status".into(),
            what: error.to_string(),
            output: String::from_utf8_lossy(&output.stdout).into_owned(),
        })
    }

    /// The left guest's port is 0, the right one's 1.
    pub fn port(&self, side: usize) -> &Port {
        &self.ports[side]
    }
}

impl Port {
    /// A counter by its name.
    ///
    /// # Errors
    /// When there is none of the name.
    pub fn count(&self, name: &str) -> Result<u64> {
        count(&self.objects, name, "the daemon")
    }

    /// What is not zero of what the guest holds.
    ///
    /// # Errors
    /// When a counter is missing.
    pub fn holds(&self) -> Result<Vec<(&'static str, u64)>> {
        nonzero(&self.objects, &DAEMON_HOLDS, "the daemon")
    }
}

/// The counters of the module in a guest.
///
/// # Errors
/// When the module is not loaded, or the guest is gone.
pub fn of_module(guest: &Guest) -> Result<BTreeMap<String, u64>> {
    let path = format!("/sys/kernel/debug/{}/{}/stats", vnic::MODULE, vnic::NAME);
    Ok(parse(&guest.read_text(&path)?))
}

/// Lines of a name and a number, of whatever file of the kernel. Other lines are left out.
pub fn parse(text: &str) -> BTreeMap<String, u64> {
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.filter_map(|(name, count)| Some((name.into(), count.trim().parse().ok()?))).collect()
}

/// What is not zero of what the module counts as held.
///
/// # Errors
/// As [`of_module`].
pub fn held_by_module(guest: &Guest) -> Result<Vec<(&'static str, u64)>> {
    nonzero(&of_module(guest)?, &GUEST_HOLDS, "the module")
}

/// Waits until neither the guest's module nor the daemon holds anything for a guest of the pair.
///
/// # Errors
/// When something is held for longer than a minute.
pub fn nothing_is_held(daemon: &Path, pair: &Pair, side: usize) -> Result<()> {
    nothing_is_held_of(pair.guests()[side], side, || Status::ask(daemon, pair))
}

/// As [`nothing_is_held`], of a guest whose daemon says what `ask` returns.
///
/// # Errors
/// As [`nothing_is_held`].
pub fn nothing_is_held_of(
    guest: &Guest,
    side: usize,
    ask: impl Fn() -> Result<Status>,
) -> Result<()> {
    let until = Instant::now() + FREE_LIMIT;
    loop {
        let here = held_by_module(guest)?;
        let there = ask()?.port(side).holds()?;
        if here.is_empty() && there.is_empty() {
            return Ok(());
        }
        if Instant::now() >= until {
            return Err(Error::unfit(
                format!("the module holds {here:?}, the daemon {there:?} after {FREE_LIMIT:?}"),
                "No program runs that could use them.",
            ));
        }
        // Only how often is asked; what is right does not depend on it.
        thread::sleep(Duration::from_millis(30));
    }
}

fn count(counts: &BTreeMap<String, u64>, name: &str, whose: &str) -> Result<u64> {
    counts.get(name).copied().ok_or_else(|| {
        Error::unfit(
            format!("{whose} has no counter {name}"),
            "Driver, daemon and tests must be of one version.",
        )
    })
}

fn nonzero(
    counts: &BTreeMap<String, u64>,
    names: &[&'static str],
    whose: &str,
) -> Result<Vec<(&'static str, u64)>> {
    let mut held = Vec::new();
    for name in names {
        match count(counts, name, whose)? {
            0 => {}
            count => held.push((*name, count)),
        }
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_and_other_lines_left_out() {
        let counts = parse("ctx 1\nfaults_served 1234\n# comment\nname\nnegative -1\n");
        assert_eq!(counts.len(), 2);
        assert_eq!(counts["faults_served"], 1234);
    }

    #[test]
    fn only_what_is_held_is_told_and_a_missing_counter_is_an_error() {
        let mut counts = GUEST_HOLDS.map(|name| (name.to_string(), 0)).into_iter().collect();
        assert_eq!(nonzero(&counts, &GUEST_HOLDS, "it").unwrap(), []);
        counts.insert("qp".into(), 2);
        assert_eq!(nonzero(&counts, &GUEST_HOLDS, "it").unwrap(), [("qp", 2)]);
        counts.remove("mr");
        assert!(nonzero(&counts, &GUEST_HOLDS, "it").is_err());
    }
}
