// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The whole NIC: its workers, its ports, and the registries by which ports find each other.

use crate::engine::wait::Word;
use crate::engine::worker::{self, Handle};
use crate::fabric::direct::shadow::{FAULT, Shadows};
use crate::fabric::relay::lanes::Open;
use crate::fabric::relay::waiting::RECEIVER;
use crate::object::ctx::Ctx;
use crate::object::gid::GidRegistry;
use crate::object::qp::Qp;
use crate::port::{Port, PortConfig, PortEvents};
use crate::wire::lane::Lane;
use crate::wire::link::{Link, Links};
use crate::wire::reach::Reach;
use parking_lot::{Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;
use vnic_abi::epoch::EPOCH_SLOTS;
use vnic_iommu::addr::Gva;
use vnic_iommu::fault::Waiter;
use vnic_iommu::memory::GuestRam;
use vnic_iommu::quiesce::Grace;
use vnic_iommu::walk::Access;

/// Settings of the engine.
#[derive(Debug, Clone, Copy)]
pub struct DeviceConfig {
    /// Worker threads, 1 to 64.
    pub workers: usize,
    /// How long an idle worker looks for work before it sleeps.
    pub spin: Duration,
    /// Bytes that one queue pair may move before others have their turn; also what bounds the time
    /// that an invalidation in a guest waits.
    pub chunk: u64,
    /// Bytes of a message from which on it is written past the processor's caches, which it would only
    /// empty of everything else; 0 for every message that is copied in blocks.
    pub past_caches: u64,
    /// Ask for all pages that a request will miss at once, and for more ahead of requests that come
    /// in order. Without it every missing page is asked for by itself, when it is needed: of use to
    /// measure the difference.
    pub fault_batching: bool,
}

impl Default for DeviceConfig {
    fn default() -> Self {
        Self {
            workers: 1,
            spin: Duration::from_micros(50),
            chunk: 128 << 10,
            past_caches: 16 << 20,
            fault_batching: true,
        }
    }
}

/// Why a device could not be started or a port not be attached.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    /// The number of workers is out of range.
    #[error("{0} workers asked for; choose 1 to {EPOCH_SLOTS}")]
    Workers(usize),
    /// A chunk of nothing would never end.
    #[error("chunks of {0} bytes asked for; choose at least 4096")]
    Chunk(u64),
    /// The operating system refused a thread.
    #[error("cannot start a worker thread: {0}")]
    Thread(#[from] std::io::Error),
}

/// The whole NIC.
#[derive(Debug)]
pub struct Device {
    config: DeviceConfig,
    handles: Box<[Handle]>,
    grace: Grace,
    gids: GidRegistry,
    qpns: RwLock<HashMap<u32, Weak<Qp>>>,
    ports: Mutex<Vec<Weak<Port>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    next_worker: AtomicUsize,
    contexts: Mutex<Arc<Vec<Arc<Ctx>>>>,
    /// Number of the next wait for a page.
    next_wait: AtomicU64,
    /// Sessions that have not ended, by number.
    sessions: Mutex<HashSet<u64>>,
    links: Links,
    /// Faults of devices of the host that wait for a page of a guest, by their names as waiters.
    faults: Mutex<HashMap<u32, (Weak<Shadows>, u32)>>,
    reach: Reach,
    /// Number of the next connection to a queue pair of another daemon.
    next_connection: AtomicU32,
}

impl Device {
    /// A device whose workers do not run: somebody steps them
    /// ([`Worker`](crate::engine::worker::Worker)), or nobody.
    pub fn new(config: DeviceConfig) -> Arc<Self> {
        Arc::new(Self {
            config,
            handles: (0..config.workers).map(|_| Handle::default()).collect(),
            grace: Grace::new(config.workers),
            gids: GidRegistry::default(),
            qpns: RwLock::default(),
            ports: Mutex::default(),
            threads: Mutex::default(),
            next_worker: AtomicUsize::new(0),
            contexts: Mutex::default(),
            next_wait: AtomicU64::new(0),
            sessions: Mutex::default(),
            links: Links::default(),
            faults: Mutex::default(),
            reach: Reach::default(),
            next_connection: AtomicU32::new(random()),
        })
    }

    /// Starts the workers.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if a setting is out of range or a thread cannot be started.
    pub fn start(config: DeviceConfig) -> Result<Arc<Self>, DeviceError> {
        if !(1..=EPOCH_SLOTS as usize).contains(&config.workers) {
            return Err(DeviceError::Workers(config.workers));
        }
        if config.chunk < 4096 {
            return Err(DeviceError::Chunk(config.chunk));
        }
        let device = Self::new(config);
        for index in 0..config.workers {
            match worker::spawn(device.clone(), index) {
                Ok(thread) => device.threads.lock().push(thread),
                Err(error) => {
                    device.shutdown();
                    return Err(error.into());
                }
            }
        }
        Ok(device)
    }

    /// Attaches a guest's port, once its memory is known.
    ///
    /// # Errors
    ///
    /// None today; kept for limits on the number of ports.
    pub fn attach(
        self: &Arc<Self>,
        config: PortConfig,
        ram: GuestRam,
        up: Arc<dyn PortEvents>,
    ) -> Result<Arc<Port>, DeviceError> {
        let port = Arc::new(Port::new(self.clone(), config, ram, up));
        let mut ports = self.ports.lock();
        ports.retain(|port| port.strong_count() != 0);
        ports.push(Arc::downgrade(&port));
        Ok(port)
    }

    /// Ports that are attached now.
    pub fn ports(&self) -> Vec<Arc<Port>> {
        self.ports.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// Detaches every port, stops the workers and waits for them.
    pub fn shutdown(&self) {
        for port in self.ports() {
            port.detach();
        }
        for handle in &self.handles {
            handle.stop();
        }
        for thread in self.threads.lock().drain(..) {
            // A worker that panicked has said so already.
            let _ = thread.join();
        }
    }

    /// Settings.
    pub fn config(&self) -> &DeviceConfig {
        &self.config
    }

    pub(crate) fn grace(&self) -> &Grace {
        &self.grace
    }

    pub(crate) fn handle(&self, worker: usize) -> &Handle {
        &self.handles[worker]
    }

    pub(crate) fn gids(&self) -> &GidRegistry {
        &self.gids
    }

    /// Peer daemons.
    pub fn links(&self) -> &Links {
        &self.links
    }

    /// Whether what carries the wire is there.
    pub fn reach(&self) -> &Reach {
        &self.reach
    }

    /// Gives a lane to the worker that it belongs to.
    pub fn adopt_lane(&self, link: &Arc<Link>, index: usize, lane: Box<dyn Lane>) {
        let worker = index % self.handles.len();
        self.handles[worker].adopt(Open::new(link.clone(), index, lane));
    }

    /// Lets every worker notice that a link was lost.
    pub fn link_lost(&self) {
        self.kick();
    }

    /// Lets every queue pair look for its peer again, which may be at a daemon that has just been found.
    pub fn look_for_peers_again(&self) {
        let qps: Vec<Arc<Qp>> = self.qpns.read().values().filter_map(Weak::upgrade).collect();
        for qp in qps {
            // What it was told before matters more.
            qp.word.lock().get_or_insert(Word::Resume);
            self.schedule(&qp);
        }
    }

    /// A number for a connection to a queue pair of another daemon, which it has not seen lately.
    pub(crate) fn next_connection(&self) -> u32 {
        // Relaxed: only uniqueness matters.
        self.next_connection.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets the worker that has the lane look at what the responder of `qp` owes.
    pub(crate) fn owe(&self, qp: &Arc<Qp>) {
        // Relaxed: see `Qp::arrives_at`.
        self.handles[qp.arrives_at.load(Ordering::Relaxed)].owe(qp.clone());
    }

    /// Lets the worker of `qp` look at what the host's queue pair has done.
    pub(crate) fn watch_direct(&self, qp: &Arc<Qp>) {
        self.handles[qp.worker].watch_direct(qp.clone());
    }

    pub(crate) fn qpns(&self) -> &RwLock<HashMap<u32, Weak<Qp>>> {
        &self.qpns
    }

    pub(crate) fn session_began(&self, uid: u64) {
        self.sessions.lock().insert(uid);
    }

    /// Also lets every worker drop what it keeps of the session, in which the guest's whole memory
    /// is mapped.
    pub(crate) fn session_ended(&self, uid: u64) {
        self.sessions.lock().remove(&uid);
        for handle in &self.handles {
            handle.refresh();
        }
    }

    /// Numbers of sessions that have not ended. Workers ask by number: to hold a port or a session,
    /// if only for a moment, could make a worker the one that has to end it.
    pub(crate) fn live_sessions(&self) -> HashSet<u64> {
        self.sessions.lock().clone()
    }

    /// The worker for the first queue pair of the next context, in turn.
    pub(crate) fn next_worker(&self) -> usize {
        // Relaxed: any worker would do.
        self.next_worker.fetch_add(1, Ordering::Relaxed) % self.handles.len()
    }

    /// Contexts that workers poll.
    pub(crate) fn contexts(&self) -> Arc<Vec<Arc<Ctx>>> {
        self.contexts.lock().clone()
    }

    pub(crate) fn add_context(&self, ctx: &Arc<Ctx>) {
        // Nobody rings yet: workers look when the first queue pair is there.
        Arc::make_mut(&mut *self.contexts.lock()).push(ctx.clone());
    }

    /// Wait for a grace period before the page goes.
    pub(crate) fn remove_context(&self, ctx: &Arc<Ctx>) {
        Arc::make_mut(&mut *self.contexts.lock()).retain(|held| !Arc::ptr_eq(held, ctx));
        for handle in &self.handles {
            handle.refresh();
        }
    }

    pub(crate) fn kick(&self) {
        for handle in &self.handles {
            handle.wake();
        }
    }

    /// Lets the queue pair's worker look at it soon.
    pub(crate) fn schedule(&self, qp: &Arc<Qp>) {
        self.handles[qp.worker].push(qp.clone());
    }

    /// A number that no other wait has.
    pub(crate) fn next_wait(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.next_wait.fetch_add(1, Ordering::Relaxed)
    }

    /// Lets queue pairs try again that waited for pages. `denied` is the page, and the access, that
    /// could not be had.
    pub(crate) fn answer_all(&self, waiters: &[Waiter], denied: Option<(Gva, Access)>) {
        for waiter in waiters {
            self.tell(waiter.who, Some(Word::Pages { wait: waiter.wait, denied }));
        }
    }

    /// Faults of devices of the host that wait for a page of a guest.
    #[cfg(feature = "verbs")]
    pub(crate) fn faults(&self) -> &Mutex<HashMap<u32, (Weak<Shadows>, u32)>> {
        &self.faults
    }

    #[cold]
    fn tell_fault(&self, who: u32, word: Option<Word>) {
        let answered = matches!(word, Some(Word::Pages { .. }));
        let fault = {
            let mut faults = self.faults.lock();
            if answered { faults.remove(&who) } else { faults.get(&who).cloned() }
        };
        let Some((shadows, fault)) = fault.and_then(|(weak, fault)| Some((weak.upgrade()?, fault)))
        else {
            return;
        };
        match word {
            Some(Word::Pages { denied, .. }) => shadows.answer(fault, denied.is_some()),
            _ => shadows.ring(),
        }
    }

    /// Lets a queue pair look again, with a word about why if there is one.
    pub(crate) fn tell(&self, qpn: u32, word: Option<Word>) {
        if qpn & (FAULT | RECEIVER) == FAULT {
            return self.tell_fault(qpn, word);
        }
        let qp = self.qpns.read().get(&(qpn & !RECEIVER)).and_then(Weak::upgrade);
        let Some(qp) = qp else { return };
        if qpn & RECEIVER != 0 {
            if word.is_some() {
                *qp.arrival_word.lock() = word;
            }
            self.owe(&qp);
        } else {
            if word.is_some() {
                *qp.word.lock() = word;
            }
            self.schedule(&qp);
        }
    }
}

/// Where numbers begin that those of an earlier daemon must not be taken for.
fn random() -> u32 {
    // Without a source of random numbers the clock has to do: nothing secret depends on it.
    getrandom::u32().unwrap_or_else(|_| {
        let since = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        since.as_micros() as u32
    })
}
