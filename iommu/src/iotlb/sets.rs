// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A set-associative table of translations of one page size.

use std::ptr::NonNull;

use super::PAGE_BITS;
use crate::memory::HostPtr;
use crate::walk::Access;

const WAYS: usize = 4;
/// In the low bit of the host address, which is that of a page.
const WRITABLE: usize = 1;
/// Odd and without a pattern, so that spaces which use the same pages meet in different sets.
const TAG_SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Tag and page; 0 where empty.
    key: u64,
    /// Host address of the page, with [`WRITABLE`]. Exposed provenance: see `find`.
    host: usize,
}

const EMPTY: Entry = Entry { key: 0, host: 0 };

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Set([Entry; WAYS]);

#[derive(Debug)]
pub(super) struct Sets {
    sets: Box<[Set]>,
    /// The way to replace next; shared by all sets, which makes it as good as random in each.
    victim: usize,
}

impl Sets {
    pub(super) fn new(entries: usize) -> Self {
        let sets = entries.div_ceil(WAYS).max(1).next_power_of_two();
        Self { sets: vec![Set([EMPTY; WAYS]); sets].into_boxed_slice(), victim: 0 }
    }

    /// The number of sets.
    pub(super) fn sets(&self) -> usize {
        self.sets.len()
    }

    #[inline]
    fn index(&self, key: u64) -> usize {
        // Neighbouring pages go to neighbouring sets.
        let spread = (key >> PAGE_BITS).wrapping_mul(TAG_SPREAD) >> 32;
        key.wrapping_add(spread) as usize & (self.sets.len() - 1)
    }

    /// The host address of the page of `key`, if it is cached and may be written or need not; else 0.
    #[inline]
    pub(super) fn page(&self, key: u64, writes: bool) -> usize {
        let Set([a, b, c, d]) = &self.sets[self.index(key)];
        let host = if a.key == key {
            a.host
        } else if b.key == key {
            b.host
        } else if c.key == key {
            c.host
        } else if d.key == key {
            d.host
        } else {
            return 0;
        };
        if writes && host & WRITABLE == 0 { 0 } else { host & !WRITABLE }
    }

    #[inline]
    pub(super) fn find(
        &self,
        key: u64,
        offset: u64,
        shift: u32,
        access: Access,
    ) -> Option<HostPtr> {
        let page = self.page(key, access.is_write());
        if page == 0 {
            return None;
        }
        let page: *mut u8 = std::ptr::with_exposed_provenance_mut(page);
        let ptr = NonNull::new(page.wrapping_add(offset as usize))?;
        Some(HostPtr::from_parts(ptr, (1 << shift) - offset as usize))
    }

    pub(super) fn insert(&mut self, key: u64, host: HostPtr, writable: bool) {
        let address = host.as_ptr().expose_provenance();
        if address & WRITABLE != 0 {
            return;
        }
        let index = self.index(key);
        let set = &mut self.sets[index].0;
        let way = set
            .iter()
            .position(|entry| entry.key == key)
            .or_else(|| set.iter().position(|entry| entry.key == 0))
            .unwrap_or_else(|| {
                self.victim = (self.victim + 1) % WAYS;
                self.victim
            });
        set[way] = Entry { key, host: address | if writable { WRITABLE } else { 0 } };
    }

    /// Forgets the pages `first..=last` of `tag`: by probing for each, or, where there are more of
    /// them than sets, by looking through all.
    pub(super) fn remove(&mut self, tag: u64, first: u64, last: u64) {
        // Pages that no key can hold are not cached.
        let last = last.min((1 << PAGE_BITS) - 1);
        if first > last {
            return;
        }
        let keys = (tag << PAGE_BITS | first)..=(tag << PAGE_BITS | last);
        if last - first >= self.sets.len() as u64 {
            for set in &mut self.sets {
                remove_from(set, |key| keys.contains(&key));
            }
        } else {
            for key in keys {
                let index = self.index(key);
                remove_from(&mut self.sets[index], |found| found == key);
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.sets.fill(Set([EMPTY; WAYS]));
    }
}

#[inline]
fn remove_from(set: &mut Set, gone: impl Fn(u64) -> bool) {
    for entry in &mut set.0 {
        if gone(entry.key) {
            *entry = EMPTY;
        }
    }
}
