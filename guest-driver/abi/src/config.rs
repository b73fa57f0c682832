// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The VIRTIO device configuration space and the queues of the device.

use crate::{U32, U64};

/// `TONGTUVN` in ASCII, read as a little-endian number.
///
/// The driver claims a stand-in virtio device id only if it finds this.
pub const MAGIC: u64 = u64::from_le_bytes(*b"TONGTUVN");

/// The virtio device id that VIRTIO 1.3 (section 5) reserves for RDMA devices.
pub const VIRTIO_ID_RDMA: u32 = 42;

/// A stand-in id for virtual machine monitors that know no RDMA device; no Linux driver claims it.
pub const VIRTIO_ID_STAND_IN: u32 = 38;

/// Control queue: one command and its reply per descriptor chain.
pub const VQ_CTRL: u16 = 0;
/// Event queue: the driver posts buffers of [`Event`](crate::event::Event) size.
pub const VQ_EVENT: u16 = 1;
/// Page request queue: the driver posts buffers of
/// [`PageRequest`](crate::event::PageRequest) size.
pub const VQ_PAGE_REQUEST: u16 = 2;
/// Kick queue: never holds a buffer; its notification wakes sleeping workers.
pub const VQ_KICK: u16 = 3;
/// Number of virtqueues.
pub const VQ_COUNT: u16 = 4;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        MAGIC: "VNIC_MAGIC" = MAGIC,
        VIRTIO_ID_RDMA: "VNIC_VIRTIO_ID_RDMA" = VIRTIO_ID_RDMA as u64,
        VIRTIO_ID_STAND_IN: "VNIC_VIRTIO_ID_STAND_IN" = VIRTIO_ID_STAND_IN as u64,
        VQ_CTRL: "VNIC_VQ_CTRL" = VQ_CTRL as u64,
        VQ_EVENT: "VNIC_VQ_EVENT" = VQ_EVENT as u64,
        VQ_PAGE_REQUEST: "VNIC_VQ_PAGE_REQUEST" = VQ_PAGE_REQUEST as u64,
        VQ_KICK: "VNIC_VQ_KICK" = VQ_KICK as u64,
        VQ_COUNT: "VNIC_VQ_COUNT" = VQ_COUNT as u64,
    ];
}

flags! {
    /// Optional parts of the device. The device offers them in [`Config::features`]; the driver
    /// accepts a subset in the [`Init`](crate::ctrl::Init) command.
    pub struct Features: u64 = "VNIC_F" {
        /// Compare-and-swap and fetch-and-add work requests.
        ATOMIC = 1 << 0;
        /// Unreliable datagram queue pairs.
        UD = 1 << 1;
        /// Unreliable connected queue pairs.
        UC = 1 << 2;
        /// Shared receive queues.
        SRQ = 1 << 3;
        /// The driver keeps the pages of every region present and where they are for as long as it is
        /// registered, from before `MrCreate` to after the answer to `MrDestroy`. Offered where a device of the
        /// host needs it. Not accepted, queue pairs reach no peer by such a device.
        PIN = 1 << 4;
        /// Regions over the whole address space, see [`MrCreate`](crate::ctrl::MrCreate). A port offers
        /// this only if its owner allowed it.
        IMPLICIT_MR = 1 << 5;
        /// The device has translations that a fence does not revoke. After an invalidation of an address space that
        /// has regions, the driver kicks the device, and waits until
        /// [`acknowledged`](crate::epoch::InvalidationPage::acknowledged) has come as far. Offered in place of
        /// `PIN` where the host's device can do without pages that stay.
        ACKNOWLEDGE = 1 << 6;
        /// The device tells when the port loses what is on other hosts, and when it is back:
        /// [`PortDown`](crate::event::EventKind::PORT_DOWN) and its counterpart.
        PORT_EVENTS = 1 << 7;
    }
}

wire! {
    /// The configuration space, read-only for the driver.
    pub struct Config = "vnic_config" {
        /// [`MAGIC`].
        pub magic: U64,
        /// [`ABI_VERSION`](crate::ABI_VERSION) of the device.
        pub version: U32,
        /// Zero.
        pub reserved0: U32,
        /// Offered [`Features`].
        pub features: U64,
        /// Queue pairs of the whole port.
        pub max_qp: U32,
        /// Completion queues of the whole port.
        pub max_cq: U32,
        /// Memory regions of the whole port.
        pub max_mr: U32,
        /// Protection domains of the whole port.
        pub max_pd: U32,
        /// User contexts of the whole port.
        pub max_ctx: U32,
        /// Elements of one send queue, at most. A power of two.
        pub max_sq_depth: U32,
        /// Elements of one receive queue, at most. A power of two.
        pub max_rq_depth: U32,
        /// Elements of one completion queue, at most. A power of two.
        pub max_cq_depth: U32,
        /// Scatter/gather elements of one work request, at most.
        pub max_sge: U32,
        /// Inline bytes of one work request, at most.
        pub max_inline: U32,
        /// Outstanding RDMA READ and atomic operations of one queue pair, as requester or responder.
        pub max_rd_atomic: U32,
        /// Bytes of one message, at most.
        pub max_msg_size: U32,
        /// Entries of the GID table.
        pub max_gid: U32,
        /// Slots of the epoch page in use: the driver waits for slots `0..num_workers`.
        pub num_workers: U32,
        /// Active MTU as the verbs number it (`ibv_mtu`: 1 = 256 ... 5 = 4096).
        pub active_mtu: u8,
        /// Zero.
        pub reserved1: u8,
        /// MAC address of the network device that this port belongs to; zero if not configured.
        pub mac: [u8; 6],
        /// Bytes of one region, at most, unless `IMPLICIT_MR` was accepted; 0 if the device does not tell.
        pub max_mr_size: U64,
    }
}
