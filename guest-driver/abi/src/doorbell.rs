// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The doorbell page of a context, and the control page of a queue pair.
//!
//! To post: write the element, set the queue pair's bit in the bitmap with a sequentially
//! consistent OR, then read `need_kick`; if it is not zero, write the kick queue's index to the kick
//! page. The device that wants to sleep sets `need_kick`, issues a full fence and looks at the
//! bitmap once more: one of the two sees the other.

use crate::{U32, U64};

/// Queue pairs of one context, at most: bits of the bitmap.
pub const DOORBELL_BITS: u32 = 16384;
/// Offset of `need_kick` in the doorbell page.
pub const DOORBELL_NEED_KICK: u32 = 0;
/// Offset of the bitmap in the doorbell page.
pub const DOORBELL_BITMAP: u32 = 64;

/// Offset of `rq_wants_doorbell` in the control page of a queue pair.
pub const QP_RQ_WANTS_DOORBELL: u32 = 0;
/// Offset of the send queue in a queue pair's memory.
pub const QP_SQ_OFFSET: u32 = 4096;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        DOORBELL_BITS: "VNIC_DOORBELL_BITS" = DOORBELL_BITS as u64,
        DOORBELL_NEED_KICK: "VNIC_DOORBELL_NEED_KICK" = DOORBELL_NEED_KICK as u64,
        DOORBELL_BITMAP: "VNIC_DOORBELL_BITMAP" = DOORBELL_BITMAP as u64,
        QP_RQ_WANTS_DOORBELL: "VNIC_QP_RQ_WANTS_DOORBELL" = QP_RQ_WANTS_DOORBELL as u64,
        QP_SQ_OFFSET: "VNIC_QP_SQ_OFFSET" = QP_SQ_OFFSET as u64,
    ];
}

wire! {
    /// The doorbell page.
    pub struct DoorbellPage = "vnic_doorbell_page" {
        /// Not zero while a worker that serves this context sleeps. Written by the device.
        pub need_kick: U32,
        /// Zero.
        pub reserved0: [U32; 15],
        /// One bit per queue pair, by its doorbell index. Set by the driver, cleared by the device.
        pub bitmap: [U64; 256],
        /// Zero.
        pub reserved1: [U64; 248],
    }
}

wire! {
    /// The control page of a queue pair, at offset 0 of its memory. The send queue follows at
    /// [`QP_SQ_OFFSET`], the receive queue at the next page after the send queue.
    pub struct QpControl = "vnic_qp_control" {
        /// Not zero if the device wants the doorbell bit for a new receive element too: because the
        /// queue pair is in error and must flush it, or because a sender waits for it.
        pub rq_wants_doorbell: U32,
        /// Zero.
        pub reserved: [U32; 15],
    }
}
