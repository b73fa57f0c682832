// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Work queue elements.
//!
//! A ring element has a fixed stride of 64, 128, 256 or 512 bytes, chosen when the queue pair is
//! created. The element is written body first; its first eight bytes, which hold the phase bit, are
//! published last with one release store. The phase of lap `n` (from 0) is `(n + 1) & 1`, so that
//! zeroed memory holds no valid element. There is no producer index: the device takes elements in
//! order for as long as their phase is that of the lap.

use crate::{U32, U64};

/// Smallest stride of a ring element, in bytes: one cache line.
pub const WQE_STRIDE_MIN: u32 = 64;
/// Largest stride of a ring element, in bytes.
pub const WQE_STRIDE_MAX: u32 = 512;
/// Offset of gather entries, or inline bytes, in a send element.
pub const SEND_WQE_PAYLOAD: u32 = 32;
/// Offset of gather entries in an atomic element: after the two operands.
pub const ATOMIC_WQE_PAYLOAD: u32 = 48;
/// Offset of scatter entries in a receive element.
pub const RECV_WQE_PAYLOAD: u32 = 16;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        WQE_STRIDE_MIN: "VNIC_WQE_STRIDE_MIN" = WQE_STRIDE_MIN as u64,
        WQE_STRIDE_MAX: "VNIC_WQE_STRIDE_MAX" = WQE_STRIDE_MAX as u64,
        SEND_WQE_PAYLOAD: "VNIC_SEND_WQE_PAYLOAD" = SEND_WQE_PAYLOAD as u64,
        ATOMIC_WQE_PAYLOAD: "VNIC_ATOMIC_WQE_PAYLOAD" = ATOMIC_WQE_PAYLOAD as u64,
        RECV_WQE_PAYLOAD: "VNIC_RECV_WQE_PAYLOAD" = RECV_WQE_PAYLOAD as u64,
    ];
}

codes! {
    /// Operation of a send element.
    pub enum Opcode: u8 = "VNIC_OP" {
        /// SEND.
        Send / SEND = 1,
        /// SEND with immediate data.
        SendWithImm / SEND_WITH_IMM = 2,
        /// RDMA WRITE.
        RdmaWrite / RDMA_WRITE = 3,
        /// RDMA WRITE with immediate data; takes a receive element of the peer.
        RdmaWriteWithImm / RDMA_WRITE_WITH_IMM = 4,
        /// RDMA READ.
        RdmaRead / RDMA_READ = 5,
        /// Compare and swap of 8 bytes.
        AtomicCmpSwap / ATOMIC_CMP_SWAP = 6,
        /// Fetch and add of 8 bytes.
        AtomicFetchAdd / ATOMIC_FETCH_ADD = 7,
    }
}

flags! {
    /// Flags of a send or receive element.
    pub struct WqeFlags: u8 = "VNIC_WQE_F" {
        /// Write a completion when the request succeeds. Failures always complete.
        SIGNALED = 1 << 0;
        /// Do not start before earlier READs and atomics of this queue pair are done.
        FENCE = 1 << 1;
        /// The receiver's completion is a solicited one.
        SOLICITED = 1 << 2;
        /// The payload is in the element itself; `length` says how much.
        INLINE = 1 << 3;
        /// Phase of the lap, see the module's text.
        PHASE = 1 << 7;
    }
}

wire! {
    /// A scatter or gather entry: a range of the process's own virtual addresses.
    pub struct Sge = "vnic_sge" {
        /// Virtual address.
        pub addr: U64,
        /// Length in bytes; 0 is an empty range.
        pub length: U32,
        /// Local key of a memory region that covers the range.
        pub lkey: U32,
    }
}

wire! {
    /// The fixed part of a send element. Gather entries, or inline bytes, follow.
    pub struct SendWqe = "vnic_send_wqe" {
        /// [`Opcode`].
        pub opcode: u8,
        /// [`WqeFlags`].
        pub flags: u8,
        /// Number of gather entries; 0 with `INLINE`.
        pub num_sge: u8,
        /// Zero.
        pub reserved: u8,
        /// Inline length in bytes with `INLINE`, else 0.
        pub length: U32,
        /// Returned in the completion.
        pub wr_id: U64,
        /// Immediate data in network byte order, not interpreted by the device.
        pub imm: [u8; 4],
        /// Remote key for RDMA and atomics, else 0.
        pub rkey: U32,
        /// Remote virtual address for RDMA and atomics, else 0.
        pub remote_addr: U64,
    }
}

wire! {
    /// The fixed part of an atomic element: a [`SendWqe`] and the two operands.
    pub struct AtomicWqe = "vnic_atomic_wqe" {
        /// Common part.
        pub base: SendWqe,
        /// The value to add, or to compare with.
        pub compare_add: U64,
        /// The value to store if the comparison holds; 0 for fetch and add.
        pub swap: U64,
    }
}

wire! {
    /// The fixed part of a receive element. Scatter entries follow.
    pub struct RecvWqe = "vnic_recv_wqe" {
        /// Zero.
        pub reserved0: u8,
        /// [`WqeFlags::PHASE`] only.
        pub flags: u8,
        /// Number of scatter entries.
        pub num_sge: u8,
        /// Zero.
        pub reserved1: [u8; 5],
        /// Returned in the completion.
        pub wr_id: U64,
    }
}
