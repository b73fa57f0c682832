// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a worker carries from step to step: translation, epoch slots, timers, and what a step leaves
//! to do once its burst is over.

use crate::device::Device;
use crate::engine::slots::Slots;
use crate::engine::timer::Timers;
use crate::fabric::ahead::Ahead;
use crate::object::cq::Cq;
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::event::EventKind;
use vnic_iommu::translate::Translator;

/// Work that must not be done inside a burst, because it may take a lock or a system call.
#[derive(Default)]
pub struct Later {
    events: Vec<(Arc<Qp>, EventKind)>,
    schedule: Vec<Arc<Qp>>,
    /// Receivers' completion queues with something new.
    notify: Vec<(Arc<Cq>, Arc<Qp>)>,
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

    /// Sends the completion event of `qp`'s receive queue, if armed.
    pub fn notify_recv(&mut self, qp: &Arc<Qp>) {
        // The same receiver again and again is the usual case.
        if !self.notify.last().is_some_and(|(cq, _)| Arc::ptr_eq(cq, &qp.recv_cq)) {
            self.notify.push((qp.recv_cq.clone(), qp.clone()));
        }
    }

    /// Does it all. Call outside bursts.
    #[inline]
    pub fn flush(&mut self, device: &Device) {
        for (cq, qp) in self.notify.drain(..) {
            cq.notify(&*qp.session.up);
        }
        for (qp, kind) in self.events.drain(..) {
            qp.event(kind);
        }
        for qp in self.schedule.drain(..) {
            device.schedule(&qp);
        }
    }
}

/// A worker's own state.
pub struct Core {
    /// The whole NIC.
    pub device: Arc<Device>,
    /// Translations.
    pub translator: Translator,
    /// Epoch slots.
    pub slots: Slots,
    /// Timers.
    pub timers: Timers,
    /// Left for after the burst.
    pub later: Later,
    /// What the request that stopped last will miss.
    pub ahead: Ahead,
}

impl Core {
    /// For the worker of this index.
    pub fn new(device: Arc<Device>, worker: usize) -> Self {
        let batching = device.config().fault_batching;
        Self {
            device,
            translator: Translator::default(),
            slots: Slots::new(worker),
            timers: Timers::default(),
            later: Later::default(),
            ahead: Ahead::new(batching),
        }
    }
}
