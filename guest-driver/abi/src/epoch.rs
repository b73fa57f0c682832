// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages of the quiescence protocol: how an invalidation waits for the device without asking it.
//!
//! The *epoch page* belongs to a port. Worker `i` writes slot `i`: odd while it uses translations of
//! this port's memory, even otherwise. The *invalidation page* belongs to an address space and is
//! written by the driver, but for one word; no user process may map either.
//!
//! Driver, on an invalidation: write ring entry `(g - 1) % 32` for the next generation `g`, publish
//! `g` with release, full fence, then for every worker slot that is odd wait until it changes.
//! Device, at a burst: make the slot odd, full fence, read the generation, drop what the ring names
//! (everything, if it missed more than the ring holds), then translate and copy; make the slot even.

use crate::{U32, U64};

/// Slots of the epoch page, at most.
pub const EPOCH_SLOTS: u32 = 64;
/// Distance of epoch slots in bytes: a cache line each.
pub const EPOCH_SLOT_SIZE: u32 = 64;
/// Entries of the ring in an invalidation page.
pub const INVALIDATION_RING: u32 = 32;
/// Offset of the ring in an invalidation page.
pub const INVALIDATION_RING_OFFSET: u32 = 64;

consts! {
    /// Numbers of this module for the C header.
    pub const CONSTS = [
        EPOCH_SLOTS: "VNIC_EPOCH_SLOTS" = EPOCH_SLOTS as u64,
        EPOCH_SLOT_SIZE: "VNIC_EPOCH_SLOT_SIZE" = EPOCH_SLOT_SIZE as u64,
        INVALIDATION_RING: "VNIC_INVALIDATION_RING" = INVALIDATION_RING as u64,
        INVALIDATION_RING_OFFSET: "VNIC_INVALIDATION_RING_OFFSET" = INVALIDATION_RING_OFFSET as u64,
    ];
}

wire! {
    /// One worker's slot in the epoch page.
    pub struct EpochSlot = "vnic_epoch_slot" {
        /// Odd while the worker is inside a burst.
        pub epoch: U64,
        /// Zero.
        pub reserved: [U64; 7],
    }
}

wire! {
    /// A range of virtual addresses that lost its translations.
    pub struct InvalidationRange = "vnic_invalidation_range" {
        /// First address.
        pub start: U64,
        /// Address after the last one; `u64::MAX` with start 0 means everything.
        pub end: U64,
    }
}

wire! {
    /// The invalidation page of an address space.
    pub struct InvalidationPage = "vnic_invalidation_page" {
        /// Number of invalidations so far.
        pub generation: U64,
        /// Written by the device, if [`Features::ACKNOWLEDGE`](crate::config::Features::ACKNOWLEDGE) was accepted: the
        /// last generation after which nothing holds what was invalidated.
        pub acknowledged: U64,
        /// Zero.
        pub reserved0: [U32; 12],
        /// The latest ranges; generation `g` (from 1) is at `(g - 1) % 32`.
        pub ring: [InvalidationRange; 32],
    }
}
