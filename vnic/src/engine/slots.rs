// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker's epoch slots, one per session whose memory it has touched.

use crate::session::Session;
use std::rc::Rc;
use vnic_iommu::quiesce::WorkerSlot;

struct Entry {
    uid: u64,
    slot: Rc<WorkerSlot>,
}

/// Epoch slots by session.
pub struct Slots {
    worker: usize,
    entries: Vec<Entry>,
}

impl Slots {
    /// No slot yet, for the worker of this index.
    pub fn new(worker: usize) -> Self {
        Self { worker, entries: Vec::new() }
    }

    /// The slot in `session`'s epoch page. `None` only if the worker's index were out of range,
    /// which the device refuses to start with.
    #[inline]
    pub fn of(&mut self, session: &Session) -> Option<Rc<WorkerSlot>> {
        // The sessions in use are few and the latest come first.
        if let Some(index) = self.entries.iter().position(|entry| entry.uid == session.uid) {
            if index > 3 {
                self.entries.swap(0, index);
                return Some(self.entries[0].slot.clone());
            }
            return Some(self.entries[index].slot.clone());
        }
        self.open(session)
    }

    #[cold]
    fn open(&mut self, session: &Session) -> Option<Rc<WorkerSlot>> {
        let slot = Rc::new(WorkerSlot::new(session.epoch_page.clone(), self.worker)?);
        self.entries.insert(0, Entry { uid: session.uid, slot: slot.clone() });
        Some(slot)
    }

    /// Forgets sessions that ended, so that their memory can go. Call between bursts.
    pub fn retain(&mut self, live: impl Fn(u64) -> bool) {
        self.entries.retain(|entry| live(entry.uid));
    }
}
