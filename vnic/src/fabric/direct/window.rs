// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shadow windows: the pages of a guest's memory region, one behind the other in the daemon's address space, as a device
//! of the host wants memory to be.

use crate::object::space::Space;
use parking_lot::Mutex;
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::PAGE_SIZE;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gva;
use vnic_iommu::memory::Backing;
use vnic_iommu::quiesce::WorkerSlot;
use vnic_iommu::walk::Access;

/// Where addresses of processes end, with five levels of page tables.
const USER_END: u64 = 1 << 56;

/// Pages that are walked in one burst, for which an invalidation in the guest may have to wait.
const BURST: usize = 256;

/// How much the windows of one guest may take of what the whole daemon has.
#[derive(Debug)]
pub struct WindowBudget {
    pages: AtomicU64,
    ranges: AtomicU64,
}

impl WindowBudget {
    /// Room for so many pages, in so many ranges that lie together in the guest's memory.
    pub fn new(pages: u64, ranges: u64) -> Arc<Self> {
        Arc::new(Self { pages: AtomicU64::new(pages), ranges: AtomicU64::new(ranges) })
    }

    /// Takes so many pages.
    #[cfg(feature = "verbs")]
    pub(super) fn take_pages(&self, count: u64) -> Result<(), Status> {
        Self::take(&self.pages, count)
    }

    /// Gives so many pages back.
    #[cfg(feature = "verbs")]
    pub(super) fn give_pages(&self, count: u64) {
        Self::give(&self.pages, count);
    }

    fn take(of: &AtomicU64, count: u64) -> Result<(), Status> {
        // Relaxed: a sum that orders nothing.
        of.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(count))
            .map(drop)
            .map_err(|_| Status::Limit)
    }

    fn give(of: &AtomicU64, count: u64) {
        // Relaxed: as in `take`.
        of.fetch_add(count, Ordering::Relaxed);
    }
}

/// The whole pages that `len` bytes at `va` lie in: offset in the first one, and bytes of all.
///
/// # Errors
///
/// `BadSize` if they are no range of a process: no page table leads there.
pub(super) fn whole_pages(va: u64, len: u64) -> Result<(u64, usize), Status> {
    let end = va.checked_add(len).filter(|end| *end <= USER_END).ok_or(Status::BadSize)?;
    let offset = va % PAGE_SIZE;
    let bytes = end.next_multiple_of(PAGE_SIZE) - (va - offset);
    Ok((offset, usize::try_from(bytes).map_err(|_| Status::BadSize)?))
}

/// Guest pages that lie together in the file behind the guest's memory.
struct Run {
    backing: Backing,
    /// Bytes.
    len: u64,
}

/// A window, whole from the beginning: its pages do not move for as long as it is there.
#[derive(Debug)]
pub struct Window {
    start: *mut c_void,
    len: usize,
    /// Of the region's first byte in the first page.
    offset: usize,
    ranges: u64,
    budget: Arc<WindowBudget>,
}

#[allow(unsafe_code)] // reason: a raw pointer suppresses the auto trait
// SAFETY: the mapping is the value's own, and nothing is read or written through the pointer.
unsafe impl Send for Window {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// The pages of `len` bytes at `va` in `space`, of which the guest's driver has said that they stay. `slot` is for the
    /// walks, which this thread announces. `writes` tells whether the device may write to them.
    ///
    /// # Errors
    ///
    /// `BadSize` as from [`whole_pages`]; `BadAddress` if a page is not there or not writable, or the guest's memory is not a file that can be shared;
    /// `Limit` if the budget or the operating system has no room left.
    pub fn of_pages(
        space: &Space,
        va: Gva,
        len: u64,
        writes: bool,
        slot: &Mutex<WorkerSlot>,
        budget: &Arc<WindowBudget>,
    ) -> Result<Self, Status> {
        let (offset, bytes) = whole_pages(va.0, len)?;
        let mut window = Self::reserve(bytes, offset as usize, budget)?;
        let runs = runs(space, Gva(va.0 - offset), bytes as u64, writes, slot)?;
        WindowBudget::take(&budget.ranges, runs.len() as u64)?;
        window.ranges = runs.len() as u64;
        let mut at = 0;
        for run in &runs {
            window.map(at, run)?;
            at += run.len as usize;
        }
        Ok(window)
    }

    /// Address space with nothing in it.
    fn reserve(len: usize, offset: usize, budget: &Arc<WindowBudget>) -> Result<Self, Status> {
        WindowBudget::take(&budget.pages, len as u64 / PAGE_SIZE)?;
        let mut window = Self { start: null_mut(), len, offset, ranges: 0, budget: budget.clone() };
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        #[allow(unsafe_code)] // reason: a mapping has no Rust owner
        // SAFETY: a new mapping where the kernel likes, which nobody accesses.
        let start = unsafe { mmap_anonymous(null_mut(), len, ProtFlags::empty(), flags) };
        window.start = start.map_err(|error| refused("reserve", error))?;
        Ok(window)
    }

    /// Puts `run` at `at` bytes.
    fn map(&mut self, at: usize, run: &Run) -> Result<(), Status> {
        let place = self.start.wrapping_byte_add(at);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        debug_assert!(at + run.len as usize <= self.len);
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: the place lies in the mapping of `reserve`, which is this value's own. Only the device and the
        // guest access what is there.
        let mapped = unsafe {
            let Backing { file, offset, .. } = &run.backing;
            mmap(place, run.len as usize, protection, flags, file, *offset)
        };
        mapped.map(drop).map_err(|error| refused("map", error))
    }

    /// Where the region's first byte is.
    pub fn addr(&self) -> *mut u8 {
        self.start.wrapping_byte_add(self.offset).cast()
    }
}

fn refused(what: &'static str, error: rustix::io::Errno) -> Status {
    tracing::warn!(%error, "cannot {what} guest pages for a device of the host; raise vm.max_map_count if there are many");
    Status::Limit
}

/// The pages of `len` bytes at `va`, whole pages both, as runs that lie together.
fn runs(
    space: &Space,
    va: Gva,
    len: u64,
    writes: bool,
    slot: &Mutex<WorkerSlot>,
) -> Result<Vec<Run>, Status> {
    let access = if writes { Access::Write } else { Access::Read };
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    while at < len {
        let slot = slot.lock();
        // The guest may be taking pages of the table itself away, which waits for this burst and no longer.
        let burst = slot.enter();
        for _ in 0..BURST {
            if at == len || !space.is_bound() {
                break;
            }
            at += append(&mut runs, space, Gva(va.0 + at), len - at, access)?;
        }
        drop(burst);
        if !space.is_bound() {
            return Err(Status::BadAddress);
        }
    }
    Ok(runs)
}

/// Adds the page at `va`, or as much of it as `most`. How much it was.
fn append(
    runs: &mut Vec<Run>,
    space: &Space,
    va: Gva,
    most: u64,
    access: Access,
) -> Result<u64, Status> {
    let leaf = space.table.walk(va, access).map_err(|_| Status::BadAddress)?;
    // What is left of the page, which may be a large one.
    let page = 1u64 << leaf.page_shift;
    let rest = (page - (leaf.gpa.0 & (page - 1))).min(most);
    let backing = space.table.ram().load().backing(leaf.gpa).ok_or(Status::BadAddress)?;
    let rest = rest.min(backing.len) & !(PAGE_SIZE - 1);
    if rest == 0 {
        return Err(Status::BadAddress);
    }
    match runs.last_mut() {
        Some(last) if last.backing.is_followed_by(last.len, &backing) => last.len += rest,
        _ => runs.push(Run { backing, len: rest }),
    }
    Ok(rest)
}

impl Drop for Window {
    fn drop(&mut self) {
        if !self.start.is_null() {
            #[allow(unsafe_code)] // reason: as above
            // SAFETY: mapped in `reserve`; whoever registered it with a device has deregistered it before.
            let unmapped = unsafe { munmap(self.start, self.len) };
            debug_assert!(unmapped.is_ok());
        }
        WindowBudget::give(&self.budget.pages, self.len as u64 / PAGE_SIZE);
        WindowBudget::give(&self.budget.ranges, self.ranges);
    }
}
