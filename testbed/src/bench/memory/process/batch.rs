// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A large WRITE to memory that is not there yet: faulted in as much as the device asks for at a
//! time, or page by page.

use std::time::Instant;

use super::Bed;
use crate::{
    bench::{
        Experiment, Findings, Row, Samples, Unit, Verdict,
        memory::{Effort, size},
    },
    error::Result,
    process_guest::{
        FaultAnswer, UserBuffer,
        memory::FRAME,
        verbs::{Mr, Qp, SendWr},
    },
};

/// Bytes of a WRITE, and how often a round does it.
const SIZES: [(u64, usize); 2] = [(1 << 20, 4), (16 << 20, 1)];

/// How pages come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Batched,
    OneByOne,
}

const WAYS: [(Way, &str); 2] = [(Way::Batched, "batched"), (Way::OneByOne, "page by page")];

/// Pages that a page request must bring, on average.
const WORTH: f64 = 64.0;

/// Results of one size in one way.
struct Case {
    bytes: u64,
    times: usize,
    way: Way,
    name: String,
    took: Samples,
    requests: Samples,
}

/// The experiment.
pub struct Batch<'b> {
    bed: &'b Bed,
    qps: (Qp, Qp),
    source: (UserBuffer, Mr),
    target: (UserBuffer, Mr),
    cases: Vec<Case>,
}

impl<'b> Batch<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let sizes = if effort.quick { &SIZES[..1] } else { &SIZES[..] };
        let largest = sizes.iter().map(|(bytes, _)| *bytes).max().unwrap_or_default();
        let cases = sizes.iter().flat_map(|&(bytes, times)| {
            WAYS.map(|(way, name)| Case {
                bytes,
                times,
                way,
                name: format!("{}, {name}", size(bytes)),
                took: Samples::times(),
                requests: Samples::new(Unit::Count),
            })
        });
        Self {
            bed,
            qps: bed.qps(),
            source: bed.a.region(largest),
            target: bed.b.lazy_region(largest),
            cases: cases.collect(),
        }
    }
}

impl Experiment for Batch<'_> {
    fn name(&self) -> &str {
        "faulting many pages in"
    }

    fn round(&mut self) -> Result<()> {
        let guest = &self.bed.b.driver;
        let requests = || guest.counters().page_requests.get();
        for case in &mut self.cases {
            let most = if case.way == Way::OneByOne { 1 } else { u64::MAX };
            guest.set_fault_policy(move |_| FaultAnswer::ResolvePages(most));
            case.took.begin_round();
            case.requests.begin_round();
            for _ in 0..case.times {
                self.target.0.page_out();
                let sge = self.source.1.sge(self.source.0.addr(), case.bytes as u32);
                let wr = SendWr::write(&[sge], self.target.0.addr(), self.target.1.rkey());
                let before = requests();
                let since = Instant::now();
                self.qps.0.post_send(&wr);
                self.qps.0.send_cq.expect(0);
                case.took.push_time(since.elapsed());
                case.requests.push((requests() - before) as f64);
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for pair in self.cases.chunks(WAYS.len()) {
            let [batched, single] = pair else { continue };
            for (subject, batch, singles) in [
                ("WRITE to fresh memory", &batched.took, &single.took),
                ("page requests of it", &batched.requests, &single.requests),
            ] {
                let place = batched.bytes as f64;
                findings.rows.push(Row::of(subject, &*batched.name, batch).at(place));
                let row = Row::of(subject, &*single.name, singles).at(place);
                findings.rows.push(row.times(singles.against(batch), "batched"));
            }
            let pages = (batched.bytes / FRAME) as f64 * batched.requests.len() as f64;
            let each = (batched.requests.sum() > 0.0).then(|| pages / batched.requests.sum());
            let goal =
                format!("pages that a page request brings, WRITE of {}", size(batched.bytes));
            findings.verdicts.push(Verdict::at_least(goal, each, WORTH));
            let goal = format!("page by page over batched, time of {}", size(batched.bytes));
            let times = single.took.against(&batched.took);
            findings.verdicts.push(Verdict::at_least(goal, times, 1.0).timed());
        }
        findings
    }
}
