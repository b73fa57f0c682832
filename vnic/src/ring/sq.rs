// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The send queue: elements in, one copy each.

use crate::ring::memory::RingMemory;
use std::sync::atomic::Ordering;
use vnic_abi::wqe::{WQE_STRIDE_MAX, WqeFlags};

/// Words of the largest element.
const WORDS: usize = WQE_STRIDE_MAX as usize / 8;

/// The device's copy of one element.
#[derive(Debug, Clone, Copy)]
pub struct Element {
    words: [u64; WORDS],
    len: usize,
}

impl Element {
    /// An element with nothing in it.
    pub const EMPTY: Self = Self { words: [0; WORDS], len: 0 };

    /// An element with this content, a stride long.
    #[cfg(test)]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut element = Self { len: bytes.len(), ..Self::EMPTY };
        zerocopy::IntoBytes::as_mut_bytes(&mut element.words)[..bytes.len()].copy_from_slice(bytes);
        element
    }

    /// The bytes of the element, as many as its stride.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(&self.words)[..self.len]
    }
}

/// A queue of elements with a phase bit, consumed in order.
#[derive(Debug)]
pub struct WorkRing {
    offset: usize,
    depth: u32,
    stride: u32,
    /// Elements consumed since the last reset, modulo 2^32.
    consumed: u32,
}

impl WorkRing {
    /// A ring of `depth` (a power of two) elements of `stride` bytes at `offset` of its memory.
    pub fn new(offset: usize, depth: u32, stride: u32) -> Self {
        Self { offset, depth, stride, consumed: 0 }
    }

    /// Starts over, as after a transition to RESET. The driver zeroes the memory.
    pub fn reset(&mut self) {
        self.consumed = 0;
    }

    /// Elements consumed since the last reset, modulo 2^32.
    #[inline]
    pub fn consumed(&self) -> u32 {
        self.consumed
    }

    /// Elements in the ring.
    pub fn depth(&self) -> u32 {
        self.depth
    }

    #[inline]
    fn head(&self) -> usize {
        let index = self.consumed & (self.depth - 1);
        self.offset + index as usize * self.stride as usize
    }

    #[inline]
    fn posted(&self, memory: &RingMemory) -> bool {
        // Acquire: pairs with the driver's Release of the first word, its last store to the element.
        let first = memory.word(self.head()).load(Ordering::Acquire);
        let lap = self.consumed / self.depth;
        let phase = first.to_le_bytes()[1] & WqeFlags::PHASE.bits() != 0;
        phase == lap.is_multiple_of(2)
    }

    /// Whether an element is there.
    pub fn is_posted(&self, memory: &RingMemory) -> bool {
        self.posted(memory)
    }

    /// Copies the next element, if the driver posted one, and takes it.
    #[inline]
    pub fn take(&mut self, memory: &RingMemory, into: &mut Element) -> bool {
        if !self.posted(memory) {
            return false;
        }
        let head = self.head();
        into.len = self.stride as usize;
        for (index, word) in into.words[..self.stride as usize / 8].iter_mut().enumerate() {
            // Relaxed: ordered by the Acquire in `posted`. A driver that changes the element now
            // changes what it asked for, nothing else.
            *word = memory.word(head + index * 8).load(Ordering::Relaxed);
        }
        self.consumed = self.consumed.wrapping_add(1);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ring::memory::PageBudget;
    use crate::session::testing::ram;
    use vnic_iommu::addr::Gpa;

    #[test]
    fn elements_are_taken_once_per_lap_and_in_order() {
        let memory = RingMemory::new(&ram(), &PageBudget::new(16), &[Gpa(0x1000)], 4096).unwrap();
        let mut ring = WorkRing::new(0, 4, 128);
        let mut element = Element::EMPTY;
        assert!(!ring.take(&memory, &mut element));
        for n in 0..40u32 {
            let slot = (n % 4) as usize * 128;
            let phase = if (n / 4) % 2 == 0 { 0x80 } else { 0 };
            memory.word(slot + 120).store(u64::from(n), Ordering::Relaxed);
            memory
                .word(slot)
                .store(u64::from_le_bytes([3, phase, 0, 0, 0, 0, 0, 0]), Ordering::Release);
            assert!(ring.take(&memory, &mut element));
            assert_eq!(element.bytes().len(), 128);
            assert_eq!(element.bytes()[120..], u64::from(n).to_le_bytes());
            assert!(!ring.take(&memory, &mut element));
            assert_eq!(ring.consumed(), n + 1);
        }
    }
}
