// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest process's address space: mappings, demand paging, page migration, invalidation.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::EventFd;
use vnic_abi::event::PageResponseCode;
use vnic_iommu::quiesce::{GuestPage, Invalidator};
use vnic_iommu::{Gpa, GuestRam};

use super::mapping::Reservation;
use super::memory::{FRAME, LARGE_PAGE, Layout, Pages, Ram};
use super::page_table::{PageTable, Paging};

/// How long an invalidation waits for a device before it gives the device up.
const QUIESCENCE_LIMIT: Duration = Duration::from_secs(10);

/// How a buffer starts out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Every page is in the page table.
    Present,
    /// No page is in the page table before somebody faults it in: fresh `malloc` memory.
    Lazy,
}

/// What the guest does about a page request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAnswer {
    /// Makes present what the mapping allows, as `handle_mm_fault` would.
    Resolve,
    /// As `Resolve`, but no more than this number of pages at a time.
    ResolvePages(u64),
    /// Answers with this code without doing anything.
    Answer(PageResponseCode),
    /// Never answers.
    Ignore,
}

/// The device did not leave its burst in time: it may still use what was taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the device did not quiesce")]
pub struct NotQuiescent;

/// An address space that the device can be bound to.
pub struct AddressSpace {
    ram: Ram,
    table: Mutex<PageTable>,
    areas: Mutex<BTreeMap<u64, Area>>,
    invalidation_page: Pages,
    invalidator: Invalidator,
    /// How the device is told of invalidations that it has to acknowledge, if it has to.
    acknowledged: Mutex<Option<Arc<EventFd>>>,
    /// Kept for as long as the invalidator looks at it.
    _epoch_page: Arc<Pages>,
}

/// A mapping, as the kernel's `vm_area_struct`.
struct Area {
    len: u64,
    writable: bool,
    /// `None`: nothing can be faulted in here.
    pages: Option<Arc<Pages>>,
}

impl AddressSpace {
    /// An empty address space of a guest whose device announces its bursts in `epoch_page`.
    ///
    /// # Panics
    ///
    /// If the guest is out of memory.
    pub fn new(ram: &Ram, paging: Paging, epoch_page: &Arc<Pages>) -> Arc<Self> {
        let view = GuestRam::new(Arc::clone(ram.memory()));
        let invalidation_page = ram.alloc(FRAME, Layout::Scattered);
        let page = |gpa| GuestPage::new(&view, Gpa(gpa)).expect("own page");
        let invalidator = Invalidator::new(page(invalidation_page.gpa(0)), page(epoch_page.gpa(0)));
        Arc::new(Self {
            ram: ram.clone(),
            table: Mutex::new(PageTable::new(ram, paging)),
            areas: Mutex::new(BTreeMap::new()),
            invalidation_page,
            invalidator,
            acknowledged: Mutex::default(),
            _epoch_page: Arc::clone(epoch_page),
        })
    }

    /// The guest's RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// The page table, for whoever wants to change it behind the address space's back.
    pub fn table(&self) -> MutexGuard<'_, PageTable> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The page in which invalidations are announced.
    pub fn invalidation_page(&self) -> &Pages {
        &self.invalidation_page
    }

    fn areas(&self) -> MutexGuard<'_, BTreeMap<u64, Area>> {
        self.areas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A writable buffer of scattered, present pages.
    pub fn buffer(self: &Arc<Self>, len: u64) -> UserBuffer {
        self.map(len, Layout::Scattered, Fault::Present, true)
    }

    /// A writable buffer that no page table entry maps yet.
    pub fn lazy_buffer(self: &Arc<Self>, len: u64) -> UserBuffer {
        self.map(len, Layout::Scattered, Fault::Lazy, true)
    }

    /// A buffer of at least `len` bytes.
    ///
    /// # Panics
    ///
    /// If the guest is out of memory.
    pub fn map(
        self: &Arc<Self>,
        len: u64,
        layout: Layout,
        fault: Fault,
        writable: bool,
    ) -> UserBuffer {
        let pages = Arc::new(self.ram.alloc(len, layout));
        let mut areas = self.areas();
        if fault == Fault::Present {
            let mut table = self.table();
            let large = layout == Layout::Large;
            let step = if large { LARGE_PAGE } else { FRAME };
            let gpas = pages.gpas().into_iter().step_by((step / FRAME) as usize);
            for (page, gpa) in gpas.enumerate() {
                let va = pages.addr() + page as u64 * step;
                if large {
                    table.map_large(va, gpa, writable);
                } else {
                    table.map(va, gpa, writable);
                }
            }
        }
        let area = Area { len: pages.len(), writable, pages: Some(Arc::clone(&pages)) };
        areas.insert(pages.addr(), area);
        drop(areas);
        UserBuffer { space: Arc::clone(self), pages, len }
    }

    /// Plays the page fault handler for `start..start + length`, for `max_pages` pages at most.
    ///
    /// As the kernel would, it makes pages present from the first one on and stops where the
    /// mapping ends or does not allow the access.
    pub fn fault_in(
        &self,
        start: u64,
        length: u64,
        write: bool,
        max_pages: u64,
    ) -> PageResponseCode {
        let areas = self.areas();
        let mut table = self.table();
        let mut present = 0;
        for page in 0..(length / FRAME).min(max_pages) {
            let va = start + page * FRAME;
            let Some((base, area)) = areas.range(..=va).next_back() else { break };
            let Some(pages) = area.pages.as_ref().filter(|_| va - base < area.len) else { break };
            if write && !area.writable {
                break;
            }
            table.map(va, pages.gpa(va - base), area.writable);
            present += 1;
        }
        if present > 0 { PageResponseCode::Success } else { PageResponseCode::Invalid }
    }

    /// Tells the device that `start..end` changed, and waits until it cannot be using it.
    ///
    /// # Errors
    ///
    /// If the device stays inside a burst for ten seconds.
    pub fn invalidate(&self, start: u64, end: u64) -> Result<(), NotQuiescent> {
        self.invalidate_with(start, end, || {})
    }

    /// As [`invalidate`](Self::invalidate); calls `busy` before each look at a worker that is inside
    /// a burst.
    ///
    /// # Errors
    ///
    /// If the device stays inside a burst for ten seconds.
    pub fn invalidate_with(
        &self,
        start: u64,
        end: u64,
        mut busy: impl FnMut(),
    ) -> Result<(), NotQuiescent> {
        let limit = Instant::now() + QUIESCENCE_LIMIT;
        let mut in_time = || {
            busy();
            Instant::now() < limit
        };
        self.invalidator.invalidate(start, end, &mut in_time).map_err(|_| NotQuiescent)?;
        let kick = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let Some(kick) = kick else { return Ok(()) };
        kick.write(1).expect("kick");
        self.invalidator.wait_for_windows(in_time).map_err(|_| NotQuiescent)
    }

    /// From now on the device has to acknowledge invalidations, of which it is told by `kick`.
    pub(super) fn have_acknowledged(&self, kick: &Arc<EventFd>) {
        let kick = Some(Arc::clone(kick));
        *self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner) = kick;
    }

    /// Reserves `len` bytes of addresses in which nothing can be faulted in.
    pub fn reserve(self: &Arc<Self>, len: u64) -> Reservation {
        Reservation::new(len)
    }

    fn clear_entries(&self, start: u64, len: u64) -> Result<(), NotQuiescent> {
        {
            let mut table = self.table();
            for page in 0..len / FRAME {
                table.unmap(start + page * FRAME);
            }
        }
        self.invalidate(start, start + len)
    }
}

/// Memory of a guest process. Unmapped, with invalidation, when dropped.
pub struct UserBuffer {
    space: Arc<AddressSpace>,
    pages: Arc<Pages>,
    len: u64,
}

impl UserBuffer {
    /// Address of the first byte, for the test and for work requests alike.
    pub fn addr(&self) -> u64 {
        self.pages.addr()
    }

    /// Bytes asked for; the mapping goes on to the end of the last page.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The pages behind the buffer.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    /// The address space that the buffer is part of.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Copies `bytes` to `offset`.
    pub fn write(&self, offset: u64, bytes: &[u8]) {
        self.pages.write(offset, bytes);
    }

    /// `len` bytes from `offset`.
    pub fn read(&self, offset: u64, len: u64) -> Vec<u8> {
        let mut bytes = vec![0; len as usize];
        self.pages.read(offset, &mut bytes);
        bytes
    }

    /// Sets every byte of the mapping.
    pub fn fill(&self, byte: u8) {
        self.pages.write(0, &vec![byte; self.pages.len() as usize]);
    }

    /// Whether the device (or a fault) left the page at `offset` in the page table.
    pub fn entry(&self, offset: u64) -> u64 {
        self.space.table().get(self.addr() + offset)
    }

    /// Takes all pages out of the page table, as reclaim does; they come back when faulted in.
    ///
    /// # Panics
    ///
    /// If the device does not quiesce.
    pub fn page_out(&self) {
        let _areas = self.space.areas();
        self.space.clear_entries(self.addr(), self.pages.len()).expect("device quiesces");
    }

    /// As [`page_out`](Self::page_out), for the page at `offset` alone.
    ///
    /// # Panics
    ///
    /// If the device does not quiesce.
    pub fn page_out_one(&self, offset: u64) {
        let _areas = self.space.areas();
        let va = (self.addr() + offset) / FRAME * FRAME;
        self.space.clear_entries(va, FRAME).expect("device quiesces");
    }

    /// Moves every page to another frame, as compaction does; the device finds them again by a page
    /// request, since the entries stay empty.
    ///
    /// # Panics
    ///
    /// If the device does not quiesce or the guest is out of memory.
    pub fn migrate(&self) {
        let _areas = self.space.areas();
        for page in 0..self.pages.len() / FRAME {
            let va = self.addr() + page * FRAME;
            self.space.clear_entries(va, FRAME).expect("device quiesces");
            self.pages.migrate(page as usize);
        }
    }

    /// Makes the buffer read-only for good.
    ///
    /// # Panics
    ///
    /// If the device does not quiesce.
    pub fn protect(&self) {
        let mut areas = self.space.areas();
        areas.get_mut(&self.addr()).expect("own area").writable = false;
        {
            let mut table = self.space.table();
            for page in 0..self.pages.len() / FRAME {
                table.write_protect(self.addr() + page * FRAME);
            }
        }
        let end = self.addr() + self.pages.len();
        self.space.invalidate(self.addr(), end).expect("device quiesces");
    }

    /// Unmaps the buffer while keeping its memory, so that a test can see who still writes to it.
    ///
    /// # Panics
    ///
    /// If the device does not quiesce.
    pub fn unmap(&self) {
        let mut areas = self.space.areas();
        if areas.remove(&self.addr()).is_some() {
            self.space.clear_entries(self.addr(), self.pages.len()).expect("device quiesces");
        }
    }
}

impl Drop for UserBuffer {
    fn drop(&mut self) {
        let mut areas = self.space.areas();
        if areas.remove(&self.addr()).is_some()
            && self.space.clear_entries(self.addr(), self.pages.len()).is_err()
            && !std::thread::panicking()
        {
            panic!("the device did not let go of a buffer");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process_guest::page_table::{ADDRESS, PRESENT};

    fn space() -> Arc<AddressSpace> {
        let ram = Ram::new(1 << 20);
        let epoch = Arc::new(ram.alloc(FRAME, Layout::Linear));
        AddressSpace::new(&ram, Paging::Level4, &epoch)
    }

    #[test]
    fn lazy_memory_is_faulted_in_up_to_the_end_of_the_mapping() {
        let space = space();
        let buffer = space.lazy_buffer(3 * FRAME);
        assert_eq!(buffer.entry(0), 0);
        let code = space.fault_in(buffer.addr() + FRAME, 16 * FRAME, true, u64::MAX);
        assert_eq!(code, PageResponseCode::Success);
        assert_eq!(buffer.entry(0), 0);
        assert_eq!(buffer.entry(2 * FRAME) & ADDRESS, buffer.pages().gpa(2 * FRAME));
        let behind = buffer.addr() + buffer.pages().len();
        assert_eq!(space.fault_in(behind, FRAME, false, 1), PageResponseCode::Invalid);
    }

    #[test]
    fn read_only_memory_faults_for_reading_only() {
        let space = space();
        let buffer = space.map(FRAME, Layout::Linear, Fault::Lazy, false);
        assert_eq!(space.fault_in(buffer.addr(), FRAME, true, 1), PageResponseCode::Invalid);
        assert_eq!(space.fault_in(buffer.addr(), FRAME, false, 1), PageResponseCode::Success);
    }

    #[test]
    fn migration_keeps_contents_and_changes_frames() {
        let space = space();
        let buffer = space.buffer(4 * FRAME);
        buffer.fill(7);
        buffer.write(FRAME, b"here");
        let before = buffer.pages().gpas();
        buffer.migrate();
        assert!(buffer.pages().gpas().iter().zip(before).all(|(now, old)| *now != old));
        assert_eq!(buffer.read(FRAME, 5), b"here\x07");
        assert_eq!(buffer.entry(FRAME) & PRESENT, 0);
    }
}
