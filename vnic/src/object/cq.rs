// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completion queues.

use crate::object::ctx::Ctx;
use crate::port::PortEvents;
use crate::ring::cq::{CompletionRing, Overrun};
use crate::ring::memory::RingMemory;
use crate::session::Session;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vnic_abi::cqe::{CQ_RING_OFFSET, CQE_SIZE, Cqe, WcStatus};
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
    /// The memory; `None` once the queue is destroyed.
    memory: Option<RingMemory>,
    overrun: bool,
    /// The guest has not been told of the overrun yet.
    untold: bool,
    /// Completions since the arm word was last looked at.
    fresh: bool,
    /// One of them was solicited or failed.
    solicited: bool,
}

/// A completion queue.
#[derive(Debug)]
pub struct Cq {
    /// Handle.
    pub handle: u32,
    /// Owner.
    pub ctx: Arc<Ctx>,
    cookie: u64,
    producer: Mutex<Producer>,
    users: AtomicU32,
}

impl Cq {
    /// Publishes a completion. Events, if any are due, are sent by [`Self::notify`].
    ///
    /// # Errors
    ///
    /// [`Overrun`] if there was no room; the guest is told by an event, once.
    #[inline]
    pub fn publish(&self, cqe: Cqe, solicited: bool) -> Result<(), Overrun> {
        let mut producer = self.producer.lock();
        let Producer { ring, memory: Some(memory), overrun, .. } = &mut *producer else {
            // Destroyed: the queue pairs were, too; nobody is left to see it.
            return Ok(());
        };
        if *overrun {
            return Err(Overrun);
        }
        if let Err(error) = ring.publish(memory, cqe) {
            *overrun = true;
            producer.untold = true;
            return Err(error);
        }
        producer.fresh = true;
        producer.solicited |= solicited || cqe.status != WcStatus::Success.0;
        Ok(())
    }

    /// Sends the completion event if the driver armed the queue, and tells of an overrun. Call after a
    /// batch, outside bursts.
    #[inline]
    pub fn notify(&self, up: &dyn PortEvents) {
        let mut producer = self.producer.lock();
        if std::mem::take(&mut producer.untold) {
            up.event(self.event(EventKind::CqError));
        }
        if !std::mem::take(&mut producer.fresh) {
            return;
        }
        let solicited = std::mem::take(&mut producer.solicited);
        let Producer { ring, memory: Some(memory), .. } = &*producer else { return };
        if ring.take_arm(memory, solicited) {
            drop(producer);
            up.event(self.event(EventKind::Completion));
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
        let producer = Producer {
            ring: CompletionRing::new(params.depth),
            memory: Some(memory),
            overrun: false,
            untold: false,
            fresh: false,
            solicited: false,
        };
        let cq = self.cqs.lock().insert_with(|handle| {
            Ok(Cq {
                handle,
                ctx,
                cookie: params.cookie,
                producer: Mutex::new(producer),
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
        let mut cqs = self.cqs.lock();
        // Relaxed: see `release`.
        if cqs.get(handle)?.users.load(Ordering::Relaxed) != 0 {
            return Err(Status::Busy);
        }
        let cq = cqs.remove(handle)?;
        drop(cqs);
        cq.producer.lock().memory = None;
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
