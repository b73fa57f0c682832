// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The send queue: elements in, one copy each.

use crate::ring::memory::RingMemory;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::wqe::{
    ATOMIC_WQE_PAYLOAD, RECV_WQE_PAYLOAD, SEND_WQE_PAYLOAD, Sge, WQE_STRIDE_MIN, WqeFlags,
};

/// Bytes that are copied of every element: a cache line, in which all its fixed parts lie.
const FIRST: usize = WQE_STRIDE_MIN as usize;
const FIRST_WORDS: usize = FIRST / 8;

/// The device's copy of one element. What of it was not needed is not there.
#[derive(Debug)]
pub struct Element {
    /// As many as the stride; those behind `len` are of earlier elements.
    words: Box<[u64]>,
    len: usize,
}

impl Element {
    /// An element of a ring with this stride, with nothing in it.
    pub fn new(stride: u32) -> Self {
        Self { words: vec![0; stride as usize / 8].into(), len: 0 }
    }

    /// An element with this content, a stride long.
    #[cfg(any(test, fuzzing))]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let mut element = Self { len: bytes.len(), ..Self::new(bytes.len() as u32) };
        zerocopy::IntoBytes::as_mut_bytes(&mut *element.words).copy_from_slice(bytes);
        element
    }

    /// The bytes that were copied: all that the head of the element announces, and that the stride has
    /// room for.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &zerocopy::IntoBytes::as_bytes(&*self.words)[..self.len]
    }
}

/// Where an element ends, as its first eight bytes announce it, from what is copied of it.
type Extent = fn([u8; 8]) -> usize;

/// For send elements. At most what they can mean; the parser judges what they do mean.
fn send_extent(head: [u8; 8]) -> usize {
    let [_, flags, num_sge, _, length @ ..] = head;
    if flags & WqeFlags::INLINE.bits() != 0 {
        SEND_WQE_PAYLOAD as usize + u32::from_le_bytes(length) as usize
    } else {
        ATOMIC_WQE_PAYLOAD as usize + usize::from(num_sge) * size_of::<Sge>()
    }
}

/// For receive elements.
fn recv_extent(head: [u8; 8]) -> usize {
    RECV_WQE_PAYLOAD as usize + usize::from(head[2]) * size_of::<Sge>()
}

/// A queue of elements with a phase bit, consumed in order.
#[derive(Debug)]
pub struct WorkRing {
    offset: usize,
    depth: u32,
    stride: u32,
    extent: Extent,
    /// Elements consumed since the last reset, modulo 2^32.
    consumed: u32,
}

impl WorkRing {
    /// A send queue of `depth` (a power of two) elements of `stride` bytes at `offset` of its memory.
    pub fn of_sends(offset: usize, depth: u32, stride: u32) -> Self {
        Self { offset, depth, stride, extent: send_extent, consumed: 0 }
    }

    /// The same for a receive queue.
    pub fn of_receives(offset: usize, depth: u32, stride: u32) -> Self {
        Self { offset, depth, stride, extent: recv_extent, consumed: 0 }
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

    /// Bytes of an element.
    pub fn stride(&self) -> u32 {
        self.stride
    }

    /// Gives the last `count` elements back, which are taken again.
    pub fn go_back(&mut self, count: u32) {
        self.consumed = self.consumed.wrapping_sub(count);
    }

    /// Copies the element that was taken `back` elements ago (1 for the last one) as it is now.
    pub fn take_again(&self, memory: &RingMemory, back: u32, into: &mut Element) {
        let place = memory.words(self.place(back.wrapping_neg()), self.stride as usize);
        // Relaxed: the driver is done with it, or changes what it asked for.
        let first = place[0].load(Ordering::Relaxed);
        self.copy(place, first, into);
    }

    /// Offset of the element that is `ahead` of the next one.
    #[inline]
    fn place(&self, ahead: u32) -> usize {
        let index = self.consumed.wrapping_add(ahead) & (self.depth - 1);
        self.offset + index as usize * self.stride as usize
    }

    /// Whether `first`, the first word of the next element, is of this lap.
    #[inline]
    fn is_of_lap(&self, first: u64) -> bool {
        // The phase of lap `n` is `(n + 1) & 1`; the depth is a power of two.
        let phase = first.to_le_bytes()[1] & WqeFlags::PHASE.bits() != 0;
        phase == (self.consumed & self.depth == 0)
    }

    /// Whether an element is there.
    pub fn is_posted(&self, memory: &RingMemory) -> bool {
        // Acquire: as in `take`.
        self.is_of_lap(memory.word(self.place(0)).load(Ordering::Acquire))
    }

    /// Where the next element will appear.
    #[inline]
    pub fn next(&self, memory: &RingMemory) -> Next {
        let word = std::ptr::from_ref(memory.word(self.place(0)));
        // Words are aligned, so that the lowest bit is free for the phase.
        Next(word.expose_provenance() | usize::from(self.consumed & self.depth == 0))
    }

    /// The next element where it lies, if the driver posted one, and its first word as it was when that
    /// was seen. Look at each word once; then [`Self::skip`] it, or [`Self::take`] it after all.
    #[inline]
    pub fn peek<'m>(&self, memory: &'m RingMemory) -> Option<(u64, &'m [AtomicU64])> {
        let place = memory.words(self.place(0), self.stride as usize);
        // Acquire: as in `take`.
        let first = place.first()?.load(Ordering::Acquire);
        self.is_of_lap(first).then_some((first, place))
    }

    /// Takes the element that [`Self::peek`] showed.
    #[inline]
    pub fn skip(&mut self, memory: &RingMemory) {
        memory.prefetch(self.place(PREFETCH));
        self.consumed = self.consumed.wrapping_add(1);
    }

    /// Copies the next element, if the driver posted one, and takes it.
    #[inline]
    pub fn take(&mut self, memory: &RingMemory, into: &mut Element) -> bool {
        let stride = self.stride as usize;
        let place = memory.words(self.place(0), stride);
        // Acquire: pairs with the driver's Release of the first word, its last store to the element.
        let first = place[0].load(Ordering::Acquire);
        if !self.is_of_lap(first) {
            return false;
        }
        if !self.copy(place, first, into) {
            return false;
        }
        self.skip(memory);
        true
    }

    /// Copies an element whose first word is known. `false` if elements were shorter than any is.
    #[inline]
    fn copy(&self, place: &[AtomicU64], first: u64, into: &mut Element) -> bool {
        // A driver that changes the element from here on changes what it asked for, nothing else.
        let (Some(line), Some(to)) =
            (place.first_chunk::<FIRST_WORDS>(), into.words.first_chunk_mut::<FIRST_WORDS>())
        else {
            return false;
        };
        to[0] = first;
        copy(&line[1..], &mut to[1..]);
        into.len = FIRST;
        let stride = self.stride as usize;
        let end = (self.extent)(first.to_le_bytes()).min(stride).next_multiple_of(8);
        if end > FIRST {
            copy(&place[FIRST / 8..end / 8], &mut into.words[FIRST / 8..end / 8]);
            into.len = end;
        }
        true
    }
}

/// Where the next element of a ring will appear, for a look without the ring: an address and a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Next(usize);

impl Next {
    /// Nobody knows.
    pub const UNKNOWN: Self = Self(0);

    /// From [`Self::bits`].
    pub const fn from_bits(bits: usize) -> Self {
        Self(bits)
    }

    /// As a number.
    pub const fn bits(self) -> usize {
        self.0
    }

    /// Whether the element is there; `None` if nobody knows where.
    ///
    /// # Safety
    ///
    /// The memory of the ring that [`WorkRing::next`] was called for is alive.
    #[inline]
    #[allow(unsafe_code)] // reason: guest memory has no Rust owner
    pub unsafe fn is_posted(self) -> Option<bool> {
        if self == Self::UNKNOWN {
            return None;
        }
        let word: *mut u64 = std::ptr::with_exposed_provenance_mut(self.0 & !1);
        // SAFETY: a word of the ring, by `next`, whose memory is alive.
        let word = unsafe { AtomicU64::from_ptr(word) };
        // Acquire: as in `take`, which looks again before anybody believes it.
        let phase = word.load(Ordering::Acquire).to_le_bytes()[1] & WqeFlags::PHASE.bits() != 0;
        Some(phase == (self.0 & 1 != 0))
    }
}

/// How many elements ahead the next line is asked for.
const PREFETCH: u32 = 8;

#[inline]
fn copy(from: &[AtomicU64], to: &mut [u64]) {
    for (from, to) in from.iter().zip(to) {
        // Relaxed: ordered by the Acquire of the first word.
        *to = from.load(Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_the_head_says_the_copy_ends_with_the_element(head: [u8; 8], shift in 6u32..10) {
            let memory = RingMemory::new(&ram(), &PageBudget::new(16), &[Gpa(0x1000)], 4096).unwrap();
            let stride = 1 << shift;
            for mut ring in [WorkRing::of_sends(0, 4, stride), WorkRing::of_receives(0, 4, stride)] {
                let mut element = Element::new(stride);
                let mut head = head;
                head[1] |= WqeFlags::PHASE.bits();
                memory.word(0).store(u64::from_le_bytes(head), Ordering::Relaxed);
                prop_assert!(ring.take(&memory, &mut element));
                prop_assert!((64..=stride as usize).contains(&element.bytes().len()));
                prop_assert_eq!(&element.bytes()[..8], &head[..]);
            }
        }
    }
    use crate::ring::memory::PageBudget;
    use crate::session::testing::ram;
    use vnic_iommu::addr::Gpa;

    #[test]
    fn elements_are_taken_once_per_lap_and_in_order() {
        let memory = RingMemory::new(&ram(), &PageBudget::new(16), &[Gpa(0x1000)], 4096).unwrap();
        let mut ring = WorkRing::of_receives(0, 4, 128);
        let mut element = Element::new(128);
        assert!(!ring.take(&memory, &mut element));
        for n in 0..40u32 {
            let slot = (n % 4) as usize * 128;
            let phase = if (n / 4) % 2 == 0 { 0x80 } else { 0 };
            // With seven entries an element fills its stride, with one it does not.
            let (entries, end) = if n % 3 == 0 { (1, 64) } else { (7, 128) };
            memory.word(slot + end - 8).store(u64::from(n), Ordering::Relaxed);
            memory
                .word(slot)
                .store(u64::from_le_bytes([3, phase, entries, 0, 0, 0, 0, 0]), Ordering::Release);
            assert!(ring.take(&memory, &mut element));
            assert_eq!(element.bytes().len(), end);
            assert_eq!(element.bytes()[end - 8..], u64::from(n).to_le_bytes());
            assert!(!ring.take(&memory, &mut element));
            assert_eq!(ring.consumed(), n + 1);
        }
    }
}
