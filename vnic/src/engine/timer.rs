// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Timers of a worker: queue pairs to look at again later.

use crate::object::qp::Qp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

struct Entry {
    time: Instant,
    qp: Weak<Qp>,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.time == other.time
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.time.cmp(&other.time)
    }
}

/// Pending timers, the next one first. A queue pair that no longer waits ignores its timer.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
}

impl Timers {
    /// Looks at `qp` again at `time`.
    pub fn at(&mut self, time: Instant, qp: &Arc<Qp>) {
        // A guest that makes queue pairs wait and destroys them leaves dead entries; they must not
        // pile up, so sweep whenever the heap would have to grow.
        if self.heap.len() == self.heap.capacity() {
            self.heap.retain(|Reverse(entry)| entry.qp.strong_count() != 0);
        }
        self.heap.push(Reverse(Entry { time, qp: Arc::downgrade(qp) }));
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Time until the next one.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| entry.time.saturating_duration_since(now))
    }

    /// Hands out every queue pair whose time has come.
    pub fn expire(&mut self, now: Instant, mut each: impl FnMut(Arc<Qp>)) {
        while self.heap.peek().is_some_and(|Reverse(entry)| entry.time <= now) {
            if let Some(qp) = self.heap.pop().and_then(|Reverse(entry)| entry.qp.upgrade()) {
                each(qp);
            }
        }
    }
}
