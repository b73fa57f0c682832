// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A session: everything between a driver's `INIT` and its `SHUTDOWN`, reset or disappearance.

use crate::device::Device;
use crate::fabric::direct::Direct;
use crate::object::cq::Cq;
use crate::object::ctx::Ctx;
use crate::object::gid::Gid;
use crate::object::mr::{KeyTable, Mr};
use crate::object::pd::Pd;
use crate::object::qp::Qp;
use crate::object::space::Space;
use crate::object::table::Table;
use crate::port::{Limits, PortConfig, PortEvents};
use crate::ring::memory::PageBudget;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::config::Features;
use vnic_abi::ctrl::Counters;
use vnic_iommu::fault::PageRequestTable;
use vnic_iommu::live::LiveRam;
use vnic_iommu::quiesce::GuestPage;

/// Source of [`Session::uid`]. Relaxed throughout: only uniqueness matters.
static NEXT_UID: AtomicU64 = AtomicU64::new(1);

/// What one worker has done for a session, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Done {
    send_requests: AtomicU64,
    bytes: AtomicU64,
}

/// What the workers have done for a session.
#[derive(Debug)]
pub struct Work(Box<[Done]>);

impl Work {
    fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Done::default()).collect())
    }

    /// Adds what one step of `worker` did. Called by that worker alone.
    #[inline]
    pub fn add(&self, worker: usize, send_requests: u64, bytes: u64) {
        let Some(done) = self.0.get(worker) else { return };
        // Relaxed: statistics. Nobody else writes, so that no exchange is needed.
        for (sum, more) in [(&done.send_requests, send_requests), (&done.bytes, bytes)] {
            sum.store(sum.load(Ordering::Relaxed).wrapping_add(more), Ordering::Relaxed);
        }
    }

    /// Requests and bytes so far.
    fn sum(&self) -> (u64, u64) {
        // Relaxed: statistics.
        let of = |done: &Done| {
            (done.send_requests.load(Ordering::Relaxed), done.bytes.load(Ordering::Relaxed))
        };
        self.0
            .iter()
            .map(of)
            .fold((0, 0), |sum, one| (sum.0.wrapping_add(one.0), sum.1.wrapping_add(one.1)))
    }
}

/// Everything that one driver holds.
pub struct Session {
    /// Number that is never used again.
    pub uid: u64,
    /// The whole NIC.
    pub device: Arc<Device>,
    /// Way to the guest.
    pub up: Arc<dyn PortEvents>,
    /// Ports reach only ports of the same network.
    pub network: Arc<str>,
    /// What the driver may have.
    pub limits: Limits,
    /// Optional parts that the driver accepted.
    pub features: Features,
    /// Guest memory, which may change while the session lives.
    pub ram: LiveRam,
    /// Where workers announce their bursts.
    pub epoch_page: GuestPage,
    /// Bound address spaces by PASID.
    pub spaces: Mutex<Table<Space>>,
    /// Contexts.
    pub ctxs: Mutex<Table<Ctx>>,
    /// Protection domains.
    pub pds: Mutex<Table<Pd>>,
    /// Memory regions by handle.
    pub mrs: Mutex<Table<Mr>>,
    /// Memory regions by key.
    pub keys: KeyTable,
    /// Completion queues.
    pub cqs: Mutex<Table<Cq>>,
    /// Queue pairs by number.
    pub qps: Mutex<HashMap<u32, Arc<Qp>>>,
    /// GID table.
    pub gids: Mutex<Vec<Option<Gid>>>,
    /// Pages that its rings may still have.
    pub ring_pages: Arc<PageBudget>,
    /// Page requests that the guest has not answered, and wishes for more.
    pub page_requests: Mutex<PageRequestTable>,
    /// Waits for this guest's pages that were given up.
    pub late_pages: AtomicU64,
    /// Statistics.
    pub work: Work,
    /// The device of the host that its queue pairs go direct by, if they do.
    pub direct: Option<Direct>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("uid", &self.uid).finish_non_exhaustive()
    }
}

impl Session {
    /// An empty session.
    pub fn new(
        device: Arc<Device>,
        up: Arc<dyn PortEvents>,
        config: &PortConfig,
        features: Features,
        ram: LiveRam,
        epoch_page: GuestPage,
    ) -> Arc<Self> {
        let limits = config.limits;
        // Relaxed: see `NEXT_UID`.
        let uid = NEXT_UID.fetch_add(1, Ordering::Relaxed);
        device.session_began(uid);
        let workers = device.config().workers;
        let work = Work::new(workers);
        Arc::new_cyclic(|own| Self {
            direct: config.direct_for(features).and_then(|direct| {
                let pins = features.contains(Features::PIN);
                Direct::new(direct, own.clone(), epoch_page.clone(), workers, pins)
            }),
            uid,
            device,
            up,
            network: config.network.as_str().into(),
            limits,
            features,
            ram,
            epoch_page,
            spaces: Mutex::new(Table::new(limits.max_ctx)),
            ctxs: Mutex::new(Table::new(limits.max_ctx)),
            pds: Mutex::new(Table::new(limits.max_pd)),
            mrs: Mutex::new(Table::new(limits.max_mr)),
            keys: KeyTable::default(),
            cqs: Mutex::new(Table::new(limits.max_cq)),
            qps: Mutex::new(HashMap::new()),
            gids: Mutex::new(vec![None; limits.max_gid as usize]),
            ring_pages: PageBudget::new(limits.max_ring_pages),
            page_requests: Mutex::new(PageRequestTable::new(limits.page_requests())),
            late_pages: AtomicU64::new(0),
            work,
        })
    }

    /// By which peer daemons name the port of this session.
    pub fn port_number(&self) -> u32 {
        // Sessions are counted; the lower half is unique for as long as anybody remembers.
        self.uid as u32
    }

    /// Destroys everything. After the return no worker touches this guest's memory.
    pub fn end(&self) {
        self.release_gids();
        let ctxs: Vec<_> = self.ctxs.lock().iter().map(|ctx| ctx.handle).collect();
        for ctx in ctxs {
            // Only this call removes contexts now; a handle that is gone is no error.
            let _ = self.ctx_destroy(ctx);
        }
        let spaces: Vec<_> = self.spaces.lock().iter().map(|space| space.table.pasid()).collect();
        for pasid in spaces {
            let _ = self.pasid_unbind(pasid);
        }
        if let Some(direct) = &self.direct {
            direct.end();
        }
        self.device.session_ended(self.uid);
        self.device.grace().synchronize();
    }

    /// What the driver holds, and what was done for it.
    pub fn counters(&self) -> Counters {
        let (send_requests, bytes) = self.work.sum();
        let requests = self.page_requests.lock();
        Counters {
            pasids: self.spaces.lock().len().into(),
            contexts: self.ctxs.lock().len().into(),
            pds: self.pds.lock().len().into(),
            mrs: self.mrs.lock().len().into(),
            cqs: self.cqs.lock().len().into(),
            qps: (self.qps.lock().len() as u32).into(),
            page_requests_outstanding: (requests.len() as u32).into(),
            reserved: 0.into(),
            page_requests: requests.counters().sent.into(),
            send_requests: send_requests.into(),
            bytes: bytes.into(),
        }
    }
}

/// Help for unit tests of this crate.
#[cfg(any(test, fuzzing))]
pub mod testing {
    use super::*;
    use crate::device::DeviceConfig;
    use crate::object::cq::CqParams;
    use crate::object::qp::QpParams;
    use vnic_abi::event::{Event, PageRequest};
    use vnic_iommu::addr::Gpa;
    use vnic_iommu::memory::GuestRam;

    struct Nobody;

    impl PortEvents for Nobody {
        fn event(&self, _: Event) {}
        fn page_request(&self, _: PageRequest) {}
    }

    /// A megabyte of guest memory.
    pub fn ram() -> GuestRam {
        vnic_iommu::testing::anonymous_ram(1 << 20)
    }

    /// A session with one context and one protection domain, whose handle it returns.
    pub fn session() -> (Arc<Session>, u32) {
        session_with(Features::empty())
    }

    /// As [`session`], of a driver that accepted `features`.
    pub fn session_with(features: Features) -> (Arc<Session>, u32) {
        session_on(Device::new(DeviceConfig::default()), features)
    }

    /// Where the epochs of [`session_in`] are.
    pub const EPOCHS: Gpa = Gpa(0);
    /// Where what is taken back in the address space of [`session_in`] is announced.
    pub const INVALIDATION: Gpa = Gpa(0x2000);

    /// As [`session_with`], on a device of the test's own.
    pub fn session_on(device: Arc<Device>, features: Features) -> (Arc<Session>, u32) {
        session_in(device, features, Arc::new(Nobody), ram(), Gpa(0x1000))
    }

    /// As [`session_on`], with somebody who hears of it, in memory of the test's own, with its page tables there.
    pub fn session_in(
        device: Arc<Device>,
        features: Features,
        up: Arc<dyn PortEvents>,
        ram: GuestRam,
        root: Gpa,
    ) -> (Arc<Session>, u32) {
        let epoch_page = GuestPage::new(&ram, EPOCHS).unwrap();
        let config = PortConfig::new("test");
        let session = Session::new(device, up, &config, features, ram.into(), epoch_page);
        let mode = vnic_abi::ctrl::PagingMode::X86Level4;
        let pasid = session.pasid_bind(root, mode, INVALIDATION);
        let ctx = session.ctx_create(pasid.unwrap(), Gpa(0x3000)).unwrap();
        let pd = session.pd_create(ctx).unwrap();
        (session, pd)
    }

    /// A queue pair in domain `pd` of [`session`], with a completion queue of its own.
    pub fn qp(session: &Arc<Session>, pd: u32) -> Arc<Qp> {
        let page = |n: u64| Gpa(0x1_0000 + n * 0x1000);
        let ctx = session.pds.lock().get(pd).unwrap().ctx.handle;
        let cq = CqParams { ctx, depth: 16, cookie: 0, pages: vec![page(0), page(1)] };
        let cq = session.cq_create(cq).unwrap();
        let params = QpParams {
            pd,
            send_cq: cq,
            recv_cq: cq,
            qp_type: vnic_abi::ctrl::QpType::Rc,
            sq_sig_all: false,
            sq_depth: 4,
            sq_stride: 64,
            rq_depth: 4,
            rq_stride: 64,
            cookie: 0,
            pages: vec![page(2), page(3), page(4)],
        };
        let qpn = session.qp_create(&params).unwrap().qpn;
        session.qp(qpn).unwrap()
    }
}
