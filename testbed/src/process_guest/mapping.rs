// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Ranges of this process's addresses, with or without guest RAM behind them.

use std::fs::File;

use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};
use vm_memory::VolatileSlice;

use super::memory::FRAME;

/// A range of this process's addresses that nothing backs: memory that was never touched.
pub struct Reservation(Mapping);

impl Reservation {
    /// Reserves `len` bytes.
    ///
    /// # Panics
    ///
    /// If the host has no such range.
    pub fn new(len: u64) -> Self {
        Self(Mapping::reserve(len as usize))
    }

    /// The first address.
    pub fn addr(&self) -> u64 {
        self.0.ptr as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.0.len as u64
    }

    /// Whether it holds no address.
    pub fn is_empty(&self) -> bool {
        self.0.len == 0
    }
}

/// An address range of this process.
pub(super) struct Mapping {
    pub(super) ptr: *mut u8,
    pub(super) len: usize,
}

#[allow(unsafe_code, reason = "the raw pointer suppresses the auto traits")]
// SAFETY: the range belongs to the mapping until it is dropped, and is only accessed by volatile
// and atomic operations, whichever thread does them.
unsafe impl Send for Mapping {}
#[allow(unsafe_code, reason = "as above")]
// SAFETY: as for `Send`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Addresses that nothing backs.
    pub(super) fn reserve(len: usize) -> Self {
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        #[allow(unsafe_code, reason = "address space of this process is handled here")]
        // SAFETY: a new range at an address that the kernel chooses replaces nothing.
        let ptr = unsafe { mmap_anonymous(std::ptr::null_mut(), len, ProtFlags::empty(), flags) };
        Self { ptr: ptr.expect("reserve addresses").cast(), len }
    }

    /// As [`Self::reserve`], from a multiple of `align` bytes on, which is one of pages.
    fn reserve_aligned(len: usize, align: usize) -> Self {
        let mut whole = Self::reserve(len + align);
        let head = whole.ptr.align_offset(align);
        let keep = Self { ptr: whole.ptr.wrapping_add(head), len };
        let tail = Self { ptr: keep.ptr.wrapping_add(len), len: align - head };
        // What is in front goes with `whole`, what is behind with `tail`.
        whole.len = head;
        drop(tail);
        keep
    }

    /// Addresses behind which `frames` of `file` lie, from a multiple of `align` bytes on.
    pub(super) fn of_frames(file: &File, frames: &[usize], align: u64) -> Self {
        let len = frames.len() * FRAME as usize;
        let mapping = match align {
            FRAME => Self::reserve(len),
            align => Self::reserve_aligned(len, align as usize),
        };
        mapping.replace(file, 0, frames);
        mapping
    }

    /// Maps `frames` from `offset` on, in place of what is there.
    pub(super) fn replace(&self, file: &File, offset: usize, frames: &[usize]) {
        let frame_len = FRAME as usize;
        assert!(offset + frames.len() * frame_len <= self.len);
        let mut first = 0;
        while first < frames.len() {
            let run = frames[first..]
                .iter()
                .enumerate()
                .take_while(|&(i, &frame)| frame == frames[first] + i)
                .count();
            let protection = ProtFlags::READ | ProtFlags::WRITE;
            let flags = MapFlags::SHARED | MapFlags::FIXED;
            let file_offset = frames[first] as u64 * FRAME;
            let at = self.ptr.wrapping_add(offset + first * frame_len).cast();
            #[allow(unsafe_code, reason = "as above")]
            // SAFETY: the fixed range lies within this mapping by the assertion. Whoever looks at it
            // does so by volatile access, which finds either the old frame or the new one.
            let mapped = unsafe { mmap(at, run * frame_len, protection, flags, file, file_offset) };
            mapped.expect("map frames");
            first += run;
        }
    }

    /// The bytes for volatile access.
    pub(super) fn slice(&self) -> VolatileSlice<'_> {
        #[allow(unsafe_code, reason = "a view of memory that has no Rust owner")]
        // SAFETY: the range is mapped until `self` is dropped, and volatile access tolerates that
        // the device writes to it too.
        unsafe {
            VolatileSlice::new(self.ptr, self.len)
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.len == 0 {
            return;
        }
        #[allow(unsafe_code, reason = "as above")]
        // SAFETY: the range is ours alone, and borrows of it have ended.
        let unmapped = unsafe { munmap(self.ptr.cast(), self.len) };
        unmapped.expect("unmap own range");
    }
}
