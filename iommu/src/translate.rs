// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker's way from a guest-virtual address to host memory.
//!
//! ```
//! # use vnic_iommu::{Access, AddressSpace, Gpa, Gva, PagingMode, Translator, WorkerSlot};
//! # use vnic_iommu::{quiesce::GuestPage, testing::PageTableBuilder, walk::x86_64::{USER, WRITABLE}};
//! # let ram = vnic_iommu::testing::anonymous_ram(0x10_0000);
//! # let mode = PagingMode::Level4;
//! # let table = PageTableBuilder::new(&ram, mode, Gpa(0x1_0000), Gpa(0x8_0000)).unwrap();
//! # table.map(Gva(0x7000), Gpa(0x9_0000), 12, USER | WRITABLE).unwrap();
//! # let (root, epochs, invalidation) = (table.root(), Gpa(0), Gpa(0x1000));
//! // Once per VM and worker, and once per process:
//! let slot = WorkerSlot::new(GuestPage::new(&ram, epochs).unwrap(), 0).unwrap();
//! let space = AddressSpace::new(1, ram.clone(), root, mode, invalidation)?;
//! let mut translator = Translator::default();
//! // For every burst of work:
//! let burst = slot.enter();
//! let (mut va, mut data) = (Gva(0x7ff0), &b"hello"[..]);
//! while !data.is_empty() {
//!     let chunk = translator.translate(&burst, &space, va, data.len(), Access::Write)?;
//!     chunk.volatile().copy_from(&data[..chunk.len()]);
//!     va = va.checked_add(chunk.len() as u64).unwrap();
//!     data = &data[chunk.len()..];
//! }
//! burst.leave();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod pairs;

use std::marker::PhantomData;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::VolatileSlice;

use crate::addr::{Gpa, Gva, LARGE_PAGE_SHIFT, PAGE_SHIFT};
use crate::iotlb::{Iotlb, IotlbSize, SpaceRef};
use crate::memory::{HostPtr, volatile_slice};
use crate::pasid::AddressSpace;
use crate::quiesce::{Burst, Dropped, GuestPage, InvalidationReader};
use crate::walk::x86_64::Upper;
use crate::walk::{Access, Fault};

/// Source of [`Translator::id`]. Relaxed throughout: only uniqueness matters.
static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// Host memory behind a guest-virtual address, usable until the burst is left.
///
/// The bytes belong to the guest and change at any time. A chunk cannot be kept beyond its burst:
///
/// ```compile_fail,E0505
/// # use vnic_iommu::{Access, AddressSpace, Gpa, Gva, Translator, WorkerSlot, quiesce::GuestPage};
/// # let ram = vnic_iommu::testing::anonymous_ram(0x2000);
/// let slot = WorkerSlot::new(GuestPage::new(&ram, Gpa(0)).unwrap(), 0).unwrap();
/// let space = AddressSpace::identity(ram.clone());
/// let mut translator = Translator::default();
/// let burst = slot.enter();
/// let chunk = translator.translate(&burst, &space, Gva(0x1000), 8, Access::Read).unwrap();
/// burst.leave(); // error: still borrowed by `chunk`
/// chunk.len();
/// ```
#[derive(Clone, Copy, Debug)]
pub struct HostChunk<'b> {
    host: HostPtr,
    /// Of the burst, for which the mapping stays: views of RAM go only when the bursts have ended that
    /// may use them ([`Retired::release`](crate::live::Retired::release)). And of the address space,
    /// which holds the current one. A raw pointer, so that the chunk stays on the worker's thread.
    burst: PhantomData<(&'b (), *mut u8)>,
}

impl<'b> HostChunk<'b> {
    /// The host address of the first byte. To keep it beyond the burst is to lose its meaning.
    #[inline]
    pub const fn as_ptr(&self) -> *mut u8 {
        self.host.as_ptr()
    }

    /// The number of bytes that may be accessed; at most as many as were asked for.
    #[inline]
    pub const fn len(&self) -> usize {
        self.host.len()
    }

    /// Whether no byte may be accessed, as when none was asked for.
    #[inline]
    pub const fn is_empty(&self) -> bool {
        self.host.is_empty()
    }

    /// Address and length without the lifetime.
    #[inline]
    pub const fn host_ptr(&self) -> HostPtr {
        self.host
    }

    /// The first eight bytes as an atomic word, as RDMA atomics need it; `None` if the chunk is not
    /// aligned to eight bytes or is shorter.
    #[inline]
    pub fn atomic_u64(&self) -> Option<&'b AtomicU64> {
        let word = self.host.as_ptr().cast::<u64>();
        if self.host.len() < size_of::<u64>() || !word.is_aligned() {
            return None;
        }
        #[allow(unsafe_code)] // reason: a word of guest RAM has no Rust owner
        // SAFETY: eight aligned bytes of a mapping that stays for the burst, see the field. This process accesses guest RAM only by atomic or volatile means.
        Some(unsafe { AtomicU64::from_ptr(word) })
    }

    /// The bytes for volatile access.
    #[inline]
    pub fn volatile(&self) -> VolatileSlice<'b> {
        #[allow(unsafe_code)] // reason: a view of memory that has no Rust owner
        // SAFETY: the mapping stays for the burst, see the field.
        unsafe {
            volatile_slice(self.host)
        }
    }
}

/// What a [`Translator`] has done since it was made. Hits are not counted; they are the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TranslatorStats {
    /// Walks of a guest's table.
    pub walks: u64,
    /// Walks that ended in a [`Fault`].
    pub faults: u64,
    /// Ranges forgotten because the driver invalidated them.
    pub ranges_dropped: u64,
    /// Whole address spaces forgotten for the same reason.
    pub spaces_dropped: u64,
    /// Whole address spaces forgotten because their VM's memory map changed.
    pub spaces_remapped: u64,
}

/// A page that the burst in hand has translated already: its requests go to the same few pages again
/// and again. Nothing is taken back within a burst, so that the number of the burst is all that has to
/// be checked.
#[derive(Clone, Copy, Debug)]
struct Hot {
    /// Number of the burst; 0 is none.
    serial: u64,
    space: u64,
    page: u64,
    /// Where the page begins, with as many bytes as the translation covers from there on.
    host: HostPtr,
    writable: bool,
}

/// The upper levels of a walk, with the burst and the space that they are of.
#[derive(Clone, Copy, Debug, Default)]
struct BurstUpper {
    serial: u64,
    space: u64,
    levels: Upper,
}

/// Pages that are remembered within a burst, a power of two: the two ends of a request and one more each.
const HOT: usize = 4;

/// A worker's private translation: its IOTLB, kept true to the guests' invalidations.
#[derive(Debug)]
pub struct Translator {
    id: u64,
    iotlb: Iotlb,
    hot: [Hot; HOT],
    upper: [BurstUpper; 2],
    bursts: u64,
    stats: TranslatorStats,
}

impl Default for Translator {
    fn default() -> Self {
        Self::new(IotlbSize::default())
    }
}

impl Translator {
    /// A translator with an empty cache.
    pub fn new(size: IotlbSize) -> Self {
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            iotlb: Iotlb::new(size),
            hot: [Hot { serial: 0, space: 0, page: 0, host: HostPtr::EMPTY, writable: false }; HOT],
            upper: Default::default(),
            bursts: 0,
            stats: TranslatorStats::default(),
        }
    }

    /// The host memory at `va` in `space`: at most `len` bytes, and fewer where a page (or the
    /// identity space's region) ends before. Ask again for the rest.
    ///
    /// `burst` must have entered the slot of the VM that `space` belongs to; what is returned cannot
    /// outlive it. A worker whose write is refused for a read-only page sees a [`Fault`] only after a
    /// walk of the live table.
    ///
    /// # Errors
    ///
    /// The [`Fault`] of the first byte. Faults are not cached.
    #[inline]
    pub fn translate<'b>(
        &mut self,
        burst: &'b Burst<'_>,
        space: &'b AddressSpace,
        va: Gva,
        len: usize,
        access: Access,
    ) -> Result<HostChunk<'b>, Fault> {
        let place = (va.page() ^ space.id()) as usize % HOT;
        let hot = &self.hot[place];
        let current = burst.serial(self.id).is_some_and(|serial| serial == hot.serial);
        if current
            && hot.page == va.page()
            && hot.space == space.id()
            && (hot.writable || !access.is_write())
        {
            #[cfg(vnic_sabotage)]
            burst.sabotage();
            return Ok(chunk(hot.host.skip(va.offset_in(PAGE_SHIFT) as usize), len));
        }
        self.look_up(burst, space, va, len, access, place)
    }

    /// As [`translate`](Self::translate), for a page that the burst has not used yet.
    fn look_up<'b>(
        &mut self,
        burst: &'b Burst<'_>,
        space: &'b AddressSpace,
        va: Gva,
        len: usize,
        access: Access,
        place: usize,
    ) -> Result<HostChunk<'b>, Fault> {
        let Some(page) = space.invalidation() else {
            let found = space.ram().load().contiguous(Gpa(va.0)).ok_or(Fault::OutsideRam)?;
            return Ok(chunk(found, len));
        };
        let found = self.synced(burst, space, page);
        let host = match self.iotlb.probe(self.iotlb.spaces.tag(found), va, access) {
            Some(host) => host,
            None => self.miss(burst, space, found, va, access)?,
        };
        let offset = va.offset_in(PAGE_SHIFT) as usize;
        self.hot[place] = Hot {
            serial: burst.serial(self.id).unwrap_or_default(),
            space: space.id(),
            page: va.page(),
            host: host.back(offset),
            writable: access.is_write(),
        };
        #[cfg(vnic_sabotage)]
        burst.sabotage();
        Ok(chunk(host, len))
    }

    /// As [`translate`](Self::translate) for all of a range, until `each` has enough and returns `false`.
    /// What lies together on the host comes as one chunk.
    ///
    /// # Errors
    ///
    /// The [`Fault`] of the first byte that cannot be had; `each` has seen what comes before it.
    #[inline]
    pub fn translate_all<'b>(
        &mut self,
        burst: &'b Burst<'_>,
        space: &'b AddressSpace,
        mut va: Gva,
        mut len: usize,
        access: Access,
        mut each: impl FnMut(HostChunk<'b>) -> bool,
    ) -> Result<(), Fault> {
        let found = space.invalidation().map(|page| self.synced(burst, space, page));
        let tag = found.map_or(0, |found| self.iotlb.spaces.tag(found));
        let mut run = HostPtr::EMPTY;
        // Above any user's half nothing is cached, so that it need not be looked for.
        let small = found.is_some() && va.0 >> 55 == 0 && len as u64 >> 55 == 0;
        while len > 0 {
            let cached = if small {
                self.iotlb.small_page(Iotlb::small_key(tag, va), access.is_write())
            } else {
                0
            };
            let translated = if cached != 0 {
                Ok(HostPtr::of_page(cached, va.offset_in(PAGE_SHIFT) as usize))
            } else {
                self.translate_slow(burst, space, found, va, access)
            };
            #[cfg(vnic_sabotage)]
            burst.sabotage();
            let host = match translated {
                Ok(host) => host.first(len),
                Err(fault) => {
                    if !run.is_empty() {
                        each(chunk(run, run.len()));
                    }
                    return Err(fault);
                }
            };
            len -= host.len();
            // At the end of the address space there is no next page.
            va = Gva(va.0.wrapping_add(host.len() as u64));
            if !run.join(host) {
                let before = std::mem::replace(&mut run, host);
                if !before.is_empty() && !each(chunk(before, before.len())) {
                    return Ok(());
                }
            }
        }
        if !run.is_empty() {
            each(chunk(run, run.len()));
        }
        Ok(())
    }

    /// Whether the guest has announced, since this burst began to use `space`, that it takes something back. It
    /// waits for the burst then, or soon will: leave as soon as possible. A burst in which nobody is kept waiting
    /// may go on at no cost.
    #[inline]
    pub fn is_wanted_back(&self, burst: &Burst<'_>, space: &AddressSpace) -> bool {
        let Some(page) = space.invalidation() else { return false };
        let Some(found) = self.iotlb.spaces.find(space.id()) else { return false };
        let known = self.iotlb.spaces.get(found);
        burst.serial(self.id) == Some(known.synced) && !known.reader.is_current(page)
    }

    /// A page that is not cached as a small one.
    fn translate_slow(
        &mut self,
        burst: &Burst<'_>,
        space: &AddressSpace,
        found: Option<SpaceRef>,
        va: Gva,
        access: Access,
    ) -> Result<HostPtr, Fault> {
        let Some(found) = found else {
            return space.ram().load().contiguous(Gpa(va.0)).ok_or(Fault::OutsideRam);
        };
        match self.iotlb.probe(self.iotlb.spaces.tag(found), va, access) {
            Some(host) => Ok(host),
            None => self.miss(burst, space, found, va, access),
        }
    }

    /// Where `space` is kept, with everything forgotten that the guest has taken back.
    #[inline]
    fn synced(&mut self, burst: &Burst<'_>, space: &AddressSpace, page: &GuestPage) -> SpaceRef {
        let known = self.iotlb.spaces.find(space.id());
        match (known, burst.serial(self.id)) {
            (Some(found), Some(serial)) if self.iotlb.spaces.get(found).synced == serial => found,
            _ => self.sync(burst, space, page, known),
        }
    }

    /// First use of `space` in this burst: forgets what the guest has taken back since the last one.
    #[inline]
    fn sync(
        &mut self,
        burst: &Burst<'_>,
        space: &AddressSpace,
        page: &GuestPage,
        known: Option<SpaceRef>,
    ) -> SpaceRef {
        let serial = burst.serial(self.id).unwrap_or_else(|| {
            self.bursts += 1;
            burst.set_serial(self.id, self.bursts);
            self.bursts
        });
        // Before any walk of this burst: what the burst caches is of this generation, or later.
        let ram = space.ram().generation();
        let found = match known {
            Some(found) if self.iotlb.spaces.get(found).ram == ram => {
                if self.iotlb.spaces.get(found).reader.is_current(page) {
                    found
                } else {
                    self.catch_up(space, found, page)
                }
            }
            Some(found) => self.remap(space, found, page),
            None => self.attach(space, page),
        };
        let entry = self.iotlb.spaces.get_mut(found);
        (entry.ram, entry.synced) = (ram, serial);
        found
    }

    /// The VM's memory map has changed: what is cached may lead to memory that is gone.
    #[cold]
    fn remap(&mut self, space: &AddressSpace, found: SpaceRef, page: &GuestPage) -> SpaceRef {
        self.stats.spaces_remapped += 1;
        if self.iotlb.drop_space(found) {
            self.catch_up(space, found, page)
        } else {
            self.attach(space, page)
        }
    }

    #[cold]
    fn attach(&mut self, space: &AddressSpace, page: &GuestPage) -> SpaceRef {
        let found = self.iotlb.attach(space.id());
        self.iotlb.spaces.get_mut(found).reader = InvalidationReader::attach(page);
        found
    }

    #[cold]
    fn catch_up(&mut self, space: &AddressSpace, found: SpaceRef, page: &GuestPage) -> SpaceRef {
        let mut reader = self.iotlb.spaces.get(found).reader;
        let tag = self.iotlb.spaces.tag(found);
        // One guest's invalidations must not cost the other guests of this worker more than about a
        // pass over the cache; beyond that, forgetting the space is both cheaper and right.
        let mut budget = self.iotlb.drop_cost(Gva(0), Gva(u64::MAX));
        let mut drop_all = false;
        reader.sync(page, |dropped| match dropped {
            Dropped::Range { start, end } if !drop_all => {
                match budget.checked_sub(self.iotlb.drop_cost(start, end)) {
                    Some(rest) => {
                        budget = rest;
                        self.stats.ranges_dropped += 1;
                        self.iotlb.drop_range(tag, start, end);
                    }
                    None => drop_all = true,
                }
            }
            Dropped::Range { .. } | Dropped::All => drop_all = true,
        });
        self.iotlb.spaces.get_mut(found).reader = reader;
        if drop_all {
            self.stats.spaces_dropped += 1;
            if !self.iotlb.drop_space(found) {
                return self.attach(space, page);
            }
        }
        found
    }

    #[cold]
    fn miss(
        &mut self,
        burst: &Burst<'_>,
        space: &AddressSpace,
        found: SpaceRef,
        va: Gva,
        access: Access,
    ) -> Result<HostPtr, Fault> {
        self.stats.walks += 1;
        let ram = space.ram().load();
        // Two, for the two ends of a transfer; what another burst or space left is of no use.
        let serial = burst.serial(self.id).unwrap_or_default();
        let of_space = |upper: &BurstUpper| (upper.serial, upper.space) == (serial, space.id());
        if !of_space(&self.upper[0]) {
            self.upper.swap(0, 1);
        }
        let upper = &mut self.upper[0];
        if !of_space(upper) {
            *upper = BurstUpper { serial, space: space.id(), levels: Upper::default() };
        }
        let leaf = space
            .walk_in(&ram, &mut upper.levels, va, access)
            .inspect_err(|_| self.stats.faults += 1)?;
        // A write through a cached entry sets no dirty bit; so it must be set already.
        let writable = leaf.writable && leaf.dirty;
        let page_of = |shift| ram.host_ptr(leaf.gpa.align_down(shift), 1 << shift);
        let large =
            if leaf.page_shift >= LARGE_PAGE_SHIFT { page_of(LARGE_PAGE_SHIFT) } else { None };
        // A large page may hang over the end of RAM; the 4 KiB around `va` do not.
        let (host, shift) = match large {
            Some(host) => (host, LARGE_PAGE_SHIFT),
            None => (page_of(PAGE_SHIFT).ok_or(Fault::OutsideRam)?, PAGE_SHIFT),
        };
        let tag = self.iotlb.spaces.tag(found);
        self.iotlb.fill(tag, va, host, writable);
        let offset = va.offset_in(shift) as usize;
        Ok(host.skip(offset))
    }

    /// Forgets everything about the address space with this id: it was unbound. Call between bursts.
    pub fn forget(&mut self, space: u64) {
        self.iotlb.invalidate_space(space);
    }

    /// Forgets everything. Call between bursts.
    pub fn flush(&mut self) {
        self.iotlb.flush();
    }

    /// Counters since construction.
    pub const fn stats(&self) -> TranslatorStats {
        self.stats
    }
}

#[inline]
fn chunk<'b>(host: HostPtr, len: usize) -> HostChunk<'b> {
    let len = len.min(host.len());
    HostChunk { host: HostPtr::from_parts(host.as_non_null(), len), burst: PhantomData }
}
