// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's memory management in miniature: real page tables in guest RAM, for tests and for guests
//! that are processes.

pub mod translations;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::addr::{Gpa, Gva, PAGE_SHIFT, PAGE_SIZE};
use crate::memory::GuestRam;
use crate::walk::PagingMode;
use crate::walk::x86_64::{ADDRESS_MASK, LEVEL_BITS, PAGE_SIZE_BIT, PRESENT, USER, WRITABLE};

/// RAM of `len` bytes from guest-physical 0, backed by anonymous memory of this process.
///
/// # Panics
///
/// If the memory cannot be mapped.
pub fn anonymous_ram(len: usize) -> GuestRam {
    let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), len)]);
    GuestRam::new(Arc::new(memory.expect("anonymous memory for a test")))
}

/// Why a [`PageTableBuilder`] cannot do what it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// The frames given for tables are used up, or are not RAM.
    #[error("no frame left for a page table")]
    NoFrames,
    /// A larger page, or a raw entry, is in the way.
    #[error("{0} is already mapped by a higher level")]
    Occupied(Gva),
    /// Nothing is mapped there.
    #[error("{0} is not mapped")]
    NotMapped(Gva),
    /// An address is not a multiple of the page size, or not the user's, or no such size exists.
    #[error("{0} cannot be mapped with that page size")]
    Misaligned(Gva),
}

/// Builds and changes x86-64 page tables in guest RAM while a device walks them.
///
/// Entries are updated with single atomic stores or compare-exchange, as an operating system does
/// it; tables are filled before they are linked. To revoke a mapping, [`unmap`](Self::unmap) or
/// [`protect`](Self::protect), then [`Invalidator::invalidate`](crate::quiesce::Invalidator), then
/// reuse the page. Table frames are kept until the builder's range is given up.
#[derive(Debug)]
pub struct PageTableBuilder {
    ram: GuestRam,
    mode: PagingMode,
    root: Gpa,
    /// The next free frame and the end of the range; the lock also orders changes of structure.
    frames: Mutex<(u64, u64)>,
}

impl PageTableBuilder {
    /// An empty table whose frames come from `first..end` in `ram`.
    ///
    /// # Errors
    ///
    /// [`BuildError::NoFrames`] if there is no room for the root.
    pub fn new(ram: &GuestRam, mode: PagingMode, first: Gpa, end: Gpa) -> Result<Self, BuildError> {
        let first = first.checked_align_up(PAGE_SHIFT).ok_or(BuildError::NoFrames)?;
        let mut frames = (first.0, end.0);
        let root = take_frame(ram, &mut frames)?;
        Ok(Self { ram: ram.clone(), mode, root, frames: Mutex::new(frames) })
    }

    /// The root's address, as the driver gives it to the device.
    pub const fn root(&self) -> Gpa {
        self.root
    }

    /// The number of levels.
    pub const fn mode(&self) -> PagingMode {
        self.mode
    }

    /// The RAM that the tables are in.
    pub const fn ram(&self) -> &GuestRam {
        &self.ram
    }

    /// A zeroed frame from the builder's range, for data or for tables made by hand.
    ///
    /// # Errors
    ///
    /// [`BuildError::NoFrames`].
    pub fn alloc_frame(&self) -> Result<Gpa, BuildError> {
        take_frame(&self.ram, &mut self.lock())
    }

    /// Maps the page at `va` to `gpa`. `page_shift` is 12, 21 or 30; `flags` are entry bits, to which
    /// present is added (so `USER | WRITABLE` for ordinary memory). Replaces a leaf of the same size.
    ///
    /// # Errors
    ///
    /// Any [`BuildError`]; nothing is mapped then.
    pub fn map(&self, va: Gva, gpa: Gpa, page_shift: u32, flags: u64) -> Result<(), BuildError> {
        let aligned = matches!(page_shift, 12 | 21 | 30)
            && va.is_aligned(page_shift)
            && gpa.is_aligned(page_shift)
            && va.is_canonical_user(self.mode);
        if !aligned {
            return Err(BuildError::Misaligned(va));
        }
        let mut frames = self.lock();
        let slot = self.descend(va, page_shift, Some(&mut frames))?;
        let size = if page_shift > PAGE_SHIFT { PAGE_SIZE_BIT } else { 0 };
        // Release: pairs with the walker's Acquire; the page's first content comes before its entry.
        slot.store(gpa.0 | flags | size | PRESENT, Ordering::Release);
        Ok(())
    }

    /// Clears the leaf that maps `va` and returns what it was, accessed and dirty bits included.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotMapped`].
    pub fn unmap(&self, va: Gva) -> Result<u64, BuildError> {
        let _order = self.lock();
        let slot = self.leaf(va)?;
        // AcqRel: as the CPU's locked exchange; the device may be setting accessed and dirty bits.
        Ok(slot.swap(0, Ordering::AcqRel))
    }

    /// Clears `clear` and then sets `set` in the leaf that maps `va`; returns what it was.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotMapped`].
    pub fn protect(&self, va: Gva, clear: u64, set: u64) -> Result<u64, BuildError> {
        let _order = self.lock();
        let slot = self.leaf(va)?;
        // AcqRel and Acquire: as the CPU's locked update; the device may be marking the same leaf.
        slot.fetch_update(Ordering::AcqRel, Ordering::Acquire, |old| Some(old & !clear | set))
            .map_err(|_| BuildError::NotMapped(va))
    }

    /// Stores `entry` as it is, in the table of `level` (1 is the last, 4 or 5 the root) on the way to
    /// `va`, making the tables above it where missing. For tables that are wrong on purpose.
    ///
    /// # Errors
    ///
    /// [`BuildError::Misaligned`] if there is no such level, and as for [`map`](Self::map).
    pub fn set_raw(&self, level: u32, va: Gva, entry: u64) -> Result<(), BuildError> {
        if !(1..=self.mode.levels()).contains(&level) {
            return Err(BuildError::Misaligned(va));
        }
        let mut frames = self.lock();
        let slot = self.descend(va, level_shift(level), Some(&mut frames))?;
        // Release: as in `map`.
        slot.store(entry, Ordering::Release);
        Ok(())
    }

    /// The entry of `level` on the way to `va`, if the tables above it exist.
    pub fn entry(&self, level: u32, va: Gva) -> Option<u64> {
        if !(1..=self.mode.levels()).contains(&level) {
            return None;
        }
        let slot = self.descend(va, level_shift(level), None).ok()?;
        // Acquire: pairs with the device's marking of accessed and dirty.
        Some(slot.load(Ordering::Acquire))
    }

    /// The leaf entry that maps `va` and the log2 of its size, if there is one.
    pub fn leaf_entry(&self, va: Gva) -> Option<(u64, u32)> {
        (1..=3).find_map(|level| {
            let entry = self.entry(level, va)?;
            let leaf = level == 1 || entry & PAGE_SIZE_BIT != 0;
            (entry & PRESENT != 0 && leaf).then_some((entry, level_shift(level)))
        })
    }

    fn leaf(&self, va: Gva) -> Result<&AtomicU64, BuildError> {
        let (_, shift) = self.leaf_entry(va).ok_or(BuildError::NotMapped(va))?;
        self.descend(va, shift, None)
    }

    /// The slot for `va` in the table whose entries map `1 << to` bytes. Makes missing tables if
    /// there are frames to make them of.
    fn descend(
        &self,
        va: Gva,
        to: u32,
        mut frames: Option<&mut (u64, u64)>,
    ) -> Result<&AtomicU64, BuildError> {
        let mut table = self.root;
        let mut level = self.mode.levels();
        loop {
            let shift = level_shift(level);
            let index = (va.0 >> shift) & ((1 << LEVEL_BITS) - 1);
            let slot = table.checked_add(index * 8).and_then(|gpa| self.ram.atomic_u64(gpa));
            let slot = slot.ok_or(BuildError::Occupied(va))?;
            if shift == to {
                return Ok(slot);
            }
            let mut entry = slot.load(Ordering::Acquire);
            if entry & PRESENT == 0 {
                let frames = frames.as_deref_mut().ok_or(BuildError::NotMapped(va))?;
                entry = take_frame(&self.ram, frames)?.0 | PRESENT | WRITABLE | USER;
                // Release: pairs with the walker's Acquire; the frame was zeroed before.
                slot.store(entry, Ordering::Release);
            } else if entry & PAGE_SIZE_BIT != 0 {
                return Err(BuildError::Occupied(va));
            }
            table = Gpa(entry & ADDRESS_MASK);
            level -= 1;
        }
    }

    fn lock(&self) -> MutexGuard<'_, (u64, u64)> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// log2 of what an entry of `level` maps.
const fn level_shift(level: u32) -> u32 {
    PAGE_SHIFT + LEVEL_BITS * (level - 1)
}

fn take_frame(ram: &GuestRam, frames: &mut (u64, u64)) -> Result<Gpa, BuildError> {
    let (next, end) = *frames;
    let frame = Gpa(next);
    match frame.checked_add(PAGE_SIZE) {
        Some(after) if after.0 <= end => {
            ram.write(frame, &[0; PAGE_SIZE as usize]).ok_or(BuildError::NoFrames)?;
            frames.0 = after.0;
            Ok(frame)
        }
        _ => Err(BuildError::NoFrames),
    }
}
