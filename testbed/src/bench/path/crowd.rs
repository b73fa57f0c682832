// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Daemons with many ports and queue pairs, of which nearly all are idle, and what a small WRITE
//! costs there.
//!
//! Each daemon has the same active connection, between two processes of its first guest. They run
//! side by side and sleep while another one is measured.

use std::{fmt, path::Path, sync::Arc};

use vnic_abi::config::Features;

use super::{
    Effort, RAM, asleep,
    cores::Cores,
    end::{End, SHAPE},
    trips::Trips,
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Verdict},
    error::Result,
    process_guest::{
        Daemon, GuestOptions, Layout,
        memory::FRAME,
        verbs::{Cq, Endpoint, Qp, QpOptions, connect},
    },
};

/// Queue pairs of one process, at most: its doorbell page holds no more than some thousands.
const PER_PROCESS: usize = 1000;
/// Bytes of a WRITE.
const BYTES: u64 = 8;
/// How much longer a WRITE may take among many.
const GOAL: f64 = 1.2;

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Guests, each on a port of its own.
    pub ports: usize,
    /// Connected queue pairs, the active ones among them.
    pub qps: usize,
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let s = if self.ports == 1 { "" } else { "s" };
        write!(f, "{} port{s}, {} QPs", self.ports, self.qps)
    }
}

/// A daemon with many guests.
pub struct Crowd {
    /// How many.
    pub size: Size,
    /// The daemon.
    pub daemon: Daemon,
    workers: u32,
    active: (End, End),
    /// After the ends, which are theirs.
    processes: (Endpoint, Endpoint),
    _idle: Vec<Idle>,
}

/// Idle queue pairs of a process, connected to each other.
struct Idle {
    _qps: Vec<Qp>,
    _cq: Arc<Cq>,
    _process: Endpoint,
}

impl Idle {
    fn new(process: Endpoint, pairs: usize) -> Self {
        let cq = process.cq(16);
        let qps = idle_qps(&process, &cq, 2 * pairs);
        Self { _qps: qps, _cq: cq, _process: process }
    }
}

/// Connects `count` small queue pairs, each two with each other.
///
/// Their memory is one piece: this process may have no more than some ten thousand mappings.
///
/// # Panics
/// If the device refuses one.
pub fn idle_qps(process: &Endpoint, cq: &Arc<Cq>, count: usize) -> Vec<Qp> {
    let shape = QpOptions { sq_depth: 1, rq_depth: 1, ..SHAPE };
    let each = shape.pages();
    let bytes = (count * each) as u64 * FRAME;
    let pages = Arc::new(process.space().ram().alloc(bytes, Layout::Linear));
    let new = |index: usize| {
        let memory = (&pages, index * each);
        Qp::try_new_in(&process.pd, (cq, cq), process.gid, shape, memory).expect("QP_CREATE")
    };
    let qps = (0..count).map(new).collect::<Vec<_>>();
    for pair in qps.chunks_exact(2) {
        connect(&pair[0], &pair[1]);
    }
    qps
}

impl Crowd {
    /// Starts the daemon at `program` with `workers`, its guests and their queue pairs.
    ///
    /// # Errors
    /// If threads cannot be kept on their cores.
    ///
    /// # Panics
    /// If the daemon or a guest does not start, or is refused something.
    pub fn start(program: &Path, workers: u32, cores: &Cores, size: Size) -> Result<Self> {
        let names = (0..size.ports).map(|port| format!("p{port}")).collect::<Vec<_>>();
        let options = Daemon::of(program).workers(workers);
        let daemon = names.iter().fold(options, |options, name| options.port(name)).start();
        cores.pin_workers(daemon.pid())?;
        let options =
            GuestOptions { ram: RAM, init: Some(Features::empty()), ..Default::default() };
        let guests = names.iter().zip(1..).map(|(name, host)| {
            let socket = daemon.socket(name);
            Endpoint::boot_with(&socket, host, options.clone())
        });
        let guests = guests.collect::<Vec<_>>();
        let (driver, other) = (&guests[0].driver, Endpoint::open(&guests[0].driver, 1));
        let processes = (Endpoint::open(driver, 1), other);
        let active = End::pair(&processes.0, &processes.1, SHAPE, 4096);
        let mut left = (size.qps / 2).saturating_sub(1);
        let mut idle = Vec::new();
        let ports = guests.len();
        for (index, guest) in guests.into_iter().enumerate() {
            let mut mine = left / (ports - index);
            left -= mine;
            let driver = Arc::clone(&guest.driver);
            let mut process = Some(guest);
            // A guest with nothing to do has a process that has opened the device, too.
            while mine > 0 || process.is_some() {
                let pairs = mine.min(PER_PROCESS / 2);
                mine -= pairs;
                let host = (index + 1) as u8;
                let process = process.take().unwrap_or_else(|| Endpoint::open(&driver, host));
                idle.push(Idle::new(process, pairs));
            }
        }
        Ok(Self { size, daemon, workers, active, processes, _idle: idle })
    }

    /// Waits until the daemon has nothing to do.
    ///
    /// # Errors
    /// If it does not come to rest.
    pub fn rest(&self) -> Result<()> {
        asleep(&self.processes.0, self.workers)?;
        asleep(&self.processes.1, self.workers)
    }

    /// Nanoseconds of a WRITE one way, each the mean of `operations`.
    fn write(&self, samples: usize, operations: u64, took: &mut Samples) -> Result<()> {
        let mut trips = Trips::new(&self.active.0, &self.active.1, BYTES);
        let count = operations.div_ceil(2);
        // The first sample wakes the worker and fills caches.
        trips.time(count)?;
        took.begin_round();
        for _ in 0..samples {
            took.push(trips.time(count)?);
        }
        trips.end()
    }
}

/// What the rows are about.
pub const SUBJECT: &str = "8 B WRITE one way, others idle";

/// The experiment.
pub struct Among<'c> {
    cores: Cores,
    effort: Effort,
    /// Daemons, and what was measured there. The others are compared with the first.
    cases: Vec<(&'c Crowd, Samples)>,
}

/// The daemons that are compared; the last one is the fullest.
pub fn sizes(effort: Effort) -> [Size; 5] {
    let Size { ports, qps } = effort.most;
    let one = |qps| Size { ports: 1, qps };
    [one(2), one(100.min(qps)), one(qps), Size { ports, qps: 2 * ports }, effort.most]
}

impl<'c> Among<'c> {
    /// Measures on `crowds`, of the sizes that [`sizes`] tells.
    pub fn new(crowds: &'c [Crowd], cores: Cores, effort: Effort) -> Self {
        let cases = crowds.iter().map(|crowd| (crowd, Samples::times()));
        Self { cores, effort, cases: cases.collect() }
    }
}

impl Experiment for Among<'_> {
    fn name(&self) -> &str {
        "a small WRITE among many queue pairs and ports"
    }

    fn round(&mut self) -> Result<()> {
        let _pinned = self.cores.client()?;
        let Effort { samples, operations, .. } = self.effort;
        for (crowd, took) in &mut self.cases {
            crowd.write(samples, operations, took)?;
            crowd.rest()?;
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        let Some((first, alone)) = self.cases.first() else { return findings };
        for (crowd, took) in &self.cases {
            let times = took.against(alone).filter(|_| crowd.size != first.size);
            let row = Row::of(SUBJECT, crowd.size.to_string(), took).over("vNIC");
            let row = row.times(times, &first.size.to_string());
            // The line of a plot is about queue pairs of one port.
            let placed = crowd.size.ports == first.size.ports;
            findings.rows.push(if placed { row.at(crowd.size.qps as f64) } else { row });
            // With both many ports and many queue pairs, it is only reported.
            if times.is_some() && crowd.size != self.effort.most {
                let goal = format!("8 B WRITE with {} over {}", crowd.size, first.size);
                findings.verdicts.push(Verdict::at_most(goal, times, GOAL).timed());
            }
        }
        findings
    }
}
