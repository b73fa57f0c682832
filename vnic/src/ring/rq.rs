// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The receive queue: elements in, parsed into scatter lists.

use crate::ring::sq::Element;
use vnic_abi::wqe::{RECV_WQE_PAYLOAD, RecvWqe, Sge};
use zerocopy::FromBytes;

/// Gather or scatter entries of one request, at most.
pub const MAX_SGE: usize = 16;

/// A list of ranges of one process's memory, in the device's copy of an element.
#[derive(Debug, Clone, Copy)]
pub struct SgeList<'a>(&'a [Sge]);

impl<'a> SgeList<'a> {
    /// No entry.
    pub const EMPTY: Self = Self(&[]);

    /// The `count` entries at `start` of `element`. `None` if they do not fit.
    #[inline]
    pub fn parse(element: &'a Element, start: u32, count: usize) -> Option<Self> {
        if count > MAX_SGE {
            return None;
        }
        let bytes = element.bytes().get(start as usize..)?;
        let (entries, _) = <[Sge]>::ref_from_prefix_with_elems(bytes, count).ok()?;
        Some(Self(entries))
    }

    /// The entries.
    #[inline]
    pub const fn entries(self) -> &'a [Sge] {
        self.0
    }

    /// Sum of the lengths; cannot wrap.
    #[inline]
    pub fn total(self) -> u64 {
        self.0.iter().map(|sge| u64::from(sge.length.get())).sum()
    }
}

/// A receive request.
#[derive(Debug, Clone, Copy)]
pub struct RecvRequest {
    /// From the driver.
    pub wr_id: u64,
    /// How many entries say where the message goes; `None` if the element makes no sense.
    pub num_sge: Option<u8>,
}

impl RecvRequest {
    /// Parses the device's copy of an element.
    #[inline]
    pub fn parse(element: &Element) -> Self {
        let Ok((head, _)) = RecvWqe::ref_from_prefix(element.bytes()) else {
            return Self { wr_id: 0, num_sge: None };
        };
        let clean = head.reserved0 == 0 && head.reserved1 == [0; 5];
        let fits = clean && Self::scatter(element, head.num_sge).is_some();
        Self { wr_id: head.wr_id.get(), num_sge: fits.then_some(head.num_sge) }
    }

    /// The first `num_sge` entries of an element.
    #[inline]
    pub fn scatter(element: &Element, num_sge: u8) -> Option<SgeList<'_>> {
        SgeList::parse(element, RECV_WQE_PAYLOAD, num_sge.into())
    }
}
