// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The receive queue: elements in, parsed into scatter lists.

use crate::ring::sq::Element;
use vnic_abi::wqe::{RECV_WQE_PAYLOAD, RecvWqe, Sge};
use zerocopy::FromBytes;

/// Gather or scatter entries of one request, at most.
pub const MAX_SGE: usize = 16;

/// A list of ranges of one process's memory, copied out of an element.
#[derive(Debug, Clone, Copy)]
pub struct SgeList {
    entries: [Sge; MAX_SGE],
    len: usize,
}

impl SgeList {
    /// No entry.
    pub const EMPTY: Self = Self {
        entries: [Sge {
            addr: vnic_abi::U64::ZERO,
            length: vnic_abi::U32::ZERO,
            lkey: vnic_abi::U32::ZERO,
        }; MAX_SGE],
        len: 0,
    };

    /// Parses `count` entries at the start of `bytes`. `None` if they do not fit.
    pub fn parse(bytes: &[u8], count: usize) -> Option<Self> {
        if count > MAX_SGE {
            return None;
        }
        let mut list = Self { len: count, ..Self::EMPTY };
        let bytes = bytes.get(..count * size_of::<Sge>())?;
        for (entry, raw) in list.entries.iter_mut().zip(bytes.chunks_exact(size_of::<Sge>())) {
            *entry = Sge::read_from_bytes(raw).ok()?;
        }
        Some(list)
    }

    /// The entries.
    #[inline]
    pub fn entries(&self) -> &[Sge] {
        &self.entries[..self.len]
    }

    /// Sum of the lengths; cannot wrap.
    #[inline]
    pub fn total(&self) -> u64 {
        self.entries().iter().map(|sge| u64::from(sge.length.get())).sum()
    }
}

/// A receive request.
#[derive(Debug, Clone, Copy)]
pub struct RecvRequest {
    /// From the driver.
    pub wr_id: u64,
    /// Where the message goes; `None` if the element makes no sense.
    pub scatter: Option<SgeList>,
}

impl RecvRequest {
    /// Parses the device's copy of an element.
    pub fn parse(element: &Element) -> Self {
        let bytes = element.bytes();
        let Ok((head, _)) = RecvWqe::read_from_prefix(bytes) else {
            return Self { wr_id: 0, scatter: None };
        };
        let clean = head.reserved0 == 0 && head.reserved1 == [0; 5];
        let list = bytes
            .get(RECV_WQE_PAYLOAD as usize..)
            .and_then(|payload| SgeList::parse(payload, head.num_sge.into()));
        Self { wr_id: head.wr_id.get(), scatter: list.filter(|_| clean) }
    }
}
