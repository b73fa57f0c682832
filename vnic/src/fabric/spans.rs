// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Host memory of a range, page after page, and copying from one list of pages to another.

use crate::engine::copy::{self, End, Reach};
use crate::ring::memory::prefetch;
use arrayvec::ArrayVec;
use vnic_iommu::addr::Gva;
use vnic_iommu::pasid::AddressSpace;
use vnic_iommu::quiesce::Burst;
use vnic_iommu::translate::{HostChunk, Translator};
use vnic_iommu::walk::{Access, Fault};

/// Pieces that are translated before they are copied: the pages of a chunk of 128 KiB, wherever it begins.
const MOST: usize = 34;

/// A piece of host memory, valid for the burst in which it was translated.
#[derive(Debug, Clone, Copy)]
struct Span {
    start: *mut u8,
    len: usize,
}

/// Host memory of a range. Reused, since it is large.
#[derive(Debug, Default)]
pub struct Spans {
    list: ArrayVec<Span, MOST>,
    total: usize,
}

impl Spans {
    fn clear(&mut self) {
        self.list.clear();
        self.total = 0;
    }

    /// Bytes in all.
    pub const fn total(&self) -> usize {
        self.total
    }

    /// Host memory of the first bytes of a range: of all `len`, unless a page cannot be had or there is no
    /// room for more pieces.
    ///
    /// # Errors
    ///
    /// The [`Fault`] of the page behind those that could be had.
    #[inline]
    pub fn translate(
        &mut self,
        translator: &mut Translator,
        burst: &Burst<'_>,
        table: &AddressSpace,
        start: Gva,
        len: usize,
        access: Access,
    ) -> Result<(), Fault> {
        self.clear();
        translator.translate_all(burst, table, start, len, access, |chunk| self.push(&chunk))
    }

    /// Adds what follows. `false` if there is no room for more.
    #[inline]
    fn push(&mut self, chunk: &HostChunk<'_>) -> bool {
        self.add(Span { start: chunk.as_ptr(), len: chunk.len() })
    }

    /// A single piece that is no guest's: the bytes of an element, which are only read.
    pub fn set_bytes(&mut self, bytes: &[u8]) {
        self.clear();
        self.add(Span { start: bytes.as_ptr().cast_mut(), len: bytes.len() });
    }

    /// A single piece that is no guest's, to be written.
    pub fn set_room(&mut self, start: *mut u8, len: usize) {
        self.clear();
        self.add(Span { start, len });
    }

    #[inline]
    fn add(&mut self, span: Span) -> bool {
        if self.list.try_push(span).is_ok() {
            self.total += span.len;
        }
        !self.list.is_full()
    }
}

/// Copies `len` bytes from `from` to `to`, in order.
///
/// # Safety
///
/// Both were filled in the burst that lasts, `to` with memory that may be written; both hold as many
/// bytes.
#[allow(unsafe_code)] // reason: guest memory is only reachable by address
pub unsafe fn copy(from: &Spans, to: &Spans, len: usize, end: End) {
    let (mut from, mut to) = (from.list.iter(), to.list.iter());
    let nothing = Span { start: std::ptr::null_mut(), len: 0 };
    let (mut src, mut dst) = (nothing, nothing);
    let mut left = len;
    while left > 0 {
        if src.len == 0 {
            let Some(next) = from.next() else { break };
            src = *next;
            fetch(from.as_slice(), end.reach);
        }
        if dst.len == 0 {
            let Some(next) = to.next() else { break };
            dst = *next;
            fetch(to.as_slice(), end.reach);
        }
        let n = src.len.min(dst.len).min(left);
        left -= n;
        // SAFETY: `n` bytes of a piece on either side, which are valid by the caller's word.
        unsafe {
            copy::piece(src.start, dst.start, n, if left == 0 { end } else { end.not_yet() });
        }
        for span in [&mut src, &mut dst] {
            *span = Span { start: span.start.wrapping_add(n), len: span.len - n };
        }
    }
    if !end.of_message {
        copy::settle(end.reach);
    }
}

/// Lines at the beginning of a piece that are asked for while the one before is copied, where they come from
/// memory.
const AHEAD: usize = 16;

/// Asks for the beginning of the next piece of a message that no cache holds. Of others it would be in the way.
#[inline]
fn fetch(rest: &[Span], reach: Reach) {
    if reach == Reach::Past
        && let Some(next) = rest.first()
    {
        for line in 0..AHEAD {
            prefetch(next.start.wrapping_add(line * 64));
        }
    }
}
