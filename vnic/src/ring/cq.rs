// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The completion queue: elements out.

use crate::ring::memory::RingMemory;
use std::sync::atomic::Ordering;
use vnic_abi::cqe::{Arm, CQ_ARM_OFFSET, CQ_CONSUMER_OFFSET, CQ_RING_OFFSET, CQE_SIZE};
use vnic_abi::cqe::{Cqe, CqeFlags};
use vnic_iommu::quiesce::full_fence;

/// The ring is full, or its consumer index makes no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overrun;

/// The producer's side of a completion ring.
#[derive(Debug)]
pub struct CompletionRing {
    depth: u32,
    /// Elements published, modulo 2^32.
    produced: u32,
    /// The consumer index when it was last read: an older one is safe.
    consumer: u32,
}

impl CompletionRing {
    /// A ring of `depth` elements, a power of two.
    pub fn new(depth: u32) -> Self {
        Self { depth, produced: 0, consumer: 0 }
    }

    /// Elements published, modulo 2^32.
    pub fn produced(&self) -> u32 {
        self.produced
    }

    fn room(&mut self, memory: &RingMemory) -> bool {
        if self.produced.wrapping_sub(self.consumer) < self.depth {
            return true;
        }
        // Acquire: pairs with the driver's Release after it copied the elements out.
        let consumer = memory.word32(CQ_CONSUMER_OFFSET as usize).load(Ordering::Acquire);
        let consumer = u32::from_le(consumer);
        // A consumer index that went back, or past what was produced, leaves no sane room.
        let advanced = consumer.wrapping_sub(self.consumer);
        if advanced > self.depth {
            return false;
        }
        self.consumer = consumer;
        self.produced.wrapping_sub(consumer) < self.depth
    }

    /// Publishes a completion.
    ///
    /// # Errors
    ///
    /// [`Overrun`] if there is no room.
    #[inline]
    pub fn publish(&mut self, memory: &RingMemory, cqe: &CqeWords) -> Result<(), Overrun> {
        if !self.room(memory) {
            return Err(Overrun);
        }
        let index = self.produced & (self.depth - 1);
        // The phase of lap `n` is `(n + 1) & 1`; the depth is a power of two.
        let phase = if self.produced & self.depth == 0 { PHASE } else { 0 };
        let words = cqe.0;
        let place = memory.words(place(index), CQE_SIZE as usize);
        for (to, word) in place[..WORDS - 1].iter().zip(words) {
            // Relaxed: ordered by the Release below.
            to.store(word, Ordering::Relaxed);
        }
        let last = words[WORDS - 1] & !PHASE | phase;
        // Release: pairs with the driver's Acquire of the word that holds the phase.
        place[WORDS - 1].store(last, Ordering::Release);
        self.produced = self.produced.wrapping_add(1);
        Ok(())
    }
}

/// A completion as the words of its element.
///
/// They are put together in registers. Were the fields stored one by one and the words loaded behind them, each
/// load would wait until the stores have reached the cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CqeWords([u64; WORDS]);

impl From<Cqe> for CqeWords {
    #[inline(always)]
    fn from(cqe: Cqe) -> Self {
        let pair = |low: u32, high: u32| (u64::from(high) << 32 | u64::from(low)).to_le();
        let Cqe { opcode, status, reserved, flags, .. } = cqe;
        Self([
            cqe.wr_id.get().to_le(),
            pair(cqe.byte_len.get(), u32::from_le_bytes(cqe.imm)),
            pair(cqe.qpn.get(), cqe.wqe_count.get()),
            pair(cqe.src_qp.get(), u32::from_le_bytes([opcode, status, reserved, flags])),
        ])
    }
}

/// Offset of element `index` of a ring.
pub fn place(index: u32) -> usize {
    CQ_RING_OFFSET as usize + index as usize * CQE_SIZE as usize
}

/// Words of an element.
const WORDS: usize = CQE_SIZE as usize / 8;
/// The phase in the last word, of which the flags are the last byte.
const PHASE: u64 = (CqeFlags::PHASE.bits() as u64) << 56;
const _: () = assert!(std::mem::offset_of!(Cqe, flags) == CQE_SIZE as usize - 1);

/// After publishing: whether the driver wants an event now. Disarms if so.
///
/// `solicited` tells whether one of the new completions was a solicited or failed one.
#[inline]
pub fn take_arm(memory: &RingMemory, solicited: bool) -> bool {
    // Full: pairs with the fence between the driver's store of the arm word and its last poll.
    // Either the driver's poll sees the completion, or this load sees the arm word.
    full_fence();
    let word = memory.word32(CQ_ARM_OFFSET as usize);
    // Relaxed: ordered by the fence.
    let wanted = |value: u32| match Arm(u32::from_le(value)) {
        Arm::None => false,
        Arm::Solicited => solicited,
        _ => true,
    };
    wanted(word.load(Ordering::Relaxed))
        // AcqRel: two events for one arming would be one too many; the exchange decides.
        && word.swap(Arm::None.0.to_le(), Ordering::AcqRel) != Arm::None.0.to_le()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::memory::PageBudget;
    use crate::session::testing::ram;
    use proptest::prelude::*;
    use vnic_iommu::addr::Gpa;

    fn ring() -> (RingMemory, CompletionRing) {
        let memory =
            RingMemory::new(&ram(), &PageBudget::new(16), &[Gpa(0x1000), Gpa(0x5000)], 8192)
                .unwrap();
        (memory, CompletionRing::new(4))
    }

    fn set_consumer(memory: &RingMemory, value: u32) {
        memory.word32(CQ_CONSUMER_OFFSET as usize).store(value.to_le(), Ordering::Release);
    }

    proptest! {
        #[test]
        fn words_are_those_of_the_element(bytes: [u8; CQE_SIZE as usize]) {
            let cqe: Cqe = zerocopy::transmute!(bytes);
            prop_assert_eq!(CqeWords::from(cqe), CqeWords(zerocopy::transmute!(bytes)));
        }
    }

    #[test]
    fn a_full_ring_overruns_and_room_comes_back() {
        let (memory, mut ring) = ring();
        for _ in 0..4 {
            ring.publish(&memory, &CqeWords::default()).unwrap();
        }
        assert_eq!(ring.publish(&memory, &CqeWords::default()), Err(Overrun));
        set_consumer(&memory, 1);
        assert_eq!(ring.publish(&memory, &CqeWords::default()), Ok(()));
        assert_eq!(ring.publish(&memory, &CqeWords::default()), Err(Overrun));
    }

    #[test]
    fn consumer_indices_that_jump_or_go_back_make_no_room() {
        for hostile in [5, 100, u32::MAX, 1 << 31] {
            let (memory, mut ring) = ring();
            for _ in 0..4 {
                ring.publish(&memory, &CqeWords::default()).unwrap();
            }
            set_consumer(&memory, hostile);
            assert_eq!(ring.publish(&memory, &CqeWords::default()), Err(Overrun), "{hostile:#x}");
        }
    }

    #[test]
    fn phases_alternate_by_lap() {
        let (memory, mut ring) = ring();
        for n in 0..20u32 {
            ring.publish(&memory, &CqeWords::default()).unwrap();
            let offset = CQ_RING_OFFSET as usize + (n % 4) as usize * 32 + 24;
            let phase = memory.word(offset).load(Ordering::Relaxed).to_le_bytes()[7] & 0x80 != 0;
            assert_eq!(phase, (n / 4) % 2 == 0);
            set_consumer(&memory, n + 1);
        }
    }

    #[test]
    fn an_armed_ring_fires_once() {
        let (memory, _) = ring();
        let arm = |value: Arm| {
            memory.word32(CQ_ARM_OFFSET as usize).store(value.0.to_le(), Ordering::Relaxed);
        };
        assert!(!take_arm(&memory, true));
        arm(Arm::Any);
        assert!(take_arm(&memory, false));
        assert!(!take_arm(&memory, false));
        arm(Arm::Solicited);
        assert!(!take_arm(&memory, false));
        assert!(take_arm(&memory, true));
    }
}
