// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The epoch protocol under a model checker: every interleaving and every reordering that the memory
//! model allows, of workers and drivers. Protocol, walker and IOTLB are the real ones; memory is the
//! checker's. Each fence and each ordering has a test in which it is missing, and which must fail.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p vnic-iommu --release --test loom_quiesce`
#![cfg(loom)]

mod ending;
mod invalidation;
mod ring;
mod shared;
mod tables;
