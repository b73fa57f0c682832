// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The send queue: elements are built in place and become visible with one store.

use core::ptr::NonNull;
use core::sync::atomic::Ordering;

use vnic_abi::wqe::{
    ATOMIC_WQE_PAYLOAD, Opcode, SEND_WQE_PAYLOAD, SendWqe, Sge, WQE_STRIDE_MAX, WQE_STRIDE_MIN,
    WqeFlags,
};
use zerocopy::IntoBytes;

use crate::ring::Ring;
use crate::{LayoutError, PostError};

/// What one send element may hold. The stride sets a limit too; the smaller one counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SendLimits {
    /// Gather entries.
    pub max_sge: u32,
    /// Inline bytes.
    pub max_inline: u32,
}

/// An element under construction: the header is kept here, the payload is already in the ring.
#[derive(Debug, Clone, Copy)]
struct Open {
    /// All but the phase, which is added when the element is published.
    wqe: SendWqe,
    /// Where gather entries or inline bytes begin.
    payload: u32,
}

/// A send queue.
///
/// An element is begun with [`begin`](Self::begin), filled in, and then either posted at once
/// ([`SendWriter::post`]) or staged ([`SendWriter::stage`]) to be published with others, or dropped.
/// The doorbell is the caller's next step, once for any number of elements.
#[derive(Debug)]
pub struct SendQueue {
    ring: Ring,
    limits: SendLimits,
    /// Running count of elements that the device may see.
    head: u32,
    /// Staged elements, which follow `head`.
    staged: u32,
    /// Running count of elements that the device is done with.
    tail: u32,
    suspended: Option<Open>,
}

#[allow(unsafe_code, reason = "the constructor has a contract")]
impl SendQueue {
    /// Uses the ring of `depth` elements of `stride` bytes at `base`.
    ///
    /// # Errors
    /// If `depth` is no power of two, `stride` not one that the interface knows, or `base` misaligned.
    ///
    /// # Safety
    /// From `base`, `depth * stride` bytes of zeroes are mapped for reading and writing for as long
    /// as the value lives, and nobody but this value and the device uses them.
    pub unsafe fn new(
        base: NonNull<u8>,
        depth: u32,
        stride: u32,
        limits: SendLimits,
    ) -> Result<Self, LayoutError> {
        check_stride(stride)?;
        // SAFETY: passed on to the caller.
        let ring = unsafe { Ring::new(base, depth, stride)? };
        Ok(Self { ring, limits, head: 0, staged: 0, tail: 0, suspended: None })
    }

    /// Elements that can be begun, staged ones not counted.
    pub fn free(&self) -> u32 {
        self.ring.depth() - self.head.wrapping_add(self.staged).wrapping_sub(self.tail)
    }

    /// Elements of the ring.
    pub fn depth(&self) -> u32 {
        self.ring.depth()
    }

    /// Running count (modulo 2^32) of elements posted: the `wqe_count` that the completion of the
    /// last one will carry.
    pub fn posted(&self) -> u32 {
        self.head
    }

    /// Notes that the device is done with every element up to the running count `wqe_count` of a
    /// completion. Counts that are older than what is known, or that nobody posted, change nothing.
    pub fn advance(&mut self, wqe_count: u32) {
        let done = wqe_count.wrapping_sub(self.tail);
        if done <= self.head.wrapping_sub(self.tail) {
            self.tail = wqe_count;
        }
    }

    /// Begins the next element. One that was suspended is dropped.
    ///
    /// Of `flags`, `SIGNALED`, `FENCE` and `SOLICITED` are taken; the others are the queue's own.
    ///
    /// # Errors
    /// [`PostError::Full`] if every element is in use.
    pub fn begin(
        &mut self,
        opcode: Opcode,
        flags: WqeFlags,
        wr_id: u64,
    ) -> Result<SendWriter<'_>, PostError> {
        self.suspended = None;
        if self.free() == 0 {
            return Err(PostError::Full);
        }
        self.ring.prefetch_to_write(self.next().wrapping_add(PREFETCH));
        let payload = match opcode {
            Opcode::AtomicCmpSwap | Opcode::AtomicFetchAdd => ATOMIC_WQE_PAYLOAD,
            _ => SEND_WQE_PAYLOAD,
        };
        let flags = flags & (WqeFlags::SIGNALED | WqeFlags::FENCE | WqeFlags::SOLICITED);
        let wqe = SendWqe {
            opcode: opcode.0,
            flags: flags.bits(),
            wr_id: wr_id.into(),
            ..SendWqe::default()
        };
        Ok(SendWriter { queue: self, open: Open { wqe, payload } })
    }

    /// Goes on with the element that [`SendWriter::suspend`] put aside.
    pub fn resume(&mut self) -> Option<SendWriter<'_>> {
        let open = self.suspended.take()?;
        Some(SendWriter { queue: self, open })
    }

    /// Makes every staged element visible to the device, in order. Returns how many there were.
    pub fn publish(&mut self) -> u32 {
        for _ in 0..self.staged {
            let header = self.ring.word(self.head, 0);
            // Relaxed: this thread, or one whose lock it took over, wrote the header.
            let staged = header.load(Ordering::Relaxed);
            // Release: pairs with the device's acquiring load of this word, so that the body is
            // visible with the phase.
            header.store(staged ^ PHASE, Ordering::Release);
            self.head = self.head.wrapping_add(1);
        }
        core::mem::take(&mut self.staged)
    }

    /// Forgets staged and suspended elements; the device never saw them.
    pub fn discard(&mut self) {
        self.staged = 0;
        self.suspended = None;
    }

    /// Makes the queue as new, as a queue pair needs that goes to the reset state.
    ///
    /// Call it while the device does not use the queue: after the reset was acknowledged, and before
    /// the queue pair is used again.
    pub fn reset(&mut self) {
        self.discard();
        self.ring.clear();
        self.head = 0;
        self.tail = 0;
    }

    /// Running count of the element that comes next.
    fn next(&self) -> u32 {
        self.head.wrapping_add(self.staged)
    }
}

/// How many elements ahead the processor is told of one that will be written: the line is with the
/// device's processor, which read it a lap before.
const PREFETCH: u32 = 8;

/// The phase bit in the first eight bytes of an element, of which the flags are the second.
const PHASE: u64 = (WqeFlags::PHASE.bits() as u64) << 8;

/// One element of a send queue under construction. If it is dropped, nothing is posted.
#[derive(Debug)]
#[must_use = "an element that is not posted, staged or suspended is dropped"]
pub struct SendWriter<'a> {
    queue: &'a mut SendQueue,
    open: Open,
}

impl SendWriter<'_> {
    /// Sets the immediate data, which is sent as it is (network byte order by convention).
    pub fn imm(&mut self, imm: [u8; 4]) {
        self.open.wqe.imm = imm;
    }

    /// Names the remote memory of RDMA and atomic operations.
    pub fn remote(&mut self, addr: u64, rkey: u32) {
        self.open.wqe.remote_addr = addr.into();
        self.open.wqe.rkey = rkey.into();
    }

    /// Sets the operands of an atomic operation: what to add, or to compare with and to store.
    /// Other operations have none, and nothing happens.
    pub fn operands(&mut self, compare_add: u64, swap: u64) {
        if self.open.payload == ATOMIC_WQE_PAYLOAD {
            let count = self.queue.next();
            self.queue.ring.write(count, SEND_WQE_PAYLOAD as usize, &compare_add.to_le_bytes());
            self.queue.ring.write(count, SEND_WQE_PAYLOAD as usize + 8, &swap.to_le_bytes());
        }
    }

    /// Appends a gather entry.
    ///
    /// # Errors
    /// If the element holds no more of them, or inline data already.
    pub fn sge(&mut self, addr: u64, length: u32, lkey: u32) -> Result<(), PostError> {
        if self.open.wqe.flags & WqeFlags::INLINE.bits() != 0 {
            return Err(PostError::InlineNotAllowed);
        }
        let index = u32::from(self.open.wqe.num_sge);
        let room = (self.queue.ring.stride() - self.open.payload) / SGE_SIZE;
        if index >= room.min(self.queue.limits.max_sge).min(u8::MAX.into()) {
            return Err(PostError::TooManySge);
        }
        let sge = Sge { addr: addr.into(), length: length.into(), lkey: lkey.into() };
        let offset = self.open.payload + index * SGE_SIZE;
        self.queue.ring.write(self.queue.next(), offset as usize, sge.as_bytes());
        self.open.wqe.num_sge += 1;
        Ok(())
    }

    /// Appends inline data. The bytes are copied now; several pieces form one message.
    ///
    /// # Errors
    /// If the element has gather entries, its operation carries no data to the peer, or the pieces
    /// together are longer than the queue allows.
    pub fn inline(&mut self, piece: &[u8]) -> Result<(), PostError> {
        let carries_data = matches!(
            Opcode(self.open.wqe.opcode),
            Opcode::Send | Opcode::SendWithImm | Opcode::RdmaWrite | Opcode::RdmaWriteWithImm
        );
        if !carries_data || self.open.wqe.num_sge != 0 {
            return Err(PostError::InlineNotAllowed);
        }
        let length = self.open.wqe.length.get();
        let room = (self.queue.ring.stride() - self.open.payload).min(self.queue.limits.max_inline);
        if piece.len() > (room - length) as usize {
            return Err(PostError::InlineTooLong);
        }
        let offset = self.open.payload + length;
        self.queue.ring.write(self.queue.next(), offset as usize, piece);
        // No truncation: the sum is at most `room`.
        self.open.wqe.length = (length + piece.len() as u32).into();
        self.open.wqe.flags |= WqeFlags::INLINE.bits();
        Ok(())
    }

    /// Drops the gather entries or inline bytes given so far.
    pub fn clear_payload(&mut self) {
        self.open.wqe.num_sge = 0;
        self.open.wqe.length = 0.into();
        self.open.wqe.flags &= !WqeFlags::INLINE.bits();
    }

    /// Makes the element visible to the device, after those that are staged.
    pub fn post(self) {
        let Self { queue, open } = self;
        SendWriter { queue: &mut *queue, open }.stage();
        queue.publish();
    }

    /// Completes the element but keeps it from the device until [`SendQueue::publish`].
    pub fn stage(self) {
        let Self { queue, open } = self;
        let count = queue.next();
        let bytes = open.wqe.as_bytes();
        queue.ring.write(count, HEADER, &bytes[HEADER..]);
        let mut header = [0; HEADER];
        header.copy_from_slice(&bytes[..HEADER]);
        let header = u64::from_le_bytes(header);
        // The phase of the lap before: the device takes this for an old element. Relaxed, since
        // nothing is announced yet.
        let stale = if queue.ring.phase(count) { header } else { header | PHASE };
        queue.ring.word(count, 0).store(stale, Ordering::Relaxed);
        queue.staged += 1;
    }

    /// Puts the element aside; [`SendQueue::resume`] goes on with it.
    pub fn suspend(self) {
        self.queue.suspended = Some(self.open);
    }
}

/// Bytes that are published last, and hold the phase.
const HEADER: usize = 8;
const SGE_SIZE: u32 = size_of::<Sge>() as u32;

pub(crate) fn check_stride(stride: u32) -> Result<(), LayoutError> {
    if stride.is_power_of_two() && (WQE_STRIDE_MIN..=WQE_STRIDE_MAX).contains(&stride) {
        Ok(())
    } else {
        Err(LayoutError::Stride(stride))
    }
}
