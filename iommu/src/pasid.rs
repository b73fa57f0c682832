// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Address spaces: what a PASID stands for.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::addr::{Gpa, Gva, PAGE_SIZE};
use crate::live::LiveRam;
use crate::memory::GuestRam;
use crate::quiesce::GuestPage;
use crate::walk::x86_64::Upper;
use crate::walk::{Access, Fault, Leaf, PageTableFormat, PagingMode};

/// The PASID of the identity space, for the guest kernel's own consumers.
pub const IDENTITY_PASID: u32 = 0;

/// Source of [`AddressSpace::id`]. Relaxed throughout: only uniqueness matters.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// One address space of one VM, shared by all workers that translate in it.
///
/// Immutable but for the VM's memory map, which [`LiveRam`] follows: when a process changes, a new one
/// takes its place, under a new [`id`](Self::id), so that nothing cached for the old one can be found
/// again.
#[derive(Debug)]
pub struct AddressSpace {
    id: u64,
    pasid: u32,
    ram: LiveRam,
    table: Option<Table>,
}

#[derive(Debug)]
struct Table {
    root: Gpa,
    mode: PagingMode,
    invalidation: GuestPage,
}

/// Why an address space cannot be bound as the driver asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// PASID 0 is the identity space.
    #[error("PASID {IDENTITY_PASID} cannot have a page table")]
    ReservedPasid,
    /// The root is not a page of the VM's RAM.
    #[error("page-table root {0} is not a page of RAM")]
    Root(Gpa),
    /// The invalidation page is not a page of the VM's RAM.
    #[error("invalidation page {0} is not a page of RAM")]
    InvalidationPage(Gpa),
}

impl AddressSpace {
    /// The space of a guest process: the table at `root`, with the page at `invalidation` in which
    /// the driver announces what it takes away.
    ///
    /// # Errors
    ///
    /// A [`BindError`] if an argument, all of which come from the guest, cannot be meant.
    pub fn new(
        pasid: u32,
        ram: impl Into<LiveRam>,
        root: Gpa,
        mode: PagingMode,
        invalidation: Gpa,
    ) -> Result<Self, BindError> {
        let ram = ram.into();
        if pasid == IDENTITY_PASID {
            return Err(BindError::ReservedPasid);
        }
        let view = ram.current();
        if !mode.is_valid_root(root) || !view.contains(root, PAGE_SIZE as usize) {
            return Err(BindError::Root(root));
        }
        let page =
            GuestPage::new(&view, invalidation).ok_or(BindError::InvalidationPage(invalidation))?;
        let table = Table { root, mode, invalidation: page };
        Ok(Self::with(pasid, ram, Some(table)))
    }

    /// PASID 0: addresses are guest-physical, every byte of RAM may be read and written.
    pub fn identity(ram: impl Into<LiveRam>) -> Self {
        Self::with(IDENTITY_PASID, ram.into(), None)
    }

    fn with(pasid: u32, ram: LiveRam, table: Option<Table>) -> Self {
        Self { id: NEXT_ID.fetch_add(1, Ordering::Relaxed), pasid, ram, table }
    }

    /// The number that caches know the space by: unique in this process and never reused.
    #[inline]
    pub const fn id(&self) -> u64 {
        self.id
    }

    /// The guest's name of the space; reused by the guest as it likes.
    #[inline]
    pub const fn pasid(&self) -> u32 {
        self.pasid
    }

    /// The RAM of the VM that the space belongs to.
    #[inline]
    pub const fn ram(&self) -> &LiveRam {
        &self.ram
    }

    /// Whether addresses in the space are guest-physical.
    #[inline]
    pub const fn is_identity(&self) -> bool {
        self.table.is_none()
    }

    /// Where the driver announces invalidations; `None` for the identity space.
    #[inline]
    pub fn invalidation(&self) -> Option<&GuestPage> {
        self.table.as_ref().map(|table| &table.invalidation)
    }

    /// Whether `va` can most likely be accessed without a page request: a hint for looking ahead,
    /// which leaves no mark in the table. Ask inside a burst, as for every look at the table.
    pub fn peek(&self, va: Gva, access: Access) -> bool {
        let ram = self.ram.load();
        match &self.table {
            Some(table) => table.mode.peek(&ram, table.root, va, access),
            None => ram.contains(Gpa(va.0), 1),
        }
    }

    /// One uncached walk. The answer is stale at once unless the caller is inside a burst; use
    /// [`Translator`](crate::translate::Translator) to access memory.
    ///
    /// # Errors
    ///
    /// The walker's [`Fault`]. The identity space has no faults but [`Fault::OutsideRam`].
    pub fn walk(&self, va: Gva, access: Access) -> Result<Leaf, Fault> {
        self.walk_in(&self.ram.load(), &mut Upper::default(), va, access)
    }

    /// As [`walk`](Self::walk), in a view that the caller has loaded.
    pub(crate) fn walk_in(
        &self,
        ram: &GuestRam,
        upper: &mut Upper,
        va: Gva,
        access: Access,
    ) -> Result<Leaf, Fault> {
        match &self.table {
            Some(table) => table.mode.walk(ram, table.root, upper, va, access),
            None if ram.contains(Gpa(va.0), 1) => Ok(Leaf {
                gpa: Gpa(va.0),
                page_shift: crate::addr::PAGE_SHIFT,
                writable: true,
                dirty: true,
            }),
            None => Err(Fault::OutsideRam),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::anonymous_ram;

    #[test]
    fn arguments_from_the_guest_are_checked() {
        let ram = anonymous_ram(0x10_000);
        let bind = |pasid, root, page| {
            AddressSpace::new(pasid, ram.clone(), Gpa(root), PagingMode::Level4, Gpa(page))
                .map(|space| space.pasid())
        };
        assert_eq!(bind(1, 0x1000, 0x2000), Ok(1));
        assert_eq!(bind(0, 0x1000, 0x2000), Err(BindError::ReservedPasid));
        for root in [0x1008, 0x10_000, 1 << 52, !0xfff] {
            assert_eq!(bind(1, root, 0x2000), Err(BindError::Root(Gpa(root))));
        }
        for page in [0x2008, 0x10_000, !0xfff] {
            assert_eq!(bind(1, 0x1000, page), Err(BindError::InvalidationPage(Gpa(page))));
        }
    }

    #[test]
    fn ids_differ_where_pasids_do_not() {
        let ram = anonymous_ram(0x1000);
        assert_ne!(AddressSpace::identity(ram.clone()).id(), AddressSpace::identity(ram).id());
    }
}
