// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a worker carries from step to step: translation, epoch slots, timers, and what a step leaves
//! to do once its burst is over.

use crate::device::{Device, DeviceConfig};
use crate::engine::copy::Reaches;
use crate::engine::slots::Slots;
use crate::engine::timer::Timers;
use crate::engine::watch::Watch;
use crate::fabric::ahead::Ahead;
use crate::fabric::direct::nic::Nic;
use crate::fabric::direct::watched::Watched;
use crate::fabric::local::Scratch;
use crate::fabric::relay::lanes::Lanes;
use crate::object::cq::Cq;
use crate::object::qp::Qp;
use crate::ring::cq::{CqeWords, Overrun};
use std::sync::Arc;
use vnic_abi::cqe::{Cqe, WcStatus};
use vnic_abi::event::EventKind;
use vnic_iommu::translate::Translator;

/// Work that must not be done inside a burst, because it may take a lock or a system call.
#[derive(Default)]
pub struct Later {
    events: Vec<(Arc<Qp>, EventKind)>,
    schedule: Vec<Arc<Qp>>,
    /// Receivers' completion queues with something new, and whether some of it is solicited.
    notify: Vec<(Arc<Cq>, bool)>,
}

impl Later {
    /// Sends an event about `qp`.
    pub fn event(&mut self, qp: &Arc<Qp>, kind: EventKind) {
        self.events.push((qp.clone(), kind));
    }

    /// Lets the worker of `qp` look at it.
    pub fn schedule(&mut self, qp: &Arc<Qp>) {
        self.schedule.push(qp.clone());
    }

    /// Sends the completion event of a queue in which something was published, if it is armed.
    /// `solicited` says whether that was solicited or failed.
    #[inline]
    pub fn notify(&mut self, cq: &Arc<Cq>, solicited: bool) {
        // The same receiver again and again is the usual case.
        match self.notify.last_mut() {
            Some((last, any)) if Arc::ptr_eq(last, cq) => *any |= solicited,
            _ => self.notify.push((cq.clone(), solicited)),
        }
    }

    /// Does it all. Call outside bursts.
    #[inline(always)]
    pub fn flush(&mut self, device: &Device) {
        for (cq, solicited) in self.notify.drain(..) {
            cq.notify(solicited);
        }
        if !self.events.is_empty() || !self.schedule.is_empty() {
            self.flush_rare(device);
        }
    }

    #[cold]
    fn flush_rare(&mut self, device: &Device) {
        for (qp, kind) in self.events.drain(..) {
            qp.event(kind);
        }
        for qp in self.schedule.drain(..) {
            device.schedule(&qp);
        }
    }
}

/// Completions that are gathered before they are published together.
pub const BATCH: usize = 32;

/// Completions of one send queue that are not published yet.
///
/// Two share a cache line, which the driver polls: to publish them one by one is to fetch the line back
/// from the driver for each.
#[derive(Default)]
pub struct Completions {
    cqes: [CqeWords; BATCH],
    len: usize,
    /// Whether any was published in this turn, and whether one of those had failed.
    published: Option<bool>,
    failed: bool,
}

impl Completions {
    /// Adds one. `true` if there is room for no other.
    #[inline]
    #[must_use]
    pub fn push(&mut self, cqe: Cqe) -> bool {
        self.failed |= cqe.status != WcStatus::Success.0;
        if let Some(place) = self.cqes.get_mut(self.len) {
            *place = cqe.into();
            self.len += 1;
        }
        self.len == BATCH
    }

    /// Number of those that were added.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was added.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Publishes what was added.
    ///
    /// # Errors
    ///
    /// [`Overrun`] as from [`Cq::publish`].
    #[inline]
    pub fn publish(&mut self, cq: &Cq) -> Result<(), Overrun> {
        let len = std::mem::take(&mut self.len);
        if len == 0 {
            return Ok(());
        }
        let failed = std::mem::take(&mut self.failed);
        self.published = Some(failed | self.published.unwrap_or_default());
        cq.publish(&self.cqes[..len])
    }

    /// At the end of a turn: whether anything was published, and whether anything of that had failed.
    #[inline]
    pub fn end_turn(&mut self) -> Option<bool> {
        self.published.take()
    }
}

/// A worker's own state.
pub struct Core {
    /// The whole NIC.
    pub device: Arc<Device>,
    /// Index of the worker.
    pub worker: usize,
    /// Bytes that one queue pair may move before others have their turn.
    pub chunk: u64,
    /// Translations.
    pub translator: Translator,
    /// Epoch slots.
    pub slots: Slots,
    /// Timers.
    pub timers: Timers,
    /// Left for after the burst.
    pub later: Later,
    /// Of the queue pair whose turn it is.
    pub completions: Completions,
    /// What the request that stopped last will miss.
    pub ahead: Ahead,
    /// Who else may have something to do.
    pub watch: Watch,
    /// Room for translations of a transfer.
    pub scratch: Scratch,
    /// How messages are copied.
    pub reaches: Reaches,
    /// Lanes to other daemons.
    pub lanes: Lanes,
    /// Queue pairs that go direct.
    pub direct: Watched,
    /// Devices of the host that this worker listens to: any by which one of those has gone.
    pub nics: Vec<Arc<dyn Nic>>,
    /// Queue pairs whose responders have something to look at that concerns another daemon.
    pub indebted: Vec<Arc<Qp>>,
}

impl Core {
    /// For the worker of this index.
    pub fn new(device: Arc<Device>, worker: usize) -> Self {
        let DeviceConfig { chunk, fault_batching: batching, past_caches, .. } = *device.config();
        Self {
            device,
            worker,
            chunk,
            translator: Translator::default(),
            slots: Slots::new(worker),
            timers: Timers::default(),
            later: Later::default(),
            completions: Completions::default(),
            ahead: Ahead::new(batching),
            watch: Watch::default(),
            scratch: Scratch::default(),
            reaches: Reaches::new(past_caches),
            lanes: Lanes::default(),
            direct: Watched::default(),
            nics: Vec::new(),
            indebted: Vec::new(),
        }
    }

    /// Has the worker look soon at what the responder of `qp` owes another daemon.
    pub fn owe(&mut self, qp: &Arc<Qp>) {
        self.indebted.push(qp.clone());
    }
}
