// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a front end may offer as its guest's memory.
//!
//! The monitor is trusted with its own guest's memory, but not with the daemon that others share: a
//! table that it got wrong must not end in a signal, nor use up what all guests need.

use std::os::fd::AsFd;

use rustix::fs::{FileType, fstat};
use rustix::io::Errno;
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap};
use vnic_abi::PAGE_SIZE;

/// Regions of one guest, at most: as many as the back end announces as slots. All guests together
/// share the 65530 mappings that a process may have.
pub const MAX_REGIONS: usize = 509;

/// Bytes of one guest, at most: an eighth of what a process can map.
pub const MAX_BYTES: u64 = 16 << 40;

/// Why a memory table is refused.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// More than [`MAX_REGIONS`].
    #[error("{0} memory regions offered; {MAX_REGIONS} are allowed")]
    Regions(usize),
    /// More than [`MAX_BYTES`].
    #[error("{0:#x} bytes of memory offered; {MAX_BYTES:#x} are allowed")]
    Bytes(u64),
    /// Not a whole number of pages.
    #[error("the memory region {start:#x}+{len:#x} is not made of whole pages")]
    Misaligned {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// An access behind the end of the file would end the process.
    #[error("the memory region {start:#x}+{len:#x} is longer than its file")]
    BeyondFile {
        /// Guest-physical address.
        start: u64,
        /// Bytes.
        len: u64,
    },
    /// Something whose mapping is not memory.
    #[error("the memory region at {0:#x} comes with a descriptor that is neither file nor device")]
    NotMemory(u64),
    /// The file cannot be looked at.
    #[error("cannot look at the file of a memory region: {0}")]
    File(#[from] Errno),
}

/// Checks all that is not checked by mapping it.
///
/// # Errors
///
/// The first reason to refuse the table.
pub fn check(memory: &GuestMemoryMmap) -> Result<(), MemoryError> {
    let regions = memory.num_regions();
    if regions > MAX_REGIONS {
        return Err(MemoryError::Regions(regions));
    }
    // Regions do not overlap, so that the sum is below 2^64.
    let bytes = memory.iter().map(GuestMemoryRegion::len).fold(0, u64::saturating_add);
    if bytes > MAX_BYTES {
        return Err(MemoryError::Bytes(bytes));
    }
    memory.iter().try_for_each(check_region)
}

fn check_region(region: &GuestRegionMmap) -> Result<(), MemoryError> {
    let (start, len) = (region.start_addr().0, region.len());
    // Mapping has refused a misaligned offset in the file.
    if !start.is_multiple_of(PAGE_SIZE) || !len.is_multiple_of(PAGE_SIZE) {
        return Err(MemoryError::Misaligned { start, len });
    }
    let Some(file) = region.file_offset() else { return Err(MemoryError::NotMemory(start)) };
    let stat = fstat(file.file().as_fd())?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => {
            // A negative size is none.
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            let end = file.start().checked_add(len);
            if end.is_none_or(|end| end > size) {
                return Err(MemoryError::BeyondFile { start, len });
            }
            Ok(())
        }
        // Persistent memory as a device: it has no size, and refuses to map what it does not have.
        FileType::CharacterDevice => Ok(()),
        _ => Err(MemoryError::NotMemory(start)),
    }
}
