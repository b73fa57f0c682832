// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A port: what one guest sees of the device, across driver loads and resets.

use crate::device::Device;
use crate::fabric::direct::nic::NicLimits;
use crate::fabric::direct::{Direct, DirectConfig};
pub use crate::object::cq::CqParams;
pub use crate::object::mr::{MrChange, MrKeys, MrParams, Window};
pub use crate::object::qp::{QpCreated, QpParams};
use crate::pages::PageCounters;
use crate::session::Session;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use vnic_abi::config::{Config, Features, MAGIC};
use vnic_abi::ctrl::{Counters, GidType, PagingMode, QpAttr, QpAttrMask};
use vnic_abi::event::{Event, PageRequest, PageResponseCode};
use vnic_abi::status::Status;
use vnic_abi::wqe::{RECV_WQE_PAYLOAD, SEND_WQE_PAYLOAD, WQE_STRIDE_MAX};
use vnic_abi::{ABI_VERSION, U32};
use vnic_iommu::addr::Gpa;
use vnic_iommu::fault::Limits as FaultLimits;
use vnic_iommu::live::LiveRam;
use vnic_iommu::memory::GuestRam;
use vnic_iommu::quiesce::GuestPage;

/// How the port tells the guest something. Called by workers and by control threads; must not wait
/// for the guest.
pub trait PortEvents: Send + Sync {
    /// An event for the event queue.
    fn event(&self, event: Event);
    /// A request for the page request queue.
    fn page_request(&self, request: PageRequest);
}

/// What a driver may have. Every field counts objects, elements or bytes as the name says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Queue pairs.
    pub max_qp: u32,
    /// Completion queues.
    pub max_cq: u32,
    /// Memory regions.
    pub max_mr: u32,
    /// Protection domains.
    pub max_pd: u32,
    /// Contexts, and so address spaces.
    pub max_ctx: u32,
    /// Entries of the GID table.
    pub max_gid: u32,
    /// Elements of a send queue, a power of two.
    pub max_sq_depth: u32,
    /// Elements of a receive queue, a power of two.
    pub max_rq_depth: u32,
    /// Elements of a completion queue, a power of two.
    pub max_cq_depth: u32,
    /// Outstanding READs and atomics of a queue pair.
    pub max_rd_atomic: u32,
    /// Pages of all rings together; the daemon needs 8 bytes for each.
    pub max_ring_pages: u32,
    /// Bytes of one memory region, unless the port allows implicit ones.
    ///
    /// A region costs nothing by its size, but whoever has its key reaches all of it. The default, 16
    /// TiB, is more than anybody maps, and less than what lies between a program with its heap and its
    /// libraries and stack, as Linux arranges a process of 47 bits: no key covers both.
    pub max_mr_size: u64,
    /// Page requests that wait for the guest's answer at one time, at least 2. The guest's driver
    /// serves 64 at a time; with more, one process's could hold up another's. Each process of the
    /// guest gets as many as are still free, so that one alone has half of them; other guests share
    /// one half in the same way.
    pub max_page_requests: u32,
    /// Page requests per second, 0 for no limit.
    pub page_request_rate: u32,
    /// Page requests at once after a time with fewer than the rate, at least 1.
    pub page_request_burst: u32,
    /// Milliseconds that a queue pair waits for a page of this guest without moving a byte, at least
    /// 1. Swapping may take long, and so may the budget's turn to come.
    pub page_timeout_ms: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_qp: 16384,
            max_cq: 16384,
            max_mr: 1 << 18,
            max_pd: 16384,
            max_ctx: 1024,
            max_gid: 128,
            max_sq_depth: 16384,
            max_rq_depth: 16384,
            max_cq_depth: 1 << 17,
            max_rd_atomic: 16,
            max_ring_pages: 1 << 20,
            max_mr_size: 1 << 44,
            max_page_requests: 64,
            page_request_rate: 100_000,
            page_request_burst: 1000,
            page_timeout_ms: 30_000,
        }
    }
}

impl Limits {
    /// The budget of page requests.
    pub fn page_requests(&self) -> FaultLimits {
        FaultLimits {
            requests: self.max_page_requests as usize,
            rate: self.page_request_rate,
            burst: self.page_request_burst,
        }
    }

    /// How long a queue pair waits for a page.
    pub fn page_timeout(&self) -> Duration {
        Duration::from_millis(self.page_timeout_ms.into())
    }
}

/// Bytes of one message, at most (InfiniBand's own limit).
pub const MAX_MESSAGE: u32 = 1 << 31;
/// Gather or scatter entries of one request: as many as the largest receive element holds, 16 bytes
/// each, bounded by what the device copies.
pub const MAX_SGE: u32 = crate::ring::rq::MAX_SGE as u32;
/// Inline bytes of one request.
pub const MAX_INLINE: u32 = WQE_STRIDE_MAX - SEND_WQE_PAYLOAD;

const _: () = assert!(MAX_SGE * 16 + RECV_WQE_PAYLOAD <= WQE_STRIDE_MAX);

/// Settings of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PortConfig {
    /// Name in logs and status.
    pub name: String,
    /// MAC address of the guest's network device; zero if not configured.
    pub mac: [u8; 6],
    /// Ports reach only ports of the same network.
    pub network: String,
    /// What the driver may have.
    pub limits: Limits,
    /// Processes may register their whole address space at once. One leaked key then exposes all of a
    /// process, so that this is off unless somebody asks for it.
    pub implicit_mr: bool,
    /// The device of the host by which its queue pairs reach peers that no daemon knows; `None` if they do not.
    pub direct: Option<DirectConfig>,
}

impl PortConfig {
    /// A port called `name` in the default network.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            mac: [0; 6],
            network: "default".into(),
            limits: Limits::default(),
            implicit_mr: false,
            direct: None,
        }
    }

    /// Optional parts that such a port has.
    fn offered(&self) -> Features {
        let mut offered = Features::ATOMIC | Features::PORT_EVENTS;
        offered.set(Features::IMPLICIT_MR, self.implicit_mr);
        if let Some(direct) = &self.direct {
            let pins = direct.seat.pins().is_some();
            offered |= if pins { Features::PIN } else { Features::ACKNOWLEDGE };
        }
        offered
    }

    /// How queue pairs go direct of a driver that accepted `features`: not, if it neither keeps pages where they are nor
    /// waits until the host's device has let go of them.
    pub(crate) fn direct_for(&self, features: Features) -> Option<&DirectConfig> {
        let either = Features::PIN | Features::ACKNOWLEDGE;
        self.direct.as_ref().filter(|_| features.intersects(either))
    }

    /// The configuration space of such a port on a device with `workers` workers.
    pub fn config_space(&self, workers: usize) -> Config {
        let limits = &self.limits;
        let nic = self.direct.as_ref().map(|direct| direct.seat.limits());
        let most = |own: u32, host: fn(&NicLimits) -> u32| {
            nic.as_ref().map_or(own, |nic| own.min(host(nic)))
        };
        // The greatest power of two that the host's device has room for.
        let depth = |own: u32| most(own, |nic| 1 << nic.max_depth.max(1).ilog2());
        Config {
            magic: MAGIC.into(),
            version: ABI_VERSION.into(),
            features: self.offered().bits().into(),
            max_qp: limits.max_qp.into(),
            max_cq: limits.max_cq.into(),
            max_mr: limits.max_mr.into(),
            max_pd: limits.max_pd.into(),
            max_ctx: limits.max_ctx.into(),
            max_sq_depth: depth(limits.max_sq_depth).into(),
            max_rq_depth: depth(limits.max_rq_depth).into(),
            max_cq_depth: limits.max_cq_depth.into(),
            max_sge: most(MAX_SGE, |nic| nic.max_sge).into(),
            max_inline: most(MAX_INLINE, |nic| nic.max_inline).into(),
            max_rd_atomic: most(limits.max_rd_atomic, |nic| nic.max_rd_atomic).into(),
            max_msg_size: MAX_MESSAGE.into(),
            max_gid: limits.max_gid.into(),
            // One more for the threads that look at the guest's tables for the host's device.
            num_workers: U32::new(workers as u32 + u32::from(nic.is_some())),
            active_mtu: nic.map_or(5, |nic| nic.mtu),
            mac: self.mac,
            max_mr_size: limits.max_mr_size.into(),
            ..Config::default()
        }
    }
}

/// A port with a guest behind it.
pub struct Port {
    device: Arc<Device>,
    config: PortConfig,
    up: Arc<dyn PortEvents>,
    ram: LiveRam,
    session: Mutex<Option<Arc<Session>>>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("config", &self.config).finish_non_exhaustive()
    }
}

/// Passes a command on to the session, which exists between `INIT` and `SHUTDOWN`.
macro_rules! forward {
    ($($(#[$meta:meta])* $name:ident($($arg:ident: $ty:ty),*) -> $ret:ty;)*) => {
        $($(#[$meta])*
        ///
        /// # Errors
        ///
        /// `BadState` before `INIT`; otherwise as the session's method of this name.
        pub fn $name(&self, $($arg: $ty),*) -> Result<$ret, Status> {
            self.session()?.$name($($arg),*)
        })*
    };
}

impl Port {
    pub(crate) fn new(
        device: Arc<Device>,
        config: PortConfig,
        ram: GuestRam,
        up: Arc<dyn PortEvents>,
    ) -> Self {
        Self { device, config, up, ram: ram.into(), session: Mutex::new(None) }
    }

    /// Name in logs and status.
    pub fn name(&self) -> &str {
        &self.config.name
    }

    /// What the driver reads as configuration space.
    pub fn config_space(&self) -> Config {
        self.config.config_space(self.device.config().workers)
    }

    fn session(&self) -> Result<Arc<Session>, Status> {
        self.session.lock().clone().ok_or(Status::BadState)
    }

    /// What a driver has started, if one has.
    pub(crate) fn current_session(&self) -> Option<Arc<Session>> {
        self.session().ok()
    }

    /// Tells a driver that has just started what it has to know.
    pub fn greet(&self) {
        if let Some(session) = self.current_session() {
            self.device.reach().greet(&session);
        }
    }

    /// Starts the device for a driver; ends what an earlier one left.
    ///
    /// # Errors
    ///
    /// `Unsupported` for another major version or features that were not offered, `BadAddress`; `Limit` if the port goes
    /// direct and the operating system does not let it.
    pub fn init(&self, version: u32, features: Features, epoch_page: Gpa) -> Result<(), Status> {
        if version >> 16 != ABI_VERSION >> 16 || !self.config.offered().contains(features) {
            return Err(Status::Unsupported);
        }
        let page = GuestPage::new(&self.ram.current(), epoch_page).ok_or(Status::BadAddress)?;
        self.shutdown();
        let session = Session::new(
            self.device.clone(),
            self.up.clone(),
            &self.config,
            features,
            self.ram.clone(),
            page,
        );
        // What the driver counts on now would never be done.
        if session.direct.is_none() && self.config.direct_for(features).is_some() {
            session.end();
            return Err(Status::Limit);
        }
        *self.session.lock() = Some(session);
        tracing::info!(port = self.name(), "driver started the device");
        Ok(())
    }

    /// Destroys everything. After the return no worker touches this guest's memory.
    pub fn shutdown(&self) {
        let session = self.session.lock().take();
        if let Some(session) = session {
            session.end();
            tracing::info!(port = self.name(), "driver stopped");
        }
    }

    /// The guest's memory as it is now.
    pub fn ram(&self) -> GuestRam {
        self.ram.current()
    }

    /// Takes a new memory map. At the return, what was added is reached by the requests of a session
    /// that runs, and what was removed is not reached by any translation. One caller at a time, and
    /// never a worker.
    ///
    /// Objects that lie in removed memory keep it mapped until they are destroyed.
    pub fn set_memory(&self, ram: GuestRam) {
        let retired = self.ram.replace(ram);
        self.device.grace().synchronize();
        #[allow(unsafe_code)] // reason: the grace period is this crate's proof
        // SAFETY: only workers translate. A burst lies within one pass, and every worker has begun a
        // new one since the view was replaced, or sleeps; see [`Grace`](vnic_iommu::quiesce::Grace).
        unsafe {
            retired.release();
        }
    }

    /// The driver notified the kick queue.
    pub fn kick(&self) {
        // A statement of its own: this must not be who ends a session with its lock held.
        let session = self.session.lock().clone();
        let direct = session.as_ref().and_then(|session| session.direct.as_ref());
        if let Some(shadows) = direct.and_then(Direct::shadows) {
            shadows.ring();
        }
        self.device.kick();
    }

    /// The guest is gone.
    pub fn detach(&self) {
        self.shutdown();
    }

    forward! {
        /// Puts a GID into the table.
        gid_set(index: u32, kind: GidType, gid: [u8; 16]) -> ();
        /// Empties an entry of the GID table.
        gid_clear(index: u32) -> ();
        /// Binds an address space.
        pasid_bind(root: Gpa, mode: PagingMode, invalidation_page: Gpa) -> u32;
        /// Unbinds an address space.
        pasid_unbind(pasid: u32) -> ();
        /// Opens a context.
        ctx_create(pasid: u32, doorbell_page: Gpa) -> u32;
        /// Closes a context.
        ctx_destroy(ctx: u32) -> ();
        /// Allocates a protection domain.
        pd_create(ctx: u32) -> u32;
        /// Frees a protection domain.
        pd_destroy(pd: u32) -> ();
        /// Registers a memory region.
        mr_create(params: MrParams) -> MrKeys;
        /// Changes a memory region.
        mr_modify(change: MrChange) -> MrKeys;
        /// Ends a memory region.
        mr_destroy(mr: u32) -> ();
        /// Creates a completion queue.
        cq_create(params: CqParams) -> u32;
        /// Destroys a completion queue.
        cq_destroy(cq: u32) -> ();
        /// Changes a queue pair.
        qp_modify(qpn: u32, mask: QpAttrMask, attr: &QpAttr) -> ();
        /// Reads a queue pair's attributes.
        qp_query(qpn: u32) -> QpAttr;
        /// Destroys a queue pair.
        qp_destroy(qpn: u32) -> ();
        /// Answers a page request.
        page_response(id: u32, code: PageResponseCode) -> ();
    }

    /// Creates a queue pair.
    ///
    /// # Errors
    ///
    /// `BadState` before `INIT`; otherwise as the session's method of this name.
    pub fn qp_create(&self, params: QpParams) -> Result<QpCreated, Status> {
        self.session()?.qp_create(&params)
    }

    /// What the driver holds.
    pub fn counters(&self) -> Counters {
        self.session().map(|session| session.counters()).unwrap_or_default()
    }

    /// Queue pairs that reach their peers by a device of the host; `None` if they cannot.
    pub fn direct_qps(&self) -> Option<u32> {
        let session = self.session().ok()?;
        session.direct.as_ref()?;
        let qps = session.qps.lock();
        Some(qps.values().filter(|qp| qp.is_direct()).count() as u32)
    }

    /// What became of page requests. All zero without a driver.
    pub fn page_counters(&self) -> PageCounters {
        self.session().map(|session| session.page_counters()).unwrap_or_default()
    }

    /// Whether a driver has started the device.
    pub fn has_driver(&self) -> bool {
        self.session().is_ok()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.shutdown();
    }
}
