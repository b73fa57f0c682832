// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The address spaces that a cache knows: their tags, and how far each was synchronised.

use crate::quiesce::InvalidationReader;

const SETS: usize = 64;
const WAYS: usize = 4;

/// Tags that fit above the page number in a key; 0 is not used.
pub(super) const TAGS: u32 = (1 << (u64::BITS - super::PAGE_BITS)) - 1;

/// Where a space is kept; valid until the next [`Spaces::attach`] or [`Spaces::clear`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct SpaceRef {
    set: usize,
    way: usize,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Space {
    tag: u32,
    /// What was seen of the space's invalidation page.
    pub(crate) reader: InvalidationReader,
    /// The [`LiveRam`](crate::live::LiveRam) generation that cached addresses belong to.
    pub(crate) ram: u64,
    /// The burst in which `reader` was last brought up to date; 0 is none.
    pub(crate) synced: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Set {
    /// 0 where empty: ids of address spaces start at 1.
    ids: [u64; WAYS],
    spaces: [Space; WAYS],
    victim: usize,
}

#[derive(Debug)]
pub(crate) struct Spaces {
    sets: Box<[Set]>,
    tags_used: u32,
}

impl Spaces {
    pub(super) fn new() -> Self {
        Self { sets: vec![Set::default(); SETS].into_boxed_slice(), tags_used: 0 }
    }

    #[inline]
    pub(crate) fn find(&self, id: u64) -> Option<SpaceRef> {
        let set = id as usize % SETS;
        let way = self.sets[set].ids.iter().position(|&known| known == id)?;
        (id != 0).then_some(SpaceRef { set, way })
    }

    #[inline]
    pub(crate) fn get(&self, found: SpaceRef) -> &Space {
        &self.sets[found.set].spaces[found.way]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, found: SpaceRef) -> &mut Space {
        &mut self.sets[found.set].spaces[found.way]
    }

    #[inline]
    pub(crate) fn tag(&self, found: SpaceRef) -> u32 {
        self.get(found).tag
    }

    pub(super) fn tags_used(&self) -> u32 {
        self.tags_used
    }

    /// Takes in a space, if need be in the place of another, whose entries become unreachable.
    pub(super) fn attach(&mut self, id: u64) -> SpaceRef {
        let index = id as usize % SETS;
        let set = &mut self.sets[index];
        let way = set.ids.iter().position(|&known| known == 0).unwrap_or_else(|| {
            set.victim = (set.victim + 1) % WAYS;
            set.victim
        });
        set.ids[way] = id;
        set.spaces[way] = Space::default();
        let found = SpaceRef { set: index, way };
        self.retag(found);
        found
    }

    pub(super) fn retag(&mut self, found: SpaceRef) {
        self.tags_used += 1;
        self.get_mut(found).tag = self.tags_used;
    }

    pub(super) fn clear(&mut self) {
        self.sets.fill(Set::default());
        self.tags_used = 0;
    }
}
