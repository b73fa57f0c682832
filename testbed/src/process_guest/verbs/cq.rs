// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completion queues.

use std::collections::HashMap;
use std::ptr::NonNull;
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use vnic_abi::cqe::{CQ_RING_OFFSET, CQE_SIZE, WcStatus};
use vnic_abi::ctrl::{CmdOpcode, CqCreate};
use vnic_abi::event::Event;
use vnic_abi::status::Status;
use vnic_verbs::{Completion, CompletionQueue};

use super::qp::Rings;
use super::{Context, destroy};
use crate::process_guest::memory::{Layout, Pages};

/// How long a test waits for something that must happen.
const LIMIT: Duration = Duration::from_secs(30);

/// A completion queue.
pub struct Cq {
    ctx: Arc<Context>,
    handle: u32,
    cookie: u64,
    queue: Mutex<CompletionQueue>,
    rings: Mutex<HashMap<u32, Weak<Rings>>>,
    events: Mutex<Receiver<Event>>,
    /// After `queue`, which points into it.
    pages: Pages,
}

impl Cq {
    /// Creates a queue of `depth` elements.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn new(ctx: &Arc<Context>, depth: u32) -> Arc<Self> {
        Self::try_new(ctx, depth).expect("CQ_CREATE")
    }

    /// Creates a queue of `depth` elements, a power of two.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn try_new(ctx: &Arc<Context>, depth: u32) -> Result<Arc<Self>, Status> {
        let driver = ctx.driver();
        let len = CQ_RING_OFFSET + depth * CQE_SIZE;
        let pages = driver.ram().alloc(len.into(), Layout::Scattered);
        let list = driver.page_list(&pages.gpas());
        let cookie = driver.new_cookie();
        let events = driver.cq_events(cookie);
        let handle = driver.cq_create(&CqCreate {
            ctx: ctx.handle().into(),
            depth: depth.into(),
            cookie: cookie.into(),
            pages: list.wire(),
        })?;
        let memory = NonNull::new(pages.as_ptr()).expect("mapped pages");
        #[allow(unsafe_code, reason = "the data path works on memory that the caller mapped")]
        // SAFETY: zeroed, mapped, long enough, and kept alive beside the queue.
        let queue = unsafe { CompletionQueue::new(memory, depth) };
        Ok(Arc::new(Self {
            ctx: Arc::clone(ctx),
            handle,
            cookie,
            queue: Mutex::new(queue.expect("a depth that the device took")),
            rings: Mutex::default(),
            events: Mutex::new(events),
            pages,
        }))
    }

    /// The device's handle.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// The number under which events come.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The queue's memory.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }

    pub(super) fn attach(&self, qpn: u32, rings: &Arc<Rings>) {
        self.rings().insert(qpn, Arc::downgrade(rings));
    }

    pub(super) fn detach(&self, qpn: u32) {
        self.rings().remove(&qpn);
        self.queue().discard(qpn);
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<u32, Weak<Rings>>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, CompletionQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next completion, if there is one.
    pub fn poll(&self) -> Option<Completion> {
        let done = {
            let mut queue = self.queue();
            let done = queue.take()?;
            queue.publish();
            done
        };
        if let Some(rings) = self.rings().get(&done.qpn).and_then(Weak::upgrade) {
            rings.advance(&done);
        }
        Some(done)
    }

    /// Waits for a completion by polling.
    ///
    /// # Panics
    ///
    /// If none comes within half a minute.
    pub fn wait(&self) -> Completion {
        let limit = Instant::now() + LIMIT;
        loop {
            if let Some(done) = self.poll() {
                return done;
            }
            assert!(Instant::now() < limit, "no completion in half a minute");
            std::thread::yield_now();
        }
    }

    /// Waits for a completion and expects it to be successful.
    ///
    /// # Panics
    ///
    /// If it is not, or none comes.
    #[track_caller]
    pub fn expect(&self, wr_id: u64) -> Completion {
        let done = self.wait();
        assert_eq!((done.status, done.wr_id), (WcStatus::Success, wr_id), "{done:?}");
        done
    }

    /// Waits for `count` completions.
    ///
    /// # Panics
    ///
    /// If one does not come.
    pub fn wait_many(&self, count: usize) -> Vec<Completion> {
        (0..count).map(|_| self.wait()).collect()
    }

    /// Asks for an event.
    pub fn arm(&self, solicited_only: bool) {
        self.queue().arm(solicited_only);
    }

    /// Waits for an event of this queue.
    ///
    /// # Panics
    ///
    /// If none comes within half a minute.
    pub fn wait_event(&self) -> Event {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.recv_timeout(LIMIT).expect("a completion event")
    }

    /// An event that has come already, if there is one.
    pub fn try_event(&self) -> Option<Event> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok()
    }
}

impl Drop for Cq {
    fn drop(&mut self) {
        destroy(self.ctx.driver(), CmdOpcode::CqDestroy, self.handle);
    }
}
