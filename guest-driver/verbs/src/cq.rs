// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The completion queue: taking completions, and asking for an event.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use vnic_abi::cqe::{
    Arm, CQ_ARM_OFFSET, CQ_CONSUMER_OFFSET, CQ_RING_OFFSET, CQE_SIZE, Cqe, CqeFlags, WcOpcode,
    WcStatus,
};

use crate::LayoutError;
use crate::fence::full_fence;
use crate::ring::Ring;

/// A completion, as read from the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Completion {
    /// From the work request.
    pub wr_id: u64,
    /// Outcome.
    pub status: WcStatus,
    /// What completed.
    pub opcode: WcOpcode,
    /// Bytes received or read; undefined for sends.
    pub byte_len: u32,
    /// Immediate data as it was sent, if `flags` says so.
    pub imm: [u8; 4],
    /// Number of the queue pair.
    pub qpn: u32,
    /// Sender's queue pair number for datagrams, else 0.
    pub src_qp: u32,
    /// Running count of elements of that queue that the device is done with; for
    /// [`SendQueue::advance`](crate::SendQueue::advance) or
    /// [`RecvQueue::advance`](crate::RecvQueue::advance).
    pub wqe_count: u32,
    /// What is valid. Without the phase bit.
    pub flags: CqeFlags,
}

impl Completion {
    /// Whether a receive element completed, and not a send element.
    pub fn is_recv(&self) -> bool {
        self.opcode.0 & WcOpcode::Recv.0 != 0
    }
}

/// All zero.
impl Default for Completion {
    fn default() -> Self {
        Self::from(Cqe::default())
    }
}

impl From<Cqe> for Completion {
    fn from(cqe: Cqe) -> Self {
        Self {
            wr_id: cqe.wr_id.get(),
            status: WcStatus(cqe.status),
            opcode: WcOpcode(cqe.opcode),
            byte_len: cqe.byte_len.get(),
            imm: cqe.imm,
            qpn: cqe.qpn.get(),
            src_qp: cqe.src_qp.get(),
            wqe_count: cqe.wqe_count.get(),
            flags: CqeFlags::from_bits_truncate(cqe.flags) - CqeFlags::PHASE,
        }
    }
}

/// Where the word that holds the phase begins: the last eight bytes.
const LAST_WORD: usize = CQE_SIZE as usize - 8;
/// The phase bit in that word, of which the flags are the last byte.
const PHASE: u64 = (CqeFlags::PHASE.bits() as u64) << 56;
/// How many entries ahead the processor is told of one that will be read: three cache lines. The device
/// publishes entries together, and each line has to come from its processor.
const PREFETCH: u32 = 6;
/// Queue pair number of an entry that [`CompletionQueue::discard`] crossed out. Real ones have 24 bits.
const CROSSED_OUT: u32 = u32::MAX;

/// A completion queue.
#[derive(Debug)]
pub struct CompletionQueue {
    ring: Ring,
    control: NonNull<u8>,
    /// Running count of entries taken.
    consumer: u32,
    /// What the device was told of it.
    published: u32,
}

// SAFETY: the control page is used through atomic words only; the ring may be sent by itself.
#[allow(unsafe_code)]
unsafe impl Send for CompletionQueue {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for CompletionQueue {}

#[allow(unsafe_code, reason = "the constructor has a contract, and the control page is raw memory")]
impl CompletionQueue {
    /// Uses the queue of `depth` elements whose memory, control page and ring, begins at `memory`.
    ///
    /// # Errors
    /// If `depth` is no power of two, or `memory` is misaligned.
    ///
    /// # Safety
    /// From `memory`, a page and `depth` elements, all zero, are mapped for reading and writing
    /// for as long as the value lives, and nobody but this value and the device uses them.
    pub unsafe fn new(memory: NonNull<u8>, depth: u32) -> Result<Self, LayoutError> {
        // SAFETY: the ring follows the control page in the caller's memory.
        let ring = unsafe {
            let base = memory.add(CQ_RING_OFFSET as usize);
            Ring::new(base, depth, CQE_SIZE)?
        };
        Ok(Self { ring, control: memory, consumer: 0, published: 0 })
    }

    /// Elements of the ring.
    pub fn depth(&self) -> u32 {
        self.ring.depth()
    }

    /// Takes the next completion, if there is one. The device may use its place again after
    /// [`publish`](Self::publish).
    pub fn take(&mut self) -> Option<Completion> {
        // Bounded, since the device stops when the ring is full of entries that were not published.
        loop {
            let cqe = self.read(self.consumer)?;
            self.ring.prefetch_to_read(self.consumer.wrapping_add(PREFETCH));
            self.consumer = self.consumer.wrapping_add(1);
            if cqe.qpn.get() != CROSSED_OUT {
                return Some(cqe.into());
            }
        }
    }

    /// Tells the device what was taken.
    pub fn publish(&mut self) {
        if self.published != self.consumer {
            self.published = self.consumer;
            // Release: pairs with the device's acquiring load before it writes to a place again, so
            // that the entries were read before.
            self.control_word(CQ_CONSUMER_OFFSET).store(self.consumer, Ordering::Release);
        }
    }

    /// Takes completions into `out` until it is full or there are no more, tells the device, and
    /// returns how many.
    pub fn poll(&mut self, out: &mut [Completion]) -> usize {
        let mut taken = 0;
        for place in out.iter_mut() {
            let Some(completion) = self.take() else { break };
            *place = completion;
            taken += 1;
        }
        self.publish();
        taken
    }

    /// Asks for an event at the next completion, or at the next solicited or failed one.
    ///
    /// A completion that came before may cause none: poll once more after this.
    pub fn arm(&self, solicited_only: bool) {
        let arm = if solicited_only { Arm::Solicited } else { Arm::Any };
        // The maximum, so that a wish for any completion is not weakened to one for a solicited one.
        // Relaxed: ordered by the fence.
        self.control_word(CQ_ARM_OFFSET).fetch_max(arm.0, Ordering::Relaxed);
        // Full: between the arm word and the caller's next look at the ring. Pairs with the
        // device's fence between its entry and its exchange of the word: either the device sees the
        // wish, or the next look sees the entry.
        full_fence();
    }

    /// Crosses out what is left of queue pair `qpn`, so that it is never taken. Returns how many
    /// entries that were.
    ///
    /// The verbs promise this when a queue pair is destroyed or reset. Call it when the device has
    /// acknowledged that, since it writes no more for the queue pair then, and before another queue
    /// pair may get the same number.
    pub fn discard(&mut self, qpn: u32) -> u32 {
        let mut crossed_out = 0;
        for distance in 0..self.ring.depth() {
            let count = self.consumer.wrapping_add(distance);
            let Some(cqe) = self.read(count) else { break };
            if cqe.qpn.get() == qpn {
                let offset = core::mem::offset_of!(Cqe, qpn);
                self.ring.write(count, offset, &CROSSED_OUT.to_le_bytes());
                crossed_out += 1;
            }
        }
        crossed_out
    }

    /// The entry with running count `count`, if the device has written it.
    fn read(&self, count: u32) -> Option<Cqe> {
        // Acquire: pairs with the device's releasing store of this word, so that the rest of the
        // entry is visible with the phase.
        let last = self.ring.word(count, LAST_WORD).load(Ordering::Acquire);
        if (last & PHASE != 0) != self.ring.phase(count) {
            return None;
        }
        let mut bytes = [0; CQE_SIZE as usize];
        bytes[..LAST_WORD].copy_from_slice(&self.ring.read::<LAST_WORD>(count, 0));
        bytes[LAST_WORD..].copy_from_slice(&last.to_le_bytes());
        Some(zerocopy::transmute!(bytes))
    }

    fn control_word(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: the two offsets in use lie in the control page and are multiples of 4; the page is
        // mapped, and aligned as the ring behind it is.
        unsafe { AtomicU32::from_ptr(self.control.as_ptr().add(offset as usize).cast()) }
    }
}
