// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A send request, parsed once from the device's copy of an element.

use crate::port::MAX_INLINE;
use crate::ring::rq::SgeList;
use crate::ring::sq::Element;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::cqe::WcOpcode;
use vnic_abi::wqe::{ATOMIC_WQE_PAYLOAD, AtomicWqe, Opcode, SEND_WQE_PAYLOAD, SendWqe, WqeFlags};
use zerocopy::FromBytes;

/// A range of the peer's memory, as the request names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remote {
    /// Address.
    pub addr: u64,
    /// Key.
    pub rkey: u32,
}

/// An atomic operation on 8 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Atomic {
    /// Store `swap` if the word equals `compare`.
    CompareSwap {
        /// Value to compare with.
        compare: u64,
        /// Value to store.
        swap: u64,
    },
    /// Add to the word, modulo 2^64.
    FetchAdd(u64),
}

impl Atomic {
    /// Does it, and returns what was there.
    #[inline]
    pub fn apply(self, word: &AtomicU64) -> u64 {
        // SeqCst: verbs order atomics against the CPUs' own, so nothing weaker will do.
        match self {
            Self::FetchAdd(add) => word.fetch_add(add, Ordering::SeqCst),
            Self::CompareSwap { compare, swap } => word
                .compare_exchange(compare, swap, Ordering::SeqCst, Ordering::SeqCst)
                .unwrap_or_else(|found| found),
        }
    }
}

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// SEND.
    Send,
    /// RDMA WRITE.
    Write(Remote),
    /// RDMA READ.
    Read(Remote),
    /// Atomic.
    Atomic(Remote, Atomic),
}

/// Where the requester's bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// In the element, this many, from [`SEND_WQE_PAYLOAD`].
    Inline(u32),
    /// In the requester's memory: entries in the element.
    List {
        /// Offset of the first.
        start: u32,
        /// Number of entries.
        count: u8,
    },
}

/// The requester's bytes, where [`Local`] says.
#[derive(Debug, Clone, Copy)]
pub enum LocalBytes<'a> {
    /// The bytes themselves.
    Inline(&'a [u8]),
    /// Entries that say where they are.
    List(SgeList<'a>),
}

impl Local {
    /// Finds them in the element that was parsed.
    #[inline]
    pub fn of(self, element: &Element) -> LocalBytes<'_> {
        match self {
            // The parser checked that they fit; nothing else is worth a panic.
            Self::Inline(len) => {
                let bytes = element.bytes().get(SEND_WQE_PAYLOAD as usize..).unwrap_or_default();
                LocalBytes::Inline(bytes.get(..len as usize).unwrap_or_default())
            }
            Self::List { start, count } => {
                let list = SgeList::parse(element, start, count.into());
                LocalBytes::List(list.unwrap_or(SgeList::EMPTY))
            }
        }
    }
}

/// A send request.
#[derive(Debug, Clone, Copy)]
pub struct SendRequest {
    /// From the driver.
    pub wr_id: u64,
    /// What to do.
    pub op: Op,
    /// Immediate data for the receiver.
    pub imm: Option<[u8; 4]>,
    /// Complete it even if it succeeds.
    pub signaled: bool,
    /// The receiver's completion is a solicited one.
    pub solicited: bool,
    /// It begins when the READs and atomics before it are done.
    pub fenced: bool,
    /// Where the bytes are.
    pub local: Local,
    /// Length of the message in bytes.
    pub total: u64,
}

/// An element that makes no sense; its number is known all the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadElement {
    /// From the driver, whatever it may be.
    pub wr_id: u64,
}

/// Flags that a send element may have.
pub const KNOWN_FLAGS: WqeFlags = WqeFlags::SIGNALED
    .union(WqeFlags::FENCE)
    .union(WqeFlags::SOLICITED)
    .union(WqeFlags::INLINE)
    .union(WqeFlags::PHASE);

impl SendRequest {
    /// Parses an element.
    ///
    /// # Errors
    ///
    /// [`BadElement`] for unknown operations and flags, reserved fields that are not zero, lists and
    /// inline data that do not fit the element, inline READs, atomics that are not of 8 bytes.
    pub fn parse(element: &Element) -> Result<Self, BadElement> {
        let bytes = element.bytes();
        let (head, _) = SendWqe::ref_from_prefix(bytes).map_err(|_| BadElement { wr_id: 0 })?;
        let bad = BadElement { wr_id: head.wr_id.get() };
        let flags = WqeFlags::from_bits_retain(head.flags);
        if !KNOWN_FLAGS.contains(flags) || head.reserved != 0 {
            return Err(bad);
        }
        let remote = Remote { addr: head.remote_addr.get(), rkey: head.rkey.get() };
        let imm = Some(head.imm);
        let (op, imm) = match Opcode(head.opcode) {
            Opcode::Send => (Op::Send, None),
            Opcode::SendWithImm => (Op::Send, imm),
            Opcode::RdmaWrite => (Op::Write(remote), None),
            Opcode::RdmaWriteWithImm => (Op::Write(remote), imm),
            Opcode::RdmaRead => (Op::Read(remote), None),
            code @ (Opcode::AtomicCmpSwap | Opcode::AtomicFetchAdd) => {
                let (atomic, _) = AtomicWqe::ref_from_prefix(bytes).map_err(|_| bad)?;
                let operand = atomic.compare_add.get();
                let what = if code == Opcode::AtomicCmpSwap {
                    Atomic::CompareSwap { compare: operand, swap: atomic.swap.get() }
                } else {
                    Atomic::FetchAdd(operand)
                };
                (Op::Atomic(remote, what), None)
            }
            _ => return Err(bad),
        };
        let (local, total) = Self::local(element, head, flags, op).ok_or(bad)?;
        if matches!(op, Op::Atomic(..)) && total != 8 {
            return Err(bad);
        }
        Ok(Self {
            wr_id: bad.wr_id,
            op,
            imm,
            signaled: flags.contains(WqeFlags::SIGNALED),
            solicited: flags.contains(WqeFlags::SOLICITED),
            fenced: flags.contains(WqeFlags::FENCE),
            local,
            total,
        })
    }

    /// Where the bytes are, and how many.
    #[inline]
    fn local(element: &Element, head: &SendWqe, flags: WqeFlags, op: Op) -> Option<(Local, u64)> {
        let len = head.length.get();
        if flags.contains(WqeFlags::INLINE) {
            let fits =
                len <= MAX_INLINE && (SEND_WQE_PAYLOAD + len) as usize <= element.bytes().len();
            let sends = matches!(op, Op::Send | Op::Write(_));
            return (fits && sends && head.num_sge == 0)
                .then_some((Local::Inline(len), len.into()));
        }
        let start = match op {
            Op::Atomic(..) => ATOMIC_WQE_PAYLOAD,
            _ => SEND_WQE_PAYLOAD,
        };
        let list = SgeList::parse(element, start, head.num_sge.into())?;
        (len == 0).then_some((Local::List { start, count: head.num_sge }, list.total()))
    }

    /// What a completion calls it.
    pub fn wc_opcode(&self) -> WcOpcode {
        match self.op {
            Op::Send => WcOpcode::Send,
            Op::Write(_) => WcOpcode::RdmaWrite,
            Op::Read(_) => WcOpcode::RdmaRead,
            Op::Atomic(_, Atomic::CompareSwap { .. }) => WcOpcode::CompSwap,
            Op::Atomic(_, Atomic::FetchAdd(_)) => WcOpcode::FetchAdd,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::IntoBytes;

    fn element(stride: usize, bytes: &[u8]) -> Element {
        let mut whole = vec![0; stride];
        let len = bytes.len().min(stride);
        whole[..len].copy_from_slice(&bytes[..len]);
        Element::from_bytes(&whole)
    }

    proptest! {
        #[test]
        fn whatever_is_parsed_fits_the_element(
            bytes in prop::collection::vec(any::<u8>(), 512), opcode in 0u8..9, flags in 0u8..16,
            num_sge in 0u8..20, len in 0u32..600, shift in 6u32..10, clean in any::<bool>(),
        ) {
            let stride = 1usize << shift;
            let mut bytes = bytes;
            if clean {
                bytes[..4].copy_from_slice(&[opcode, flags, num_sge, 0]);
                bytes[4..8].copy_from_slice(&len.to_le_bytes());
            }
            let element = element(stride, &bytes);
            if let Ok(request) = SendRequest::parse(&element) {
                match request.local.of(&element) {
                    LocalBytes::Inline(bytes) => {
                        prop_assert_eq!(request.local, Local::Inline(bytes.len() as u32));
                        prop_assert_eq!(request.total, bytes.len() as u64);
                    }
                    LocalBytes::List(list) => {
                        let count = list.entries().len() as u8;
                        let start = if matches!(request.op, Op::Atomic(..)) { 48 } else { 32 };
                        prop_assert_eq!(request.local, Local::List { start, count });
                        prop_assert_eq!(request.total, list.total());
                    }
                }
            }
        }
    }

    #[test]
    fn a_small_write_fits_one_line() {
        let mut bytes = SendWqe {
            opcode: Opcode::RdmaWrite.0,
            flags: (WqeFlags::INLINE | WqeFlags::SIGNALED).bits(),
            length: 8.into(),
            wr_id: 7.into(),
            rkey: 9.into(),
            remote_addr: 4096.into(),
            ..SendWqe::default()
        }
        .as_bytes()
        .to_vec();
        bytes.extend([1; 8]);
        let request = SendRequest::parse(&element(64, &bytes)).unwrap();
        assert_eq!((request.total, request.wr_id), (8, 7));
        assert_eq!(request.op, Op::Write(Remote { addr: 4096, rkey: 9 }));
        bytes[4] = 33;
        assert!(SendRequest::parse(&element(64, &bytes)).is_err(), "inline past the element");
    }
}
