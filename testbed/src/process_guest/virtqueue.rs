// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The driver's half of a split virtqueue (VIRTIO 1.3, section 2.7), rings in guest RAM.

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::memory::{FRAME, Layout, Pages, Ram};

/// Descriptor flag: another one follows.
pub const DESC_NEXT: u16 = 1;
/// Descriptor flag: the device writes.
pub const DESC_WRITE: u16 = 2;
/// Descriptor flag: a table of descriptors.
pub const DESC_INDIRECT: u16 = 4;

/// Number of descriptors of a queue.
pub const QUEUE_SIZE: u16 = 256;

/// A descriptor as it lies in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Desc {
    /// Guest-physical address.
    pub addr: u64,
    /// Length in bytes.
    pub len: u32,
    /// `DESC_*`.
    pub flags: u16,
    /// Index of the next one with `DESC_NEXT`.
    pub next: u16,
}

/// A virtqueue.
pub struct VirtQueue {
    pages: Pages,
    free: Vec<u16>,
    /// Descriptors of the chain that begins at each index.
    chains: Vec<Vec<u16>>,
    avail: u16,
    used: u16,
    kick: EventFd,
    call: EventFd,
}

const AVAIL: u64 = FRAME;
const USED: u64 = 2 * FRAME;

impl VirtQueue {
    /// An empty queue of [`QUEUE_SIZE`] descriptors.
    ///
    /// # Panics
    ///
    /// If the guest is out of memory or the host out of file descriptors.
    pub fn new(ram: &Ram) -> Self {
        let eventfd = || EventFd::new(EFD_NONBLOCK).expect("eventfd");
        Self {
            pages: ram.alloc(3 * FRAME, Layout::Linear),
            free: (0..QUEUE_SIZE).rev().collect(),
            chains: vec![Vec::new(); QUEUE_SIZE.into()],
            avail: 0,
            used: 0,
            kick: eventfd(),
            call: eventfd(),
        }
    }

    /// Guest-physical addresses of the descriptor table, the available ring and the used ring.
    pub fn rings(&self) -> [u64; 3] {
        [self.pages.gpa(0), self.pages.gpa(AVAIL), self.pages.gpa(USED)]
    }

    /// Notifies the device.
    pub fn kick_fd(&self) -> &EventFd {
        &self.kick
    }

    /// Is notified by the device.
    pub fn call_fd(&self) -> &EventFd {
        &self.call
    }

    /// Offers a chain made of `parts`: guest-physical address, length, and whether the device
    /// writes. Returns the head by which [`pop`](Self::pop) names it; `None` if the queue is full.
    pub fn push(&mut self, parts: &[(u64, u32, bool)]) -> Option<u16> {
        if parts.is_empty() || parts.len() > self.free.len() {
            return None;
        }
        let indices = self.free.split_off(self.free.len() - parts.len());
        for (i, &(addr, len, write)) in parts.iter().enumerate() {
            let next = indices.get(i + 1).copied();
            let flags =
                if write { DESC_WRITE } else { 0 } | if next.is_some() { DESC_NEXT } else { 0 };
            self.set_desc(indices[i], Desc { addr, len, flags, next: next.unwrap_or(0) });
        }
        let head = indices[0];
        self.chains[usize::from(head)] = indices;
        self.offer(head);
        Some(head)
    }

    /// Writes a descriptor, whatever it says.
    pub fn set_desc(&self, index: u16, desc: Desc) {
        let at = u64::from(index) * 16;
        self.pages.store64(at, desc.addr);
        let rest = u64::from(desc.len) | u64::from(desc.flags) << 32 | u64::from(desc.next) << 48;
        self.pages.store64(at + 8, rest);
    }

    /// Puts `head` into the available ring, whatever it is, and publishes it.
    pub fn offer(&mut self, head: u16) {
        let slot = AVAIL + 4 + 2 * u64::from(self.avail % QUEUE_SIZE);
        self.pages.store16(slot, head);
        self.set_avail(self.avail.wrapping_add(1));
    }

    /// Publishes `index` as the number of chains offered so far, whatever it is.
    pub fn set_avail(&mut self, index: u16) {
        self.avail = index;
        // The store releases descriptors and ring entry; pairs with the device's acquire.
        self.pages.store16(AVAIL + 2, index);
    }

    /// The number of chains offered so far.
    pub fn avail(&self) -> u16 {
        self.avail
    }

    /// Notifies the device of what was offered.
    pub fn notify(&self) {
        // A full counter means that a notification is pending anyway.
        let _ = self.kick.write(1);
    }

    /// The next used chain: its head, and how many bytes the device says that it wrote.
    ///
    /// # Panics
    ///
    /// If the device names a chain that was not offered.
    pub fn pop(&mut self) -> Option<(u16, u32)> {
        // The load acquires the used entry and what the device wrote; pairs with its release.
        if self.pages.load16(USED + 2) == self.used {
            return None;
        }
        let slot = USED + 4 + 8 * u64::from(self.used % QUEUE_SIZE);
        let head = self.pages.load32(slot);
        let len = self.pages.load32(slot + 4);
        self.used = self.used.wrapping_add(1);
        assert!(head < u32::from(QUEUE_SIZE), "the device used head {head}");
        let indices = std::mem::take(&mut self.chains[head as usize]);
        self.free.extend(indices);
        Some((head as u16, len))
    }
}
