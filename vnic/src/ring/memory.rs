// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory of a queue: a list of guest pages, checked once.

use smallvec::SmallVec;
use std::collections::HashSet;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vnic_abi::PAGE_SIZE;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gpa;
use vnic_iommu::memory::{GuestRam, Mapping};

/// Shift of a page of this interface.
const SHIFT: u32 = PAGE_SIZE.trailing_zeros();

/// How many pages the rings of one guest may have together.
///
/// A guest can list the same page in every ring, so that its own memory is no bound for what the
/// device has to remember.
#[derive(Debug)]
pub struct PageBudget {
    left: AtomicU64,
}

impl PageBudget {
    /// For `pages` pages.
    pub fn new(pages: u32) -> Arc<Self> {
        Arc::new(Self { left: AtomicU64::new(pages.into()) })
    }

    fn take(self: &Arc<Self>, pages: u64) -> Result<Share, Status> {
        // Relaxed: a sum that orders nothing.
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(pages))
            .map(|_| Share { budget: self.clone(), pages })
            .map_err(|_| Status::Limit)
    }
}

/// Part of a budget, given back when it is dropped.
#[derive(Debug)]
struct Share {
    budget: Arc<PageBudget>,
    pages: u64,
}

impl Drop for Share {
    fn drop(&mut self) {
        // Relaxed: as in `take`.
        self.budget.left.fetch_add(self.pages, Ordering::Relaxed);
    }
}

/// Pages of guest memory that follow each other in the queue's own offsets.
#[derive(Debug)]
pub struct RingMemory {
    pages: Box<[NonNull<u8>]>,
    /// The regions that `pages` points into, which stay mapped even if they cease to be RAM.
    _mappings: SmallVec<[Mapping; 1]>,
    _share: Share,
}

#[allow(unsafe_code)] // reason: raw pointers suppress the auto trait
// SAFETY: the pointers lead into mappings that `_mappings` keeps alive, and every access through them
// (below) is atomic.
unsafe impl Sync for RingMemory {}

#[allow(unsafe_code)] // reason: as above
// SAFETY: as for `Sync`; the mappings may be dropped by any thread.
unsafe impl Send for RingMemory {}

impl RingMemory {
    /// Resolves exactly `len` bytes (rounded up to pages).
    ///
    /// # Errors
    ///
    /// `BadSize` if the list is shorter or longer, `BadAddress` if a page is outside RAM, not aligned,
    /// or listed twice, `Limit` if the budget has not as many pages left.
    pub fn new(
        ram: &GuestRam,
        budget: &Arc<PageBudget>,
        pages: &[Gpa],
        len: u64,
    ) -> Result<Self, Status> {
        if pages.len() as u64 != len.div_ceil(PAGE_SIZE) {
            return Err(Status::BadSize);
        }
        let share = budget.take(pages.len() as u64)?;
        let mut seen = HashSet::with_capacity(pages.len());
        let mut mappings = SmallVec::new();
        let pages = pages
            .iter()
            .map(|&page| {
                if !page.0.is_multiple_of(PAGE_SIZE) || !seen.insert(page.0) {
                    return None;
                }
                let (host, mapping) = ram.pin(page, PAGE_SIZE as usize)?;
                if !mappings.contains(&mapping) {
                    mappings.push(mapping);
                }
                Some(host.as_non_null())
            })
            .collect::<Option<Box<[NonNull<u8>]>>>()
            .ok_or(Status::BadAddress)?;
        Ok(Self { pages, _mappings: mappings, _share: share })
    }

    #[inline]
    fn at(&self, offset: usize) -> *mut u8 {
        let page = self.pages[offset >> SHIFT];
        page.as_ptr().wrapping_add(offset & (PAGE_SIZE as usize - 1))
    }

    /// The 64-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// If `offset` is outside the memory or not a multiple of 8: offsets are the device's own.
    #[inline]
    pub fn word(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        #[allow(unsafe_code)] // reason: guest memory has no Rust owner
        // SAFETY: in bounds by the index in `at`, aligned by the assertion (pages are), alive for as
        // long as `self`; atomics tolerate the guest's concurrent changes.
        unsafe {
            AtomicU64::from_ptr(self.at(offset).cast())
        }
    }

    /// The 64-bit words of the `len` bytes at `offset`, which lie in one page.
    ///
    /// # Panics
    ///
    /// If they do not, or are no whole words: offsets are the device's own.
    #[inline]
    pub fn words(&self, offset: usize, len: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && len.is_multiple_of(8));
        assert!(offset % PAGE_SIZE as usize + len <= PAGE_SIZE as usize);
        #[allow(unsafe_code)] // reason: guest memory has no Rust owner
        // SAFETY: in bounds by the index in `at` and the assertion, aligned by the other one, alive for
        // as long as `self`; atomics tolerate the guest's concurrent changes.
        unsafe {
            std::slice::from_raw_parts(self.at(offset).cast(), len / 8)
        }
    }

    /// Tells the processor that the line at `offset` will be read soon.
    #[inline]
    pub fn prefetch(&self, offset: usize) {
        prefetch(self.at(offset));
    }

    /// Tells the processor that the line at `offset` will be written soon.
    #[inline]
    pub fn prefetch_to_write(&self, offset: usize) {
        let place = self.at(offset);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        #[allow(unsafe_code)] // reason: an instruction without a safe name
        // SAFETY: a prefetch accesses nothing as far as the program can tell, whatever the address.
        // Processors that do not know this one ignore it.
        unsafe {
            std::arch::asm!("prefetchw [{place}]", place = in(reg) place,
                options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = place;
    }

    /// The 32-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// As [`Self::word`], for multiples of 4.
    #[inline]
    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4));
        #[allow(unsafe_code)] // reason: guest memory has no Rust owner
        // SAFETY: as in `word`.
        unsafe {
            AtomicU32::from_ptr(self.at(offset).cast())
        }
    }
}

/// Tells the processor that the line at `place` will be read soon. A hint, which never faults.
#[inline]
pub fn prefetch(place: *const u8) {
    #[cfg(target_arch = "x86_64")]
    #[allow(unsafe_code)] // reason: an instruction without a safe name
    // SAFETY: a prefetch accesses nothing as far as the program can tell, whatever the address.
    unsafe {
        std::arch::x86_64::_mm_prefetch(place.cast(), std::arch::x86_64::_MM_HINT_T0);
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = place;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::ram;

    #[test]
    fn lists_are_checked() {
        let ram = ram();
        let make = |pages: &[u64], len| {
            let pages: Vec<Gpa> = pages.iter().copied().map(Gpa).collect();
            RingMemory::new(&ram, &PageBudget::new(16), &pages, len).map(drop)
        };
        assert_eq!(make(&[0x1000, 0x3000], 8192), Ok(()));
        assert_eq!(make(&[0x1000, 0x3000], 4097), Ok(()));
        assert_eq!(make(&[0x1000, 0x3000], 4096), Err(Status::BadSize));
        assert_eq!(make(&[0x1000], 4097), Err(Status::BadSize));
        assert_eq!(make(&[0x1000, 0x1000], 8192), Err(Status::BadAddress));
        assert_eq!(make(&[0x1008], 4096), Err(Status::BadAddress));
        assert_eq!(make(&[!0xfff], 4096), Err(Status::BadAddress));
    }

    #[test]
    fn a_budget_is_shared_and_given_back() {
        let (ram, budget) = (ram(), PageBudget::new(3));
        let make = |pages: &[Gpa]| RingMemory::new(&ram, &budget, pages, pages.len() as u64 * 4096);
        let two = make(&[Gpa(0x1000), Gpa(0x2000)]).unwrap();
        assert_eq!(make(&[Gpa(0x1000), Gpa(0x2000)]).map(drop), Err(Status::Limit));
        let one = make(&[Gpa(0x1000)]).unwrap();
        drop(two);
        assert_eq!(make(&[Gpa(0x1000), Gpa(0x1008)]).map(drop), Err(Status::BadAddress));
        make(&[Gpa(0x1000), Gpa(0x2000)]).unwrap();
        drop(one);
    }
}
