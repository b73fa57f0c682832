// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two guests in one process, without vhost-user: what benches and profiles of the engine drive.
//!
//! Memory, page tables, rings and keys are real. A guest's virtual address is its physical one and
//! [`BASE`], and everything is mapped, writable and dirty from the start.
#![allow(dead_code)] // reason: each program uses its part of it

pub mod direct;

use std::ptr::NonNull;
use std::sync::Arc;

use vnic::device::{Device, DeviceConfig};
use vnic::engine::worker::Worker;
use vnic::object::cq::CqParams;
use vnic::object::mr::{MrParams, Window};
use vnic::object::qp::QpParams;
use vnic::port::{Port, PortConfig, PortEvents};
use vnic_abi::ABI_VERSION;
use vnic_abi::config::Features;
use vnic_abi::cqe::{CQ_RING_OFFSET, CQE_SIZE};
use vnic_abi::ctrl::{
    AccessFlags, AddressVector, GidType, PagingMode as WireMode, QpAttr, QpAttrMask, QpState,
    QpType,
};
use vnic_abi::doorbell::QP_SQ_OFFSET;
use vnic_abi::event::{Event, PageRequest};
use vnic_abi::wqe::{Opcode, Sge, WqeFlags};
use vnic_iommu::addr::{Gpa, Gva, PAGE_SIZE};
use vnic_iommu::memory::GuestRam;
use vnic_iommu::testing::{PageTableBuilder, anonymous_ram};
use vnic_iommu::walk::PagingMode;
use vnic_iommu::walk::x86_64::{ACCESSED, DIRTY, USER, WRITABLE};
use vnic_verbs::{CompletionQueue, Doorbell, DoorbellIndex, RecvQueue, SendLimits, SendQueue};

/// Distance of a guest's virtual addresses from its physical ones.
pub const BASE: u64 = 0x7000_0000_0000;
/// RAM for page tables.
const TABLES: u64 = 4 << 20;
/// Rights to everything.
const ALL: AccessFlags = AccessFlags::LOCAL_WRITE
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC);

struct Nobody;

impl PortEvents for Nobody {
    fn event(&self, _: Event) {}
    fn page_request(&self, _: PageRequest) {}
}

/// A guest with one process that has opened the device, and one region over all of its memory.
pub struct Guest {
    port: Arc<Port>,
    ram: GuestRam,
    /// First frame that nobody has.
    free: u64,
    ctx: u32,
    pd: u32,
    doorbell: Gpa,
    gid: [u8; 16],
    /// Key of the region.
    pub key: u32,
}

/// A queue pair with a completion queue of its own, driven as the provider does.
pub struct Qp {
    port: Arc<Port>,
    gid: [u8; 16],
    qpn: u32,
    /// Send queue.
    pub sq: SendQueue,
    /// Receive queue.
    pub rq: RecvQueue,
    /// Both queues' completions.
    pub cq: CompletionQueue,
    bell: Doorbell<Box<dyn Fn() + Send + Sync>>,
    index: DoorbellIndex,
}

impl Guest {
    /// Attaches guest `number` with `ram` bytes, whose data pages are of `1 << page_shift` bytes.
    pub fn attach(device: &Arc<Device>, number: u8, ram: u64, page_shift: u32) -> Self {
        let config = PortConfig::new(&format!("guest{number}"));
        let ram = anonymous_ram(ram as usize);
        Self::attach_as(device, number, config, ram, page_shift, Features::ATOMIC)
    }

    /// The same on a port of this kind, with memory of its own, and a driver that takes these features.
    pub fn attach_as(
        device: &Arc<Device>,
        number: u8,
        config: PortConfig,
        ram: GuestRam,
        page_shift: u32,
        features: Features,
    ) -> Self {
        let len = ram.contiguous(Gpa(0)).expect("RAM").len() as u64;
        let port = device.attach(config, ram.clone(), Arc::new(Nobody)).expect("a port");
        let table = PageTableBuilder::new(&ram, PagingMode::Level4, Gpa(0x10_0000), Gpa(TABLES))
            .expect("room");
        let flags = USER | WRITABLE | ACCESSED | DIRTY;
        for gpa in (0..len).step_by(1 << page_shift) {
            table.map(Gva(BASE + gpa), Gpa(gpa), page_shift, flags).expect("room for tables");
        }
        let mut guest = Self {
            port,
            ram,
            free: TABLES,
            ctx: 0,
            pd: 0,
            doorbell: Gpa(0),
            gid: [number; 16],
            key: 0,
        };
        let [epochs, invalidations, doorbell] = [0; 3].map(|_| guest.pages(1));
        let port = &guest.port;
        port.init(ABI_VERSION, features, epochs).expect("INIT");
        port.gid_set(0, GidType::RoceV2, guest.gid).expect("GID_SET");
        let pasid =
            port.pasid_bind(table.root(), WireMode::X86Level4, invalidations).expect("bound");
        guest.ctx = port.ctx_create(pasid, doorbell).expect("CTX_CREATE");
        guest.pd = port.pd_create(guest.ctx).expect("PD_CREATE");
        guest.doorbell = doorbell;
        let window = Window { start: BASE, length: len, iova: BASE };
        let params = MrParams { pd: guest.pd, access: ALL, window };
        guest.key = port.mr_create(params).expect("MR_CREATE").lkey;
        guest
    }

    /// Pages that follow each other.
    pub fn pages(&mut self, count: u64) -> Gpa {
        let first = self.free;
        self.free += count * PAGE_SIZE;
        assert!(self.ram.contains(Gpa(first), (count * PAGE_SIZE) as usize), "the guest is full");
        Gpa(first)
    }

    /// Virtual address of `len` bytes that nobody else has.
    pub fn buffer(&mut self, len: u64) -> u64 {
        BASE + self.pages(len.div_ceil(PAGE_SIZE)).0
    }

    /// Where this process sees the guest's virtual address.
    pub fn host(&self, va: u64) -> NonNull<u8> {
        self.ram.contiguous(Gpa(va - BASE)).expect("in RAM").as_non_null()
    }

    fn list(&self, first: Gpa, len: u64) -> Vec<Gpa> {
        (0..len.div_ceil(PAGE_SIZE)).map(|n| Gpa(first.0 + n * PAGE_SIZE)).collect()
    }

    fn at(&self, gpa: Gpa) -> NonNull<u8> {
        self.ram.contiguous(gpa).expect("in RAM").as_non_null()
    }

    /// A queue pair with rings of `depth` elements of `stride` bytes.
    pub fn qp(&mut self, depth: u32, stride: u32) -> Qp {
        let cq_len = u64::from(CQ_RING_OFFSET + 2 * depth * CQE_SIZE);
        let cq_at = self.pages(cq_len.div_ceil(PAGE_SIZE));
        let pages = self.list(cq_at, cq_len);
        let cq = CqParams { ctx: self.ctx, depth: 2 * depth, cookie: 0, pages };
        let cq = self.port.cq_create(cq).expect("CQ_CREATE");
        let ring = u64::from(depth * stride).next_multiple_of(PAGE_SIZE);
        let qp_len = u64::from(QP_SQ_OFFSET) + 2 * ring;
        let qp_at = self.pages(qp_len / PAGE_SIZE);
        let rq_offset = u64::from(QP_SQ_OFFSET) + ring;
        let params = QpParams {
            pd: self.pd,
            send_cq: cq,
            recv_cq: cq,
            qp_type: QpType::Rc,
            sq_sig_all: false,
            sq_depth: depth,
            sq_stride: stride,
            rq_depth: depth,
            rq_stride: stride,
            cookie: 0,
            pages: self.list(qp_at, rq_offset + u64::from(depth * stride)),
        };
        let made = self.port.qp_create(params).expect("QP_CREATE");
        let at = |offset: u64| self.at(Gpa(qp_at.0 + offset));
        let limits = SendLimits { max_sge: 2, max_inline: stride - 32 };
        let kicked = self.port.clone();
        let kick: Box<dyn Fn() + Send + Sync> = Box::new(move || kicked.kick());
        #[allow(unsafe_code)] // reason: the data path works on memory that the caller mapped
        // SAFETY: zeroed pages of this guest's RAM, which the port keeps mapped, laid out as asked.
        let (sq, rq, cq, bell) = unsafe {
            (
                SendQueue::new(at(QP_SQ_OFFSET.into()), depth, stride, limits),
                RecvQueue::new(at(0), at(rq_offset), depth, stride, 2),
                CompletionQueue::new(self.at(cq_at), 2 * depth),
                Doorbell::new(self.at(self.doorbell), kick),
            )
        };
        Qp {
            port: self.port.clone(),
            gid: self.gid,
            qpn: made.qpn,
            sq: sq.expect("a layout that the device took"),
            rq: rq.expect("a layout that the device took"),
            cq: cq.expect("a layout that the device took"),
            bell,
            index: DoorbellIndex::new(made.doorbell_index).expect("in the page"),
        }
    }
}

impl Qp {
    /// Rings the doorbell.
    #[inline]
    pub fn ring(&self) {
        self.bell.ring(self.index);
    }

    /// Stages an RDMA WRITE of `bytes` in the element itself.
    #[inline]
    pub fn write_inline(&mut self, bytes: &[u8], remote: u64, key: u32) {
        let mut wqe = self.sq.begin(Opcode::RdmaWrite, WqeFlags::SIGNALED, 1).expect("room");
        wqe.remote(remote, key);
        wqe.inline(bytes).expect("it fits");
        wqe.stage();
    }

    /// Stages a request with one gather entry.
    #[inline]
    pub fn request(&mut self, opcode: Opcode, sge: Sge, remote: u64, key: u32) {
        let mut wqe = self.sq.begin(opcode, WqeFlags::SIGNALED, 1).expect("room");
        wqe.remote(remote, key);
        wqe.operands(1, 0);
        wqe.sge(sge.addr.get(), sge.length.get(), sge.lkey.get()).expect("room");
        wqe.stage();
    }

    /// Stages a SEND of `bytes` in the element itself.
    #[inline]
    pub fn send_inline(&mut self, bytes: &[u8]) {
        let mut wqe = self.sq.begin(Opcode::Send, WqeFlags::SIGNALED, 1).expect("room");
        wqe.inline(bytes).expect("it fits");
        wqe.stage();
    }

    /// Posts a receive element; rings only if the device wants it.
    #[inline]
    pub fn receive(&mut self, sge: Sge) {
        self.rq.post(1, [sge]).expect("room");
        if self.rq.wants_doorbell() {
            self.ring();
        }
    }

    /// Takes a completion, which must be a success, and publishes that.
    #[inline]
    pub fn take(&mut self) -> bool {
        let Some(done) = self.cq.take() else { return false };
        assert_eq!(done.status, vnic_abi::cqe::WcStatus::Success, "{done:?}");
        if done.is_recv() {
            self.rq.advance(done.wqe_count);
        } else {
            self.sq.advance(done.wqe_count);
        }
        self.cq.publish();
        true
    }

    fn modify(&self, mask: QpAttrMask, attr: &QpAttr) {
        self.port.qp_modify(self.qpn, mask, attr).expect("QP_MODIFY");
    }

    fn connect_to(&self, peer: &Self) {
        self.connect_to_number(peer.gid, peer.qpn);
    }

    fn connect_to_number(&self, gid: [u8; 16], qpn: u32) {
        type M = QpAttrMask;
        self.modify(
            M::STATE | M::PKEY_INDEX | M::PORT | M::ACCESS_FLAGS,
            &QpAttr {
                state: QpState::Init.0,
                port: 1,
                access: ALL.bits().into(),
                ..QpAttr::default()
            },
        );
        let av = AddressVector { dgid: gid, hop_limit: 64, ..AddressVector::default() };
        self.modify(
            M::STATE
                | M::AV
                | M::PATH_MTU
                | M::DEST_QPN
                | M::RQ_PSN
                | M::MAX_DEST_RD_ATOMIC
                | M::MIN_RNR_TIMER,
            &QpAttr {
                state: QpState::Rtr.0,
                path_mtu: 5,
                dest_qpn: qpn.into(),
                max_dest_rd_atomic: 1,
                min_rnr_timer: 1,
                av,
                ..QpAttr::default()
            },
        );
        self.modify(
            M::STATE | M::TIMEOUT | M::RETRY_CNT | M::RNR_RETRY | M::SQ_PSN | M::MAX_QP_RD_ATOMIC,
            &QpAttr {
                state: QpState::Rts.0,
                timeout: 14,
                retry_cnt: 7,
                rnr_retry: 7,
                max_rd_atomic: 1,
                ..QpAttr::default()
            },
        );
    }
}

/// What a [`Load`] does again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// RDMA WRITEs of 8 bytes in the element, one at a time.
    Write,
    /// SENDs of 8 bytes in the element, one at a time.
    Send,
    /// RDMA READs of 8 bytes, one at a time.
    Read,
    /// FETCH ADDs, one at a time.
    FetchAdd,
    /// RDMA WRITEs of 64 bytes, 32 posted together.
    Batch,
    /// RDMA WRITEs of 64 KiB, one at a time.
    Bulk,
    /// RDMA WRITEs of 1 MiB, one at a time.
    Long,
}

impl Work {
    /// Every kind.
    pub const ALL: [Self; 7] =
        [Self::Write, Self::Send, Self::Read, Self::FetchAdd, Self::Batch, Self::Bulk, Self::Long];
}

/// Bytes of a [`Work::Bulk`].
const BULK: u32 = 64 << 10;
/// Bytes of a [`Work::Long`].
const LONG: u32 = 1 << 20;

/// Work on a device whose worker is stepped by hand.
pub struct Load {
    device: Arc<Device>,
    worker: Worker,
    work: Work,
    a: Guest,
    b: Guest,
    qps: Vec<(Qp, Qp)>,
    buffers: (u64, u64),
    next: usize,
}

impl Load {
    /// `work` on `count` connected pairs in turn, between guests whose memory is in pages of 4 KiB.
    pub fn new(work: Work, count: usize) -> Self {
        let device = Device::new(DeviceConfig { workers: 1, ..DeviceConfig::default() });
        let worker = Worker::new(device.clone(), 0);
        let [mut a, mut b] = [1, 2].map(|number| Guest::attach(&device, number, 32 << 20, 12));
        let qps: Vec<_> = (0..count).map(|_| (a.qp(64, 64), b.qp(64, 64))).collect();
        qps.iter().for_each(|(a, b)| connect(a, b));
        let buffers = (a.buffer(LONG.into()), b.buffer(LONG.into()));
        Self { device, worker, work, a, b, qps, buffers, next: 0 }
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
            let (qa, qb) = &mut self.qps[self.next];
            let (here, there) = self.buffers;
            let (key, rkey) = (self.a.key, self.b.key);
            let eight = left.to_le_bytes();
            match self.work {
                Work::Write => qa.write_inline(&eight, there, rkey),
                Work::Send => {
                    qb.receive(sge(there, 8, rkey));
                    qa.send_inline(&eight);
                }
                Work::Read => qa.request(Opcode::RdmaRead, sge(here, 8, key), there, rkey),
                Work::FetchAdd => {
                    qa.request(Opcode::AtomicFetchAdd, sge(here, 8, key), there, rkey)
                }
                Work::Batch => {
                    for _ in 0..each {
                        qa.request(Opcode::RdmaWrite, sge(here, 64, key), there, rkey);
                    }
                }
                Work::Bulk => qa.request(Opcode::RdmaWrite, sge(here, BULK, key), there, rkey),
                Work::Long => qa.request(Opcode::RdmaWrite, sge(here, LONG, key), there, rkey),
            }
            qa.sq.publish();
            qa.ring();
            while self.worker.step(&self.device) {}
            for _ in 0..each {
                assert!(qa.take(), "the request has completed");
            }
            if self.work == Work::Send {
                assert!(qb.take(), "the message has arrived");
            }
            left = left.saturating_sub(each);
        }
    }
}

/// Connects two queue pairs.
pub fn connect(a: &Qp, b: &Qp) {
    a.connect_to(b);
    b.connect_to(a);
}

/// A gather or scatter entry.
pub fn sge(addr: u64, length: u32, key: u32) -> Sge {
    Sge { addr: addr.into(), length: length.into(), lkey: key.into() }
}
