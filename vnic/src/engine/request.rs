// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A send request, parsed once from the device's copy of an element.

use crate::port::MAX_INLINE;
use crate::ring::rq::SgeList;
use crate::ring::sq::Element;
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
#[allow(clippy::large_enum_variant)] // reason: one per queue pair, and a box would be an allocation
#[derive(Debug, Clone, Copy)]
pub enum Local {
    /// In the element, this many, from [`SEND_WQE_PAYLOAD`].
    Inline(usize),
    /// In the requester's memory.
    List(SgeList),
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

const KNOWN: WqeFlags = WqeFlags::SIGNALED
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
        let (head, _) = SendWqe::read_from_prefix(bytes).map_err(|_| BadElement { wr_id: 0 })?;
        let bad = BadElement { wr_id: head.wr_id.get() };
        let flags = WqeFlags::from_bits_retain(head.flags);
        if !KNOWN.contains(flags) || head.reserved != 0 {
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
                let (atomic, _) = AtomicWqe::read_from_prefix(bytes).map_err(|_| bad)?;
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
        let local = Self::local(bytes, &head, flags, op).ok_or(bad)?;
        let total = match &local {
            Local::Inline(len) => *len as u64,
            Local::List(list) => list.total(),
        };
        if matches!(op, Op::Atomic(..)) && total != 8 {
            return Err(bad);
        }
        Ok(Self {
            wr_id: bad.wr_id,
            op,
            imm,
            signaled: flags.contains(WqeFlags::SIGNALED),
            solicited: flags.contains(WqeFlags::SOLICITED),
            local,
            total,
        })
    }

    fn local(bytes: &[u8], head: &SendWqe, flags: WqeFlags, op: Op) -> Option<Local> {
        if flags.contains(WqeFlags::INLINE) {
            let len = head.length.get();
            let fits = len <= MAX_INLINE && (SEND_WQE_PAYLOAD + len) as usize <= bytes.len();
            let sends = matches!(op, Op::Send | Op::Write(_));
            return (fits && sends && head.num_sge == 0).then_some(Local::Inline(len as usize));
        }
        let start = match op {
            Op::Atomic(..) => ATOMIC_WQE_PAYLOAD,
            _ => SEND_WQE_PAYLOAD,
        };
        let list = SgeList::parse(bytes.get(start as usize..)?, head.num_sge.into())?;
        (head.length.get() == 0).then_some(Local::List(list))
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
            if let Ok(request) = SendRequest::parse(&element(stride, &bytes)) {
                match request.local {
                    Local::Inline(len) => prop_assert!(len + 32 <= stride),
                    Local::List(list) => {
                        let start = if matches!(request.op, Op::Atomic(..)) { 48 } else { 32 };
                        prop_assert!(size_of_val(list.entries()) + start <= stride);
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
