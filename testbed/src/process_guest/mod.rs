// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process that plays a VM towards the vnic daemon, for tests that drive the device as a guest does.
//!
//! Nothing of the device's side is simulated: RAM is a memfd that the daemon maps, page tables are
//! real x86-64 tables in that RAM, the front end speaks vhost-user, and work requests go through the
//! same data path as the provider's (`vnic-verbs`). What the kernel module does in a VM, [`driver`]
//! does here: control queue, page requests, invalidation.
//!
//! | module | plays |
//! |---|---|
//! | [`memory`], [`mapping`] | the DIMMs, the page allocator, and this process's view of them |
//! | [`dimm`] | a module that is plugged in and out |
//! | [`page_table`] | the MMU's tables |
//! | [`address_space`] | a process's `mm`: mappings, demand paging, invalidation |
//! | [`virtqueue`], [`frontend`] | QEMU and the virtio transport |
//! | [`driver`] | the kernel module |
//! | [`verbs`] | libibverbs |
//! | [`daemon`] | the host: starts and stops `vnic run` |
//!
//! Addresses in work requests are ordinary pointers of the test process: a buffer is mapped in the
//! guest's page table at the address where this process maps the same frames.

pub mod address_space;
pub mod daemon;
pub mod dimm;
pub mod driver;
mod frames;
pub mod frontend;
mod large_pages;
pub mod mapping;
pub mod memory;
pub mod page_table;
pub mod verbs;
pub mod virtqueue;

pub use address_space::{AddressSpace, Fault, FaultAnswer, UserBuffer};
pub use daemon::Daemon;
pub use dimm::Dimm;
pub use driver::{Driver, GuestOptions, RamFile};
pub use memory::{FRAME, Layout, Pages, Ram};
pub use page_table::{PageTable, Paging};
