// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a machine may have beyond processors, one bank of memory and its cards: NUMA nodes, room
//! for memory that is plugged in later, persistent memory and disks.

use std::time::Duration;

use crate::{error::Result, guest::Guest};

/// The extra hardware of one machine. The default is none.
#[derive(Debug, Clone, Default)]
pub struct Hardware {
    /// NUMA nodes, by number. Empty: the machine has no nodes and
    /// [`VmConfig::memory`](super::VmConfig::memory) all in one place. Otherwise the nodes' memory
    /// replaces that number.
    pub nodes: Vec<Node>,
    /// Room for modules that are plugged in later, see [`Vm::plug_dimm`](super::Vm::plug_dimm).
    pub hotplug: Option<Hotplug>,
    /// Persistent memory modules, each of so many MiB (a multiple of 128); see [`prepare_pmem`].
    pub nvdimms: Vec<u32>,
    /// Disks, each of so many MiB. The guest sees `/dev/vda` and so on once it has loaded
    /// [`DISK_MODULES`]. A disk is a sparse file in the run's folder, takes room for what was
    /// written to it and not discarded, and is gone with the folder.
    pub disks: Vec<u32>,
}

/// What a guest has to load to see [`Hardware::disks`].
pub const DISK_MODULES: &[&str] = &["virtio_blk"];

/// One NUMA node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Node {
    /// Memory in MiB at the start of the machine; 0 for a node that only gets memory plugged in,
    /// which has to be the last one.
    pub memory: u32,
    /// Number of the machine's processors that are on the node. The first node has the first
    /// processors, and some node must have some.
    pub processors: u32,
    /// Nanoseconds that its memory takes to answer the nearest processors, as the firmware tells.
    /// QEMU does not slow anything down; the guest's kernel decides by it which memory is slow.
    pub latency: u32,
    /// MiB in a second to the nearest processors, as the firmware tells.
    pub bandwidth: u32,
}

impl Node {
    /// Ordinary memory next to `processors` processors.
    pub const fn fast(memory: u32, processors: u32) -> Self {
        Self { memory, processors, latency: 100, bandwidth: 20 << 10 }
    }

    /// Memory without processors that the guest's kernel puts into a slower tier.
    pub const fn slow(memory: u32) -> Self {
        Self { memory, processors: 0, latency: 500, bandwidth: 2 << 10 }
    }
}

/// Room for modules that are plugged in later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hotplug {
    /// Sockets for modules, beyond those of the persistent ones.
    pub slots: u32,
    /// MiB in all of them together, at most.
    pub room: u32,
}

/// Longest time for [`prepare_pmem`].
const LIMIT: Duration = Duration::from_secs(30);

/// Makes `/dev/pmem0` and so on of [`Hardware::nvdimms`], and gives their pages the descriptors that
/// a file system needs to map them into programs (`-o dax=always`). The descriptors take a sixty-fourth
/// of the module.
///
/// # Errors
/// When the guest has no such modules.
pub fn prepare_pmem(guest: &Guest) -> Result<()> {
    // As it comes, a module without labels has a block device and no page descriptors.
    let script = "set -e; modprobe -a nfit nd_pmem; cd /sys/bus/nd/devices; \
        for region in region*; do \
            number=${region#region}; space=namespace$number.0; pfn=$(cat $region/pfn_seed); \
            test -e $space; \
            echo $space >/sys/bus/nd/drivers/nd_pmem/unbind; \
            echo ram >$pfn/mode; \
            cat /proc/sys/kernel/random/uuid >$pfn/uuid; \
            echo $space >$pfn/namespace; \
            echo $pfn >/sys/bus/nd/drivers/nd_pmem/bind; \
            test -b /dev/pmem$number; \
        done";
    guest.shell(script).limit(LIMIT).run().map(drop)
}

impl Hardware {
    /// MiB of memory at the start, where a machine without nodes would have `memory`.
    pub(crate) fn memory(&self, memory: u32) -> u32 {
        if self.nodes.is_empty() { memory } else { self.nodes.iter().map(|n| n.memory).sum() }
    }

    /// The sockets of the machine and the MiB that fit into them, if there are any.
    pub(super) fn sockets(&self) -> Option<Hotplug> {
        let later = self.hotplug.unwrap_or(Hotplug { slots: 0, room: 0 });
        let slots = later.slots + self.nvdimms.len() as u32;
        let room = later.room + self.nvdimms.iter().sum::<u32>();
        (slots != 0).then_some(Hotplug { slots, room })
    }
}
