// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The first access to a page: a WRITE of 8 bytes by a peer, from posting it to its completion.
//!
//! The guest's page fault handler is a thread of this process, so that a fault costs what the
//! protocol costs. A page that is swapped out is one whose handler first reads 4 KiB of a file.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use rustix::fs::{Advice, fadvise};
use vnic_abi::event::PageRequest;

use super::Bed;
use crate::{
    bench::{Experiment, Findings, Row, Samples, Verdict, memory::Effort},
    error::{Doing, Result},
    process_guest::{
        FaultAnswer, UserBuffer,
        memory::FRAME,
        verbs::{Mr, Qp, SendWr},
    },
};

/// State of the page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The device has used it just before.
    Used,
    /// It is in the page table, and the device has not used it since it was taken back last.
    Present,
    /// It is not in the page table, and the handler has it at hand.
    Missing,
    /// It is not in the page table, and the handler reads it from a file.
    Swapped,
}

const STATES: [(State, &str); 4] = [
    (State::Used, "page in the IOTLB"),
    (State::Present, "page present, IOTLB miss"),
    (State::Missing, "minor fault"),
    (State::Swapped, "fault with a 4 KiB read"),
];

/// A region with a page for each sample of a round.
type Target = (UserBuffer, Mr);

/// The experiment.
pub struct Touch<'b> {
    bed: &'b Bed,
    qps: (Qp, Qp),
    /// One for each state.
    targets: [Target; STATES.len()],
    each: u64,
    file: Arc<File>,
    /// How long the handler read.
    reads: Arc<Mutex<Vec<f64>>>,
    samples: [Samples; STATES.len()],
    /// What a swapped page takes beside the reading.
    protocol: Samples,
    faults: (u64, u64),
}

impl<'b> Touch<'b> {
    /// Prepares it.
    ///
    /// # Errors
    /// When there is no file to read from.
    pub fn new(bed: &'b Bed, effort: Effort) -> Result<Self> {
        let each = effort.samples as u64;
        let file = tempfile::tempfile().doing(|| "make a file to fault pages in from".into())?;
        let pages = vec![1; (each * FRAME) as usize];
        file.write_all_at(&pages, 0).doing(|| "fill a file to fault pages in from".into())?;
        file.sync_all().doing(|| "write a file to fault pages in from".into())?;
        let len = each * FRAME;
        let targets = STATES.map(|(state, _)| match state {
            State::Used | State::Present => bed.b.region(len),
            State::Missing | State::Swapped => bed.b.lazy_region(len),
        });
        Ok(Self {
            bed,
            qps: bed.qps(),
            targets,
            each,
            file: Arc::new(file),
            reads: Arc::default(),
            samples: std::array::from_fn(|_| Samples::times()),
            protocol: Samples::times(),
            faults: (0, 0),
        })
    }

    /// From now on the guest reads the pages of `State::Swapped` before it maps them.
    fn handle_faults(&self) {
        let (start, len) = {
            let buffer = &self.targets[index(State::Swapped)].0;
            (buffer.addr(), buffer.len())
        };
        let (file, reads) = (Arc::clone(&self.file), Arc::clone(&self.reads));
        self.bed.b.driver.set_fault_policy(move |request: &PageRequest| {
            let offset = request.start.get().wrapping_sub(start);
            if offset < len {
                let since = Instant::now();
                let mut page = [0; FRAME as usize];
                file.read_exact_at(&mut page, offset).expect("a page of the file");
                let took = since.elapsed().as_nanos() as f64;
                reads.lock().unwrap_or_else(PoisonError::into_inner).push(took);
            }
            FaultAnswer::Resolve
        });
    }

    /// Brings every page into its state.
    fn prepare(&self) -> Result<()> {
        for ((state, _), (buffer, _)) in STATES.iter().zip(&self.targets) {
            let end = buffer.addr() + buffer.len();
            match state {
                State::Used => {}
                State::Present => self.bed.b.space().invalidate(buffer.addr(), end).expect("quiet"),
                State::Missing | State::Swapped => buffer.page_out(),
            }
        }
        // Not from the page cache, if the file is on a disk at all.
        fadvise(&*self.file, 0, None, Advice::DontNeed).doing(|| "empty the page cache".into())
    }

    fn write(&self, state: State, page: u64) {
        let (buffer, mr) = &self.targets[index(state)];
        let wr = SendWr::write(&[], buffer.addr() + page * FRAME, mr.rkey());
        self.qps.0.post_send(&wr.inline(&[page as u8; 8]));
        self.qps.0.send_cq.expect(0);
    }
}

fn index(state: State) -> usize {
    STATES.iter().position(|(other, _)| *other == state).unwrap_or_default()
}

impl Experiment for Touch<'_> {
    fn name(&self) -> &str {
        "touching a page first"
    }

    fn round(&mut self) -> Result<()> {
        self.handle_faults();
        self.prepare()?;
        self.samples.iter_mut().chain([&mut self.protocol]).for_each(Samples::begin_round);
        let requests = || self.bed.b.driver.counters().page_requests.get();
        let before = requests();
        let mut times = Vec::new();
        for page in 0..self.each {
            for (state, _) in STATES {
                // The worker is awake for each, and the queue pair's own pages are known to it.
                self.write(State::Used, page);
                let since = Instant::now();
                self.write(state, page);
                times.push((state, since.elapsed()));
            }
        }
        self.faults.0 += requests() - before;
        self.faults.1 += 2 * self.each;
        let mut reads =
            std::mem::take(&mut *self.reads.lock().unwrap_or_else(PoisonError::into_inner));
        reads.reverse();
        for (state, time) in times {
            self.samples[index(state)].push_time(time);
            let read = if state == State::Swapped { reads.pop() } else { None };
            if let Some(read) = read {
                self.protocol.push(time.as_nanos() as f64 - read);
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let used = &self.samples[index(State::Used)];
        let row = |case: &str, samples: &Samples| {
            let times = samples.against(used).filter(|_| !std::ptr::eq(samples, used));
            Row::of("first 8 B WRITE", case, samples).times(times, "in the IOTLB")
        };
        let mut rows = STATES
            .iter()
            .zip(&self.samples)
            .map(|((_, case), samples)| row(case, samples))
            .collect::<Vec<_>>();
        rows.push(row("the same without the read", &self.protocol));
        let (found, wanted) = self.faults;
        let goal = "page requests for each missing page that was touched";
        let each = (wanted > 0).then(|| found as f64 / wanted as f64);
        let verdicts = vec![Verdict::at_most(goal, each, 1.0)];
        Findings { rows, verdicts, ..Findings::default() }
    }
}
