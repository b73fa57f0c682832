// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finding the host's address of a page: the device's own code, without a device around it.

use vnic_iommu::testing::translations::{Translation, Translations};

use crate::{
    bench::{
        Experiment, Findings, Row, Samples,
        memory::{Effort, size},
    },
    error::Result,
};

/// Translations of one sample.
const BATCH: u64 = 2000;

/// Cache lines of cold entries: 64 MiB, and 4 MiB for a quick look.
const LINES: [u64; 2] = [1 << 20, 1 << 16];

/// The experiment.
pub struct Translate {
    load: Translations,
    samples: [Samples; Translation::ALL.len()],
    each: usize,
}

impl Translate {
    /// Prepares it, which takes memory and a moment.
    pub fn new(effort: Effort) -> Self {
        let load = Translations::new(LINES[usize::from(effort.quick)]);
        let samples = std::array::from_fn(|_| Samples::times());
        Self { load, samples, each: effort.samples / 5 + 1 }
    }

    fn case(&self, what: Translation) -> String {
        let cold = size(self.load.cold_bytes());
        match what {
            Translation::Burst => "a burst with one IOTLB hit".into(),
            Translation::HitSmall => "IOTLB hit, one page of 4 KiB".into(),
            Translation::HitManySmall => "IOTLB hit, 1024 pages of 4 KiB".into(),
            Translation::HitLarge => "IOTLB hit, one page of 2 MiB".into(),
            Translation::MissSmallHot => "IOTLB miss, 4 KiB, entries in cache".into(),
            Translation::MissSmallCold => format!("IOTLB miss, 4 KiB, {cold} of entries"),
            Translation::MissLargeHot => "IOTLB miss, 2 MiB, entries in cache".into(),
            Translation::MissLargeCold => format!("IOTLB miss, 2 MiB, {cold} of entries"),
        }
    }
}

impl Experiment for Translate {
    fn name(&self) -> &str {
        "translating addresses"
    }

    fn round(&mut self) -> Result<()> {
        self.samples.iter_mut().for_each(Samples::begin_round);
        for _ in 0..self.each {
            for (what, samples) in Translation::ALL.into_iter().zip(&mut self.samples) {
                let took = self.load.run(what, BATCH);
                samples.push(took.as_nanos() as f64 / BATCH as f64);
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let hit = Translation::ALL.iter().position(|what| *what == Translation::HitSmall);
        let rows = Translation::ALL.into_iter().zip(&self.samples).map(|(what, samples)| {
            let times = hit.and_then(|hit| samples.against(&self.samples[hit]));
            let times = times.filter(|_| what != Translation::HitSmall);
            Row::of("translate", self.case(what), samples).times(times, "one hit")
        });
        let mut findings = Findings { rows: rows.collect(), ..Findings::default() };
        if cfg!(debug_assertions) {
            let note =
                "this program is not optimised: translations here are slower than a daemon's";
            findings.notes.push(note.into());
        }
        findings
    }
}
