// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that goes direct by a device of the host which takes no time: what is left is what the daemon does.

use super::{Guest, Qp, sge};
use rustix::event::{EventfdFlags, eventfd};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use vm_memory::{FileOffset, GuestAddress, GuestMemoryMmap};
use vnic::device::{Device, DeviceConfig};
use vnic::engine::worker::Worker;
use vnic::fabric::direct::DirectConfig;
use vnic::fabric::direct::nic::{
    Done, Nic, NicLimits, NicMr, NicPd, NicQp, NotPosted, Range, Work as HostWork,
};
use vnic::fabric::direct::seat::Seat;
use vnic::object::gid::Gid;
use vnic::port::PortConfig;
use vnic_abi::config::Features;
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::{AccessFlags, QpAttr, QpAttrMask, QpState};
use vnic_abi::wqe::Opcode;
use vnic_iommu::memory::GuestRam;

/// Completions that a poll takes at most, as of a device by libibverbs.
const SOME: usize = 16;

/// Source of queue pairs' numbers and regions' keys. Relaxed throughout: only uniqueness matters.
static NEXT: AtomicU32 = AtomicU32::new(0x100);

fn next() -> u32 {
    // Relaxed: see `NEXT`.
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// The device: whatever is posted is done at the next look, and moves nothing.
#[derive(Debug)]
struct AtOnce(OwnedFd);

impl Nic for AtOnce {
    fn name(&self) -> &str {
        "at-once"
    }

    fn limits(&self) -> NicLimits {
        NicLimits { max_sge: 16, max_depth: 1024, max_rd_atomic: 16, max_inline: 64, mtu: 5 }
    }

    fn source(&self, _: &Gid) -> Option<u8> {
        Some(0)
    }

    fn add_address(&self, _: &Gid) -> io::Result<()> {
        Ok(())
    }

    fn remove_address(&self, _: &Gid) {}

    fn pd(&self) -> io::Result<Arc<dyn NicPd>> {
        Ok(Arc::new(Domain))
    }

    fn event(&self, _: usize) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    fn take_events(&self, _: usize, _: &mut dyn FnMut(u32)) {}

    fn pins(&self) -> Option<&str> {
        Some("it is not one")
    }

    fn is_lost(&self) -> bool {
        false
    }
}

#[derive(Debug)]
struct Domain;

impl NicPd for Domain {
    fn register(
        &self,
        _: *mut u8,
        _: u64,
        _: u64,
        _: AccessFlags,
        _: bool,
    ) -> io::Result<Box<dyn NicMr>> {
        Ok(Box::new(Region(next())))
    }

    fn qp(&self, _: usize, sends: u32, _: u32) -> io::Result<Arc<dyn NicQp>> {
        let posted = Mutex::new(VecDeque::with_capacity(sends as usize));
        Ok(Arc::new(Queue { number: next(), posted }))
    }
}

#[derive(Debug)]
struct Region(u32);

impl NicMr for Region {
    fn lkey(&self) -> u32 {
        self.0
    }

    fn rkey(&self) -> u32 {
        self.0
    }
}

#[derive(Debug)]
struct Queue {
    number: u32,
    posted: Mutex<VecDeque<u64>>,
}

impl NicQp for Queue {
    fn number(&self) -> u32 {
        self.number
    }

    fn modify(&self, _: QpState, _: QpAttrMask, _: &QpAttr, _: u8) -> io::Result<()> {
        Ok(())
    }

    fn send(&self, work: &HostWork<'_>) -> Result<(), NotPosted> {
        self.posted.lock().expect("no panic").push_back(work.id);
        Ok(())
    }

    fn receive(&self, _: u64, _: &[Range]) -> Result<(), NotPosted> {
        Ok(())
    }

    fn poll(&self, each: &mut dyn FnMut(Done)) -> io::Result<usize> {
        let mut posted = self.posted.lock().expect("no panic");
        let count = posted.len().min(SOME);
        for id in posted.drain(..count) {
            let (status, opcode) = (WcStatus::Success, WcOpcode::Send);
            each(Done { id, status, opcode, bytes: 0, imm: None });
        }
        Ok(count)
    }

    fn arm(&self) {}
}

/// What a [`Load`] does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// RDMA WRITEs of 8 bytes in the element, one at a time.
    Write,
    /// RDMA READs of 8 bytes, one at a time.
    Read,
    /// RDMA WRITEs of 64 bytes, 32 posted together.
    Batch,
}

impl Work {
    /// Every kind.
    pub const ALL: [Self; 3] = [Self::Write, Self::Read, Self::Batch];
}

/// Work of a guest that goes direct, on a device whose worker is stepped by hand.
pub struct Load {
    device: Arc<Device>,
    worker: Worker,
    work: Work,
    guest: Guest,
    qps: Vec<Qp>,
    /// Others that only wait for messages.
    idle: Vec<Qp>,
    buffer: u64,
    next: usize,
}

/// Memory that a device of the host can have a view of.
fn ram(len: u64) -> GuestRam {
    let file = rustix::fs::memfd_create("guest", rustix::fs::MemfdFlags::CLOEXEC).expect("memory");
    let file = File::from(file);
    file.set_len(len).expect("memory");
    let region = (GuestAddress(0), len as usize, Some(FileOffset::new(file, 0)));
    let memory = GuestMemoryMmap::from_ranges_with_files([region]).expect("memory");
    GuestRam::new(Arc::new(memory))
}

impl Load {
    /// `work` on `count` queue pairs in turn.
    pub fn new(work: Work, count: usize) -> Self {
        let device = Device::new(DeviceConfig { workers: 1, ..DeviceConfig::default() });
        let worker = Worker::new(device.clone(), 0);
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).expect("an event");
        let seat = Arc::new(Seat::new(Arc::new(AtOnce(event))));
        let direct = DirectConfig { seat, map: Arc::new([]), allowed: None };
        let config = PortConfig { direct: Some(direct), ..PortConfig::new("direct") };
        let features = Features::ATOMIC | Features::PIN;
        let mut guest = Guest::attach_as(&device, 1, config, ram(32 << 20), 12, features);
        let qps = (0..count).map(|_| guest.qp(64, 64)).collect::<Vec<_>>();
        // Nobody here has that address: it is a stranger's.
        qps.iter().for_each(|qp| qp.connect_to_number([99; 16], 7));
        let buffer = guest.buffer(4096);
        Self { device, worker, work, guest, qps, idle: Vec::new(), buffer, next: 0 }
    }

    /// Adds as many queue pairs that have receives posted, and get nothing.
    pub fn among(mut self, idle: usize) -> Self {
        for _ in 0..idle {
            let mut qp = self.guest.qp(64, 64);
            qp.connect_to_number([99; 16], 7);
            qp.receive(sge(self.buffer, 64, self.guest.key));
            qp.ring();
            self.idle.push(qp);
        }
        while self.worker.step(&self.device) {}
        self
    }

    /// Carries out `requests` of them, and checks that all complete. Of [`Work::Batch`], whole batches.
    ///
    /// # Panics
    ///
    /// If one does not complete, or not with success.
    pub fn run(&mut self, requests: u64) {
        let mut left = requests;
        while left > 0 {
            let each = if self.work == Work::Batch { 32 } else { 1 };
            self.next = (self.next + 1) % self.qps.len();
            let qp = &mut self.qps[self.next];
            let (here, key) = (self.buffer, self.guest.key);
            match self.work {
                Work::Write => qp.write_inline(&left.to_le_bytes(), here, 9),
                Work::Read => qp.request(Opcode::RdmaRead, sge(here, 8, key), here, 9),
                Work::Batch => {
                    for _ in 0..each {
                        qp.request(Opcode::RdmaWrite, sge(here, 64, key), here, 9);
                    }
                }
            }
            qp.sq.publish();
            qp.ring();
            while self.worker.step(&self.device) {}
            for _ in 0..each {
                assert!(qp.take(), "the request has completed");
            }
            left = left.saturating_sub(each);
        }
    }
}
