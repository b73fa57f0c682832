// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The receive queue.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use vnic_abi::doorbell::QP_RQ_WANTS_DOORBELL;
use vnic_abi::wqe::{RECV_WQE_PAYLOAD, RecvWqe, Sge, WqeFlags};
use zerocopy::IntoBytes;

use crate::fence::full_fence;
use crate::ring::Ring;
use crate::sq::check_stride;
use crate::{LayoutError, PostError};

/// A receive queue.
///
/// The device finds new elements when a message arrives; it needs the doorbell only now and then,
/// which [`wants_doorbell`](Self::wants_doorbell) tells after a batch.
#[derive(Debug)]
pub struct RecvQueue {
    ring: Ring,
    /// Control page of the queue pair.
    control: NonNull<u8>,
    max_sge: u32,
    /// Running count of elements that the device may see.
    head: u32,
    /// Running count of elements that the device is done with.
    tail: u32,
}

// SAFETY: the control page is used through an atomic word only; the ring may be sent by itself.
#[allow(unsafe_code)]
unsafe impl Send for RecvQueue {}
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl Sync for RecvQueue {}

#[allow(unsafe_code, reason = "the constructor has a contract, and the control page is raw memory")]
impl RecvQueue {
    /// Uses the ring of `depth` elements of `stride` bytes at `base`, and the control page of the
    /// queue pair at `control`. An element takes at most `max_sge` scatter entries, and not more than
    /// fit in the stride.
    ///
    /// # Errors
    /// If `depth` is no power of two, `stride` not one that the interface knows, or `base` misaligned.
    ///
    /// # Safety
    /// From `base`, `depth * stride` bytes of zeroes, and at `control` an aligned [`QpControl`], are
    /// mapped for reading and writing for as long as the value lives; nobody but this value and the
    /// device uses the ring.
    ///
    /// [`QpControl`]: vnic_abi::doorbell::QpControl
    pub unsafe fn new(
        control: NonNull<u8>,
        base: NonNull<u8>,
        depth: u32,
        stride: u32,
        max_sge: u32,
    ) -> Result<Self, LayoutError> {
        check_stride(stride)?;
        if !(control.as_ptr() as usize).is_multiple_of(64) {
            return Err(LayoutError::Alignment);
        }
        // SAFETY: passed on to the caller.
        let ring = unsafe { Ring::new(base, depth, stride)? };
        let fits = (stride - RECV_WQE_PAYLOAD) / size_of::<Sge>() as u32;
        Ok(Self { ring, control, max_sge: max_sge.min(fits).min(u8::MAX.into()), head: 0, tail: 0 })
    }

    /// Elements that can be posted.
    pub fn free(&self) -> u32 {
        self.ring.depth() - self.head.wrapping_sub(self.tail)
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

    /// Posts an element with the scatter entries of `sges`.
    ///
    /// # Errors
    /// If the ring is full, or there are more entries than an element holds; nothing is posted then.
    pub fn post(
        &mut self,
        wr_id: u64,
        sges: impl IntoIterator<Item = Sge>,
    ) -> Result<(), PostError> {
        if self.free() == 0 {
            return Err(PostError::Full);
        }
        let mut wqe = RecvWqe { wr_id: wr_id.into(), ..RecvWqe::default() };
        for sge in sges {
            if u32::from(wqe.num_sge) >= self.max_sge {
                return Err(PostError::TooManySge);
            }
            let offset = RECV_WQE_PAYLOAD as usize + usize::from(wqe.num_sge) * size_of::<Sge>();
            self.ring.write(self.head, offset, sge.as_bytes());
            wqe.num_sge += 1;
        }
        if self.ring.phase(self.head) {
            wqe.flags = WqeFlags::PHASE.bits();
        }
        self.ring.write(self.head, 8, &wr_id.to_le_bytes());
        let header = u64::from_le_bytes([0, wqe.flags, wqe.num_sge, 0, 0, 0, 0, 0]);
        // Release: pairs with the device's acquiring load of this word, so that the body is visible
        // with the phase.
        self.ring.word(self.head, 0).store(header, Ordering::Release);
        self.head = self.head.wrapping_add(1);
        // The device had the line last; that it comes back would be waited for in `wants_doorbell`.
        self.ring.prefetch_to_write(self.head);
        Ok(())
    }

    /// Whether the device wants the doorbell for what was posted. Ask after each batch, and ring the
    /// doorbell of the queue pair if so.
    pub fn wants_doorbell(&self) -> bool {
        // Full: between the elements posted before and the load below. Pairs with the device's
        // fence between its store of the word and its second look at the ring: either this load sees
        // the word, or that look sees the element.
        full_fence();
        // SAFETY: the control page is mapped and aligned by the contract of `new`; the offset lies in
        // it and is a multiple of 4.
        let word = unsafe {
            AtomicU32::from_ptr(self.control.as_ptr().add(QP_RQ_WANTS_DOORBELL as usize).cast())
        };
        // Relaxed: ordered by the fence; the value stands for itself.
        word.load(Ordering::Relaxed) != 0
    }

    /// Makes the queue as new, as a queue pair needs that goes to the reset state.
    ///
    /// Call it while the device does not use the queue: after the reset was acknowledged, and before
    /// the queue pair is used again.
    pub fn reset(&mut self) {
        self.ring.clear();
        self.head = 0;
        self.tail = 0;
    }
}
