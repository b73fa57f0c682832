// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Messages per second: WRITEs of 64 B, posted in batches, every one signalled.
//!
//! One thread posts and polls. With several queue pairs each gets a batch in turn; all of them share
//! a completion queue, as a program with many connections has it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    Bed, Effort,
    end::{self, SHAPE},
    spin,
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Unit, Verdict},
    error::Result,
    process_guest::{
        UserBuffer,
        verbs::{Cq, Mr, Payload, Qp, QpOptions, Request, connect},
    },
};

/// What the rows are about.
pub const SUBJECT: &str = "64 B WRITEs per second";

/// Bytes of a message.
const BYTES: u32 = 64;
/// Requests that are posted with one doorbell.
const BATCH: u32 = 32;
/// Elements that fit in a send queue.
const DEPTH: u32 = 128;
/// Queue pairs that messages go over, and the least rate where there is a goal.
const QPS: [(usize, Option<f64>); 5] =
    [(1, Some(20e6)), (4, None), (16, None), (64, Some(12e6)), (256, None)];

/// Queue pairs that share a completion queue.
pub struct Senders {
    name: String,
    /// Where the bytes are.
    inline: bool,
    qps: Vec<Qp>,
    cq: Arc<Cq>,
    /// The passive sides.
    _peers: Vec<Qp>,
    source: (UserBuffer, Mr),
    target: (UserBuffer, Mr),
    rate: Samples,
    goal: Option<f64>,
}

impl Senders {
    /// `count` connected queue pairs, which send bytes that are in memory, or in the elements.
    pub fn new(bed: &Bed, count: usize, inline: bool, goal: Option<f64>) -> Self {
        // Elements of 128 bytes, if they hold the bytes themselves.
        let shape = QpOptions { sq_depth: DEPTH, max_inline: BYTES, ..SHAPE };
        let shape = if inline { shape } else { QpOptions { max_inline: 0, ..shape } };
        let passive = QpOptions { sq_depth: 1, rq_depth: 1, ..SHAPE };
        let cq = bed.a.cq((count as u32 * DEPTH).next_power_of_two());
        let idle = bed.b.cq(16);
        let new = || {
            let a = Qp::new(&bed.a.pd, &cq, &cq, bed.a.gid, shape);
            let b = Qp::new(&bed.b.pd, &idle, &idle, bed.b.gid, passive);
            connect(&a, &b);
            (a, b)
        };
        let (qps, peers) = (0..count).map(|_| new()).unzip();
        let how = if inline { ", bytes in the element" } else { "" };
        let name = format!("{count} QP{}{how}", if count == 1 { "" } else { "s" });
        Self {
            name,
            inline,
            qps,
            cq,
            _peers: peers,
            source: bed.a.region(4096),
            target: bed.b.region(4096),
            rate: Samples::new(Unit::PerSecond),
            goal,
        }
    }

    /// Posts and polls for `time`; returns how many requests completed in a second.
    ///
    /// # Errors
    /// If a request fails, or does not complete.
    pub fn run(&self, time: Duration) -> Result<f64> {
        let bytes = [0x55; BYTES as usize];
        let payload = match self.inline {
            true => Payload::Inline(&bytes),
            false => Payload::Memory(self.source.0.addr(), BYTES, self.source.1.lkey()),
        };
        let request = end::write(payload, (self.target.0.addr(), self.target.1.rkey()));
        let mut qps = self.qps.iter().map(Qp::hold).collect::<Vec<_>>();
        let mut cq = self.cq.hold();
        let (mut posted, mut done) = (0u64, 0u64);
        let since = Instant::now();
        let mut turn = 0;
        while since.elapsed() < time {
            // Between two looks at the clock.
            for _ in 0..32 {
                let qp = &mut qps[turn];
                if qp.sq.free() >= BATCH {
                    let request = Request { wr_id: turn as u64, ..request };
                    for _ in 0..BATCH {
                        qp.stage(&request).map_err(end::refused)?;
                    }
                    qp.ring();
                    posted += u64::from(BATCH);
                    turn = if turn + 1 == qps.len() { 0 } else { turn + 1 };
                }
                while let Some(completion) = cq.take() {
                    end::succeeded(&completion)?;
                    qps[completion.wr_id as usize].sq.advance(completion.wqe_count);
                    done += 1;
                }
                cq.publish();
            }
        }
        let took = since.elapsed();
        let rate = done as f64 / took.as_secs_f64();
        while done < posted {
            let completion = spin::until(|| cq.take())?;
            end::succeeded(&completion)?;
            qps[completion.wr_id as usize].sq.advance(completion.wqe_count);
            cq.publish();
            done += 1;
        }
        Ok(rate)
    }
}

/// How long a sample takes.
pub fn sample_time(effort: Effort) -> Duration {
    Duration::from_micros(10 * effort.operations)
}

/// The experiment.
pub struct Rate<'b> {
    bed: &'b Bed,
    effort: Effort,
    senders: Vec<Senders>,
}

impl<'b> Rate<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let mut senders = QPS
            .map(|(count, goal)| Senders::new(bed, count, false, goal))
            .into_iter()
            .collect::<Vec<_>>();
        senders.insert(1, Senders::new(bed, 1, true, None));
        Self { bed, effort, senders }
    }
}

impl Experiment for Rate<'_> {
    fn name(&self) -> &str {
        "message rates"
    }

    fn round(&mut self) -> Result<()> {
        let _pinned = self.bed.cores.client()?;
        for each in &mut self.senders {
            each.rate.begin_round();
            for _ in 0..self.effort.samples.div_ceil(4) {
                let rate = each.run(sample_time(self.effort))?;
                each.rate.push(rate);
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for each in &self.senders {
            let mut row = Row::of(SUBJECT, &*each.name, &each.rate).over("vNIC");
            // The line of a plot has one point at each place.
            if !each.inline {
                row = row.at(each.qps.len() as f64);
            }
            findings.rows.push(row);
            if let Some(least) = each.goal {
                let found = each.rate.figure().map(|figure| figure.median / 1e6);
                let goal = format!("million 64 B WRITEs per second, {}", each.name);
                findings.verdicts.push(Verdict::at_least(goal, found, least / 1e6).timed());
            }
        }
        findings
    }
}
