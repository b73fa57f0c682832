// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completion queue elements and the control page of a completion queue.
//!
//! A completion queue's memory is one control page ([`CqControl`] at offset 0) followed by the ring.
//! The last eight bytes of an element hold the phase bit and are published last. The phase of lap
//! `n` (from 0) is `(n + 1) & 1`.

use crate::{U32, U64};

/// Size of a completion queue element in bytes.
pub const CQE_SIZE: u32 = 32;
/// Offset of the ring in the completion queue's memory.
pub const CQ_RING_OFFSET: u32 = 4096;
/// Offset of the consumer index in the control page.
pub const CQ_CONSUMER_OFFSET: u32 = 0;
/// Offset of the arm word in the control page.
pub const CQ_ARM_OFFSET: u32 = 64;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        CQE_SIZE: "VNIC_CQE_SIZE" = CQE_SIZE as u64,
        CQ_RING_OFFSET: "VNIC_CQ_RING_OFFSET" = CQ_RING_OFFSET as u64,
        CQ_CONSUMER_OFFSET: "VNIC_CQ_CONSUMER_OFFSET" = CQ_CONSUMER_OFFSET as u64,
        CQ_ARM_OFFSET: "VNIC_CQ_ARM_OFFSET" = CQ_ARM_OFFSET as u64,
    ];
}

codes! {
    /// Outcome of a work request, numbered as `enum ibv_wc_status` of `infiniband/verbs.h`.
    pub enum WcStatus: u8 = "VNIC_WC" {
        /// Done.
        Success / SUCCESS = 0,
        /// The message is longer than the local buffers, or than a message may be.
        LocLenErr / LOC_LEN_ERR = 1,
        /// The element itself is wrong.
        LocQpOpErr / LOC_QP_OP_ERR = 2,
        /// A local range is not covered by its key, or cannot be reached.
        LocProtErr / LOC_PROT_ERR = 4,
        /// The queue pair went to the error state before the request was done.
        WrFlushErr / WR_FLUSH_ERR = 5,
        /// The peer answered something that makes no sense.
        BadRespErr / BAD_RESP_ERR = 7,
        /// A responder could not store a WRITE with immediate data.
        LocAccessErr / LOC_ACCESS_ERR = 8,
        /// The responder does not accept this request.
        RemInvReqErr / REM_INV_REQ_ERR = 9,
        /// The remote range is not covered by the remote key, or cannot be reached.
        RemAccessErr / REM_ACCESS_ERR = 10,
        /// The responder could not complete the request for a reason of its own.
        RemOpErr / REM_OP_ERR = 11,
        /// The peer did not answer within the time-out and all retries.
        RetryExcErr / RETRY_EXC_ERR = 12,
        /// The peer had no receive element, and all RNR retries are used up.
        RnrRetryExcErr / RNR_RETRY_EXC_ERR = 13,
        /// The device failed.
        FatalErr / FATAL_ERR = 19,
        /// Anything else.
        GeneralErr / GENERAL_ERR = 21,
    }
}

codes! {
    /// What completed, numbered as `enum ibv_wc_opcode` of `infiniband/verbs.h`.
    pub enum WcOpcode: u8 = "VNIC_WC_OP" {
        /// SEND, with or without immediate data.
        Send / SEND = 0,
        /// RDMA WRITE, with or without immediate data.
        RdmaWrite / RDMA_WRITE = 1,
        /// RDMA READ.
        RdmaRead / RDMA_READ = 2,
        /// Compare and swap.
        CompSwap / COMP_SWAP = 3,
        /// Fetch and add.
        FetchAdd / FETCH_ADD = 4,
        /// A receive element took a SEND.
        Recv / RECV = 128,
        /// A receive element was taken by an RDMA WRITE with immediate data.
        RecvRdmaWithImm / RECV_RDMA_WITH_IMM = 129,
    }
}

flags! {
    /// Flags of a completion.
    pub struct CqeFlags: u8 = "VNIC_CQE_F" {
        /// `imm` is valid.
        WITH_IMM = 1 << 0;
        /// The receive buffer begins with a 40-byte global route header.
        GRH = 1 << 1;
        /// Phase of the lap, see the module's text.
        PHASE = 1 << 7;
    }
}

codes! {
    /// Values of the arm word of a completion queue.
    pub enum Arm: u32 = "VNIC_CQ_ARM" {
        /// No event wanted.
        None / NONE = 0,
        /// An event at the next solicited or failed completion.
        Solicited / SOLICITED = 1,
        /// An event at the next completion.
        Any / ANY = 2,
    }
}

wire! {
    /// A completion.
    pub struct Cqe = "vnic_cqe" {
        /// From the work request.
        pub wr_id: U64,
        /// Bytes received or read; for sends undefined.
        pub byte_len: U32,
        /// Immediate data in network byte order.
        pub imm: [u8; 4],
        /// Number of the queue pair that completed.
        pub qpn: U32,
        /// Running count (modulo 2^32, from 1) of elements of that queue up to and including this
        /// one: every earlier element of the queue is done with, signalled or not.
        pub wqe_count: U32,
        /// Sender's queue pair number for datagrams, else 0.
        pub src_qp: U32,
        /// [`WcOpcode`].
        pub opcode: u8,
        /// [`WcStatus`].
        pub status: u8,
        /// Zero.
        pub reserved: u8,
        /// [`CqeFlags`].
        pub flags: u8,
    }
}

wire! {
    /// The control page of a completion queue.
    pub struct CqControl = "vnic_cq_control" {
        /// Running count of elements taken, modulo 2^32; written by the driver.
        pub consumer: U32,
        /// Zero.
        pub reserved0: [U32; 15],
        /// [`Arm`]; set by the driver, exchanged for `None` by the device when it sends the event.
        pub arm: U32,
        /// Zero.
        pub reserved1: [U32; 15],
    }
}
