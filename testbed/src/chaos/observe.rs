// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guests' kernels, their modules and the daemon counted during a case.

use std::collections::BTreeMap;

use super::{case::Evidence, machine::Machines};
use crate::{counters, error::Result, guest::Guest};

/// Counters by name.
pub(super) type Counts = BTreeMap<String, u64>;

/// Everything that was counted so far.
pub(super) struct Snapshot {
    /// Of each kernel.
    kernels: [Counts; 2],
    /// Of each module.
    modules: [Counts; 2],
    /// Page requests of each port, as the daemon counts them.
    requests: [u64; 2],
}

/// What was counted in between.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Growth {
    /// In each kernel.
    pub kernels: [Counts; 2],
    /// In both modules together.
    pub modules: Counts,
    /// Page requests that the daemon sent.
    pub page_requests: u64,
}

impl Snapshot {
    pub(super) fn take(machines: &Machines) -> Result<Self> {
        let status = machines.status()?;
        let request = |side| status.port(side).count("page_requests");
        let [left, right] = machines.guests();
        Ok(Self {
            kernels: [of_kernel(left)?, of_kernel(right)?],
            modules: [counters::of_module(left)?, counters::of_module(right)?],
            requests: [request(0)?, request(1)?],
        })
    }

    /// How much everything has grown until `later`.
    pub(super) fn until(&self, later: &Self) -> Growth {
        let kernels = [0, 1].map(|side| grown(&self.kernels[side], &later.kernels[side]));
        let mut modules = Counts::new();
        for side in [0, 1] {
            for (name, count) in grown(&self.modules[side], &later.modules[side]) {
                *modules.entry(name).or_default() += count;
            }
        }
        let sum = |requests: [u64; 2]| requests.iter().sum::<u64>();
        let page_requests = sum(later.requests).saturating_sub(sum(self.requests));
        Growth { kernels, modules, page_requests }
    }
}

fn of_kernel(guest: &Guest) -> Result<Counts> {
    Ok(counters::parse(&guest.read_text("/proc/vmstat")?))
}

/// Numbers that fell say what is, not what was done, and are left out.
fn grown(before: &Counts, after: &Counts) -> Counts {
    let grown = after.iter().map(|(name, count)| {
        let before = before.get(name).copied().unwrap_or_default();
        (name.clone(), count.saturating_sub(before))
    });
    grown.filter(|(_, count)| *count != 0).collect()
}

/// Keeps the largest value of each counter.
pub(super) fn keep_peaks(peaks: &mut Counts, seen: impl IntoIterator<Item = (String, u64)>) {
    for (name, count) in seen {
        let peak = peaks.entry(name).or_default();
        *peak = (*peak).max(count);
    }
}

impl Evidence {
    /// By how much it has grown in a guest.
    pub(super) fn in_guest(&self, counts: &Counts) -> u64 {
        self.counters.iter().filter_map(|name| counts.get(*name)).sum()
    }

    /// How it is called in the table.
    pub(super) fn name(&self) -> &'static str {
        self.counters.first().copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(list: &[(&str, u64)]) -> Counts {
        list.iter().map(|(name, count)| (name.to_string(), *count)).collect()
    }

    #[test]
    fn only_growth_is_told() {
        let before = counts(&[("pswpin", 5), ("nr_free", 9), ("same", 1)]);
        let after = counts(&[("pswpin", 8), ("nr_free", 2), ("same", 1), ("new", 4)]);
        assert_eq!(grown(&before, &after), counts(&[("pswpin", 3), ("new", 4)]));
    }

    #[test]
    fn evidence_adds_up_what_a_kernel_has() {
        let evidence = Evidence::of(&["pgdemote_kswapd", "pgdemote_direct", "absent"], 1);
        assert_eq!(
            evidence.in_guest(&counts(&[("pgdemote_kswapd", 3), ("pgdemote_direct", 4)])),
            7
        );
        assert_eq!(evidence.in_guest(&Counts::new()), 0);
    }

    #[test]
    fn peaks_stay() {
        let mut peaks = Counts::new();
        for value in [3, 7, 5] {
            keep_peaks(&mut peaks, [("ksm".to_string(), value)]);
        }
        assert_eq!(peaks["ksm"], 7);
    }
}
