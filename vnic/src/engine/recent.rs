// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs that had something to do lately: a worker looks at their next element itself.
//!
//! An element is in sight before its doorbell is, and a doorbell line that the worker does not fetch all
//! the time is with the driver when it rings. Doorbells are looked at as well: they say all that there is
//! to know, here are the usual cases only.

use crate::engine::watch::WATCHED;
use crate::object::qp::Qp;
use std::sync::Arc;

/// How many are remembered.
const RECENT: usize = WATCHED;
/// Looks without an element after which one is forgotten.
const PATIENCE: u32 = 10_000;

/// Looks at all of them between two passes of the worker, each of some twenty nanoseconds.
const LOOKS: u32 = 16;

struct Entry {
    qp: Arc<Qp>,
    /// Looks since it had something to do last.
    idle: u32,
}

/// The queue pairs that are remembered.
#[derive(Default)]
pub struct Recent {
    entries: Vec<Entry>,
    victim: usize,
}

impl Recent {
    /// Remembers `qp`; `true` if that changed who is remembered.
    #[inline]
    pub fn note(&mut self, qp: &Arc<Qp>) -> bool {
        match self.entries.iter_mut().find(|entry| Arc::ptr_eq(&entry.qp, qp)) {
            Some(entry) => {
                entry.idle = 0;
                false
            }
            None => {
                self.admit(qp);
                true
            }
        }
    }

    /// Those that are remembered.
    pub fn qps(&self) -> impl Iterator<Item = &Arc<Qp>> {
        self.entries.iter().map(|entry| &entry.qp)
    }

    fn admit(&mut self, qp: &Arc<Qp>) {
        let entry = Entry { qp: qp.clone(), idle: 0 };
        if self.entries.len() < RECENT {
            self.entries.push(entry);
        } else {
            self.victim = (self.victim + 1) % RECENT;
            self.entries[self.victim] = entry;
        }
    }

    /// Hands out those whose next element is there. `true` if there were any.
    #[inline]
    pub fn poll(&mut self, mut each: impl FnMut(&Arc<Qp>)) -> bool {
        let mut any = false;
        let mut tired = false;
        for entry in &mut self.entries {
            if entry.qp.is_posted() == Some(true) {
                entry.idle = 0;
                any = true;
                each(&entry.qp);
            } else {
                entry.idle += 1;
                tired |= entry.idle > PATIENCE;
            }
        }
        if tired {
            self.entries.retain(|entry| entry.idle <= PATIENCE);
        }
        any
    }

    /// Looks up to [`LOOKS`] times for a next element, and at nothing else: it is answered to sooner than anything
    /// that costs a pass. Returns whose it is.
    #[inline]
    pub fn look_out(&mut self) -> Option<&Arc<Qp>> {
        if self.entries.is_empty() {
            return None;
        }
        for _ in 0..LOOKS {
            let posted = |entry: &Entry| entry.qp.is_posted() == Some(true);
            if let Some(index) = self.entries.iter().position(posted) {
                let entry = &mut self.entries[index];
                entry.idle = 0;
                return Some(&entry.qp);
            }
            // Looks without a pause between them would only hold the line up on its way.
            std::hint::spin_loop();
        }
        None
    }

    /// Forgets all, so that what was destroyed can go.
    pub fn clear(&mut self) {
        self.entries.clear();
    }
}
