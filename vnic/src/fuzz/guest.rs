// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest in miniature, stepped by hand: memory whose pages come, go and move, one connected queue pair and its
//! completions.

use crate::device::Device;
use crate::object::mr::{MrParams, Window};
use crate::object::qp::Qp;
use crate::port::PortEvents;
use crate::session::Session;
use crate::session::testing::{EPOCHS, INVALIDATION, qp, session_in};
use parking_lot::Mutex;
use std::sync::Arc;
use vnic_abi::config::Features;
use vnic_abi::cqe::{CQ_CONSUMER_OFFSET, CQ_RING_OFFSET, CQE_SIZE, Cqe, CqeFlags};
use vnic_abi::ctrl::{AccessFlags, AddressVector, GidType, QpAttr, QpAttrMask as M, QpState};
use vnic_abi::event::{Event, PageRequest, PageResponseCode};
use vnic_abi::wqe::WqeFlags;
use vnic_iommu::addr::{Gpa, Gva, PAGE_SHIFT, PAGE_SIZE};
use vnic_iommu::memory::GuestRam;
use vnic_iommu::quiesce::{GuestPage, Invalidator};
use vnic_iommu::testing::{PageTableBuilder, anonymous_ram};
use vnic_iommu::walk::PagingMode;
use vnic_iommu::walk::x86_64::{USER, WRITABLE};
use zerocopy::FromBytes;

/// Where the process's memory begins.
pub const BASE: u64 = 0x10_0000;
/// Pages of it.
pub const PAGES: u64 = 129;
/// Frames that no page is in.
const SPARE: u64 = 8;

const RAM: u64 = 2 << 20;
const TABLES: Gpa = Gpa(0x4_0000);
const FRAMES: u64 = 0x10_0000;

/// Elements of either ring of the queue pair, and bytes of each.
pub const DEPTH: u32 = 4;
const STRIDE: u64 = 64;
const CQ_DEPTH: u32 = 16;
const CQ: u64 = 0x1_0000;
const SENDS: u64 = 0x1_3000;
const RECEIVES: u64 = 0x1_4000;

/// What the device says.
#[derive(Default)]
struct Told {
    requests: Mutex<Vec<PageRequest>>,
    events: Mutex<Vec<Event>>,
}

impl PortEvents for Told {
    fn event(&self, event: Event) {
        self.events.lock().push(event);
    }

    fn page_request(&self, request: PageRequest) {
        self.requests.lock().push(request);
    }
}

/// The guest.
pub struct Guest {
    pub session: Arc<Session>,
    pub qp: Arc<Qp>,
    /// Of all its memory, for itself and for peers.
    pub key: u32,
    told: Arc<Told>,
    ram: GuestRam,
    tables: PageTableBuilder,
    invalidator: Invalidator,
    frames: Vec<Gpa>,
    spare: Vec<Gpa>,
    pub sent: u32,
    pub received: u32,
    polled: u32,
}

impl Guest {
    /// Boots one on `device` that holds `gid`. No page is there yet.
    pub fn boot(device: &Arc<Device>, gid: [u8; 16]) -> Self {
        let ram = anonymous_ram(RAM as usize);
        let end = Gpa(FRAMES);
        let tables = PageTableBuilder::new(&ram, PagingMode::Level4, TABLES, end).unwrap();
        let told = Arc::new(Told::default());
        let up = told.clone();
        let (session, pd) =
            session_in(device.clone(), Features::ATOMIC, up, ram.clone(), tables.root());
        let page = |at| GuestPage::new(&ram, at).unwrap();
        let invalidator = Invalidator::new(page(INVALIDATION), page(EPOCHS));
        session.gid_set(0, GidType::RoceV2, gid).unwrap();
        let window = Window { start: BASE, length: PAGES * PAGE_SIZE, iova: BASE };
        let key = session.mr_create(MrParams { pd, access: access(), window }).unwrap().rkey;
        let qp = qp(&session, pd);
        let mut frames =
            (0..PAGES + SPARE).map(|n| Gpa(FRAMES + n * PAGE_SIZE)).collect::<Vec<_>>();
        let spare = frames.split_off(PAGES as usize);
        let (sent, received, polled) = (0, 0, 0);
        Self {
            session,
            qp,
            key,
            told,
            ram,
            tables,
            invalidator,
            frames,
            spare,
            sent,
            received,
            polled,
        }
    }

    /// Connects its queue pair to another. Whoever finds no receive element here is told to wait as `rnr_timer` says.
    pub fn connect(&self, gid: [u8; 16], qpn: u32, rnr_timer: u8) {
        let remote = access().difference(AccessFlags::LOCAL_WRITE);
        let attr = QpAttr {
            port: 1,
            path_mtu: 5,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 7,
            min_rnr_timer: rnr_timer,
            max_rd_atomic: 4,
            max_dest_rd_atomic: 4,
            access: remote.bits().into(),
            dest_qpn: qpn.into(),
            av: AddressVector { dgid: gid, ..AddressVector::default() },
            ..QpAttr::default()
        };
        let init = M::PKEY_INDEX | M::PORT | M::ACCESS_FLAGS;
        let path = M::AV | M::PATH_MTU | M::DEST_QPN | M::RQ_PSN;
        let rtr = path | M::MAX_DEST_RD_ATOMIC | M::MIN_RNR_TIMER;
        let retries = M::TIMEOUT | M::RETRY_CNT | M::RNR_RETRY;
        let rts = M::SQ_PSN | retries | M::MAX_QP_RD_ATOMIC;
        for (state, mask) in [(QpState::Init, init), (QpState::Rtr, rtr), (QpState::Rts, rts)] {
            let attr = QpAttr { state: state.0, ..attr };
            self.session.qp_modify(self.qp.qpn, mask | M::STATE, &attr).unwrap();
        }
    }

    /// Events since the last time.
    pub fn events(&self) -> Vec<Event> {
        std::mem::take(&mut *self.told.events.lock())
    }

    fn kick(&self) {
        self.session.device.handle(self.qp.worker).push(self.qp.clone());
    }

    fn post(&self, ring: u64, posted: u32, element: &[u8]) {
        let at = ring + u64::from(posted % DEPTH) * STRIDE;
        let mut bytes = [0; STRIDE as usize];
        bytes[..element.len()].copy_from_slice(element);
        bytes[1] &= !WqeFlags::PHASE.bits();
        if posted & DEPTH == 0 {
            bytes[1] |= WqeFlags::PHASE.bits();
        }
        let (first, rest) = bytes.split_first_chunk().unwrap();
        self.ram.write(Gpa(at + 8), rest).unwrap();
        self.ram.write_u64(Gpa(at), u64::from_le_bytes(*first)).unwrap();
        self.kick();
    }

    /// Posts a send element, whatever it says.
    pub fn post_send(&mut self, element: &[u8]) {
        self.post(SENDS, self.sent, element);
        self.sent = self.sent.wrapping_add(1);
    }

    /// Posts a receive element.
    pub fn post_receive(&mut self, element: &[u8]) {
        self.post(RECEIVES, self.received, element);
        self.received = self.received.wrapping_add(1);
    }

    /// The next completion.
    pub fn poll(&mut self) -> Option<Cqe> {
        let at = CQ + u64::from(CQ_RING_OFFSET) + u64::from(self.polled % CQ_DEPTH * CQE_SIZE);
        let mut bytes = [0; CQE_SIZE as usize];
        self.ram.read(Gpa(at), &mut bytes).unwrap();
        let cqe = Cqe::read_from_bytes(&bytes).unwrap();
        let phase = CqeFlags::from_bits_retain(cqe.flags).contains(CqeFlags::PHASE);
        if phase != (self.polled & CQ_DEPTH == 0) {
            return None;
        }
        self.polled = self.polled.wrapping_add(1);
        let consumer = Gpa(CQ + u64::from(CQ_CONSUMER_OFFSET));
        self.ram.write(consumer, &self.polled.to_le_bytes()).unwrap();
        Some(cqe)
    }

    fn pieces(&self, addr: u64, len: usize) -> impl Iterator<Item = (Gpa, std::ops::Range<usize>)> {
        let mut done = 0;
        std::iter::from_fn(move || {
            let at = addr - BASE + done as u64;
            let here = (PAGE_SIZE - at % PAGE_SIZE).min((len - done) as u64) as usize;
            let range = done..done + here;
            done += here;
            (here != 0)
                .then(|| (Gpa(self.frames[(at / PAGE_SIZE) as usize].0 + at % PAGE_SIZE), range))
        })
    }

    /// What the process has there, whether the page is there for the device or not.
    pub fn read(&self, addr: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        for (at, range) in self.pieces(addr, len) {
            self.ram.read(at, &mut bytes[range]).unwrap();
        }
        bytes
    }

    /// The process writes.
    pub fn write(&self, addr: u64, bytes: &[u8]) {
        for (at, range) in self.pieces(addr, bytes.len()) {
            self.ram.write(at, &bytes[range]).unwrap();
        }
    }

    fn provide(&self, page: u64) {
        let va = Gva(BASE + page * PAGE_SIZE);
        self.tables.map(va, self.frames[page as usize], PAGE_SHIFT, USER | WRITABLE).unwrap();
    }

    /// Takes a page away, as when it is swapped out.
    pub fn take_away(&self, page: u64) {
        let va = Gva(BASE + page * PAGE_SIZE);
        if self.tables.unmap(va).is_ok() {
            self.invalidator.invalidate(va.0, va.0 + PAGE_SIZE, || false).expect("nobody runs");
        }
    }

    /// Moves a page to another frame; what is in the old one means nothing from now on.
    pub fn migrate(&mut self, page: u64) {
        self.take_away(page);
        let old = self.frames[page as usize];
        let mut bytes = [0; PAGE_SIZE as usize];
        self.ram.read(old, &mut bytes).unwrap();
        let new = self.spare.remove(0);
        self.ram.write(new, &bytes).unwrap();
        self.ram.write(old, &[0xee; PAGE_SIZE as usize]).unwrap();
        self.frames[page as usize] = new;
        self.spare.push(old);
        self.provide(page);
    }

    /// Answers the oldest page request. `false` if there is none.
    pub fn serve(&self) -> bool {
        let request = {
            let mut requests = self.told.requests.lock();
            if requests.is_empty() {
                return false;
            }
            requests.remove(0)
        };
        let first = request.start.get().saturating_sub(BASE) / PAGE_SIZE;
        let count = request.length.get() / PAGE_SIZE;
        let inside = request.start.get() >= BASE && first < PAGES;
        let code = if inside {
            (first..PAGES.min(first + count)).for_each(|page| self.provide(page));
            PageResponseCode::Success
        } else {
            PageResponseCode::Invalid
        };
        // One whose queue pair has ended meanwhile is answered in vain.
        let _ = self.session.page_response(request.id.get(), code);
        true
    }
}

impl Guest {
    /// The driver goes. Step the worker once more: what it is told by this would hold the device.
    pub fn end(&self) {
        // Nobody steps the worker meanwhile: it is as good as asleep, and need not be waited for.
        self.session.device.grace().sleep(self.qp.worker);
        self.session.end();
    }

    /// Answers all page requests.
    pub fn serve_all(&self) {
        while self.serve() {}
    }
}

fn access() -> AccessFlags {
    AccessFlags::LOCAL_WRITE
        | AccessFlags::REMOTE_WRITE
        | AccessFlags::REMOTE_READ
        | AccessFlags::REMOTE_ATOMIC
}
