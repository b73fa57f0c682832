// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory of a queue: a list of guest pages, checked once.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU32, AtomicU64};
use vnic_abi::PAGE_SIZE;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gpa;
use vnic_iommu::memory::{GuestRam, HostPtr};

/// Shift of a page of this interface.
const SHIFT: u32 = PAGE_SIZE.trailing_zeros();

/// Pages of guest memory that follow each other in the queue's own offsets.
#[derive(Debug)]
pub struct RingMemory {
    pages: Box<[HostPtr]>,
    /// Keeps the mappings alive that `pages` points into.
    _ram: GuestRam,
}

#[allow(unsafe_code)] // reason: raw pointers suppress the auto trait
// SAFETY: the pointers lead into mappings that `_ram` keeps alive, and every access through them
// (below) is atomic.
unsafe impl Sync for RingMemory {}

impl RingMemory {
    /// Resolves exactly `len` bytes (rounded up to pages).
    ///
    /// # Errors
    ///
    /// `BadSize` if the list is shorter or longer, `BadAddress` if a page is outside RAM, not aligned,
    /// or listed twice.
    pub fn new(ram: &GuestRam, pages: &[Gpa], len: u64) -> Result<Self, Status> {
        if pages.len() as u64 != len.div_ceil(PAGE_SIZE) {
            return Err(Status::BadSize);
        }
        let mut seen = HashSet::with_capacity(pages.len());
        let pages = pages
            .iter()
            .map(|&page| {
                let fresh = page.0.is_multiple_of(PAGE_SIZE) && seen.insert(page.0);
                fresh.then(|| ram.host_ptr(page, PAGE_SIZE as usize)).flatten()
            })
            .collect::<Option<Box<[HostPtr]>>>()
            .ok_or(Status::BadAddress)?;
        Ok(Self { pages, _ram: ram.clone() })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::ram;

    #[test]
    fn lists_are_checked() {
        let ram = ram();
        let make = |pages: &[u64], len| {
            let pages: Vec<Gpa> = pages.iter().copied().map(Gpa).collect();
            RingMemory::new(&ram, &pages, len).map(drop)
        };
        assert_eq!(make(&[0x1000, 0x3000], 8192), Ok(()));
        assert_eq!(make(&[0x1000, 0x3000], 4097), Ok(()));
        assert_eq!(make(&[0x1000, 0x3000], 4096), Err(Status::BadSize));
        assert_eq!(make(&[0x1000], 4097), Err(Status::BadSize));
        assert_eq!(make(&[0x1000, 0x1000], 8192), Err(Status::BadAddress));
        assert_eq!(make(&[0x1008], 4096), Err(Status::BadAddress));
        assert_eq!(make(&[!0xfff], 4096), Err(Status::BadAddress));
    }
}
