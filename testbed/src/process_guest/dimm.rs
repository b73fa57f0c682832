// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A memory module that is plugged into a running guest, and pulled out of it.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{MemfdFlags, memfd_create};
use vhost::VhostUserMemoryRegionInfo;
use vm_memory::{Bytes, VolatileSlice};

use super::address_space::AddressSpace;
use super::mapping::Mapping;
use super::memory::FRAME;

/// A module: its memory, mapped into this process in one piece. It is up to the test to map its
/// pages for the guest's process, at the same addresses.
pub struct Dimm {
    name: String,
    file: File,
    mapping: Mapping,
    gpa: u64,
}

impl Dimm {
    /// A module of `len` bytes for the guest-physical address `gpa`. It is not plugged in yet.
    ///
    /// # Panics
    ///
    /// If the host refuses the memory.
    pub fn new(gpa: u64, len: u64) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        // Relaxed: only uniqueness matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("dimm-{}-{number}", std::process::id());
        let file = File::from(memfd_create(&name, MemfdFlags::CLOEXEC).expect("memfd_create"));
        file.set_len(len).expect("size the memfd");
        let frames: Vec<usize> = (0..(len / FRAME) as usize).collect();
        let mapping = Mapping::of_frames(&file, &frames, FRAME);
        Self { name, file, mapping, gpa }
    }

    /// Address of the first byte in this process.
    pub fn addr(&self) -> u64 {
        self.mapping.ptr as u64
    }

    /// Length in bytes.
    pub fn len(&self) -> u64 {
        self.mapping.len as u64
    }

    /// Whether it has no byte.
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    /// Guest-physical address of the byte at `offset`.
    pub fn gpa(&self, offset: u64) -> u64 {
        self.gpa + offset
    }

    /// The bytes for volatile access.
    pub fn slice(&self) -> VolatileSlice<'_> {
        self.mapping.slice()
    }

    /// All bytes.
    ///
    /// # Panics
    ///
    /// Never: they are all there.
    pub fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.mapping.len];
        self.slice().read_slice(&mut bytes, 0).expect("own memory");
        bytes
    }

    /// Sets every byte.
    ///
    /// # Panics
    ///
    /// Never, as [`content`](Self::content).
    pub fn fill(&self, byte: u8) {
        self.slice().write_slice(&vec![byte; self.mapping.len], 0).expect("own memory");
    }

    /// Maps all pages for the process of `space`, where this process has them.
    pub fn map(&self, space: &AddressSpace) {
        let mut table = space.table();
        for offset in (0..self.len()).step_by(FRAME as usize) {
            table.map(self.addr() + offset, self.gpa(offset), true);
        }
    }

    /// Takes all pages from the process of `space`, as a kernel does that moves them elsewhere.
    ///
    /// # Panics
    ///
    /// If the device does not quiesce.
    pub fn unmap(&self, space: &AddressSpace) {
        {
            let mut table = space.table();
            for offset in (0..self.len()).step_by(FRAME as usize) {
                table.unmap(self.addr() + offset);
            }
        }
        space.invalidate(self.addr(), self.addr() + self.len()).expect("device quiesces");
    }

    /// How the module is described to the device.
    pub fn region(&self) -> VhostUserMemoryRegionInfo {
        VhostUserMemoryRegionInfo {
            guest_phys_addr: self.gpa,
            memory_size: self.len(),
            userspace_addr: self.addr(),
            mmap_offset: 0,
            mmap_handle: self.file.as_raw_fd(),
        }
    }

    /// Whether process `pid` maps the module.
    ///
    /// # Panics
    ///
    /// If there is no such process.
    pub fn is_mapped_by(&self, pid: u32) -> bool {
        let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).expect("a process");
        maps.lines().any(|line| line.contains(&format!("/memfd:{} ", self.name)))
    }
}
