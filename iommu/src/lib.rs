// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest-shared address translation: what an IOMMU with shared virtual addressing does, in software.
//!
//! The device reaches the memory of a guest process through that process's own page table. Nothing
//! is pinned: a page that is absent becomes a [page request](fault), and a page that the guest takes
//! away is waited for with the [epoch protocol](quiesce).
//!
//! | module | is |
//! |---|---|
//! | [`addr`] | guest-physical and guest-virtual addresses, with checked arithmetic |
//! | [`memory`] | a VM's RAM as seen by the device: bounds checks and host pointers |
//! | [`live`] | that RAM while the VM's memory map changes |
//! | [`walk`] | page-table formats behind one trait; x86-64 with 4 and 5 levels |
//! | [`pasid`] | an address space: a table root, its RAM, its invalidation page |
//! | [`iotlb`] | a worker's private cache of translations |
//! | [`quiesce`] | how a guest takes a page away from a running device, both halves |
//! | [`translate`] | a worker's way in: IOTLB, walker and quiescence together |
//! | [`fault`] | page requests: merging, waiting, answering |
//! | [`testing`] | builds real page tables in guest RAM, for tests and process guests |
//!
//! Invariants:
//!
//! - A value in guest memory is read once into a local, checked, and only then used.
//! - A table can answer less than a memory key allows, never more, and never a byte outside the RAM
//!   of the VM it belongs to.
//! - A host pointer made from a guest-virtual address lives no longer than the [`quiesce::Burst`] in
//!   which it was translated; the borrow checker enforces it.
//! - Nothing here allocates, blocks or loops without a bound on the translation path.
//!
//! Deliberately absent: a hardware back end (iommufd, nested translation in a physical IOMMU), and
//! queued invalidation for holders that a CPU fence cannot revoke. Both are additions beside
//! [`quiesce`] and [`walk`]; neither changes them.

pub mod addr;
pub mod fault;
pub mod iotlb;
pub mod live;
pub mod memory;
pub mod pasid;
pub mod quiesce;
pub mod testing;
pub mod translate;
pub mod walk;

pub use addr::{Gpa, Gva};
pub use fault::{PageRequest, PageRequestTable};
pub use live::LiveRam;
pub use memory::{GuestRam, HostPtr};
pub use pasid::AddressSpace;
pub use quiesce::{Burst, WorkerSlot};
pub use translate::{HostChunk, Translator};
pub use walk::{Access, Fault, PageTableFormat, PagingMode};
