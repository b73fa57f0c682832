// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A small device in the memory of the test: takes elements by their phase, writes completions.
//!
//! It shares nothing with the library but the memory, and reads that by the wire types alone.
#![allow(dead_code, reason = "each test file uses its own part")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use vnic_abi::cqe::{
    CQ_ARM_OFFSET, CQ_CONSUMER_OFFSET, CQ_RING_OFFSET, CQE_SIZE, Cqe, CqeFlags, WcOpcode, WcStatus,
};
use vnic_abi::doorbell::{QP_RQ_WANTS_DOORBELL, QP_SQ_OFFSET};
use vnic_abi::wqe::{RecvWqe, SendWqe, WqeFlags};
use zerocopy::{FromBytes, IntoBytes};

/// Page-aligned memory that both sides use by address.
pub struct Memory {
    base: NonNull<u8>,
    layout: Layout,
    owned: bool,
}

// SAFETY: the memory has no owner but this value; who uses it synchronises as the interface says.
#[allow(unsafe_code, reason = "raw memory shared with the device")]
unsafe impl Send for Memory {}
// SAFETY: as above.
#[allow(unsafe_code, reason = "raw memory shared with the device")]
unsafe impl Sync for Memory {}

#[allow(unsafe_code, reason = "raw memory is what this is about")]
impl Memory {
    pub fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes.next_multiple_of(4096), 4096).unwrap();
        // SAFETY: the size is not zero.
        let base = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        Self { base, layout, owned: true }
    }

    /// Memory that somebody else mapped.
    ///
    /// # Safety
    /// From `base`, `bytes` are mapped for reading and writing while the value lives.
    pub unsafe fn borrowed(base: NonNull<u8>, bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, 4096).unwrap();
        Self { base, layout, owned: false }
    }

    pub fn at(&self, offset: usize) -> NonNull<u8> {
        assert!(offset < self.layout.size());
        // SAFETY: inside the allocation.
        unsafe { self.base.add(offset) }
    }

    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset + 8 <= self.layout.size());
        // SAFETY: inside the allocation, aligned.
        unsafe { AtomicU64::from_ptr(self.at(offset).as_ptr().cast()) }
    }

    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset.is_multiple_of(4) && offset + 4 <= self.layout.size());
        // SAFETY: inside the allocation, aligned.
        unsafe { AtomicU32::from_ptr(self.at(offset).as_ptr().cast()) }
    }

    pub fn copy_out(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.layout.size());
        let mut bytes = vec![0; len];
        // SAFETY: inside the allocation; the driver published these bytes, or the test is
        // single-threaded.
        unsafe {
            std::ptr::copy_nonoverlapping(self.at(offset).as_ptr(), bytes.as_mut_ptr(), len);
        }
        bytes
    }

    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.layout.size());
        // SAFETY: inside the allocation; the place is the device's.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.at(offset).as_ptr(), bytes.len());
        }
    }
}

impl Drop for Memory {
    #[allow(unsafe_code, reason = "raw memory shared with the device")]
    fn drop(&mut self) {
        if self.owned {
            // SAFETY: allocated with this layout in `new`.
            unsafe { dealloc(self.base.as_ptr(), self.layout) }
        }
    }
}

/// The device's end of a ring of work queue elements.
pub struct WorkRing<'a> {
    memory: &'a Memory,
    offset: usize,
    depth: u32,
    stride: u32,
    /// Elements taken.
    pub count: u32,
}

impl<'a> WorkRing<'a> {
    pub fn send(memory: &'a Memory, depth: u32, stride: u32) -> Self {
        Self { memory, offset: QP_SQ_OFFSET as usize, depth, stride, count: 0 }
    }

    pub fn recv(memory: &'a Memory, offset: usize, depth: u32, stride: u32) -> Self {
        Self { memory, offset, depth, stride, count: 0 }
    }

    /// Takes the bytes of the next element, if it is valid for this lap.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        let lap = u64::from(self.count) / u64::from(self.depth);
        let slot = self.offset + (self.count % self.depth * self.stride) as usize;
        let header = self.memory.word64(slot).load(Ordering::Acquire);
        let phase = u64::from(header.to_le_bytes()[1] & WqeFlags::PHASE.bits() != 0);
        if phase != (lap + 1) & 1 {
            return None;
        }
        self.count = self.count.wrapping_add(1);
        Some(self.memory.copy_out(slot, self.stride as usize))
    }

    pub fn take_send(&mut self) -> Option<(SendWqe, Vec<u8>)> {
        let bytes = self.take()?;
        let (wqe, payload) = SendWqe::read_from_prefix(&bytes).unwrap();
        Some((wqe, payload.to_vec()))
    }

    pub fn take_recv(&mut self) -> Option<(RecvWqe, Vec<u8>)> {
        let bytes = self.take()?;
        let (wqe, payload) = RecvWqe::read_from_prefix(&bytes).unwrap();
        Some((wqe, payload.to_vec()))
    }
}

/// The device's end of a completion queue.
pub struct CompletionRing<'a> {
    memory: &'a Memory,
    depth: u32,
    /// Entries written.
    pub count: u32,
}

impl<'a> CompletionRing<'a> {
    pub fn new(memory: &'a Memory, depth: u32) -> Self {
        Self { memory, depth, count: 0 }
    }

    pub fn has_room(&self) -> bool {
        let consumer = self.memory.word32(CQ_CONSUMER_OFFSET as usize).load(Ordering::Acquire);
        self.count.wrapping_sub(consumer) < self.depth
    }

    /// Writes an entry; the queue must have room. Returns whether an event was asked for.
    pub fn put(&mut self, mut cqe: Cqe) -> bool {
        assert!(self.has_room());
        let lap = u64::from(self.count) / u64::from(self.depth);
        cqe.flags &= !CqeFlags::PHASE.bits();
        if (lap + 1) & 1 == 1 {
            cqe.flags |= CqeFlags::PHASE.bits();
        }
        let slot = (CQ_RING_OFFSET + self.count % self.depth * CQE_SIZE) as usize;
        let bytes = cqe.as_bytes();
        self.memory.copy_in(slot, &bytes[..24]);
        let last = u64::from_le_bytes(bytes[24..].try_into().unwrap());
        self.memory.word64(slot + 24).store(last, Ordering::Release);
        self.count = self.count.wrapping_add(1);
        fence(Ordering::SeqCst);
        self.memory.word32(CQ_ARM_OFFSET as usize).swap(0, Ordering::Relaxed) != 0
    }
}

/// A successful completion.
pub fn completion(qpn: u32, opcode: WcOpcode, wr_id: u64, wqe_count: u32) -> Cqe {
    Cqe {
        wr_id: wr_id.into(),
        qpn: qpn.into(),
        wqe_count: wqe_count.into(),
        opcode: opcode.0,
        status: WcStatus::Success.0,
        ..Cqe::default()
    }
}

/// Asks for the doorbell at the next receive element, as a device does that waits for one.
pub fn want_recv_doorbell(memory: &Memory, wanted: bool) {
    memory.word32(QP_RQ_WANTS_DOORBELL as usize).store(wanted.into(), Ordering::Relaxed);
}
