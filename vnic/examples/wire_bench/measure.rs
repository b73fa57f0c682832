// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The loops that measure: the same ones for every device.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hdrhistogram::Histogram;
use vnic_testbed::bench::wire::said::{Operation, Said};

use super::device::{DEPTH, Pair, Place};
use super::spent::Spent;

/// Longest time without a completion.
const STUCK: Duration = Duration::from_secs(60);
/// Operations that are not measured, before those that are.
const WARM: u64 = 8;
/// Fewest and most of a latency, and of a throughput.
const COUNTS: (u64, u64) = (10, 50_000);
/// Bytes under way, about, when several messages are.
const UNDER_WAY: u64 = 1 << 20;
/// Fewest and most messages that are under way.
const OUTSTANDING: (u64, u64) = (4, 32);

/// Waits until `ready` says so. The processor is offered to others meanwhile, since on a host with two the device or
/// its daemon may need it.
#[inline]
pub fn until(mut ready: impl FnMut() -> Result<bool>) -> Result<()> {
    let mut since = None;
    loop {
        // The clock is read now and then only.
        for _ in 0..256 {
            if ready()? {
                return Ok(());
            }
            std::thread::yield_now();
        }
        let since = *since.get_or_insert_with(Instant::now);
        if since.elapsed() > STUCK {
            bail!("no completion in {STUCK:?}");
        }
    }
}

/// An operation between two connected queue pairs.
pub struct Case {
    /// Which.
    pub operation: Operation,
    /// Bytes of each.
    pub bytes: u64,
    /// Where they are, or belong, here.
    pub local: Place,
    /// And there.
    pub remote: Place,
    /// Time that it may take.
    pub limit: Duration,
}

/// What the loops need of the other end.
pub trait Other {
    /// Has it receive the messages of a case.
    fn receive(&mut self, count: u64, bytes: u64) -> Result<()>;
    /// Waits until it has received them.
    fn received(&mut self) -> Result<()>;
    /// What all hosts have spent so far.
    fn spent(&mut self) -> Result<Spent>;
}

impl Case {
    /// Several that take about as long as there is time, if one takes `each`.
    fn count(&self, each: Duration) -> u64 {
        let each = each.as_nanos().max(1);
        let fit = u64::try_from(self.limit.as_nanos() / each).unwrap_or(u64::MAX);
        fit.clamp(COUNTS.0, COUNTS.1)
    }

    /// How many are under way at a time.
    fn outstanding(&self) -> u64 {
        (UNDER_WAY / self.bytes).clamp(OUTSTANDING.0, OUTSTANDING.1).min(DEPTH.into())
    }

    /// Runs some with the other end ready for them; what `run` gives, with what hosts have spent on each.
    fn with<T>(
        &self,
        other: &mut impl Other,
        count: u64,
        run: impl FnOnce() -> Result<T>,
    ) -> Result<(T, (f64, Option<f64>))> {
        let before = other.spent()?;
        if self.operation == Operation::Send {
            other.receive(count, self.bytes)?;
        }
        let found = run()?;
        if self.operation == Operation::Send {
            other.received()?;
        }
        Ok((found, other.spent()?.each(before, count)))
    }

    /// One after the other.
    pub fn latency(&self, pair: &mut impl Pair, other: &mut impl Other) -> Result<Said> {
        let each = self.with(other, WARM, || Ok(self.serial(pair, WARM, None)? / WARM as u32))?.0;
        let count = self.count(each);
        let mut times = Histogram::<u64>::new(3).context("a histogram")?;
        let (_, (busy, packets)) =
            self.with(other, count, || self.serial(pair, count, Some(&mut times)))?;
        let at = |part| times.value_at_quantile(part);
        let (operation, bytes) = (self.operation, self.bytes);
        Ok(Said::Latency { operation, bytes, count, p50: at(0.5), p99: at(0.99), busy, packets })
    }

    fn serial(
        &self,
        pair: &mut impl Pair,
        count: u64,
        mut times: Option<&mut Histogram<u64>>,
    ) -> Result<Duration> {
        let since = Instant::now();
        let mut last = since;
        for _ in 0..count {
            pair.post(self.operation, self.bytes, self.local, self.remote)?;
            until(|| pair.sent())?;
            let now = Instant::now();
            if let Some(times) = &mut times {
                times.record(now.duration_since(last).as_nanos() as u64)?;
            }
            last = now;
        }
        Ok(last.duration_since(since))
    }

    /// Several at a time.
    pub fn throughput(&self, pair: &mut impl Pair, other: &mut impl Other) -> Result<Said> {
        let outstanding = self.outstanding();
        let warm = 2 * outstanding;
        let each =
            self.with(other, warm, || Ok(self.parallel(pair, warm, outstanding)? / warm as u32))?.0;
        let count = self.count(each).max(2 * outstanding);
        let (took, (busy, packets)) =
            self.with(other, count, || self.parallel(pair, count, outstanding))?;
        Ok(Said::Throughput {
            operation: self.operation,
            bytes: self.bytes,
            count,
            outstanding: outstanding as u32,
            nanos: took.as_nanos() as u64,
            busy,
            packets,
        })
    }

    fn parallel(&self, pair: &mut impl Pair, count: u64, outstanding: u64) -> Result<Duration> {
        let since = Instant::now();
        let (mut posted, mut done) = (0, 0);
        while done < count {
            while posted < count && posted - done < outstanding {
                pair.post(self.operation, self.bytes, self.local, self.remote)?;
                posted += 1;
            }
            until(|| pair.sent())?;
            done += 1;
        }
        Ok(since.elapsed())
    }
}

/// Receives so many messages, with as many receives posted as there is room for. `ready` is called when the first
/// are.
pub fn receive(
    pair: &mut impl Pair,
    (count, bytes): (u64, u64),
    place: Place,
    ready: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let (mut posted, mut done) = (0, 0);
    while posted < count.min(DEPTH.into()) {
        pair.receive(bytes, place)?;
        posted += 1;
    }
    ready()?;
    while done < count {
        until(|| pair.received())?;
        done += 1;
        if posted < count {
            pair.receive(bytes, place)?;
            posted += 1;
        }
    }
    Ok(())
}

/// WRITEs of 8 bytes to each of so many pages, in an order that no device would guess.
pub fn touch(pair: &mut impl Pair, pages: u32, local: Place, remote: Place) -> Result<Vec<u64>> {
    // Odd, and so without a common divisor with a power of two.
    const STEP: u64 = 40_503;
    ensure!(pages.is_power_of_two(), "{pages} pages are no power of two");
    let pages = u64::from(pages);
    let mut times = Vec::new();
    for index in 0..pages {
        let page = index * STEP % pages;
        let to = Place { addr: remote.addr + page * 4096, ..remote };
        let since = Instant::now();
        pair.post(Operation::Write, 8, local, to)?;
        until(|| pair.sent())?;
        times.push(since.elapsed().as_nanos() as u64);
    }
    Ok(times)
}
