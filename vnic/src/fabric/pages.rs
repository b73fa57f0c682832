// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copying page by page between ranges whose pages the worker knows, without a list of them.

use crate::engine::copy::{self, End};
use vnic_iommu::addr::Gva;
use vnic_iommu::pasid::AddressSpace;
use vnic_iommu::quiesce::Burst;
use vnic_iommu::translate::{HostChunk, Translator};

/// Copies the first of `len` bytes, page by page, for as long as both sides' translations are cached. Returns how
/// many. `end` is that of all `len`.
#[inline]
pub fn copy_cached(
    translator: &mut Translator,
    burst: &Burst<'_>,
    from: (&AddressSpace, Gva),
    to: (&AddressSpace, Gva),
    len: usize,
    end: End,
) -> usize {
    let body = copy::for_pages(end.reach);
    let each = |[from, to]: [HostChunk<'_>; 2], last: bool| {
        let (from, to, n) = (from.as_ptr(), to.as_ptr(), from.len());
        #[allow(unsafe_code)] // reason: guest memory is only reachable by address
        // SAFETY: translated in this burst, the one for reading and the other for writing, with as many bytes.
        unsafe {
            if last && end.of_message {
                copy::piece(from, to, n, end);
            } else {
                body(from, to, n);
            }
        }
    };
    let done = translator.cached_pairs(burst, from, to, len, each);
    if done != 0 && (done != len || !end.of_message) {
        copy::settle(end.reach);
    }
    done
}
