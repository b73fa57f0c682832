// SPDX-License-Identifier: Apache-2.0 OR MIT
//! x86-64 tables with 4 or 5 levels, read as an IOMMU reads a first-stage table for user accesses.
//!
//! Protection keys, SMAP and no-execute do not apply to a device's data access. Bits 52 to 62 belong
//! to software and are ignored. The physical-address width of the guest's CPU is unknown here; an
//! address that is too wide fails because it is not RAM.

use std::sync::atomic::Ordering;

use super::{Access, Fault, Leaf, PageTableFormat, TableEntry, TableMemory};
use crate::addr::{Gpa, Gva, HUGE_PAGE_SHIFT, LARGE_PAGE_SHIFT, PAGE_SHIFT, PAGE_SIZE};
use crate::memory::GuestRam;

/// Entry bit 0: the entry is valid.
pub const PRESENT: u64 = 1 << 0;
/// Entry bit 1: writing is allowed.
pub const WRITABLE: u64 = 1 << 1;
/// Entry bit 2: user access is allowed.
pub const USER: u64 = 1 << 2;
/// Entry bit 5: set on the leaf by every access.
pub const ACCESSED: u64 = 1 << 5;
/// Entry bit 6: set on the leaf by every write.
pub const DIRTY: u64 = 1 << 6;
/// Entry bit 7 above the last level: the entry is a leaf.
pub const PAGE_SIZE_BIT: u64 = 1 << 7;
/// Bit 12 of a large leaf selects a memory type, and is not part of the address.
pub const LARGE_PAT: u64 = 1 << 12;
/// Entry bit 63: no execution; without meaning for data.
pub const NO_EXECUTE: u64 = 1 << 63;
/// Bits 12 to 51: the physical address.
pub const ADDRESS_MASK: u64 = ((1 << 52) - 1) & !(PAGE_SIZE - 1);

/// Each level resolves nine bits of the address.
pub const LEVEL_BITS: u32 = 9;

/// Walks that find the leaf changed before [`Fault::Unstable`]. The guest's own changes to one leaf
/// are far apart compared with a walk, so that more than one repeat is already rare.
const MAX_WALKS: u32 = 16;

/// How many levels the guest's tables have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PagingMode {
    /// 48-bit virtual addresses.
    Level4,
    /// 57-bit virtual addresses.
    Level5,
}

impl PagingMode {
    /// The number of table levels.
    #[inline]
    pub const fn levels(self) -> u32 {
        match self {
            Self::Level4 => 4,
            Self::Level5 => 5,
        }
    }

    /// The width of a user address in bits: one less than the virtual address, whose top bit
    /// selects the supervisor's half.
    #[inline]
    pub const fn user_bits(self) -> u32 {
        PAGE_SHIFT + LEVEL_BITS * self.levels() - 1
    }
}

impl PageTableFormat for PagingMode {
    type Upper = Upper;

    #[inline]
    fn walk(
        &self,
        ram: &GuestRam,
        root: Gpa,
        upper: &mut Upper,
        va: Gva,
        access: Access,
    ) -> Result<Leaf, Fault> {
        walk_on(ram, root, *self, upper, va, access)
    }

    fn peek(&self, ram: &GuestRam, root: Gpa, va: Gva, access: Access) -> bool {
        peek(ram, root, *self, va, access)
    }

    fn is_valid_root(&self, root: Gpa) -> bool {
        root.0 & !ADDRESS_MASK == 0
    }
}

/// The upper levels of a walk: the table of the last level, and what leads to it.
///
/// The next page is usually in the same table, so that a walk can begin there.
#[derive(Clone, Copy, Debug, Default)]
pub struct Upper {
    /// The addresses that the table is for, shifted by [`LARGE_PAGE_SHIFT`].
    region: u64,
    /// The table; `None` if nothing is known.
    table: Option<Gpa>,
    /// Whether every level above allows writing.
    writable: bool,
}

/// Translates `va` through the table at `root`; see [`PageTableFormat::walk`].
///
/// # Errors
///
/// Entries are judged from the root down and the first fault counts, except that a missing write
/// permission is reported only for a leaf that is present and the user's.
pub fn walk(
    ram: &impl TableMemory,
    root: Gpa,
    mode: PagingMode,
    va: Gva,
    access: Access,
) -> Result<Leaf, Fault> {
    walk_on(ram, root, mode, &mut Upper::default(), va, access)
}

/// As [`walk`], beginning at the last level if `upper` knows it. Entries above are then judged as they
/// were when they were walked.
///
/// # Errors
///
/// As [`walk`].
pub fn walk_on(
    ram: &impl TableMemory,
    root: Gpa,
    mode: PagingMode,
    upper: &mut Upper,
    va: Gva,
    access: Access,
) -> Result<Leaf, Fault> {
    if !va.is_canonical_user(mode) {
        return Err(Fault::NonCanonical);
    }
    for _ in 0..MAX_WALKS {
        let found = find_leaf(ram, root, mode, upper, va)?;
        if access.is_write() && !found.writable {
            return Err(Fault::NotWritable);
        }
        let gpa = Gpa(found.base.0 | va.offset_in(found.page_shift));
        if !ram.contains(gpa.align_down(PAGE_SHIFT), PAGE_SIZE as usize) {
            return Err(Fault::OutsideRam);
        }
        let mark = if access.is_write() { ACCESSED | DIRTY } else { ACCESSED };
        if found.mark(mark) {
            return Ok(Leaf {
                gpa,
                page_shift: found.page_shift,
                writable: found.writable,
                dirty: (found.value | mark) & DIRTY != 0,
            });
        }
    }
    Err(Fault::Unstable)
}

/// Whether a walk for `access` would find a translation now, without marking anything.
pub fn peek(ram: &GuestRam, root: Gpa, mode: PagingMode, va: Gva, access: Access) -> bool {
    va.is_canonical_user(mode)
        && find_leaf(ram, root, mode, &mut Upper::default(), va)
            .is_ok_and(|found| found.writable || !access.is_write())
}

/// A leaf as it was read, and where it was read.
struct Found<'r, E> {
    entry: &'r E,
    value: u64,
    base: Gpa,
    page_shift: u32,
    writable: bool,
}

impl<E: TableEntry> Found<'_, E> {
    /// Sets `bits` in the leaf, unless it is no longer the entry that was judged.
    #[inline]
    fn mark(&self, bits: u64) -> bool {
        // Success AcqRel: ordered as the guest CPU's own locked update of accessed and dirty bits,
        // with which it races. Failure decides nothing but to walk again, whose loads are Acquire.
        self.value & bits == bits
            || self.entry.replace(
                self.value,
                self.value | bits,
                Ordering::AcqRel,
                Ordering::Relaxed,
            )
    }
}

#[inline]
fn find_leaf<'r, M: TableMemory>(
    ram: &'r M,
    root: Gpa,
    mode: PagingMode,
    upper: &mut Upper,
    va: Gva,
) -> Result<Found<'r, M::Entry>, Fault> {
    let region = va.0 >> LARGE_PAGE_SHIFT;
    let (mut table, mut writable, mut shift) = match upper.table {
        Some(table) if upper.region == region => (table, upper.writable, LARGE_PAGE_SHIFT),
        _ => (root, true, PAGE_SHIFT + LEVEL_BITS * mode.levels()),
    };
    // One turn per level: the depth is the mode's, not the table's, so that no table can loop.
    while shift > PAGE_SHIFT {
        shift -= LEVEL_BITS;
        let index = (va.0 >> shift) & ((1 << LEVEL_BITS) - 1);
        let slot = table.checked_add(index * 8).ok_or(Fault::OutsideRam)?;
        let entry = ram.entry(slot).ok_or(Fault::OutsideRam)?;
        // The only read of this entry. Acquire pairs with the guest's release store of a pointer to
        // a table that it has just filled.
        let value = entry.load(Ordering::Acquire);
        if value & PRESENT == 0 {
            return Err(Fault::NotPresent);
        }
        if value & USER == 0 {
            return Err(Fault::NotUser);
        }
        writable &= value & WRITABLE != 0;
        if shift == PAGE_SHIFT || value & PAGE_SIZE_BIT != 0 {
            let base = leaf_base(value, shift)?;
            return Ok(Found { entry, value, base, page_shift: shift, writable });
        }
        table = Gpa(value & ADDRESS_MASK);
        if shift == LARGE_PAGE_SHIFT {
            *upper = Upper { region, table: Some(table), writable };
        }
    }
    // Unreachable: the last turn has `shift == PAGE_SHIFT` and returns.
    Err(Fault::ReservedBits)
}

/// The first address that a leaf at level `shift` maps.
#[inline]
fn leaf_base(value: u64, shift: u32) -> Result<Gpa, Fault> {
    let address = match shift {
        PAGE_SHIFT => return Ok(Gpa(value & ADDRESS_MASK)),
        LARGE_PAGE_SHIFT | HUGE_PAGE_SHIFT => Gpa(value & ADDRESS_MASK & !LARGE_PAT),
        // There is no leaf of 512 GiB or more: the bit is reserved there.
        _ => return Err(Fault::ReservedBits),
    };
    if address.is_aligned(shift) { Ok(address) } else { Err(Fault::ReservedBits) }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU64;

    use super::*;

    /// What the guest does between the read and the mark cannot be timed from outside.
    #[test]
    fn only_the_entry_that_was_judged_is_marked() {
        let entry = AtomicU64::new(0);
        let judged = PRESENT | USER | WRITABLE | 0x5000;
        let found = Found {
            entry: &entry,
            value: judged,
            base: Gpa(0x5000),
            page_shift: PAGE_SHIFT,
            writable: true,
        };
        assert!(!found.mark(ACCESSED | DIRTY));
        assert_eq!(entry.load(Ordering::Relaxed), 0);
        entry.store(judged, Ordering::Relaxed);
        assert!(found.mark(ACCESSED | DIRTY));
        assert_eq!(entry.load(Ordering::Relaxed), judged | ACCESSED | DIRTY);
    }
}
