// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Staging rings: the memory of a lane that is registered with the device. Nothing else ever is.

use rustix::io::Errno;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::ptr::NonNull;

/// Slots of equal size, page-aligned as a whole.
#[derive(Debug)]
pub struct Staging {
    start: NonNull<u8>,
    slots: usize,
    slot_bytes: usize,
}

#[allow(unsafe_code)] // reason: memory that a device reaches has no Rust owner
// SAFETY: the mapping belongs to the value alone and moves with it.
unsafe impl Send for Staging {}

impl Staging {
    /// So many slots, all zero.
    ///
    /// # Errors
    ///
    /// No memory.
    pub fn new(slots: u32, slot_bytes: u32) -> Result<Self, Errno> {
        let (slots, slot_bytes) = (slots as usize, slot_bytes as usize);
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: a mapping of its own, where the kernel likes.
        let start = unsafe {
            mmap_anonymous(std::ptr::null_mut(), slots * slot_bytes, protection, MapFlags::PRIVATE)
        }?;
        let start = NonNull::new(start.cast()).ok_or(Errno::NOMEM)?;
        Ok(Self { start, slots, slot_bytes })
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.slots * self.slot_bytes
    }

    /// Where it is, for the device.
    pub fn address(&self) -> *mut c_void {
        self.start.as_ptr().cast()
    }

    /// Bytes of a slot.
    pub fn slot_bytes(&self) -> usize {
        self.slot_bytes
    }

    /// Address of slot `index`, for the device.
    pub fn slot_address(&self, index: usize) -> u64 {
        debug_assert!(index < self.slots);
        self.start.as_ptr().wrapping_add(index * self.slot_bytes).expose_provenance() as u64
    }

    /// Bytes of slot `index`, which the device has no work for.
    pub fn slot(&mut self, index: usize) -> &mut [u8] {
        assert!(index < self.slots, "slot {index} of {}", self.slots);
        let start = self.start.as_ptr().wrapping_add(index * self.slot_bytes);
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: within the mapping by the assertion; borrowed as the whole is. The device writes only to
        // slots that were posted to it, which the lane does not look at before their completion.
        unsafe {
            std::slice::from_raw_parts_mut(start, self.slot_bytes)
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: mapped in `new`; whoever registered it has deregistered it before.
        let unmapped = unsafe { munmap(self.start.as_ptr().cast(), self.slots * self.slot_bytes) };
        debug_assert!(unmapped.is_ok());
    }
}
