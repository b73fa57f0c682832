// SPDX-License-Identifier: Apache-2.0 OR MIT
//! VM testbed, workloads and measurement for the Tongtu vNIC.
//!
//! - [`provision`] turns a Debian machine into one that can boot guests: a Debian root with QEMU,
//!   kernels and compilers, the guest image, the guest driver.
//! - [`vm`] runs one QEMU process, and [`guest`] the commands inside it.
//! - [`topology`] boots a pair of guests that see each other.
//! - [`workload`] runs programs between them and reads what they print.
//! - [`suite`] runs all of them as [`measure`] says, and [`report`] tells what came of it.
//! - [`chaos`] disturbs the memory of two guests under traffic, and looks for wrong bytes.
//! - [`bench`] measures what single operations of the device cost.
//! - [`host`] knows the machine underneath, and whether figures from it can be trusted.
//! - [`compare`] says what changed from one run to the next, beyond noise.
//! - [`lab`] is a machine that plays a host: RDMA devices, a cable between them that can be spoilt.
//! - [`page`] shows all of it in one file for a browser.
//! - [`process_guest`] is a process that plays a VM, for tests of the device itself.
//!
//! Whatever is started here ends with this process, however it ends: see [`process`].

pub mod bench;
pub mod chaos;
pub mod compare;
pub mod complaint;
pub mod counters;
pub mod daemon;
pub mod error;
pub mod guest;
pub mod host;
pub mod lab;
pub mod measure;
pub mod page;
pub mod process;
pub mod process_guest;
pub mod provision;
pub mod report;
pub mod suite;
pub mod topology;
pub mod vm;
pub mod workload;

pub use error::{Error, Result};
