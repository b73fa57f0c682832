// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bandwidth of WRITE and READ beside that of memcpy, over the same two buffers.
//!
//! Both repeat over the same bytes, so that small sizes are copied within the caches and large ones
//! are not. memcpy runs on the worker's core, over the addresses at which this process maps the
//! buffers; the device has a few requests under way, so that posting is not waited for. In every
//! sample memcpy comes right before what it is compared with.

use std::{hint::black_box, time::Instant};

use super::{
    Bed, Effort, LARGEST,
    end::{self, End},
};
use crate::{
    bench::{Experiment, Findings, Row, Samples, Unit, Verdict},
    error::Result,
    measure::sizes,
    process_guest::{FRAME, Layout, Ram, RamFile, UserBuffer},
};

/// What the rows of WRITE are about; streams of others join them.
pub const WRITES: &str = "bandwidth";
/// What the rows of READ are about.
const READS: &str = "bandwidth of READ";

/// Bytes of a request, and whether there is a goal.
const SIZES: [(u64, bool); 8] = [
    (4 << 10, false),
    (16 << 10, false),
    (64 << 10, true),
    (256 << 10, false),
    (1 << 20, true),
    (4 << 20, false),
    (16 << 20, false),
    (LARGEST, true),
];
/// Bytes of a sample, for each operation of one, if not a request is larger.
const SAMPLE_BYTES: u64 = 64 << 10;
/// What copies small pages at addresses that are known.
const PAGE_BY_PAGE: &str = "memcpy by pages";
/// The least part of memcpy's bandwidth.
const GOAL: f64 = 0.9;

/// Pages of the guests' page tables: whether they are small ones.
const PAGES: [(bool, &str); 2] = [(true, "4 KiB pages"), (false, "2 MiB pages")];

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Write,
    Read,
}

const WAYS: [(Way, &str); 2] = [(Way::Write, WRITES), (Way::Read, READS)];

/// One size, one way, in one kind of pages.
struct Case {
    pages: &'static str,
    small: bool,
    way: Way,
    subject: &'static str,
    bytes: u64,
    goal: bool,
    device: Samples,
    memcpy: Samples,
    /// memcpy of each page by itself.
    by_page: Samples,
}

/// The pages of a pair of buffers, where this process has all of their guests' RAM.
struct Places {
    a: Vec<*mut u8>,
    b: Vec<*mut u8>,
}

/// The experiment.
pub struct Bandwidth<'b> {
    bed: &'b Bed,
    effort: Effort,
    /// With small pages.
    ends: (End, End),
    places: Places,
    cases: Vec<Case>,
}

impl<'b> Bandwidth<'b> {
    /// Prepares it.
    pub fn new(bed: &'b Bed, effort: Effort) -> Self {
        let ends = End::one_way(&bed.a, &bed.b, LARGEST, Layout::Scattered);
        let places = Places {
            a: places(bed.a.ctx.driver().ram(), &ends.0.source.0),
            b: places(bed.b.ctx.driver().ram(), &ends.1.target.0),
        };
        let wanted = SIZES.into_iter().filter(move |(_, goal)| *goal || !effort.quick);
        let mut cases = Vec::new();
        for (way, subject) in WAYS {
            for (small, pages) in PAGES {
                cases.extend(wanted.clone().map(|(bytes, goal)| Case {
                    pages,
                    small,
                    way,
                    subject,
                    bytes,
                    goal,
                    device: Samples::new(Unit::BytesPerSecond),
                    memcpy: Samples::new(Unit::BytesPerSecond),
                    by_page: Samples::new(Unit::BytesPerSecond),
                }));
            }
        }
        Self { bed, effort, ends, places, cases }
    }
}

impl Case {
    /// Requests under way.
    fn window(&self) -> u32 {
        if self.bytes <= 64 << 10 { 16 } else { 4 }
    }

    /// Requests of a sample.
    fn count(&self, effort: Effort) -> u32 {
        let bytes = SAMPLE_BYTES * effort.operations;
        (bytes / self.bytes).max(u64::from(self.window())) as u32
    }

    fn sample(
        &mut self,
        bed: &Bed,
        (a, b): (&End, &End),
        places: &Places,
        count: u32,
    ) -> Result<()> {
        let total = self.bytes as f64 * f64::from(count);
        let (from, to) = match self.way {
            Way::Write => (&a.source.0, &b.target.0),
            Way::Read => (&b.target.0, &a.source.0),
        };
        bed.rest()?;
        {
            let _pinned = bed.cores.worker()?;
            copy(from, to, self.bytes);
            let since = Instant::now();
            for _ in 0..count {
                copy(from, to, self.bytes);
            }
            self.memcpy.push(total / since.elapsed().as_secs_f64());
            if self.small {
                let (from, to) = match self.way {
                    Way::Write => (&places.a, &places.b),
                    Way::Read => (&places.b, &places.a),
                };
                copy_pages(from, to, self.bytes);
                let since = Instant::now();
                for _ in 0..count {
                    copy_pages(from, to, self.bytes);
                }
                self.by_page.push(total / since.elapsed().as_secs_f64());
            }
        }
        let _pinned = bed.cores.client()?;
        let payload = a.payload(self.bytes as u32);
        let request = match self.way {
            Way::Write => end::write(payload, b.remote()),
            Way::Read => end::read(payload, b.remote()),
        };
        let mut held = a.hold();
        held.stream(&request, 1, self.window())?;
        let since = Instant::now();
        held.stream(&request, count, self.window())?;
        self.device.push(total / since.elapsed().as_secs_f64());
        Ok(())
    }
}

/// What anybody would call to move bytes.
fn copy(from: &UserBuffer, to: &UserBuffer, bytes: u64) {
    assert!(bytes <= from.len() && bytes <= to.len());
    let (from, to) = (from.pages().as_ptr().cast_const(), to.pages().as_ptr());
    #[allow(unsafe_code, reason = "memcpy itself is what is measured")]
    // SAFETY: both buffers are mapped and long enough by the assertion, are different ones, and the
    // device has completed all requests that name them.
    unsafe {
        std::ptr::copy_nonoverlapping(black_box(from), black_box(to), bytes as usize);
    }
}

/// Where this process has each page of `buffer` in its mapping of the guest's RAM.
fn places(ram: &Ram, buffer: &UserBuffer) -> Vec<*mut u8> {
    let host = |gpa: u64| {
        let region = ram.regions().iter().find(|region| gpa.wrapping_sub(region.gpa) < region.len);
        let region = region.expect("a page of RAM");
        std::ptr::with_exposed_provenance_mut((region.host + (gpa - region.gpa)) as usize)
    };
    buffer.pages().gpas().into_iter().map(host).collect()
}

/// What the device cannot do without: each page by itself, at addresses that are known.
fn copy_pages(from: &[*mut u8], to: &[*mut u8], bytes: u64) {
    let pages = (bytes / FRAME) as usize;
    for (from, to) in from[..pages].iter().zip(&to[..pages]) {
        #[allow(unsafe_code, reason = "memcpy itself is what is measured")]
        // SAFETY: whole pages of the RAM of two guests, which this process has mapped as long as they run. The
        // device has completed all requests that name them.
        unsafe {
            std::ptr::copy_nonoverlapping(
                black_box(from.cast_const()),
                black_box(*to),
                FRAME as usize,
            );
        }
    }
}

impl Experiment for Bandwidth<'_> {
    fn name(&self) -> &str {
        "bandwidth beside memcpy"
    }

    fn round(&mut self) -> Result<()> {
        for case in &mut self.cases {
            let ends = if case.small { Some(&self.ends) } else { self.bed.large.as_ref() };
            let (a, b) = ends.expect("a bed with large buffers");
            let count = case.count(self.effort);
            case.memcpy.begin_round();
            case.device.begin_round();
            case.by_page.begin_round();
            // Large ones take long, and say more.
            let samples = if case.bytes > 4 << 20 { 1 } else { 3 };
            for _ in 0..samples {
                case.sample(self.bed, (a, b), &self.places, count)?;
            }
        }
        Ok(())
    }

    fn findings(&self) -> Findings {
        let mut findings = Findings::default();
        for case in &self.cases {
            let name = format!("{}, {}", sizes::text(case.bytes), case.pages);
            let times = case.device.against(&case.memcpy);
            for (device, samples, times) in
                [("memcpy", &case.memcpy, None), ("vNIC", &case.device, times)]
            {
                let row = Row::of(case.subject, &*name, samples).over(device);
                let row = row.times(times, "memcpy");
                // The line of a plot has one point at each place.
                let placed = case.small;
                findings.rows.push(if placed { row.at(case.bytes as f64) } else { row });
            }
            if case.small {
                let row = Row::of(case.subject, &*name, &case.by_page).over(PAGE_BY_PAGE);
                let row = row.times(case.by_page.against(&case.memcpy), "memcpy");
                findings.rows.push(row.at(case.bytes as f64));
            }
            if case.goal && case.small {
                let way = if case.way == Way::Write { "WRITE" } else { "READ" };
                let goal = format!("bandwidth of {way} over memcpy's, {name}");
                findings.verdicts.push(Verdict::at_least(goal, times, GOAL).timed());
            }
        }
        findings.notes.push(match self.bed.ram_file {
            RamFile::LargePages => "bandwidth: 4 KiB and 2 MiB are the pages of the guests' page \
                 tables; the host backs both with pages of 2 MiB"
                .into(),
            RamFile::Memfd => "bandwidth: 4 KiB and 2 MiB are the pages of the guests' page \
                 tables; the host backs both with pages of 4 KiB, since this program may not mount \
                 a file system of its own (run it as root): every page costs the device a miss of \
                 the processor's own translations"
                .into(),
        });
        findings
    }
}
