// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a small WRITE waits for when another port moves a lot.
//!
//! Two guests move a GiB between them, in requests that are all posted before. Meanwhile a WRITE goes
//! to and fro between two others. The scheduler gives each tenant its turn after a chunk, so that the
//! victim should wait for one chunk at most.

use std::{hint::black_box, path::Path, time::Instant};

use hdrhistogram::Histogram;
use vnic_abi::config::Features;

use super::{
    Effort, LARGEST, RAM, asleep,
    cores::Cores,
    end::{self, End, SHAPE},
    trips::Trips,
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Unit, Verdict, memory::size},
    error::Result,
    process_guest::{Daemon, GuestOptions, Layout, verbs::Endpoint},
};

/// Bytes of the victim's WRITE.
const BYTES: u64 = 8;
/// Bytes of a bulk request.
const REQUEST: u64 = LARGEST;
/// Bytes that the device copies before another tenant has its turn, as it is set by default.
pub const CHUNK: u64 = 128 << 10;
/// How many times (p99 alone + one chunk) the victim's p99 may be.
const GOAL: f64 = 3.0;
/// The victim's ways there and back between two looks at the stream's completions.
const LOOK: u64 = 8;

/// The experiment.
pub struct Neighbour {
    cores: Cores,
    workers: u32,
    effort: Effort,
    /// Requests of the stream.
    requests: u32,
    victims: (End, End),
    bulk: (End, End),
    guests: Vec<Endpoint>,
    alone: [Samples; PERCENTILES.len()],
    beside: [Samples; PERCENTILES.len()],
    chunk: Samples,
    stream: Samples,
    bound: Samples,
    _daemon: Daemon,
}

const PERCENTILES: [(f64, &str); 3] = [(0.5, "p50"), (0.99, "p99"), (0.999, "p99.9")];
/// The percentile that is judged.
const JUDGED: usize = 1;

impl Neighbour {
    /// Starts the daemon at `program` and four guests.
    ///
    /// # Errors
    /// If threads cannot be kept on their cores.
    ///
    /// # Panics
    /// If the daemon or a guest does not start.
    pub fn start(program: &Path, workers: u32, cores: Cores, effort: Effort) -> Result<Self> {
        let names = ["victim-a", "victim-b", "bulk-a", "bulk-b"];
        let options = Daemon::of(program).workers(workers);
        let daemon = names.iter().fold(options, |options, name| options.port(name)).start();
        cores.pin_workers(daemon.pid())?;
        let guests = names.iter().zip(1..).map(|(name, host)| {
            let init = Some(Features::empty());
            let options = GuestOptions { ram: RAM, init, ..GuestOptions::default() };
            Endpoint::boot_with(&daemon.socket(name), host, options)
        });
        let guests = guests.collect::<Vec<_>>();
        let victims = End::pair(&guests[0], &guests[1], SHAPE, 4096);
        let bulk = End::one_way(&guests[2], &guests[3], REQUEST, Layout::Linear);
        Ok(Self {
            cores,
            workers,
            effort,
            requests: (effort.operations * 16 / 1000).max(2) as u32,
            victims,
            bulk,
            guests,
            alone: std::array::from_fn(|_| Samples::times()),
            beside: std::array::from_fn(|_| Samples::times()),
            chunk: Samples::times(),
            stream: Samples::new(Unit::BytesPerSecond),
            bound: Samples::times(),
            _daemon: daemon,
        })
    }

    /// Sends WRITEs to and fro until `enough` says so; it is asked now and then.
    fn victim(&self, mut enough: impl FnMut(u64) -> Result<bool>) -> Result<Histogram<u64>> {
        let mut trips = Trips::new(&self.victims.0, &self.victims.1, BYTES);
        let mut times =
            Histogram::new_with_bounds(1, 10_000_000_000, 3).expect("bounds that can be had");
        while !enough(times.len())? {
            let mut last = Instant::now();
            trips.run(LOOK, || {
                let now = Instant::now();
                times.saturating_record(now.duration_since(last).as_nanos().max(1) as u64);
                last = now;
            })?;
        }
        trips.end()?;
        Ok(times)
    }

    fn beside(&mut self) -> Result<Histogram<u64>> {
        let mut bulk = self.bulk.0.hold();
        let request = end::write(self.bulk.0.payload(REQUEST as u32), self.bulk.1.remote());
        let since = Instant::now();
        for _ in 0..self.requests {
            bulk.qp.stage(&request).map_err(end::refused)?;
        }
        bulk.qp.ring();
        let mut left = self.requests;
        let mut ended = since;
        let times = self.victim(|_| {
            let now = bulk.reap()?;
            if now > 0 {
                left -= now;
                ended = Instant::now();
            }
            Ok(left == 0)
        })?;
        drop(bulk);
        let bytes = REQUEST as f64 * f64::from(self.requests);
        self.stream.push_round(vec![bytes / ended.duration_since(since).as_secs_f64()]);
        Ok(times)
    }

    /// Nanoseconds that a chunk of the stream takes, copied by memcpy on the worker's core.
    fn chunk(&self) -> Result<f64> {
        let _pinned = self.cores.worker()?;
        let (from, to) = (&self.bulk.0.source.0, &self.bulk.1.target.0);
        let chunks = (REQUEST / CHUNK).min(self.effort.operations.max(16));
        let since = Instant::now();
        for chunk in 0..chunks {
            let offset = (chunk * CHUNK) as usize;
            let at = |base: *mut u8| black_box(base.wrapping_add(offset));
            let (from, to) = (at(from.pages().as_ptr()), at(to.pages().as_ptr()));
            #[allow(unsafe_code, reason = "memcpy itself is what is measured")]
            // SAFETY: the chunk lies in both buffers, which are different ones, and the device has
            // completed all requests that name them.
            unsafe {
                std::ptr::copy_nonoverlapping(from.cast_const(), to, CHUNK as usize);
            }
        }
        Ok(since.elapsed().as_nanos() as f64 / chunks as f64)
    }
}

impl Experiment for Neighbour {
    fn name(&self) -> &str {
        "a small WRITE beside another port's stream"
    }

    fn round(&mut self) -> Result<()> {
        for guest in &self.guests {
            asleep(guest, self.workers)?;
        }
        let chunk = self.chunk()?;
        self.chunk.push_round(vec![chunk]);
        let _pinned = self.cores.client()?;
        let count = 20 * self.effort.operations;
        let alone = self.victim(|done| Ok(done >= count))?;
        let beside = self.beside()?;
        for (index, (part, _)) in PERCENTILES.into_iter().enumerate() {
            self.alone[index].push_round(vec![alone.value_at_quantile(part) as f64]);
            self.beside[index].push_round(vec![beside.value_at_quantile(part) as f64]);
        }
        let bound = alone.value_at_quantile(PERCENTILES[JUDGED].0) as f64 + chunk;
        self.bound.push_round(vec![bound]);
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let stream = size(REQUEST * u64::from(self.requests));
        let subject = "8 B WRITE one way, beside a stream";
        for (index, (_, name)) in PERCENTILES.into_iter().enumerate() {
            let (alone, beside) = (&self.alone[index], &self.beside[index]);
            findings.rows.push(Row::of(subject, format!("alone, {name}"), alone).over("vNIC"));
            let case = format!("beside {stream} of another port, {name}");
            let row = Row::of(subject, case, beside).over("vNIC");
            findings.rows.push(row.times(beside.against(alone), "alone"));
        }
        let case = format!("{} of the stream, each", size(CHUNK));
        findings.rows.push(Row::of(subject, case, &self.chunk).over("memcpy"));
        findings.rows.push(Row::of(subject, "the stream meanwhile", &self.stream).over("vNIC"));
        let goal = format!(
            "p99 of an 8 B WRITE beside a {stream} stream, over (p99 alone + one chunk of {})",
            size(CHUNK)
        );
        let found = self.beside[JUDGED].against(&self.bound);
        findings.verdicts.push(Verdict::at_most(goal, found, GOAL).timed());
        findings
    }
}
