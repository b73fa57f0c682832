// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One of the two: a guest, its daemon, and what it has to see happen.

use super::super::guest::{BASE, DEPTH, Guest};
use crate::device::{Device, DeviceConfig};
use crate::engine::worker::Worker;
use crate::wire::frame::Frame;
use crate::wire::lane::testing::{Far, MemoryLane};
use crate::wire::link::Link;
use std::collections::VecDeque;
use std::sync::Arc;
use vnic_abi::wqe::{Opcode, RecvWqe, Sge};
use zerocopy::IntoBytes;

/// Bytes that a message may have, with what may be before it.
pub(super) const SLOT: u64 = 16 << 10;
/// Most of what is before it.
pub(super) const BEFORE: u64 = 64;
/// Messages of each kind that have places of their own.
pub(super) const SLOTS: u32 = 8;
/// What is sent and read: nobody changes it.
pub(super) const SOURCE: u64 = BASE;
pub(super) const SOURCE_LEN: u64 = 8 * SLOT;
pub(super) const WRITTEN: u64 = SOURCE + SOURCE_LEN;
pub(super) const RECEIVED: u64 = WRITTEN + SLOTS as u64 * SLOT;
pub(super) const READ: u64 = RECEIVED + SLOTS as u64 * SLOT;
/// What atomics of the peer count.
pub(super) const COUNTER: u64 = READ + SLOTS as u64 * SLOT;
pub(super) const LAST_PAGE: u64 = 128;
const _: () = assert!(COUNTER == BASE + LAST_PAGE * 4096);

/// A request that was posted.
#[derive(Debug, Clone, Copy)]
pub(super) struct Posted {
    pub(super) opcode: Opcode,
    /// Its number.
    pub(super) number: u32,
    /// Place of its bytes in the source of whoever has them.
    pub(super) from: u64,
    /// Offset in the slot that they go to.
    pub(super) before: u64,
    pub(super) len: u64,
    pub(super) signaled: bool,
}

impl Posted {
    pub(super) fn slot(&self, area: u64) -> u64 {
        area + u64::from(self.number % SLOTS) * SLOT + self.before
    }
}

/// What a receiver has to find.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) from: u64,
    pub(super) len: u64,
    /// The bytes are in its receive element's slot, not where a WRITE put them.
    pub(super) in_slot: bool,
    pub(super) imm: Option<[u8; 4]>,
}

pub(super) struct End {
    pub(super) guest: Guest,
    pub(super) worker: Worker,
    pub(super) link: Arc<Link>,
    pub(super) far: Far,
    /// Frames that have left, and not arrived.
    pub(super) away: VecDeque<Vec<u8>>,
    pub(super) number: u32,
    pub(super) sending: VecDeque<Posted>,
    pub(super) receives: u32,
    pub(super) receiving: VecDeque<u32>,
    pub(super) expected: VecDeque<Expected>,
    /// Atomics that this end has had done.
    pub(super) counted: u64,
}

pub(super) fn gid(end: usize) -> [u8; 16] {
    [end as u8 + 7; 16]
}

/// Byte of the source of `end`.
pub(super) fn source(end: usize, at: u64) -> u8 {
    // 251 is prime, so that pages and slots differ, and no byte is zero.
    ((at + at / 251 + end as u64 * 89) % 250 + 1) as u8
}

impl End {
    pub(super) fn new(index: usize) -> Self {
        let device = Device::new(DeviceConfig { workers: 1, ..DeviceConfig::default() });
        let guest = Guest::boot(&device, gid(index));
        let bytes = (0..SOURCE_LEN).map(|at| source(index, at)).collect::<Vec<_>>();
        guest.write(SOURCE, &bytes);
        let worker = Worker::new(device, 0);
        let (link, far) = (Link::new("nobody", None), MemoryLane::new(0).1);
        Self {
            guest,
            worker,
            link,
            far,
            away: VecDeque::new(),
            number: 0,
            sending: VecDeque::new(),
            receives: 0,
            receiving: VecDeque::new(),
            expected: VecDeque::new(),
            counted: 0,
        }
    }

    pub(super) fn device(&self) -> Arc<Device> {
        self.guest.session.device.clone()
    }

    pub(super) fn step(&mut self) {
        let device = self.device();
        self.worker.step(&device);
        for frame in self.far.take() {
            assert!(Frame::parse(&frame).is_ok(), "a daemon says what means nothing");
            self.away.push_back(frame);
        }
        assert!(self.link.why().is_none(), "{:?}", self.link.why());
    }

    pub(super) fn post_receive(&mut self) {
        if self.receiving.len() as u32 >= DEPTH {
            return;
        }
        let slot = self.receives % SLOTS;
        let addr = RECEIVED + u64::from(slot) * SLOT;
        let head = RecvWqe { num_sge: 1, wr_id: u64::from(slot).into(), ..RecvWqe::default() };
        self.guest.post_receive(&[head.as_bytes(), self.sge(addr, SLOT).as_bytes()].concat());
        self.receiving.push_back(slot);
        self.receives += 1;
    }

    pub(super) fn sge(&self, addr: u64, len: u64) -> Sge {
        Sge { addr: addr.into(), length: (len as u32).into(), lkey: self.guest.key.into() }
    }
}
