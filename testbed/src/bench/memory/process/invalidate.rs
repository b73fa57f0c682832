// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Taking memory back from the device: announcing a range and waiting until nobody uses it, which
//! the guest's kernel does for every unmapping, protection change, reclaim and fork.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use vnic_abi::cqe::WcStatus;

use super::Bed;
use crate::{
    bench::{
        Experiment, Findings, Row, Samples, Verdict,
        machine::{wait_until_asleep, wakes},
        memory::Effort,
    },
    error::{Error, Result},
    process_guest::{
        AddressSpace, UserBuffer,
        memory::FRAME,
        verbs::{ALL_ACCESS, Context, Cq, Mr, Pd, Qp, QpOptions, SendWr, connect},
    },
};

/// Bytes of one WRITE of the traffic that keeps the device busy.
const MESSAGE: u64 = 1 << 20;

/// WRITEs under way.
const IN_FLIGHT: usize = 32;

/// How long traffic may take to get on, on a machine that others use.
const LIMIT: Duration = Duration::from_secs(30);

/// Registrations of a process with many.
const MANY: [usize; 2] = [10_000, 1_000];

/// What the device does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Device {
    Idle,
    BusyElsewhere,
    BusyThere,
}

/// What is taken back, and when.
const CASES: [(Device, u64, &str); 4] = [
    (Device::Idle, 1, "device idle, 1 page"),
    (Device::Idle, 256, "device idle, 256 pages"),
    (Device::BusyElsewhere, 1, "device busy with another process, 1 page"),
    (Device::BusyThere, 1, "device busy in that page"),
];

/// A process of the measured guest.
struct Process {
    space: Arc<AddressSpace>,
    /// The other guest's end of a connection to it, and its own.
    qps: (Qp, Qp),
    target: UserBuffer,
    mr: Mr,
    pd: Arc<Pd>,
}

/// The experiment.
pub struct Invalidate<'b> {
    bed: &'b Bed,
    here: Process,
    other: Process,
    /// A process with [`MANY`] regions.
    crowded: (Process, Vec<Mr>),
    source: (UserBuffer, Mr),
    each: usize,
    samples: [Samples; CASES.len()],
    alone: Samples,
    among_many: Samples,
    idle: Idle,
    /// Invalidations that met a worker inside a burst.
    waited: AtomicU64,
}

/// What happened while the device was idle.
#[derive(Debug, Default)]
struct Idle {
    invalidations: u64,
    wakes: u64,
    commands: u64,
}

impl<'b> Invalidate<'b> {
    /// Prepares it, which registers memory many times.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let crowded = process(bed);
        let mr = |_| Mr::of(&crowded.pd, &crowded.target, ALL_ACCESS);
        let many = (1..MANY[usize::from(effort.quick)]).map(mr).collect();
        Self {
            bed,
            here: process(bed),
            other: process(bed),
            crowded: (crowded, many),
            source: bed.a.region(MESSAGE),
            each: effort.samples,
            samples: std::array::from_fn(|_| Samples::times()),
            alone: Samples::times(),
            among_many: Samples::times(),
            idle: Idle::default(),
            waited: AtomicU64::new(0),
        }
    }

    fn target(&self, device: Device) -> &Process {
        if device == Device::BusyElsewhere { &self.other } else { &self.here }
    }

    /// Takes samples while WRITEs to `target` are under way, until some of those were completed too.
    fn measure_busy(&self, target: &Process, pages: u64) -> Result<Vec<f64>> {
        let stop = AtomicBool::new(false);
        let bytes = || self.bed.a.driver.counters().bytes.get();
        thread::scope(|scope| {
            let writer = scope.spawn(|| self.write_until(&stop, target));
            let until = Instant::now() + LIMIT;
            let moved_on = |from: u64| {
                if bytes() >= from + 4 * MESSAGE {
                    return Ok(true);
                }
                if Instant::now() < until && !writer.is_finished() {
                    return Ok(false);
                }
                Err(Error::unfit("the device was to be busy and moved nothing", "Look at its log"))
            };
            let measured = (|| {
                // Whatever the scheduler does, traffic is there before anything is measured.
                let begun = bytes();
                while !moved_on(begun)? {
                    thread::yield_now();
                }
                let (before, mut times) = (bytes(), Vec::new());
                loop {
                    times.extend(self.measure_apart(&self.here, pages));
                    if moved_on(before)? {
                        return Ok(times);
                    }
                }
            })();
            // Relaxed: a flag that carries nothing.
            stop.store(true, Ordering::Relaxed);
            measured
        })
    }

    /// Keeps the queue filled. Asleep most of the time, so that the processors are left to the
    /// device and to what is measured.
    fn write_until(&self, stop: &AtomicBool, target: &Process) {
        let (queue, (buffer, mr)) = (&target.qps.0, &self.source);
        let sge = mr.sge(buffer.addr(), MESSAGE as u32);
        let wr = SendWr::write(&[sge], target.target.addr(), target.mr.rkey());
        let mut under_way = 0;
        // Relaxed: as above.
        while !stop.load(Ordering::Relaxed) {
            while let Some(done) = queue.send_cq.poll() {
                assert_eq!(done.status, WcStatus::Success, "a WRITE of the traffic");
                under_way -= 1;
            }
            while under_way < IN_FLIGHT {
                queue.post_send(&wr);
                under_way += 1;
            }
            thread::sleep(Duration::from_micros(200));
        }
        for _ in 0..under_way {
            queue.send_cq.expect(0);
        }
    }

    fn measure(&self, process: &Process, pages: u64) -> Vec<f64> {
        (0..self.each).map(|_| self.once(process, pages)).collect()
    }

    /// With pauses of several lengths, so that a sample meets the device at any moment of its work:
    /// without them, most samples come right after one that has waited, in the short while before
    /// the next burst.
    fn measure_apart(&self, process: &Process, pages: u64) -> Vec<f64> {
        let sample = |number: usize| {
            // A prime number of steps, so that no length is preferred.
            let pause = Duration::from_nanos(5_000 + (number as u64 * 7_919) % 20_011);
            let since = Instant::now();
            while since.elapsed() < pause {
                std::hint::spin_loop();
            }
            self.once(process, pages)
        };
        (0..self.each).map(sample).collect()
    }

    fn once(&self, process: &Process, pages: u64) -> f64 {
        let (start, end) = (process.target.addr(), process.target.addr() + pages * FRAME);
        let mut waited = false;
        let since = Instant::now();
        let quiet = process.space.invalidate_with(start, end, || waited = true);
        let took = since.elapsed().as_nanos() as f64;
        quiet.expect("the device quiesces");
        if waited {
            // Relaxed: a statistic.
            self.waited.fetch_add(1, Ordering::Relaxed);
        }
        took
    }
}

/// A process of the measured guest, with memory that is registered once.
fn process(bed: &Bed) -> Process {
    let ctx = Context::open(&bed.b.driver);
    let pd = Pd::new(&ctx);
    let target = ctx.space().buffer(MESSAGE);
    let mr = Mr::of(&pd, &target, ALL_ACCESS);
    let cq = Cq::new(&ctx, 64);
    let qps = (bed.a.qp(), Qp::new(&pd, &cq, &cq, bed.b.gid, QpOptions::default()));
    connect(&qps.0, &qps.1);
    Process { space: Arc::clone(ctx.space()), qps, target, mr, pd }
}

impl Experiment for Invalidate<'_> {
    fn name(&self) -> &str {
        "taking memory back"
    }

    fn round(&mut self) -> Result<()> {
        let commands = || self.bed.b.driver.with_ctrl_queue(|queue| queue.avail());
        let daemon = self.bed.daemon.pid();
        wait_until_asleep(daemon)?;
        let before = (wakes(daemon)?, commands());
        for (index, (device, pages, _)) in CASES.into_iter().enumerate() {
            if device == Device::Idle {
                let times = self.measure(&self.here, pages);
                self.samples[index].push_round(times);
                self.idle.invalidations += self.each as u64;
            }
        }
        let (alone, many) = (self.measure(&self.here, 1), self.measure(&self.crowded.0, 1));
        self.alone.push_round(alone);
        self.among_many.push_round(many);
        self.idle.invalidations += 2 * self.each as u64;
        // A daemon that was woken goes back to sleep, and that is what is counted.
        wait_until_asleep(daemon)?;
        self.idle.wakes += wakes(daemon)? - before.0;
        self.idle.commands += u64::from(commands().wrapping_sub(before.1));
        for (index, (device, pages, _)) in CASES.into_iter().enumerate() {
            if device != Device::Idle {
                let busy = self.target(device);
                let times = self.measure_busy(busy, pages)?;
                self.samples[index].push_round(times);
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let subject = "invalidate";
        let mut rows = Vec::new();
        for ((_, _, case), samples) in CASES.iter().zip(&self.samples) {
            let times = samples.against(&self.samples[0]).filter(|_| !rows.is_empty());
            rows.push(Row::of(subject, *case, samples).times(times, "idle"));
        }
        let times = self.among_many.against(&self.alone);
        rows.push(Row::of(subject, "process with 1 region", &self.alone));
        let case = format!("process with {} regions", self.crowded.1.len() + 1);
        rows.push(Row::of(subject, case, &self.among_many).times(times, "1 region"));
        let Idle { invalidations, wakes, commands } = self.idle;
        // Relaxed: everybody who counts has ended.
        let waited = self.waited.load(Ordering::Relaxed) as f64;
        let count = |what: &str| format!("{what} in {invalidations} invalidations, device idle");
        let verdicts = vec![
            Verdict::at_most(count("wake-ups of the daemon"), Some(wakes as f64), 0.0),
            Verdict::at_most(count("commands to the device"), Some(commands as f64), 0.0),
            // Or the rows of a busy device would tell of an idle one.
            Verdict::at_least("invalidations that waited for a busy device", Some(waited), 1.0),
        ];
        Findings { rows, verdicts, ..Findings::default() }
    }
}
