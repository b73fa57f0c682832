// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A ring of elements in memory that the device sees too.

use core::ptr::NonNull;
use core::sync::atomic::AtomicU64;

use crate::LayoutError;

/// A ring of `depth` elements, addressed by running counts that wrap at 2^32.
#[derive(Debug)]
pub(crate) struct Ring {
    base: NonNull<u8>,
    depth: u32,
    stride: u32,
}

// SAFETY: the memory belongs to this value and the device (contract of `new`), not to a thread.
#[allow(unsafe_code)]
unsafe impl Send for Ring {}
// SAFETY: with a shared reference an element can only be read, or changed through an atomic word.
#[allow(unsafe_code)]
unsafe impl Sync for Ring {}

#[allow(unsafe_code, reason = "the one place that touches ring memory")]
impl Ring {
    /// # Safety
    /// From `base`, `depth * stride` bytes are mapped for reading and writing for as long as the
    /// value lives, and nobody but this value and the device uses them.
    pub(crate) unsafe fn new(
        base: NonNull<u8>,
        depth: u32,
        stride: u32,
    ) -> Result<Self, LayoutError> {
        if !depth.is_power_of_two() || depth > 1 << 30 {
            return Err(LayoutError::Depth(depth));
        }
        if !(base.as_ptr() as usize).is_multiple_of(64) {
            return Err(LayoutError::Alignment);
        }
        Ok(Self { base, depth, stride })
    }

    pub(crate) fn depth(&self) -> u32 {
        self.depth
    }

    pub(crate) fn stride(&self) -> u32 {
        self.stride
    }

    /// Phase bit of the element with running count `count`: `(lap + 1) & 1`.
    ///
    /// The depth divides 2^32 into an even number of laps, so the wrap of the count is no seam.
    pub(crate) fn phase(&self, count: u32) -> bool {
        count & self.depth == 0
    }

    /// Address of `len` bytes at `offset` in an element.
    fn at(&self, count: u32, offset: usize, len: usize) -> *mut u8 {
        // Every caller computed its offset from limits checked before; this is the backstop that
        // keeps the functions below safe whatever happens to those checks.
        assert!(offset <= self.stride as usize && len <= self.stride as usize - offset);
        let slot = (count & (self.depth - 1)) as usize * self.stride as usize;
        // SAFETY: the slot lies in the ring by the mask, the bytes lie in the slot by the assertion,
        // and the ring is one mapping by the contract of `new`.
        unsafe { self.base.as_ptr().add(slot + offset) }
    }

    /// Copies `bytes` into an element that the driver owns.
    pub(crate) fn write(&mut self, count: u32, offset: usize, bytes: &[u8]) {
        let target = self.at(count, offset, bytes.len());
        // SAFETY: `at` gave `bytes.len()` mapped bytes. The device does not look at an element
        // before its phase is published. `&mut self` excludes every other access of this side.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), target, bytes.len()) }
    }

    /// Copies bytes out of an element that the driver owns.
    pub(crate) fn read<const N: usize>(&self, count: u32, offset: usize) -> [u8; N] {
        let source = self.at(count, offset, N);
        // SAFETY: `at` gave `N` mapped bytes; the device does not change an element that it published
        // before the driver gave it back.
        unsafe { source.cast::<[u8; N]>().read() }
    }

    /// The aligned word of an element that carries its phase.
    pub(crate) fn word(&self, count: u32, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8));
        let word = self.at(count, offset, 8).cast::<u64>();
        // SAFETY: mapped by `at`; aligned since the base is aligned to 64 bytes, the stride is a
        // multiple of 32 and the offset one of 8. While the value is shared it changes only by
        // atomic accesses: `read` and `write` are never used on the word that carries the phase.
        unsafe { AtomicU64::from_ptr(word) }
    }

    /// Tells the processor that element `count` will be read soon.
    #[inline]
    pub(crate) fn prefetch_to_read(&self, count: u32) {
        let place = self.at(count, 0, 0);
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a hint, which accesses nothing as far as the program can tell.
        unsafe {
            core::arch::x86_64::_mm_prefetch(place.cast(), core::arch::x86_64::_MM_HINT_T0);
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = place;
    }

    /// Tells the processor that element `count` will be written soon.
    #[inline]
    pub(crate) fn prefetch_to_write(&self, count: u32) {
        let place = self.at(count, 0, 0);
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a hint, which accesses nothing as far as the program can tell, and which processors that
        // do not know it ignore. The intrinsic would be a read's without a target feature.
        unsafe {
            core::arch::asm!("prefetchw [{place}]", place = in(reg) place,
                options(nostack, preserves_flags, readonly));
        }
        #[cfg(not(all(target_arch = "x86_64", not(miri))))]
        let _ = place;
    }

    /// Fills the ring with zero, which holds no valid element.
    pub(crate) fn clear(&mut self) {
        let len = self.depth as usize * self.stride as usize;
        // SAFETY: the whole ring is mapped; the device was told to stop using it by the caller.
        unsafe { core::ptr::write_bytes(self.base.as_ptr(), 0, len) }
    }
}
