// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page-table formats: how a guest-virtual address becomes a guest-physical one.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Gpa, Gva};
use crate::memory::GuestRam;

pub mod x86_64;

pub use x86_64::{PagingMode, walk};

/// What the device is about to do to the page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Access {
    /// Load from it.
    Read,
    /// Store to it, or both load and store (atomics).
    Write,
}

impl Access {
    /// Whether this is [`Access::Write`].
    #[inline]
    pub const fn is_write(self) -> bool {
        matches!(self, Self::Write)
    }
}

/// The end of a successful walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Where the walked address itself lies, offset within the page included.
    pub gpa: Gpa,
    /// log2 of the mapped size: 12, 21 or 30 on x86-64.
    pub page_shift: u32,
    /// Whether every level allows writing.
    pub writable: bool,
    /// Whether the leaf is marked dirty; always so after a walk for writing. A cached translation
    /// may serve writes only if this and `writable` are set.
    pub dirty: bool,
}

/// Why an address has no translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Fault {
    /// An entry on the way is not present.
    #[error("page not present")]
    NotPresent,
    /// A write met a read-only level.
    #[error("page not writable")]
    NotWritable,
    /// A level is reserved for the supervisor.
    #[error("page not accessible to the user")]
    NotUser,
    /// The address is not in the canonical lower half.
    #[error("address not in the canonical user half")]
    NonCanonical,
    /// An entry has a bit set that the format reserves.
    #[error("reserved bit set in a page-table entry")]
    ReservedBits,
    /// A table or the page itself is not in the VM's RAM.
    #[error("page table or page outside the VM's RAM")]
    OutsideRam,
    /// The leaf changed under every attempt to mark it accessed.
    #[error("page-table entry kept changing")]
    Unstable,
}

impl Fault {
    /// Whether the guest's kernel may be able to make the access succeed: send a page request.
    ///
    /// [`NotPresent`](Self::NotPresent), [`NotWritable`](Self::NotWritable) and
    /// [`Unstable`](Self::Unstable) are; everything else is an error of the work request.
    pub const fn is_recoverable(self) -> bool {
        match self {
            Self::NotPresent | Self::NotWritable | Self::Unstable => true,
            Self::NotUser | Self::NonCanonical | Self::ReservedBits | Self::OutsideRam => false,
        }
    }
}

/// Memory in which tables lie, behind a trait so that a model checker can stand in for it.
pub trait TableMemory {
    /// A table's entry.
    type Entry: TableEntry;

    /// The entry at `gpa`, if it is in memory and naturally aligned.
    fn entry(&self, gpa: Gpa) -> Option<&Self::Entry>;

    /// Whether `len` bytes at `gpa` lie in one piece of memory.
    fn contains(&self, gpa: Gpa, len: usize) -> bool;
}

/// An entry that guest and device change at the same time.
pub trait TableEntry {
    /// An atomic load.
    fn load(&self, order: Ordering) -> u64;

    /// Stores `new` if the entry is `old`; whether it was.
    fn replace(&self, old: u64, new: u64, success: Ordering, failure: Ordering) -> bool;
}

impl TableEntry for AtomicU64 {
    #[inline]
    fn load(&self, order: Ordering) -> u64 {
        self.load(order)
    }

    #[inline]
    fn replace(&self, old: u64, new: u64, success: Ordering, failure: Ordering) -> bool {
        self.compare_exchange(old, new, success, failure).is_ok()
    }
}

impl TableMemory for GuestRam {
    type Entry = AtomicU64;

    #[inline]
    fn entry(&self, gpa: Gpa) -> Option<&AtomicU64> {
        self.atomic_u64(gpa)
    }

    #[inline]
    fn contains(&self, gpa: Gpa, len: usize) -> bool {
        self.contains(gpa, len)
    }
}

/// A page-table format. A value of the implementing type holds the format's parameters.
pub trait PageTableFormat {
    /// What a walk can leave for the next one: the upper levels.
    type Upper: Default;

    /// Translates `va` for `access` through the table at `root`, marking the leaf accessed (and
    /// dirty, for a write).
    ///
    /// `upper` is from an earlier walk through the same table in the same burst, or new: within a burst no
    /// table is reused.
    ///
    /// # Errors
    ///
    /// Any [`Fault`]. Whatever the table holds, the walk ends after a bounded number of steps and
    /// touches nothing outside `ram`.
    fn walk(
        &self,
        ram: &GuestRam,
        root: Gpa,
        upper: &mut Self::Upper,
        va: Gva,
        access: Access,
    ) -> Result<Leaf, Fault>;

    /// Whether [`walk`](Self::walk) would most likely succeed now. Changes nothing.
    fn peek(&self, ram: &GuestRam, root: Gpa, va: Gva, access: Access) -> bool;

    /// Whether `root` can be the root of a table: aligned and without stray bits. It says nothing of
    /// whether the root is in RAM.
    fn is_valid_root(&self, root: Gpa) -> bool;
}
