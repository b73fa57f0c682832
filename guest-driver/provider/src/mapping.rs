// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory of the kernel module that the process maps.

use core::ffi::c_int;
use core::ptr::{self, NonNull};

use crate::errno::Errno;

/// What the process does with a mapping.
#[derive(Clone, Copy)]
pub(crate) enum Access {
    ReadWrite,
    Write,
}

/// A shared mapping, undone when dropped.
pub(crate) struct Mapping {
    base: NonNull<u8>,
    length: usize,
}

impl Mapping {
    /// Maps `length` bytes of the device file `fd` at `offset`.
    pub(crate) fn new(fd: c_int, offset: u64, length: u64, access: Access) -> Result<Self, Errno> {
        let length = usize::try_from(length).map_err(|_| Errno::PROTO)?;
        let offset = libc::off_t::try_from(offset).map_err(|_| Errno::PROTO)?;
        let protection = match access {
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
            Access::Write => libc::PROT_WRITE,
        };
        // SAFETY: a new mapping at an address of the kernel's choice.
        let base = unsafe {
            libc::mmap(ptr::null_mut(), length, protection, libc::MAP_SHARED, fd, offset)
        };
        if base == libc::MAP_FAILED {
            return Err(Errno::last());
        }
        let base = NonNull::new(base.cast()).ok_or(Errno::PROTO)?;
        let mapping = Self { base, length };
        // A child of fork must not post into its parent's queues.
        // SAFETY: the range was mapped above and belongs to nobody else yet.
        if unsafe { libc::madvise(base.as_ptr().cast(), length, libc::MADV_DONTFORK) } != 0 {
            return Err(Errno::last());
        }
        Ok(mapping)
    }

    /// The address of `length` bytes at `offset`, which must lie in the mapping.
    pub(crate) fn range(&self, offset: u64, length: u64) -> Result<NonNull<u8>, Errno> {
        match offset.checked_add(length) {
            Some(end) if end <= self.length as u64 => {
                // SAFETY: inside the mapping.
                Ok(unsafe { self.base.add(offset as usize) })
            }
            _ => Err(Errno::PROTO),
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: mapped in `new`. Whoever holds an address in it keeps the mapping beside it, so
        // that both end together. A failure would mean that the range is not mapped any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.length) };
    }
}
