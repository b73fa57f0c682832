// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker's private cache of translations, from guest-virtual page to host address.
//!
//! Two set-associative tables, for 4 KiB and for 2 MiB pages; a 1 GiB leaf is cached in 2 MiB pieces.
//! An entry is two words, a set of four fills one cache line, and nothing is allocated after
//! construction.
//!
//! Entries carry a small *tag* in place of the address space's id. Forgetting a whole space is to
//! give it a new tag; the entries of the old one can never match again and are replaced in time. When
//! the tags run out, everything is forgotten at once.

mod sets;
mod spaces;

use crate::addr::{Gva, LARGE_PAGE_SHIFT, PAGE_SHIFT};
use crate::memory::HostPtr;
use crate::walk::Access;
use sets::Sets;
pub(crate) use spaces::SpaceRef;
use spaces::{Spaces, TAGS};

/// Width of a 4 KiB page number that a key has room for: user addresses of 56 bits.
const PAGE_BITS: u32 = 44;

/// The sizes of an [`Iotlb`]. Both are rounded up to a power of two.
#[derive(Clone, Copy, Debug)]
pub struct IotlbSize {
    /// 4 KiB pages that can be cached.
    pub small: usize,
    /// 2 MiB pages that can be cached.
    pub large: usize,
}

impl Default for IotlbSize {
    /// 16 MiB in small pages and 512 MiB in large ones: 68 KiB of cache.
    fn default() -> Self {
        Self { small: 4096, large: 256 }
    }
}

/// A private cache of translations; see the [module](self).
#[derive(Debug)]
pub struct Iotlb {
    small: Sets,
    large: Sets,
    pub(crate) spaces: Spaces,
}

impl Iotlb {
    /// An empty cache.
    pub fn new(size: IotlbSize) -> Self {
        Self { small: Sets::new(size.small), large: Sets::new(size.large), spaces: Spaces::new() }
    }

    /// The host address of `va` with every byte that follows it in the cached page, if a page of
    /// address space `space` is cached that allows `access`.
    ///
    /// `None` is a miss and says nothing about permission: walk, then [`insert`](Self::insert).
    #[inline]
    pub fn lookup(&self, space: u64, va: Gva, access: Access) -> Option<HostPtr> {
        let found = self.spaces.find(space)?;
        self.probe(self.spaces.tag(found), va, access)
    }

    #[inline]
    pub(crate) fn probe(&self, tag: u32, va: Gva, access: Access) -> Option<HostPtr> {
        // A wider page number would spill into the tag, and match another space's entry.
        if va.page() >> PAGE_BITS != 0 {
            return None;
        }
        self.small
            .find(key(tag, va, PAGE_SHIFT), va.offset_in(PAGE_SHIFT), PAGE_SHIFT, access)
            .or_else(|| self.probe_large(tag, va, access))
    }

    /// The host address of the small page with this [key](Self::small_key), if it is cached and may be
    /// written or need not; else 0.
    #[inline]
    pub(crate) fn small_page(&self, key: u64, writes: bool) -> usize {
        self.small.page(key, writes)
    }

    /// The key of the small page of `va`, below 2^56; that of the next page is the next number.
    #[inline]
    pub(crate) fn small_key(tag: u32, va: Gva) -> u64 {
        key(tag, va, PAGE_SHIFT)
    }

    #[inline]
    fn probe_large(&self, tag: u32, va: Gva, access: Access) -> Option<HostPtr> {
        let offset = va.offset_in(LARGE_PAGE_SHIFT);
        self.large.find(key(tag, va, LARGE_PAGE_SHIFT), offset, LARGE_PAGE_SHIFT, access)
    }

    /// Caches that the page of `va` in `space` is at `host`.
    ///
    /// The length of `host` is the page's size, 4 KiB or 2 MiB, and its address that of the page's
    /// first byte; anything else is not cached. `writable` only if writes need no further walk: the
    /// table allows them and the leaf is marked dirty. `space` is an
    /// [`AddressSpace::id`](crate::pasid::AddressSpace::id).
    pub fn insert(&mut self, space: u64, va: Gva, host: HostPtr, writable: bool) {
        let found = match self.spaces.find(space) {
            Some(found) => found,
            None => self.attach(space),
        };
        self.fill(self.spaces.tag(found), va, host, writable);
    }

    pub(crate) fn fill(&mut self, tag: u32, va: Gva, host: HostPtr, writable: bool) {
        if va.page() >> PAGE_BITS != 0 {
            return;
        }
        if host.len() == 1 << PAGE_SHIFT {
            self.small.insert(key(tag, va, PAGE_SHIFT), host, writable);
        } else if host.len() == 1 << LARGE_PAGE_SHIFT {
            self.large.insert(key(tag, va, LARGE_PAGE_SHIFT), host, writable);
        }
    }

    /// Makes room for `space`, which must not be known, under a fresh tag.
    pub(crate) fn attach(&mut self, space: u64) -> SpaceRef {
        self.ensure_tags();
        self.spaces.attach(space)
    }

    /// Forgets every page of `space` that overlaps `start..end`.
    ///
    /// The effort is bounded by the size of the cache, whatever the size of the range.
    pub fn invalidate_range(&mut self, space: u64, start: Gva, end: Gva) {
        if let Some(found) = self.spaces.find(space) {
            self.drop_range(self.spaces.tag(found), start, end);
        }
    }

    /// The number of sets that forgetting `start..end` looks at.
    pub(crate) fn drop_cost(&self, start: Gva, end: Gva) -> usize {
        let pages = (end.0.saturating_sub(start.0) >> PAGE_SHIFT) as usize;
        pages.min(self.small.sets()) + (pages >> 9).min(self.large.sets()) + 2
    }

    pub(crate) fn drop_range(&mut self, tag: u32, start: Gva, end: Gva) {
        if start < end {
            let (tag, last) = (u64::from(tag), end.0 - 1);
            self.small.remove(tag, start.0 >> PAGE_SHIFT, last >> PAGE_SHIFT);
            self.large.remove(tag, start.0 >> LARGE_PAGE_SHIFT, last >> LARGE_PAGE_SHIFT);
        }
    }

    /// Forgets everything about `space`. Costs the same however much is cached.
    pub fn invalidate_space(&mut self, space: u64) {
        if let Some(found) = self.spaces.find(space) {
            self.drop_space(found);
        }
    }

    /// Gives the space a new tag. Returns `false` if that took a flush, after which `found` and
    /// every other reference mean nothing.
    pub(crate) fn drop_space(&mut self, found: SpaceRef) -> bool {
        if self.ensure_tags() {
            return false;
        }
        self.spaces.retag(found);
        true
    }

    /// Flushes if there is no fresh tag left; `true` if it did.
    fn ensure_tags(&mut self) -> bool {
        let exhausted = self.spaces.tags_used() >= TAGS;
        if exhausted {
            self.flush();
        }
        exhausted
    }

    /// Forgets everything.
    pub fn flush(&mut self) {
        self.small.clear();
        self.large.clear();
        self.spaces.clear();
    }
}

/// Tag and page number in one word. Never 0, which marks an empty entry: tags start at 1.
#[inline]
const fn key(tag: u32, va: Gva, shift: u32) -> u64 {
    (tag as u64) << PAGE_BITS | va.0 >> shift
}
