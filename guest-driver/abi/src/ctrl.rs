// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Control commands and their replies.
//!
//! One descriptor chain of the control queue carries one command: a device-readable part that holds
//! [`CmdHeader`] and the structure of the opcode, then a device-writable part that receives
//! [`ReplyHeader`] and, if the status is `OK`, the reply structure of the opcode. Commands may
//! complete out of order. Handles are chosen by the device; 0 is never a handle.

use crate::{U16, U32, U64};

/// Pages in one list, at most.
pub const MAX_RING_PAGES: u32 = 4352;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        MAX_RING_PAGES: "VNIC_MAX_RING_PAGES" = MAX_RING_PAGES as u64,
    ];
}

codes! {
    /// Opcode of a control command.
    pub enum CmdOpcode: u32 = "VNIC_CMD" {
        /// [`Init`]. Must be the first; destroys whatever an earlier driver left. No reply structure.
        Init / INIT = 1,
        /// No structure, no effect: tells that the device lives.
        Nop / NOP = 2,
        /// [`Handle`] 0. Destroys everything and forgets the epoch page. The device touches guest
        /// memory no more until the next `Init`.
        Shutdown / SHUTDOWN = 3,
        /// [`GidSet`].
        GidSet / GID_SET = 4,
        /// [`Handle`]: GID index.
        GidClear / GID_CLEAR = 5,
        /// [`PasidBind`] -> [`HandleReply`]: PASID.
        PasidBind / PASID_BIND = 6,
        /// [`Handle`]: PASID. After the reply the device does not walk its tables again.
        PasidUnbind / PASID_UNBIND = 7,
        /// [`CtxCreate`] -> [`HandleReply`].
        CtxCreate / CTX_CREATE = 8,
        /// [`Handle`]. Destroys all that the context still holds.
        CtxDestroy / CTX_DESTROY = 9,
        /// [`PdCreate`] -> [`HandleReply`].
        PdCreate / PD_CREATE = 10,
        /// [`Handle`].
        PdDestroy / PD_DESTROY = 11,
        /// [`MrCreate`] -> [`MrCreateReply`].
        MrCreate / MR_CREATE = 12,
        /// [`Handle`]. After the reply no access uses the region's key.
        MrDestroy / MR_DESTROY = 13,
        /// [`CqCreate`] -> [`HandleReply`].
        CqCreate / CQ_CREATE = 14,
        /// [`Handle`].
        CqDestroy / CQ_DESTROY = 15,
        /// [`QpCreate`] -> [`QpCreateReply`].
        QpCreate / QP_CREATE = 16,
        /// [`QpModify`].
        QpModify / QP_MODIFY = 17,
        /// [`Handle`]: queue pair number -> [`QpAttr`].
        QpQuery / QP_QUERY = 18,
        /// [`Handle`]: queue pair number.
        QpDestroy / QP_DESTROY = 19,
        /// [`PageResponse`].
        PageResponse / PAGE_RESPONSE = 20,
        /// No structure -> [`Counters`].
        QueryCounters / QUERY_COUNTERS = 21,
        /// [`MrModify`] -> [`MrCreateReply`]. After the reply no access uses what the region was before.
        MrModify / MR_MODIFY = 22,
    }
}

wire! {
    /// Start of every command.
    pub struct CmdHeader = "vnic_cmd_header" {
        /// [`CmdOpcode`].
        pub opcode: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// Start of every reply.
    pub struct ReplyHeader = "vnic_reply_header" {
        /// [`Status`](crate::status::Status).
        pub status: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// A command that names one object and nothing else.
    pub struct Handle = "vnic_cmd_handle" {
        /// The object.
        pub handle: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// The reply that names a new object.
    pub struct HandleReply = "vnic_reply_handle" {
        /// The object.
        pub handle: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// Starts the device.
    pub struct Init = "vnic_cmd_init" {
        /// The driver's [`ABI_VERSION`](crate::ABI_VERSION).
        pub version: U32,
        /// Zero.
        pub reserved: U32,
        /// Accepted [`Features`](crate::config::Features), a subset of the offered ones.
        pub features: U64,
        /// Guest-physical address of the epoch page.
        pub epoch_page: U64,
    }
}

codes! {
    /// Type of a GID, numbered as the kernel's `enum ib_gid_type`.
    pub enum GidType: u8 = "VNIC_GID_TYPE" {
        /// RoCE version 1.
        RoceV1 / ROCE_V1 = 1,
        /// RoCE version 2 (UDP).
        RoceV2 / ROCE_V2 = 2,
    }
}

wire! {
    /// Puts an address into the GID table. A GID that another port of the same network holds is
    /// refused with `EXISTS`.
    pub struct GidSet = "vnic_cmd_gid_set" {
        /// Index in the table.
        pub index: U32,
        /// [`GidType`].
        pub gid_type: u8,
        /// Zero.
        pub reserved: [u8; 3],
        /// The GID in network order.
        pub gid: [u8; 16],
    }
}

codes! {
    /// Format of a page table.
    pub enum PagingMode: u32 = "VNIC_PAGING" {
        /// x86-64, 4 levels (48 bits).
        X86Level4 / X86_LEVEL4 = 4,
        /// x86-64, 5 levels (57 bits).
        X86Level5 / X86_LEVEL5 = 5,
    }
}

wire! {
    /// Binds a process's address space.
    pub struct PasidBind = "vnic_cmd_pasid_bind" {
        /// Guest-physical address of the root table, page-aligned.
        pub root: U64,
        /// Guest-physical address of the invalidation page.
        pub invalidation_page: U64,
        /// [`PagingMode`].
        pub mode: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// Opens a context.
    pub struct CtxCreate = "vnic_cmd_ctx_create" {
        /// Guest-physical address of the doorbell page, filled with zero.
        pub doorbell_page: U64,
        /// Address space of everything in this context.
        pub pasid: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// Allocates a protection domain.
    pub struct PdCreate = "vnic_cmd_pd_create" {
        /// Owner.
        pub ctx: U32,
        /// Zero.
        pub reserved: U32,
    }
}

flags! {
    /// Rights of a memory region or a queue pair, numbered as `enum ibv_access_flags`.
    pub struct AccessFlags: u32 = "VNIC_ACCESS" {
        /// The device may write on behalf of local requests.
        LOCAL_WRITE = 1 << 0;
        /// Peers may write.
        REMOTE_WRITE = 1 << 1;
        /// Peers may read.
        REMOTE_READ = 1 << 2;
        /// Peers may do atomics.
        REMOTE_ATOMIC = 1 << 3;
        /// Addresses in requests count from 0 at the start of the region.
        ZERO_BASED = 1 << 5;
        /// The region is paged on demand; this device does so anyway.
        ON_DEMAND = 1 << 6;
        /// Ordering may be relaxed; this device does not.
        RELAXED_ORDERING = 1 << 20;
    }
}

wire! {
    /// Registers a memory region: a window of permissions, nothing more.
    ///
    /// `start` 0 and `length` 2^64 - 1 with `ON_DEMAND` is the implicit region, which is the whole
    /// address space. It needs `IMPLICIT_MR`, as does every region longer than
    /// [`Config::max_mr_size`](crate::config::Config::max_mr_size).
    pub struct MrCreate = "vnic_cmd_mr_create" {
        /// Protection domain.
        pub pd: U32,
        /// [`AccessFlags`].
        pub access: U32,
        /// First virtual address in the context's address space.
        pub start: U64,
        /// Length in bytes.
        pub length: U64,
        /// The address by which requests name the first byte.
        pub iova: U64,
    }
}

wire! {
    /// A region and its keys.
    pub struct MrCreateReply = "vnic_reply_mr_create" {
        /// The region.
        pub handle: U32,
        /// Local key.
        pub lkey: U32,
        /// Remote key.
        pub rkey: U32,
        /// Zero.
        pub reserved: U32,
    }
}

flags! {
    /// What [`MrModify`] changes, numbered as `enum ibv_rereg_mr_flags`.
    pub struct MrAttrMask: u32 = "VNIC_MR_ATTR" {
        /// `start`, `length` and `iova`.
        TRANSLATION = 1 << 0;
        /// `pd`, which must be of the same context.
        PD = 1 << 1;
        /// `access`.
        ACCESS = 1 << 2;
    }
}

wire! {
    /// Changes a memory region under the keys that it has. What the region would be afterwards must be
    /// what `MR_CREATE` would accept; otherwise it stays as it is.
    pub struct MrModify = "vnic_cmd_mr_modify" {
        /// The region.
        pub mr: U32,
        /// [`MrAttrMask`]; at least one bit.
        pub mask: U32,
        /// New protection domain; this and what follows is ignored unless named in `mask`.
        pub pd: U32,
        /// New [`AccessFlags`].
        pub access: U32,
        /// New first virtual address.
        pub start: U64,
        /// New length in bytes.
        pub length: U64,
        /// New address by which requests name the first byte.
        pub iova: U64,
    }
}

wire! {
    /// A list of guest pages.
    pub struct PageList = "vnic_page_list" {
        /// Guest-physical address of an array of 64-bit page addresses, itself contiguous in
        /// guest-physical memory and 8-byte aligned.
        pub list: U64,
        /// Entries, at most [`MAX_RING_PAGES`].
        pub count: U32,
        /// Zero.
        pub reserved: U32,
    }
}

wire! {
    /// Creates a completion queue.
    pub struct CqCreate = "vnic_cmd_cq_create" {
        /// Owner.
        pub ctx: U32,
        /// Elements, a power of two.
        pub depth: U32,
        /// Returned in events.
        pub cookie: U64,
        /// The queue's memory, see [`cqe`](crate::cqe).
        pub pages: PageList,
    }
}

codes! {
    /// Transport service of a queue pair, numbered as `enum ibv_qp_type`.
    pub enum QpType: u8 = "VNIC_QPT" {
        /// Reliable connected.
        Rc / RC = 2,
        /// Unreliable connected.
        Uc / UC = 3,
        /// Unreliable datagram.
        Ud / UD = 4,
    }
}

wire! {
    /// Creates a queue pair.
    pub struct QpCreate = "vnic_cmd_qp_create" {
        /// Protection domain; names the context too.
        pub pd: U32,
        /// Completion queue of the send queue.
        pub send_cq: U32,
        /// Completion queue of the receive queue.
        pub recv_cq: U32,
        /// [`QpType`].
        pub qp_type: u8,
        /// 1: every send request completes, whatever its flag.
        pub sq_sig_all: u8,
        /// Zero.
        pub reserved: U16,
        /// Elements of the send queue, a power of two, at least 1.
        pub sq_depth: U32,
        /// Stride of the send queue in bytes.
        pub sq_stride: U32,
        /// Elements of the receive queue, a power of two, at least 1.
        pub rq_depth: U32,
        /// Stride of the receive queue in bytes.
        pub rq_stride: U32,
        /// Returned in events.
        pub cookie: U64,
        /// The queue pair's memory, see [`doorbell`](crate::doorbell).
        pub pages: PageList,
    }
}

wire! {
    /// The new queue pair.
    pub struct QpCreateReply = "vnic_reply_qp_create" {
        /// Its number (24 bits), which is also its handle.
        pub qpn: U32,
        /// Its bit in the doorbell page.
        pub doorbell_index: U32,
    }
}

codes! {
    /// State of a queue pair, numbered as `enum ibv_qp_state`.
    pub enum QpState: u8 = "VNIC_QPS" {
        /// Reset.
        Reset / RESET = 0,
        /// Initialised: receive elements may be posted.
        Init / INIT = 1,
        /// Ready to receive.
        Rtr / RTR = 2,
        /// Ready to send.
        Rts / RTS = 3,
        /// Send queue drained.
        Sqd / SQD = 4,
        /// Send queue error (not for reliable connections).
        Sqe / SQE = 5,
        /// Error: everything is flushed.
        Err / ERR = 6,
    }
}

flags! {
    /// Which attributes of [`QpModify`] count, numbered as `enum ibv_qp_attr_mask`.
    pub struct QpAttrMask: u32 = "VNIC_QP_ATTR" {
        /// `state`.
        STATE = 1 << 0;
        /// `cur_state`.
        CUR_STATE = 1 << 1;
        /// `access`.
        ACCESS_FLAGS = 1 << 3;
        /// `pkey_index`.
        PKEY_INDEX = 1 << 4;
        /// `port`.
        PORT = 1 << 5;
        /// `qkey`.
        QKEY = 1 << 6;
        /// `av`.
        AV = 1 << 7;
        /// `path_mtu`.
        PATH_MTU = 1 << 8;
        /// `timeout`.
        TIMEOUT = 1 << 9;
        /// `retry_cnt`.
        RETRY_CNT = 1 << 10;
        /// `rnr_retry`.
        RNR_RETRY = 1 << 11;
        /// `rq_psn`.
        RQ_PSN = 1 << 12;
        /// `max_rd_atomic`.
        MAX_QP_RD_ATOMIC = 1 << 13;
        /// `min_rnr_timer`.
        MIN_RNR_TIMER = 1 << 15;
        /// `sq_psn`.
        SQ_PSN = 1 << 16;
        /// `max_dest_rd_atomic`.
        MAX_DEST_RD_ATOMIC = 1 << 17;
        /// `dest_qpn`.
        DEST_QPN = 1 << 20;
    }
}

wire! {
    /// Address vector: the way to a peer.
    pub struct AddressVector = "vnic_av" {
        /// Destination GID in network order.
        pub dgid: [u8; 16],
        /// Flow label (20 bits).
        pub flow_label: U32,
        /// Index of the source GID.
        pub sgid_index: u8,
        /// Hop limit.
        pub hop_limit: u8,
        /// Traffic class.
        pub traffic_class: u8,
        /// Service level.
        pub sl: u8,
        /// Destination MAC, for drivers that resolve it; the device looks at the GID alone.
        pub dmac: [u8; 6],
        /// Zero.
        pub reserved: U16,
    }
}

wire! {
    /// Attributes of a queue pair, in `QP_MODIFY` and as the reply of `QP_QUERY`.
    pub struct QpAttr = "vnic_qp_attr" {
        /// [`QpState`].
        pub state: u8,
        /// [`QpState`] that the driver believes to be current.
        pub cur_state: u8,
        /// Port number, from 1.
        pub port: u8,
        /// `ibv_mtu` number.
        pub path_mtu: u8,
        /// Index of the partition key; 0 is the only one.
        pub pkey_index: U16,
        /// Local ACK time-out: 4.096 us * 2^timeout, 0 = never (5 bits).
        pub timeout: u8,
        /// Retries after a time-out (3 bits).
        pub retry_cnt: u8,
        /// Retries after RNR (3 bits); 7 = for ever.
        pub rnr_retry: u8,
        /// RNR NAK timer field code (5 bits), InfiniBand specification volume 1, table 45.
        pub min_rnr_timer: u8,
        /// READs and atomics outstanding as requester.
        pub max_rd_atomic: u8,
        /// READs and atomics accepted as responder.
        pub max_dest_rd_atomic: u8,
        /// [`AccessFlags`] for peers.
        pub access: U32,
        /// Queue key, for datagrams.
        pub qkey: U32,
        /// Peer's queue pair number.
        pub dest_qpn: U32,
        /// First expected packet sequence number.
        pub rq_psn: U32,
        /// First sent packet sequence number.
        pub sq_psn: U32,
        /// The way to the peer.
        pub av: AddressVector,
    }
}

wire! {
    /// Changes a queue pair.
    pub struct QpModify = "vnic_cmd_qp_modify" {
        /// Queue pair number.
        pub qpn: U32,
        /// [`QpAttrMask`].
        pub mask: U32,
        /// Values; those not named in `mask` are ignored.
        pub attr: QpAttr,
    }
}

wire! {
    /// Answers a page request.
    pub struct PageResponse = "vnic_cmd_page_response" {
        /// [`PageRequest::id`](crate::event::PageRequest::id).
        pub id: U32,
        /// [`PageResponseCode`](crate::event::PageResponseCode).
        pub code: U32,
    }
}

wire! {
    /// What the device holds for this port, and what it did.
    pub struct Counters = "vnic_reply_counters" {
        /// Bound address spaces.
        pub pasids: U32,
        /// Contexts.
        pub contexts: U32,
        /// Protection domains.
        pub pds: U32,
        /// Memory regions.
        pub mrs: U32,
        /// Completion queues.
        pub cqs: U32,
        /// Queue pairs.
        pub qps: U32,
        /// Page requests that wait for an answer.
        pub page_requests_outstanding: U32,
        /// Zero.
        pub reserved: U32,
        /// Page requests sent so far.
        pub page_requests: U64,
        /// Send requests completed so far.
        pub send_requests: U64,
        /// Payload bytes copied so far.
        pub bytes: U64,
    }
}
