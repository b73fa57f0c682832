// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the kernel module and the user-space provider tell each other, appended to the commands of
//! the kernel's uverbs interface (`rdma/ib_user_verbs.h`).

use crate::{U32, U64};

/// Version of this part, in `uverbs_abi_ver` of the kernel's device.
pub const UVERBS_ABI_VERSION: u32 = 1;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        UVERBS_ABI_VERSION: "VNIC_UVERBS_ABI_VERSION" = UVERBS_ABI_VERSION as u64,
    ];
}

wire! {
    /// Appended to the response of "get context".
    pub struct ContextResp = "vnic_uverbs_context_resp" {
        /// `mmap` offset of the doorbell page (one page, read and write).
        pub doorbell_offset: U64,
        /// `mmap` offset of the page that holds the kick register (one page, write).
        pub kick_offset: U64,
        /// Offset of the 16-bit kick register in that page.
        pub kick_register: U32,
        /// Value to write there.
        pub kick_value: U32,
        /// Inline bytes of one work request, at most.
        pub max_inline: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// Appended to the response of "create completion queue".
    pub struct CqResp = "vnic_uverbs_cq_resp" {
        /// `mmap` offset of the queue's memory: control page, then ring.
        pub mmap_offset: U64,
        /// Bytes to map.
        pub mmap_length: U64,
        /// Elements of the ring, a power of two.
        pub depth: U32,
        /// Device's handle, for diagnosis.
        pub handle: U32,
    }
}

wire! {
    /// Appended to the response of "create queue pair".
    pub struct QpResp = "vnic_uverbs_qp_resp" {
        /// `mmap` offset of the queue pair's memory: control page, send queue, receive queue.
        pub mmap_offset: U64,
        /// Bytes to map.
        pub mmap_length: U64,
        /// Elements of the send queue, a power of two.
        pub sq_depth: U32,
        /// Bytes from one element of the send queue to the next.
        pub sq_stride: U32,
        /// Offset of the receive queue in the memory.
        pub rq_offset: U32,
        /// Elements of the receive queue, a power of two; 0 with a shared receive queue.
        pub rq_depth: U32,
        /// Bytes from one element of the receive queue to the next.
        pub rq_stride: U32,
        /// Bit of this queue pair in the doorbell page.
        pub doorbell_index: U32,
        /// Inline bytes of one work request.
        pub max_inline: U32,
        /// Gather entries of one send request.
        pub max_send_sge: U32,
        /// Scatter entries of one receive request.
        pub max_recv_sge: U32,
        /// Zero.
        pub reserved: U32,
    }
}
