// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A send element read where it lies, each word once: whether it is a usual request.
//!
//! What is not as usual, right or wrong, is `None`; the parser of [`request`](crate::engine::request)
//! judges it.

use crate::engine::request::{Atomic, KNOWN_FLAGS, Remote};
use std::mem::offset_of;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::wqe::{
    ATOMIC_WQE_PAYLOAD, AtomicWqe, Opcode, SEND_WQE_PAYLOAD, SendWqe, Sge, WQE_STRIDE_MIN, WqeFlags,
};

/// The first cache line of an element. Strides are not smaller.
type Line = [AtomicU64; WQE_STRIDE_MIN as usize / 8];

/// Words of the fixed part of an element.
const HEAD: usize = SEND_WQE_PAYLOAD as usize / 8;
/// The same for atomics, of which the operands are the last two.
const ATOMIC_HEAD: usize = ATOMIC_WQE_PAYLOAD as usize / 8;
/// Words of some fields.
const WR_ID: usize = offset_of!(SendWqe, wr_id) / 8;
const REMOTE_ADDR: usize = offset_of!(SendWqe, remote_addr) / 8;
const RKEY: usize = offset_of!(SendWqe, rkey) / 8;

// Where in its word each field is that is taken out of one below.
const _: () = {
    assert!(offset_of!(SendWqe, opcode) == 0 && offset_of!(SendWqe, flags) == 1);
    assert!(offset_of!(SendWqe, num_sge) == 2 && offset_of!(SendWqe, reserved) == 3);
    assert!(offset_of!(SendWqe, length) == 4 && offset_of!(SendWqe, rkey) % 8 == 4);
    assert!(offset_of!(SendWqe, wr_id) % 8 == 0 && offset_of!(SendWqe, remote_addr) % 8 == 0);
    assert!(offset_of!(AtomicWqe, compare_add) == HEAD * 8);
    assert!(offset_of!(AtomicWqe, swap) == HEAD * 8 + 8);
    assert!(offset_of!(Sge, addr) == 0 && offset_of!(Sge, length) == 8);
    assert!(offset_of!(Sge, lkey) == 12 && size_of::<Sge>() == 16);
};

/// The next element of a send queue, if its head is that of a usual request.
#[derive(Debug, Clone, Copy)]
pub(super) struct Glance<'m> {
    line: &'m Line,
    /// The whole element.
    element: &'m [AtomicU64],
    opcode: Opcode,
    flags: WqeFlags,
    num_sge: u8,
    length: u32,
}

/// Where the requester's bytes are.
#[derive(Debug, Clone, Copy)]
pub(super) enum Local<'m> {
    /// In the element.
    Inline(&'m [AtomicU64]),
    /// In one range.
    Range(Range),
}

/// A gather or scatter entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range {
    pub addr: u64,
    pub lkey: u32,
}

impl<'m> Glance<'m> {
    /// Looks at an element whose first word is known.
    #[inline(always)]
    pub fn of(first: u64, element: &'m [AtomicU64]) -> Option<Self> {
        let line = element.first_chunk()?;
        let [opcode, flags, num_sge, reserved, ..] = first.to_le_bytes();
        let flags = WqeFlags::from_bits_retain(flags);
        let usual = KNOWN_FLAGS.contains(flags) && reserved == 0;
        let length = high(u64::from_le(first));
        usual.then_some(Self { line, element, opcode: Opcode(opcode), flags, num_sge, length })
    }

    /// A word of the first line. Relaxed: ordered by the Acquire of the first word.
    #[inline(always)]
    fn word(&self, index: usize) -> u64 {
        u64::from_le(self.line[index].load(Ordering::Relaxed))
    }

    /// What to do.
    #[inline(always)]
    pub const fn opcode(&self) -> Opcode {
        self.opcode
    }

    /// From the driver.
    #[inline(always)]
    pub fn wr_id(&self) -> u64 {
        self.word(WR_ID)
    }

    /// Complete it even if it succeeds.
    #[inline(always)]
    pub const fn signaled(&self) -> bool {
        self.flags.contains(WqeFlags::SIGNALED)
    }

    /// The receiver's completion is a solicited one.
    #[inline(always)]
    pub const fn solicited(&self) -> bool {
        self.flags.contains(WqeFlags::SOLICITED)
    }

    /// The peer's memory, of an RDMA request or an atomic.
    #[inline(always)]
    pub fn remote(&self) -> Remote {
        Remote { addr: self.word(REMOTE_ADDR), rkey: high(self.word(RKEY)) }
    }

    /// The operation of an atomic.
    #[inline(always)]
    pub fn atomic(&self) -> Atomic {
        let operand = self.word(HEAD);
        if self.opcode == Opcode::AtomicFetchAdd {
            Atomic::FetchAdd(operand)
        } else {
            Atomic::CompareSwap { compare: operand, swap: self.word(HEAD + 1) }
        }
    }

    /// Where the bytes of a SEND or WRITE come from, and how many there are: at least one.
    #[inline(always)]
    pub fn source(&self) -> Option<(Local<'m>, u64)> {
        if !self.flags.contains(WqeFlags::INLINE) {
            return self.range(HEAD).map(|(range, len)| (Local::Range(range), len));
        }
        let payload = self.element.get(HEAD..)?;
        let fits = self.num_sge == 0 && self.length as usize <= size_of_val(payload);
        (fits && self.length != 0).then_some((Local::Inline(payload), self.length.into()))
    }

    /// Where the bytes of a READ go, and how many.
    #[inline(always)]
    pub fn sink(&self) -> Option<(Range, u64)> {
        self.range(HEAD)
    }

    /// Where the result of an atomic goes.
    #[inline(always)]
    pub fn result(&self) -> Option<Range> {
        self.range(ATOMIC_HEAD).and_then(|(range, len)| (len == 8).then_some(range))
    }

    /// The one entry of a list at word `at`, with its length.
    #[inline(always)]
    fn range(&self, at: usize) -> Option<(Range, u64)> {
        let inline = self.flags.contains(WqeFlags::INLINE);
        if inline || self.num_sge != 1 || self.length != 0 {
            return None;
        }
        let (addr, second) = (self.word(at), self.word(at + 1));
        let len = second & u64::from(u32::MAX);
        (len != 0).then_some((Range { addr, lkey: high(second) }, len))
    }
}

/// The upper half of a word.
#[inline(always)]
const fn high(word: u64) -> u32 {
    (word >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::request::{self, Op, SendRequest};
    use crate::ring::sq::Element;
    use proptest::prelude::*;

    proptest! {
        /// What is seen at a glance is what the parser sees.
        #[test]
        fn agrees_with_the_parser(
            bytes in prop::collection::vec(any::<u8>(), 128), opcode in 0u8..9, flags in 0u8..16,
            num_sge in 0u8..3, len in 0u32..140, sge_len in 0u32..20, shift in 6u32..8,
        ) {
            let stride = 1usize << shift;
            let mut bytes = bytes[..stride].to_vec();
            bytes[..4].copy_from_slice(&[opcode, flags, num_sge, 0]);
            let len = if flags & WqeFlags::INLINE.bits() != 0 { len } else { len / 100 };
            bytes[4..8].copy_from_slice(&len.to_le_bytes());
            for at in [SEND_WQE_PAYLOAD, ATOMIC_WQE_PAYLOAD] {
                bytes[at as usize + 8..][..4].copy_from_slice(&sge_len.to_le_bytes());
            }
            let words: Vec<_> = bytes
                .chunks_exact(8)
                .map(|word| AtomicU64::new(u64::from_ne_bytes(word.try_into().unwrap())))
                .collect();
            let first = words[0].load(Ordering::Relaxed);
            let Some(glance) = Glance::of(first, &words) else { return Ok(()) };
            let element = Element::from_bytes(&bytes);
            let parsed = SendRequest::parse(&element);
            let (op, local) = match glance.opcode() {
                Opcode::Send => (Op::Send, glance.source()),
                Opcode::RdmaWrite => (Op::Write(glance.remote()), glance.source()),
                Opcode::RdmaRead => (
                    Op::Read(glance.remote()),
                    glance.sink().map(|(range, len)| (Local::Range(range), len)),
                ),
                Opcode::AtomicFetchAdd | Opcode::AtomicCmpSwap => (
                    Op::Atomic(glance.remote(), glance.atomic()),
                    glance.result().map(|range| (Local::Range(range), 8)),
                ),
                _ => return Ok(()),
            };
            let Some((local, len)) = local else { return Ok(()) };
            let parsed = parsed.expect("what is usual is right");
            prop_assert_eq!((op, parsed.imm), (parsed.op, None));
            prop_assert_eq!(glance.solicited(), parsed.solicited);
            prop_assert_eq!(glance.wr_id(), parsed.wr_id);
            prop_assert_eq!((glance.signaled(), len), (parsed.signaled, parsed.total));
            match (local, parsed.local) {
                (Local::Inline(_), request::Local::Inline(length)) => {
                    prop_assert_eq!(u64::from(length), len);
                }
                (Local::Range(Range { addr, lkey }), place @ request::Local::List { .. }) => {
                    let request::LocalBytes::List(list) = place.of(&element) else {
                        return Err(TestCaseError::fail("a list"));
                    };
                    let length = (len as u32).into();
                    prop_assert_eq!(list.entries(), &[Sge { addr: addr.into(), length, lkey: lkey.into() }]);
                }
                (usual, parsed) => prop_assert!(false, "{usual:?} but {parsed:?}"),
            }
        }
    }
}
