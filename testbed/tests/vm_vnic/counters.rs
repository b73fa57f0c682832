// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests and daemon hold, as each of them counts it.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde::Deserialize;
use vnic_testbed::{guest::Guest, workload::vnic};

use crate::bed::{Bed, until};

/// Counters of the daemon that say what a guest holds now.
const DAEMON_HOLDS: [&str; 7] =
    ["pasids", "contexts", "pds", "mrs", "cqs", "qps", "page_requests_outstanding"];

/// The same of the guest's module.
const GUEST_HOLDS: [&str; 8] = ["ctx", "pd", "mr", "cq", "qp", "pasid", "pages", "buried"];

/// What `vnic status --json` prints, as far as it matters here.
#[derive(Debug, Deserialize)]
pub struct Status {
    ports: Vec<Port>,
}

/// One port of the daemon.
#[derive(Debug, Deserialize)]
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
    pub fn read(json: &[u8]) -> Result<Self> {
        serde_json::from_slice(json)
            .with_context(|| format!("unexpected status: {}", String::from_utf8_lossy(json)))
    }

    /// The left guest's port is 0, the right one's 1.
    pub fn port(&self, side: usize) -> &Port {
        &self.ports[side]
    }
}

impl Port {
    /// A counter by its name.
    pub fn count(&self, name: &str) -> Result<u64> {
        self.objects.get(name).copied().with_context(|| format!("the status has no {name}"))
    }

    /// What is not zero of what the guest holds.
    pub fn holds(&self) -> Result<Vec<(&'static str, u64)>> {
        let counts = DAEMON_HOLDS.into_iter().map(|name| Ok((name, self.count(name)?)));
        nonzero(counts.collect())
    }
}

fn nonzero(counts: Result<Vec<(&'static str, u64)>>) -> Result<Vec<(&'static str, u64)>> {
    Ok(counts?.into_iter().filter(|(_, count)| *count != 0).collect())
}

/// The counters of the module in a guest.
pub fn of_module(guest: &Guest) -> Result<BTreeMap<String, u64>> {
    let text =
        guest.read_text(&format!("/sys/kernel/debug/{}/{}/stats", vnic::MODULE, vnic::NAME))?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    lines.map(|(name, count)| Ok((name.into(), count.parse()?))).collect()
}

/// What is not zero of what the module counts as held.
pub fn held_by_module(guest: &Guest) -> Result<Vec<(&'static str, u64)>> {
    let all = of_module(guest)?;
    let counts = GUEST_HOLDS.into_iter().map(|name| {
        let count = all.get(name).with_context(|| format!("the module has no counter {name}"))?;
        Ok((name, *count))
    });
    nonzero(counts.collect())
}

/// Waits until neither the guest's module nor the daemon holds anything for it.
pub fn nothing_is_held(bed: &Bed, side: usize) -> Result<()> {
    until("everything freed", || {
        let here = held_by_module(bed.pair.guests()[side])?;
        let there = bed.status()?.port(side).holds()?;
        Ok(if here.is_empty() && there.is_empty() {
            Ok(())
        } else {
            Err(format!("the module holds {here:?}, the daemon {there:?}"))
        })
    })
}
