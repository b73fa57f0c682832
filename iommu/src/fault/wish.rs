// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What somebody wants to be asked for, and who waits for it.

use super::{Claimant, PageRequest};
use crate::addr::{Gva, PAGE_SHIFT, PAGE_SIZE};
use crate::walk::Access;

/// Pages that somebody wants a guest to be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Whose share of the guest's budget it takes.
    pub claimant: Claimant,
    /// The address space.
    pub pasid: u32,
    /// First byte.
    pub va: Gva,
    /// Bytes; widened to whole pages, at least one, and cut at the end of the address space. What
    /// counts for a waiter is the first page: the rest is asked for with it, since it will be needed.
    pub len: u64,
    /// Bytes at the end of `len` that nobody needs yet; only counted.
    pub ahead: u64,
    /// What for.
    pub access: Access,
}

/// Somebody who waits for a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Waiter {
    /// Who. Each waits for one thing at a time.
    pub who: u32,
    /// Which of its waits this is, so that an answer to an earlier one, or to one of somebody who
    /// had the same name, is not taken for the answer to this one.
    pub wait: u64,
}

/// A wish that waits for the budget.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deferred {
    pub(super) wish: Wish,
    pub(super) waiter: Waiter,
}

impl Wish {
    /// The pages that it touches: the first byte, and the number of bytes.
    pub(super) fn whole_pages(&self) -> (Gva, u64) {
        let start = self.va.align_down(PAGE_SHIFT);
        let end = self
            .va
            .checked_add(self.len.max(1))
            .and_then(|end| end.checked_align_up(PAGE_SHIFT))
            .unwrap_or(Gva(u64::MAX).align_down(PAGE_SHIFT));
        // The very last page has no representable end; ask for it as one page.
        (start, end.0.saturating_sub(start.0).max(PAGE_SIZE))
    }

    pub(super) fn pages(&self) -> u64 {
        self.whole_pages().1 >> PAGE_SHIFT
    }

    /// Pages of it that nobody needs yet.
    pub(super) fn pages_ahead(&self) -> u64 {
        self.ahead.min(self.len) >> PAGE_SHIFT
    }

    /// Whether `request` brings the first page.
    pub(super) fn is_served_by(&self, request: &PageRequest) -> bool {
        request.pasid == self.pasid
            && request.access >= self.access
            && self.va.checked_offset_from(request.start).is_some_and(|offset| offset < request.len)
    }

    /// What is left of it behind `request`, which brings its first page.
    pub(super) fn behind(&self, request: &PageRequest) -> Option<Self> {
        let (start, len) = self.whole_pages();
        let va = request.start.checked_add(request.len)?;
        let end = start.checked_add(len)?;
        let len = end.0.checked_sub(va.0).filter(|&len| len != 0)?;
        Some(Self { va, len, ..*self })
    }
}
