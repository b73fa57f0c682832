// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completion queues.

use crate::engine::lock::Lock;
use crate::object::ctx::Ctx;
use crate::port::PortEvents;
use crate::ring::cq::{CompletionRing, CqeWords, Overrun, place, take_arm};
use crate::ring::memory::RingMemory;
use crate::session::Session;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use vnic_abi::cqe::{CQ_RING_OFFSET, CQE_SIZE};
use vnic_abi::event::{Event, EventKind};
use vnic_abi::status::Status;
use vnic_iommu::addr::Gpa;

/// What a driver asks for when it creates a completion queue.
#[derive(Debug, Clone)]
pub struct CqParams {
    /// Owner.
    pub ctx: u32,
    /// Elements, a power of two.
    pub depth: u32,
    /// Returned in events.
    pub cookie: u64,
    /// The queue's memory.
    pub pages: Vec<Gpa>,
}

/// State of a completion queue that changes.
#[derive(Debug)]
struct Producer {
    ring: CompletionRing,
    overrun: bool,
    /// Nobody is left to see completions.
    destroyed: bool,
}

/// A completion queue.
pub struct Cq {
    /// Handle.
    pub handle: u32,
    /// Owner.
    pub ctx: Arc<Ctx>,
    cookie: u64,
    up: Arc<dyn PortEvents>,
    memory: RingMemory,
    depth: u32,
    producer: Lock<Producer>,
    /// The guest has not been told of the overrun yet.
    untold: AtomicBool,
    /// Where the next completion goes, as far as it is known without the lock.
    next: AtomicUsize,
    users: AtomicU32,
}

impl fmt::Debug for Cq {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cq").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Cq {
    /// Publishes completions, in order. Say so with [`Self::notify`] in the same pass of the worker.
    ///
    /// # Errors
    ///
    /// [`Overrun`] if there was no room for the last ones; the guest is told by an event, once.
    #[inline]
    pub fn publish(&self, cqes: &[CqeWords]) -> Result<(), Overrun> {
        let mut producer = self.producer.lock();
        let Producer { ring, overrun, destroyed } = &mut *producer;
        if *destroyed {
            return Ok(());
        }
        if *overrun {
            return Err(Overrun);
        }
        for cqe in cqes {
            if let Err(error) = ring.publish(&self.memory, cqe) {
                *overrun = true;
                // Relaxed: whoever publishes notifies afterwards.
                self.untold.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        // Relaxed: a hint.
        self.next.store(ring.produced() as usize, Ordering::Relaxed);
        Ok(())
    }

    /// Completions so far.
    #[cfg(test)]
    pub fn published(&self) -> u64 {
        // Relaxed: the test's own thread publishes.
        self.next.load(Ordering::Relaxed) as u64
    }

    /// Says that completions will be published, of which this is the `nth`: its line can come meanwhile.
    #[inline]
    pub fn expect(&self, nth: usize) {
        // Relaxed: a hint.
        let next = self.next.load(Ordering::Relaxed).wrapping_add(nth) as u32;
        if next.is_multiple_of(2) {
            self.memory.prefetch_to_write(place(next & (self.depth - 1)));
        }
    }

    /// After completions were published: sends the completion event if the driver armed the queue, and
    /// tells of an overrun. `solicited` says whether one of them was solicited or failed. Call outside
    /// bursts, and without the lock of a queue pair: it may make a system call.
    #[inline]
    pub fn notify(&self, solicited: bool) {
        // Relaxed: see `publish`.
        if self.untold.load(Ordering::Relaxed) {
            self.tell_overrun();
        }
        // A queue that was destroyed meanwhile keeps its memory until this pass is over.
        if take_arm(&self.memory, solicited) {
            self.up.event(self.event(EventKind::Completion));
        }
    }

    #[cold]
    fn tell_overrun(&self) {
        // Relaxed: the swap decides who tells it.
        if self.untold.swap(false, Ordering::Relaxed) {
            self.up.event(self.event(EventKind::CqError));
        }
    }

    fn event(&self, kind: EventKind) -> Event {
        Event { kind: kind.0.into(), object: self.handle.into(), cookie: self.cookie.into() }
    }

    pub(crate) fn acquire(&self) {
        // Relaxed: the table's lock orders it.
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn release(&self) {
        // Relaxed: see `Pd::release`.
        self.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Creates a completion queue.
    ///
    /// # Errors
    ///
    /// `BadHandle`, `BadSize`, `BadAddress`, `Limit`.
    pub fn cq_create(&self, params: CqParams) -> Result<u32, Status> {
        let ctx = self.ctxs.lock().get(params.ctx)?.clone();
        if !params.depth.is_power_of_two() || params.depth > self.limits.max_cq_depth {
            return Err(Status::BadSize);
        }
        let bytes = u64::from(CQ_RING_OFFSET) + u64::from(params.depth) * u64::from(CQE_SIZE);
        let memory = RingMemory::new(&self.ram.current(), &self.ring_pages, &params.pages, bytes)?;
        let ring = CompletionRing::new(params.depth);
        let producer = Producer { ring, overrun: false, destroyed: false };
        let cq = self.cqs.lock().insert_with(|handle| {
            Ok(Cq {
                handle,
                ctx,
                cookie: params.cookie,
                up: self.up.clone(),
                memory,
                depth: params.depth,
                producer: Lock::new(producer),
                untold: AtomicBool::new(false),
                next: AtomicUsize::new(0),
                users: AtomicU32::new(0),
            })
        })?;
        Ok(cq.handle)
    }

    /// Destroys a completion queue. After the return its memory is not touched.
    ///
    /// # Errors
    ///
    /// `BadHandle`; `Busy` while a queue pair uses it.
    pub fn cq_destroy(&self, handle: u32) -> Result<(), Status> {
        self.cq_remove(handle)?;
        // A worker may be about to look whether the queue is armed.
        self.device.grace().synchronize();
        Ok(())
    }

    /// Destroys a completion queue whose memory may be looked at until a grace period is over.
    pub(crate) fn cq_remove(&self, handle: u32) -> Result<(), Status> {
        let mut cqs = self.cqs.lock();
        // Relaxed: see `release`.
        if cqs.get(handle)?.users.load(Ordering::Relaxed) != 0 {
            return Err(Status::Busy);
        }
        let cq = cqs.remove(handle)?;
        drop(cqs);
        cq.producer.lock().destroyed = true;
        Ok(())
    }

    /// A completion queue of `ctx`, with one more user.
    pub(crate) fn cq_acquire(&self, handle: u32, ctx: &Arc<Ctx>) -> Result<Arc<Cq>, Status> {
        let cqs = self.cqs.lock();
        let cq = cqs.get(handle)?;
        if !Arc::ptr_eq(&cq.ctx, ctx) {
            return Err(Status::BadHandle);
        }
        cq.acquire();
        Ok(cq.clone())
    }
}
