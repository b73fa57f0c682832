// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Wire types of the Tongtu vNIC, shared by the device and every driver of it.
//!
//! This crate holds no algorithm. It says which bytes mean what: the configuration space
//! ([`config`]), control commands and replies ([`ctrl`]), work queue elements ([`wqe`]),
//! completions ([`cqe`]), the doorbell page ([`doorbell`]), the pages of the quiescence protocol
//! ([`epoch`]), events and page requests ([`event`]), status codes ([`status`]) and what the kernel
//! module tells the user-space provider ([`uverbs`]).
//!
//! All integers are little-endian and naturally aligned within their structure. Codes are *open*
//! enumerations: a value that nobody defined stays representable, so that the receiver decides what
//! to do with it. Reserved fields must be zero when written and are checked when read by the device.
//!
//! The C header of the kernel module is generated from these definitions ([`header`]).
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "header")]
extern crate alloc;

#[macro_use]
mod wire;

pub mod config;
pub mod cqe;
pub mod ctrl;
pub mod doorbell;
pub mod epoch;
pub mod event;
#[cfg(feature = "header")]
pub mod header;
pub mod status;
pub mod uverbs;
pub mod wqe;

pub use wire::{CodeInfo, ConstInfo, FieldInfo, FlagInfo, StructInfo, WireType};
pub use zerocopy::little_endian::{U16, U32, U64};

/// Version of this interface: major in the upper half, minor in the lower.
///
/// A driver refuses a device whose major number it does not know; minor numbers only add.
pub const ABI_VERSION: u32 = 0x0001_0000;

/// Size of a page in this interface, in bytes, whatever page sizes the guest uses.
pub const PAGE_SIZE: u64 = 4096;

consts! {
    /// Numbers that belong to the interface as a whole.
    pub const CONSTS = [
        ABI_VERSION: "VNIC_ABI_VERSION" = crate::ABI_VERSION as u64,
        PAGE_SIZE: "VNIC_PAGE_SIZE" = crate::PAGE_SIZE,
    ];
}
