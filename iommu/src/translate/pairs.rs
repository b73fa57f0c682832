// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two ranges at once, page by page: what a copy between pages wants that are all known.

use crate::addr::{Gva, PAGE_SHIFT};
use crate::iotlb::Iotlb;
use crate::memory::HostPtr;
use crate::pasid::AddressSpace;
use crate::quiesce::Burst;
use crate::translate::{HostChunk, Translator, chunk};

impl Translator {
    /// Hands out the pages of two ranges of `len` bytes in pairs, the second of each for writing, for as long as
    /// both are cached as small ones, and says of each pair whether the ranges end with it. Returns the number of
    /// bytes that were handed out: 0 if the ranges do not begin at the same offset in their pages.
    #[inline]
    pub fn cached_pairs<'b>(
        &mut self,
        burst: &'b Burst<'_>,
        (from_space, from): (&'b AddressSpace, Gva),
        (to_space, to): (&'b AddressSpace, Gva),
        len: usize,
        mut each: impl FnMut([HostChunk<'b>; 2], bool),
    ) -> usize {
        let mut offset = from.offset_in(PAGE_SHIFT) as usize;
        if offset != to.offset_in(PAGE_SHIFT) as usize || (from.0 | to.0 | len as u64) >> 55 != 0 {
            return 0;
        }
        for space in [from_space, to_space] {
            let Some(page) = space.invalidation() else { return 0 };
            self.synced(burst, space, page);
        }
        // To synchronise the second may have thrown out the first.
        let tag = |space: &AddressSpace| {
            let found = self.iotlb.spaces.find(space.id())?;
            let synced = burst.serial(self.id) == Some(self.iotlb.spaces.get(found).synced);
            synced.then(|| self.iotlb.spaces.tag(found))
        };
        let (Some(from_tag), Some(to_tag)) = (tag(from_space), tag(to_space)) else { return 0 };
        let (mut from, mut to) = (Iotlb::small_key(from_tag, from), Iotlb::small_key(to_tag, to));
        let pair = |from, to| {
            let pages = (self.iotlb.small_page(from, false), self.iotlb.small_page(to, true));
            (pages.0 != 0 && pages.1 != 0).then_some(pages)
        };
        let host = |(from, to), offset, len| {
            [from, to].map(|page| chunk(HostPtr::of_page(page, offset), len))
        };
        let mut done = 0;
        while done < len
            && let Some(pages) = pair(from, to)
        {
            #[cfg(vnic_sabotage)]
            burst.sabotage();
            let n = (len - done).min((1 << PAGE_SHIFT) - offset);
            done += n;
            each(host(pages, offset, n), done == len);
            // Neither range leaves the user's half: the next page's key is the next number.
            (offset, from, to) = (0, from + 1, to + 1);
        }
        done
    }
}
