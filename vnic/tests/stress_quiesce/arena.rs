// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of a guest process that changes all the time: pages, tables and tables of tables come, go,
//! and are something else the moment the device was told.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vnic_abi::event::{PageRequest, PageResponseCode};
use vnic_testbed::process_guest::memory::FRAME;
use vnic_testbed::process_guest::page_table::{DIRTY, PRESENT, USER, WRITABLE, entry_address};
use vnic_testbed::process_guest::{AddressSpace, Ram};

use crate::frames::{Frames, Trap, Violation};
use crate::random::Random;

/// Where the arena begins; far from anything that this process maps.
pub const BASE: u64 = 0x1000_0000_0000;
/// From one segment to the next: each has a second-level table of its own.
const STRIDE: u64 = 1 << 30;
/// What a last-level table covers.
const TABLE: u64 = 2 << 20;
/// Pages of a segment, one half in each of two last-level tables.
pub const PAGES: u64 = 16;
const HALF: u64 = PAGES / 2;
/// Bytes of a segment.
pub const SEGMENT: u64 = PAGES * FRAME;
/// Segments of an arena.
pub const SEGMENTS: u64 = 4;
/// One mutation in so many leaves pages missing until the device asks for them.
const LEFT_MISSING: u64 = 64;
/// What [`AddressSpace::invalidate`] takes for everything.
const EVERYTHING: (u64, u64) = (0, u64::MAX);

/// What was done, to show that it was enough.
#[derive(Debug, Default)]
pub struct Counts {
    /// Invalidations.
    pub invalidations: AtomicU64,
    /// Those that found a worker inside a burst.
    pub waits: AtomicU64,
    /// Mutations by kind, see [`KINDS`].
    pub mutations: [AtomicU64; KINDS.len()],
    /// Page requests answered.
    pub requests: AtomicU64,
}

/// A kind of mutation with its name and its share in percent.
pub struct Kind {
    pub name: &'static str,
    pub share: u64,
    run: fn(&Arena, &mut Segment, &mut Random) -> Result<(), Violation>,
}

/// What the mutator does.
pub const KINDS: [Kind; 7] = [
    Kind { name: "replace", share: 62, run: Arena::replace },
    Kind { name: "replace several", share: 5, run: Arena::replace_several },
    Kind { name: "unmap", share: 8, run: Arena::unmap },
    Kind { name: "unmap half", share: 5, run: Arena::unmap_half },
    Kind { name: "protect", share: 8, run: Arena::protect },
    Kind { name: "free table", share: 8, run: Arena::free_table },
    Kind { name: "free tree", share: 4, run: Arena::free_tree },
];

/// Pages that follow one another, with their tables, by frame.
struct Segment {
    base: u64,
    /// Where the third-level entry lies that leads here.
    link: u64,
    directory: Option<usize>,
    tables: [Option<usize>; 2],
    pages: [Option<usize>; PAGES as usize],
}

impl Segment {
    fn va(&self, page: u64) -> u64 {
        self.base + page * FRAME
    }
}

/// The memory of one guest's process.
pub struct Arena {
    ram: Ram,
    space: Arc<AddressSpace>,
    frames: Frames,
    segments: Vec<Mutex<Segment>>,
    counts: Counts,
}

impl Arena {
    /// An arena in `space`, empty at first.
    pub fn new(space: &Arc<AddressSpace>) -> Self {
        let ram = space.ram().clone();
        let segments = (0..SEGMENTS).map(|index| {
            let base = Self::address(index * SEGMENT);
            let link = space.table().make_entry(base, 3);
            Mutex::new(Segment {
                base,
                link,
                directory: None,
                tables: [None; 2],
                pages: [None; PAGES as usize],
            })
        });
        Self {
            segments: segments.collect(),
            // As many free frames as there are pages, so that a freed one is left alone for a while.
            frames: Frames::new(&ram, 2 * (SEGMENTS * (PAGES + 3)) as usize),
            space: Arc::clone(space),
            ram,
            counts: Counts::default(),
        }
    }

    /// Address of byte `offset` of the arena's pages; contiguous within a segment.
    pub fn address(offset: u64) -> u64 {
        BASE + offset / SEGMENT * STRIDE + TABLE - HALF * FRAME + offset % SEGMENT
    }

    /// Bytes of addresses that a memory region over the arena has to span.
    pub fn span() -> u64 {
        SEGMENTS * STRIDE
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    fn segment(&self, index: usize) -> MutexGuard<'_, Segment> {
        self.segments[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes page `page` present, and writable if it is new or `write`, with all the tables that it takes.
    fn fault_in(
        &self,
        segment: &mut Segment,
        page: u64,
        write: bool,
        random: &mut Random,
    ) -> Result<(), Violation> {
        if segment.pages[page as usize].is_some() && !write {
            return Ok(());
        }
        let va = segment.va(page);
        let table_of = |frame| self.frames.gpa(frame) | PRESENT | WRITABLE | USER;
        let directory = match segment.directory {
            Some(directory) => directory,
            None => {
                let new = self.frames.take()?;
                self.frames.fill(new, 0);
                self.store(segment.link, table_of(new));
                *segment.directory.insert(new)
            }
        };
        let half = (page / HALF) as usize;
        let table = match segment.tables[half] {
            Some(table) => table,
            None => {
                let new = self.frames.take()?;
                self.frames.fill(new, 0);
                self.store(entry_address(self.frames.gpa(directory), va, 2), table_of(new));
                *segment.tables[half].insert(new)
            }
        };
        let entry = entry_address(self.frames.gpa(table), va, 1);
        if segment.pages[page as usize].is_none() {
            let new = self.fresh(random)?;
            segment.pages[page as usize] = Some(new);
            self.store(entry, table_of(new));
        } else {
            // AcqRel: a change of an entry that the device marks meanwhile.
            self.ram.word(entry, |word| word.fetch_or(WRITABLE, Ordering::AcqRel));
        }
        Ok(())
    }

    /// A frame with harmless contents.
    fn fresh(&self, random: &mut Random) -> Result<usize, Violation> {
        let frame = self.frames.take()?;
        self.frames.fill(frame, random.harmless());
        Ok(frame)
    }

    fn store(&self, entry: u64, value: u64) {
        // Release: pairs with the walker's acquire; what the entry leads to is there before it.
        self.ram.word(entry, |word| word.store(value, Ordering::Release));
    }

    /// Where the last-level entry of a page lies, if there is a table for it.
    fn leaf(&self, segment: &Segment, page: u64) -> Option<u64> {
        let table = segment.tables[(page / HALF) as usize]?;
        Some(entry_address(self.frames.gpa(table), segment.va(page), 1))
    }

    fn invalidate(&self, (start, end): (u64, u64)) -> Result<(), Violation> {
        let mut looks = 0u32;
        let left = self.space.invalidate_with(start, end, || {
            looks += 1;
            if looks.is_multiple_of(200) {
                // The worker may want this very processor.
                std::thread::yield_now();
            }
        });
        // Relaxed: counts.
        self.counts.invalidations.fetch_add(1, Ordering::Relaxed);
        self.counts.waits.fetch_add(u64::from(looks != 0), Ordering::Relaxed);
        left.map_err(|error| Violation(error.to_string()))
    }

    fn invalidate_pages(&self, segment: &Segment, first: u64, count: u64) -> Result<(), Violation> {
        self.invalidate((segment.va(first), segment.va(first + count)))
    }

    /// One mutation of a random kind.
    pub fn mutate(&self, random: &mut Random) -> Result<(), Violation> {
        let mut at = random.below(KINDS.iter().map(|kind| kind.share).sum());
        let kind = KINDS.iter().position(|kind| {
            let here = at < kind.share;
            at = at.wrapping_sub(kind.share);
            here
        });
        let kind = kind.expect("below the sum");
        let mut segment = self.segment(random.below(SEGMENTS) as usize);
        // Relaxed: a count.
        self.counts.mutations[kind].fetch_add(1, Ordering::Relaxed);
        (KINDS[kind].run)(self, &mut segment, random)?;
        // As if a processor had touched the pages; otherwise the device would mostly wait for them.
        // What it finds missing meanwhile, and now and then what is left so, it has to ask for.
        if random.below(LEFT_MISSING) != 0 {
            (0..PAGES).try_for_each(|page| self.fault_in(&mut segment, page, false, random))?;
        }
        Ok(())
    }

    /// The page is elsewhere from one moment to the next.
    fn replace(&self, segment: &mut Segment, random: &mut Random) -> Result<(), Violation> {
        let page = random.below(PAGES);
        let old = self.exchange(segment, page, random)?;
        self.invalidate_pages(segment, page, 1)?;
        old.map_or(Ok(()), |old| self.frames.retire(old))
    }

    /// Puts another frame behind a page, if it has one; returns the old one.
    fn exchange(
        &self,
        segment: &mut Segment,
        page: u64,
        random: &mut Random,
    ) -> Result<Option<usize>, Violation> {
        let Some(entry) = self.leaf(segment, page) else { return Ok(None) };
        let Some(old) = segment.pages[page as usize] else { return Ok(None) };
        let new = self.fresh(random)?;
        self.store(entry, self.frames.gpa(new) | PRESENT | WRITABLE | USER);
        segment.pages[page as usize] = Some(new);
        Ok(Some(old))
    }

    /// Several pages and one invalidation of everything, as reclaim does it.
    fn replace_several(&self, segment: &mut Segment, random: &mut Random) -> Result<(), Violation> {
        let mut old = Vec::new();
        for page in 0..PAGES {
            if random.below(2) == 0 {
                old.extend(self.exchange(segment, page, random)?);
            }
        }
        self.invalidate(EVERYTHING)?;
        old.into_iter().try_for_each(|old| self.frames.retire(old))
    }

    fn clear(&self, segment: &mut Segment, page: u64) -> Option<usize> {
        let entry = self.leaf(segment, page)?;
        self.store(entry, 0);
        segment.pages[page as usize].take()
    }

    fn unmap(&self, segment: &mut Segment, random: &mut Random) -> Result<(), Violation> {
        let page = random.below(PAGES);
        let old = self.clear(segment, page);
        self.invalidate_pages(segment, page, 1)?;
        old.map_or(Ok(()), |old| self.frames.retire(old))
    }

    /// Pages on both sides of the border between two tables.
    fn unmap_half(&self, segment: &mut Segment, _: &mut Random) -> Result<(), Violation> {
        let old: Vec<_> =
            (HALF / 2..HALF / 2 + HALF).filter_map(|page| self.clear(segment, page)).collect();
        self.invalidate_pages(segment, HALF / 2, HALF)?;
        old.into_iter().try_for_each(|old| self.frames.retire(old))
    }

    /// A page that may only be read keeps its contents.
    fn protect(&self, segment: &mut Segment, random: &mut Random) -> Result<(), Violation> {
        let page = random.below(PAGES);
        let (Some(entry), Some(frame)) = (self.leaf(segment, page), segment.pages[page as usize])
        else {
            return Ok(());
        };
        // AcqRel: a change of an entry that the device marks meanwhile.
        self.ram.word(entry, |word| word.fetch_and(!(WRITABLE | DIRTY), Ordering::AcqRel));
        self.invalidate_pages(segment, page, 1)?;
        let before = self.frames.read(frame);
        std::thread::yield_now();
        let unchanged = before == self.frames.read(frame);
        if random.below(2) == 0 {
            // Otherwise a page request will ask for it.
            self.ram.word(entry, |word| word.fetch_or(WRITABLE, Ordering::AcqRel));
        }
        if unchanged { Ok(()) } else { Err(Violation("write to a read-only page".into())) }
    }

    /// Frees a last-level table, with its entries still in it, and the pages that it led to.
    fn free_table(&self, segment: &mut Segment, random: &mut Random) -> Result<(), Violation> {
        let first = random.below(2) * HALF;
        let half = (first / HALF) as usize;
        let (Some(directory), Some(table)) = (segment.directory, segment.tables[half]) else {
            return Ok(());
        };
        self.store(entry_address(self.frames.gpa(directory), segment.va(first), 2), 0);
        let start = segment.va(first) / TABLE * TABLE;
        self.invalidate((start, start + TABLE))?;
        segment.tables[half] = None;
        self.frames.put(table, Trap::Leaves);
        self.retire_pages(segment, first, HALF)
    }

    /// Frees a second-level table with all that hangs below it.
    fn free_tree(&self, segment: &mut Segment, _: &mut Random) -> Result<(), Violation> {
        let Some(directory) = segment.directory.take() else { return Ok(()) };
        self.store(segment.link, 0);
        let start = segment.base / STRIDE * STRIDE;
        self.invalidate((start, start + STRIDE))?;
        self.frames.put(directory, Trap::Tables);
        for table in &mut segment.tables {
            if let Some(table) = table.take() {
                self.frames.put(table, Trap::Leaves);
            }
        }
        self.retire_pages(segment, 0, PAGES)
    }

    fn retire_pages(&self, segment: &mut Segment, first: u64, count: u64) -> Result<(), Violation> {
        let pages = &mut segment.pages[first as usize..][..count as usize];
        pages.iter_mut().filter_map(Option::take).try_for_each(|page| self.frames.retire(page))
    }

    /// What the kernel does about a page request.
    pub fn serve(&self, request: &PageRequest) -> Result<PageResponseCode, Violation> {
        let (start, length) = (request.start.get(), request.length.get());
        let index = start.wrapping_sub(BASE) / STRIDE;
        if index >= SEGMENTS {
            return Ok(PageResponseCode::Invalid);
        }
        let mut random = Random::new(start);
        let mut segment = self.segment(index as usize);
        let Some(first) = start.checked_sub(segment.base).map(|offset| offset / FRAME) else {
            return Ok(PageResponseCode::Invalid);
        };
        let end = (first + length / FRAME).min(PAGES);
        for page in first..end {
            self.fault_in(&mut segment, page, true, &mut random)?;
        }
        // Relaxed: a count.
        self.counts.requests.fetch_add(1, Ordering::Relaxed);
        Ok(if first < end { PageResponseCode::Success } else { PageResponseCode::Invalid })
    }

    /// Looks at every trap.
    pub fn check(&self) -> Result<(), Violation> {
        self.frames.check_all()
    }

    /// Takes everything away and looks at all of it.
    pub fn close(&self) -> Result<(), Violation> {
        for index in 0..self.segments.len() {
            self.free_tree(&mut self.segment(index), &mut Random::new(1))?;
        }
        self.check()
    }
}
