// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The kernel module's role: control queue, events, page requests.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vnic_abi::config::{Config, Features, VQ_CTRL, VQ_EVENT, VQ_KICK, VQ_PAGE_REQUEST};
use vnic_abi::event::{Event, EventKind, PageRequest};

use super::address_space::{AddressSpace, FaultAnswer};
use super::frontend::{Connection, FrontendError};
use super::memory::{FRAME, LARGE_PAGE, Layout, Pages, Ram};
use super::page_table::Paging;
use super::virtqueue::VirtQueue;

mod commands;
mod threads;

pub use commands::PageListMemory;

/// How long the device may take to answer a command.
const COMMAND_LIMIT: Duration = Duration::from_secs(30);

/// How a guest is made.
#[derive(Debug, Clone)]
pub struct GuestOptions {
    /// Bytes of RAM.
    pub ram: u64,
    /// What RAM is made of.
    pub ram_file: RamFile,
    /// Depth of the page tables that [`Driver::new_space`] makes.
    pub paging: Paging,
    /// Send `INIT` with these features, or leave that to the test.
    pub init: Option<Features>,
    /// Features that are accepted as well if the device offers them.
    pub accept: Features,
}

impl Default for GuestOptions {
    fn default() -> Self {
        Self {
            ram: 64 << 20,
            ram_file: RamFile::Memfd,
            paging: Paging::Level4,
            init: Some(Features::empty()),
            accept: Features::empty(),
        }
    }
}

/// What a guest's RAM is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RamFile {
    /// A memfd, in pages as the host has them for such.
    Memfd,
    /// Large pages of the host, see [`Ram::in_large_pages`].
    LargePages,
}

impl RamFile {
    /// Large pages, if they can be had.
    pub fn largest() -> Self {
        if Ram::in_large_pages(LARGE_PAGE).is_ok() { Self::LargePages } else { Self::Memfd }
    }
}

/// The device did not answer: it closed the connection, or let the time limit pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The connection is closed.
    #[error("the device closed the connection")]
    Closed,
    /// No answer within half a minute.
    #[error("the device did not answer")]
    Timeout,
    /// The control queue is full.
    #[error("the control queue is full")]
    Full,
}

/// Decides what happens to a page request. May block: then later requests wait too.
pub type FaultPolicy = dyn Fn(&PageRequest) -> FaultAnswer + Send + Sync;

/// A running guest. Dropping it is the death of the VM: the connection closes without a word.
pub struct Driver {
    kernel: Arc<Kernel>,
    threads: Vec<JoinHandle<()>>,
}

impl Deref for Driver {
    type Target = Kernel;

    fn deref(&self) -> &Kernel {
        &self.kernel
    }
}

/// The state of a guest's driver, and the commands that it can send.
pub struct Kernel {
    ram: Ram,
    options: GuestOptions,
    config: Config,
    connection: Mutex<Option<Connection>>,
    ctrl: Mutex<Ctrl>,
    events: Mutex<VirtQueue>,
    faults: Mutex<VirtQueue>,
    kick: Arc<EventFd>,
    kick_queue: VirtQueue,
    epoch_page: Arc<Pages>,
    spaces: RwLock<HashMap<u32, Arc<AddressSpace>>>,
    cq_events: Mutex<HashMap<u64, Sender<Event>>>,
    async_events: Mutex<Vec<Event>>,
    async_arrived: Condvar,
    policy: RwLock<Arc<FaultPolicy>>,
    page_requests: Mutex<Vec<PageRequest>>,
    next_cookie: AtomicU64,
    /// Features of the last `INIT`.
    features: AtomicU64,
    closed: AtomicBool,
    stop: EventFd,
}

struct Ctrl {
    queue: VirtQueue,
    pending: HashMap<u16, Sender<u32>>,
    /// Pages for commands of ordinary size, command in the first half and reply in the second.
    spare: Vec<Pages>,
}

/// A control chain that the device has not answered yet.
pub struct Pending {
    answer: Receiver<u32>,
}

impl Pending {
    /// Waits for the answer; returns how many bytes the device says that it wrote.
    ///
    /// # Errors
    ///
    /// If none comes.
    pub fn wait(&self) -> Result<u32, Lost> {
        self.wait_for(COMMAND_LIMIT)
    }

    /// As [`wait`](Self::wait), with another time limit.
    ///
    /// # Errors
    ///
    /// If none comes.
    pub fn wait_for(&self, limit: Duration) -> Result<u32, Lost> {
        self.answer.recv_timeout(limit).map_err(|error| match error {
            RecvTimeoutError::Timeout => Lost::Timeout,
            RecvTimeoutError::Disconnected => Lost::Closed,
        })
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Driver {
    /// Boots a guest with default options on the port at `socket`.
    ///
    /// # Panics
    ///
    /// If the daemon refuses it.
    pub fn boot(socket: &Path) -> Arc<Self> {
        Self::boot_with(socket, GuestOptions::default()).expect("the guest attaches")
    }

    /// Boots a guest.
    ///
    /// # Errors
    ///
    /// If the daemon refuses the connection.
    ///
    /// # Panics
    ///
    /// If the device refuses `INIT`.
    pub fn boot_with(socket: &Path, options: GuestOptions) -> Result<Arc<Self>, FrontendError> {
        let ram = match options.ram_file {
            RamFile::Memfd => Ram::new(options.ram),
            RamFile::LargePages => Ram::in_large_pages(options.ram)
                .unwrap_or_else(|error| panic!("RAM in large pages: {error}")),
        };
        let queues: [VirtQueue; 4] = std::array::from_fn(|_| VirtQueue::new(&ram));
        let refs: Vec<_> = queues.iter().collect();
        let connection = Connection::open(socket, &ram, &refs)?;
        const { assert!(VQ_CTRL == 0 && VQ_EVENT == 1 && VQ_PAGE_REQUEST == 2 && VQ_KICK == 3) };
        let [ctrl, events, faults, kick_queue] = queues;
        let epoch_page = Arc::new(ram.alloc(FRAME, Layout::Scattered));
        let kernel = Arc::new(Kernel {
            config: connection.config,
            connection: Mutex::new(Some(connection)),
            ctrl: Mutex::new(Ctrl { queue: ctrl, pending: HashMap::new(), spare: Vec::new() }),
            events: Mutex::new(events),
            faults: Mutex::new(faults),
            kick: Arc::new(kick_queue.kick_fd().try_clone().expect("dup eventfd")),
            kick_queue,
            epoch_page,
            spaces: RwLock::default(),
            cq_events: Mutex::default(),
            async_events: Mutex::default(),
            async_arrived: Condvar::new(),
            policy: RwLock::new(Arc::new(|_: &PageRequest| FaultAnswer::Resolve)),
            page_requests: Mutex::default(),
            next_cookie: AtomicU64::new(1),
            features: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            stop: EventFd::new(EFD_NONBLOCK).expect("eventfd"),
            ram,
            options,
        });
        let driver = Arc::new(Self { threads: threads::start_threads(&kernel), kernel });
        if let Some(features) = driver.options.init {
            let offered = Features::from_bits_retain(driver.config.features.get());
            driver.init(features | (driver.options.accept & offered)).expect("INIT");
        }
        Ok(driver)
    }
}

impl Kernel {
    /// The guest's RAM.
    pub fn ram(&self) -> &Ram {
        &self.ram
    }

    /// Features that the device was started with.
    pub fn features(&self) -> Features {
        // Relaxed: set before there is anything that depends on it.
        Features::from_bits_retain(self.features.load(Ordering::Relaxed))
    }

    /// The configuration space as it was at connection time.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The epoch page.
    pub fn epoch_page(&self) -> &Arc<Pages> {
        &self.epoch_page
    }

    /// Calls `with` with the vhost-user connection.
    ///
    /// # Panics
    ///
    /// If it was closed.
    pub fn with_connection<R>(&self, with: impl FnOnce(&mut Connection) -> R) -> R {
        with(locked(&self.connection).as_mut().expect("open connection"))
    }

    /// A number for the cookie of a new object.
    pub fn new_cookie(&self) -> u64 {
        // Relaxed: only uniqueness matters.
        self.next_cookie.fetch_add(1, Ordering::Relaxed)
    }

    /// A fresh address space, not yet bound.
    pub fn new_space(&self) -> Arc<AddressSpace> {
        AddressSpace::new(&self.ram, self.options.paging, &self.epoch_page)
    }

    /// Serves page requests for `pasid` from `space`.
    pub fn serve_space(&self, pasid: u32, space: &Arc<AddressSpace>) {
        if self.features().contains(Features::ACKNOWLEDGE) {
            space.have_acknowledged(&self.kick);
        }
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces.insert(pasid, Arc::clone(space));
    }

    /// Stops serving page requests for `pasid`.
    pub fn forget_space(&self, pasid: u32) {
        let mut spaces = self.spaces.write().unwrap_or_else(PoisonError::into_inner);
        spaces.remove(&pasid);
    }

    /// From now on `policy` decides about page requests.
    pub fn set_fault_policy(
        &self,
        policy: impl Fn(&PageRequest) -> FaultAnswer + Send + Sync + 'static,
    ) {
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }

    /// Every page request received so far.
    pub fn page_requests(&self) -> Vec<PageRequest> {
        locked(&self.page_requests).clone()
    }

    /// Events of the completion queue with `cookie` go to the returned channel from now on.
    pub fn cq_events(&self, cookie: u64) -> Receiver<Event> {
        let (sender, receiver) = channel();
        locked(&self.cq_events).insert(cookie, sender);
        receiver
    }

    /// Every event received so far that is not a completion event.
    pub fn async_events(&self) -> Vec<Event> {
        locked(&self.async_events).clone()
    }

    /// Waits for an asynchronous event of `kind` with `cookie`.
    ///
    /// # Panics
    ///
    /// If none comes within half a minute.
    pub fn wait_async(&self, kind: EventKind, cookie: u64) -> Event {
        let limit = Instant::now() + COMMAND_LIMIT;
        let mut events = locked(&self.async_events);
        loop {
            let wanted = |e: &&Event| e.kind.get() == kind.0 && e.cookie.get() == cookie;
            if let Some(event) = events.iter().find(wanted) {
                return *event;
            }
            let left = limit.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "no {kind:?} for cookie {cookie}, only {events:?}");
            let waited = self.async_arrived.wait_timeout(events, left);
            events = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// A handle that wakes the device's workers.
    pub fn kick(&self) -> KickFd {
        KickFd(Arc::clone(&self.kick))
    }

    /// The kick queue, which never holds a buffer if the driver behaves.
    pub fn kick_queue(&self) -> &VirtQueue {
        &self.kick_queue
    }

    /// Calls `with` with the control queue, for drivers that misbehave.
    pub fn with_ctrl_queue<R>(&self, with: impl FnOnce(&mut VirtQueue) -> R) -> R {
        with(&mut locked(&self.ctrl).queue)
    }

    /// Whether the device closed the connection.
    pub fn is_closed(&self) -> bool {
        // Acquire: pairs with the release of the thread that saw the connection end.
        self.closed.load(Ordering::Acquire)
    }

    /// Offers a chain of `parts` (guest-physical address, length, device writes) as a command.
    ///
    /// # Errors
    ///
    /// If the connection is closed or the queue full.
    pub fn submit(&self, parts: &[(u64, u32, bool)]) -> Result<Pending, Lost> {
        let (sender, answer) = channel();
        let mut ctrl = locked(&self.ctrl);
        if self.is_closed() {
            return Err(Lost::Closed);
        }
        let head = ctrl.queue.push(parts).ok_or(Lost::Full)?;
        ctrl.pending.insert(head, sender);
        ctrl.queue.notify();
        Ok(Pending { answer })
    }

    /// Sends `request` and gives the device `reply_len` bytes for its reply; returns those written.
    ///
    /// # Errors
    ///
    /// If no answer comes.
    pub fn command(&self, request: &[u8], reply_len: usize) -> Result<Vec<u8>, Lost> {
        let half = FRAME / 2;
        let small = request.len() as u64 <= half && reply_len as u64 <= half;
        let spare = if small { locked(&self.ctrl).spare.pop() } else { None };
        let reply_at = if small { half } else { (request.len() as u64).next_multiple_of(FRAME) };
        let pages = spare.unwrap_or_else(|| {
            let len = if small { FRAME } else { reply_at + reply_len as u64 };
            self.ram.alloc(len, Layout::Linear)
        });
        pages.write(0, request);
        // What the device does not write must not pass for a reply.
        pages.write(reply_at, &vec![0xee; reply_len]);
        let parts = [
            (pages.gpa(0), request.len() as u32, false),
            (pages.gpa(reply_at), reply_len as u32, true),
        ];
        let parts: Vec<_> = parts.into_iter().filter(|part| part.1 > 0).collect();
        let written = self.submit(&parts)?.wait()? as usize;
        assert!(written <= reply_len, "the device says that it wrote {written} of {reply_len}");
        let mut reply = vec![0; written];
        pages.read(reply_at, &mut reply);
        if small {
            locked(&self.ctrl).spare.push(pages);
        }
        Ok(reply)
    }

    /// Closes the connection, as the end of the VM does. Commands fail from now on.
    pub fn power_off(&self) {
        self.set_closed();
        locked(&self.connection).take();
    }

    fn set_closed(&self) {
        // Release: pairs with the acquire in `is_closed`, under the lock that `submit` holds too.
        let mut ctrl = locked(&self.ctrl);
        self.closed.store(true, Ordering::Release);
        // Whoever waits for an answer sees its channel end.
        ctrl.pending.clear();
        drop(ctrl);
        locked(&self.cq_events).clear();
    }

    fn take_answers(&self) {
        let mut ctrl = locked(&self.ctrl);
        while let Some((head, len)) = ctrl.queue.pop() {
            if let Some(sender) = ctrl.pending.remove(&head) {
                // The receiver may have given up.
                let _ = sender.send(len);
            }
        }
    }

    fn take_event(&self, event: Event) {
        if event.kind.get() == EventKind::Completion.0 {
            if let Some(sender) = locked(&self.cq_events).get(&event.cookie.get()) {
                let _ = sender.send(event);
            }
        } else {
            locked(&self.async_events).push(event);
            self.async_arrived.notify_all();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.power_off();
        let _ = self.stop.write(1);
        for thread in self.threads.drain(..) {
            let panicked = thread.join().is_err();
            if panicked && !std::thread::panicking() {
                panic!("a thread of the guest's driver panicked");
            }
        }
    }
}

/// Wakes the device's workers through the kick queue. All of a guest share a descriptor, since there
/// may be as many as queue pairs.
pub struct KickFd(Arc<EventFd>);

impl vnic_verbs::Kick for KickFd {
    fn kick(&self) {
        // A full counter means that a notification is pending anyway.
        let _ = self.0.write(1);
    }
}
