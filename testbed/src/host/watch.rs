// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What others have done on the machine during a whole run.

use std::{
    fs,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    conditions::STOLEN,
    time::{self, Ticks},
};

/// Processors that others may keep busy before figures are doubtful.
const OTHERS: f64 = 0.3;

/// A run that is being watched.
#[derive(Debug)]
pub struct Watch {
    since: Instant,
    before: Counters,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    machine: Option<Ticks>,
    own: Duration,
    swapped: Option<u64>,
}

impl Counters {
    fn take() -> Self {
        let swapped = fs::read_to_string("/proc/vmstat").ok();
        Self {
            // Own time first, so that what runs between the two is of others.
            own: time::of_this_process_and_below(),
            machine: Ticks::of_host().ok(),
            swapped: swapped.as_deref().and_then(swapped_pages),
        }
    }
}

impl Watch {
    /// Starts to watch.
    #[must_use]
    pub fn begin() -> Self {
        Self { since: Instant::now(), before: Counters::take() }
    }

    /// What was seen until now. Processes that this one has started must still run or have been waited
    /// for; what others did is what the rest of the machine did.
    pub fn end(&self) -> Over {
        over(self.since.elapsed(), self.before, Counters::take())
    }
}

fn over(time: Duration, before: Counters, after: Counters) -> Over {
    let machine = before.machine.zip(after.machine).map(|(before, after)| after.since(before));
    let own = after.own.saturating_sub(before.own).as_secs_f64();
    let others = machine.map(|machine| {
        let busy = machine.busy() as f64 * Ticks::EACH.as_secs_f64();
        // Ticks and threads are counted apart, and may differ by a little.
        ((busy - own) / time.as_secs_f64()).max(0.0)
    });
    Over {
        seconds: time.as_secs_f64(),
        others: others.filter(|others| others.is_finite()),
        stolen: machine.map(Ticks::part_stolen),
        swapped: before.swapped.zip(after.swapped).map(|(b, a)| a.saturating_sub(b)),
    }
}

/// What others have done while a run was watched. What the machine does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Over {
    /// How long it was watched.
    pub seconds: f64,
    /// Processors that others have kept busy, on average.
    pub others: Option<f64>,
    /// The part of all processors' time that was stolen.
    pub stolen: Option<f64>,
    /// Pages that were swapped out or in.
    pub swapped: Option<u64>,
}

impl Over {
    /// All of it, in a sentence.
    pub fn note(&self) -> String {
        let told =
            |what: &str, told: Option<String>| told.unwrap_or_else(|| format!("{what} is unknown"));
        let parts = [
            told(
                "what other programs used",
                self.others.map(|n| format!("other programs used {n:.2} processors on average")),
            ),
            told(
                "stolen time",
                self.stolen.map(|part| {
                    format!("{:.1} % of the processors' time was stolen", part * 100.0)
                }),
            ),
            told("swapping", self.swapped.map(|pages| format!("{pages} pages were swapped"))),
        ];
        format!("During the run ({:.0} s): {}.", self.seconds, parts.join("; "))
    }

    /// Why figures of the run are to be doubted.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if let Some(others) = self.others.filter(|&others| others >= OTHERS) {
            warnings.push(format!(
                "other programs used {others:.1} processors during the run: trust ratios, not times"
            ));
        }
        if let Some(stolen) = self.stolen.filter(|&part| part >= STOLEN) {
            warnings.push(format!(
                "{:.0} % of the processors' time was given to other machines during the run",
                stolen * 100.0
            ));
        }
        if let Some(pages) = self.swapped.filter(|&pages| pages > 0) {
            warnings
                .push(format!("{pages} pages were swapped during the run: memory is too small"));
        }
        warnings
    }
}

/// Pages that were swapped out and in since the machine started.
fn swapped_pages(vmstat: &str) -> Option<u64> {
    let value = |name: &str| {
        let mut fields = vmstat.lines().filter_map(|line| line.split_once(' '));
        fields.find(|(key, _)| *key == name)?.1.trim().parse::<u64>().ok()
    };
    Some(value("pswpin")? + value("pswpout")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_time_is_not_that_of_others() {
        let before =
            Counters { machine: Some(Ticks::default()), own: Duration::ZERO, swapped: Some(7) };
        let machine = Ticks { user: 1000, idle: 900, stolen: 100, ..Ticks::default() };
        let own = Duration::from_secs(6);
        let after = Counters { machine: Some(machine), own, swapped: Some(9) };
        let busy = over(Duration::from_secs(10), before, after);
        insta::assert_snapshot!(busy.note(), @"During the run (10 s): other programs used 0.40 processors on average; 5.0 % of the processors' time was stolen; 2 pages were swapped.");
        insta::assert_snapshot!(busy.warnings().join("\n"), @r"
        other programs used 0.4 processors during the run: trust ratios, not times
        5 % of the processors' time was given to other machines during the run
        2 pages were swapped during the run: memory is too small
        ");
        let quiet = over(Duration::from_secs(20), before, Counters { own, ..before });
        assert_eq!((quiet.others, quiet.warnings().len()), (Some(0.0), 0));
    }

    #[test]
    fn what_is_not_told_is_unknown() {
        let nothing = Counters { machine: None, own: Duration::ZERO, swapped: None };
        let over = over(Duration::from_secs(1), nothing, nothing);
        assert_eq!((over.others, over.stolen, over.swapped), (None, None, None));
        assert!(over.note().contains("unknown") && over.warnings().is_empty());
        assert_eq!(swapped_pages("pswpin 3\npswpout 4\n"), Some(7));
        assert_eq!(swapped_pages("pswpin 3\n"), None);
    }

    #[test]
    fn a_run_is_watched() {
        let watch = Watch::begin();
        let over = watch.end();
        assert!(over.seconds >= 0.0 && over.stolen.is_some_and(|part| (0.0..=1.0).contains(&part)));
    }
}
