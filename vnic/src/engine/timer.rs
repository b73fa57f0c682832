// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Timers of a worker: queue pairs to look at again later.

use crate::object::qp::Qp;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Which half of a queue pair a timer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    /// The requester.
    Send,
    /// The responder.
    Receive,
}

struct Entry {
    time: Instant,
    qp: Weak<Qp>,
    half: Half,
    /// Value of [`Qp::timer`] when the timer was set; any other means that a later one took its place.
    serial: u64,
}

impl Entry {
    /// The queue pair, unless it is gone or has a later timer.
    fn valid(&self) -> Option<Arc<Qp>> {
        // Relaxed: only this worker uses the number.
        let serial = |qp: &Qp| qp.timer[self.half as usize].load(Ordering::Relaxed);
        self.qp.upgrade().filter(|qp| serial(qp) == self.serial)
    }
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

/// Pending timers, the next one first. Each half of a queue pair has one; one that no longer waits ignores it.
#[derive(Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
    /// There may be entries that mean nothing in front.
    cancelled: bool,
}

impl Timers {
    /// Looks at that half of `qp` again at `time`, and not at the time asked for before.
    pub fn at(&mut self, time: Instant, qp: &Arc<Qp>, half: Half) {
        // Relaxed: see `Entry::valid`.
        let serial = qp.timer[half as usize].fetch_add(1, Ordering::Relaxed) + 1;
        // A guest that makes queue pairs wait, and resets, destroys or wakes them before hours are
        // over, leaves entries that mean nothing; they must not pile up, so sweep whenever the heap
        // would have to grow.
        if self.heap.len() == self.heap.capacity() {
            self.heap.retain(|Reverse(entry)| entry.valid().is_some());
        }
        self.heap.push(Reverse(Entry { time, qp: Arc::downgrade(qp), half, serial }));
    }

    /// Forgets the timer of `qp`, so that nobody looks at the clock for its sake.
    pub fn cancel(&mut self, qp: &Qp, half: Half) {
        // Relaxed: see `Entry::valid`.
        qp.timer[half as usize].fetch_add(1, Ordering::Relaxed);
        self.cancelled = true;
    }

    /// Whether nothing is pending.
    pub fn is_empty(&self) -> bool {
        self.heap.is_empty()
    }

    /// Time until the next one.
    pub fn next(&self, now: Instant) -> Option<Duration> {
        self.heap.peek().map(|Reverse(entry)| entry.time.saturating_duration_since(now))
    }

    /// Hands out every half whose time has come.
    pub fn expire(&mut self, now: Instant, mut each: impl FnMut(Arc<Qp>, Half)) {
        if std::mem::take(&mut self.cancelled) {
            while self.heap.peek().is_some_and(|Reverse(entry)| entry.valid().is_none()) {
                self.heap.pop();
            }
        }
        while self.heap.peek().is_some_and(|Reverse(entry)| entry.time <= now) {
            let Some(Reverse(entry)) = self.heap.pop() else { break };
            if let Some(qp) = entry.valid() {
                each(qp, entry.half);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{qp, session};

    #[test]
    fn timers_that_a_later_one_replaced_do_not_pile_up() {
        let (session, pd) = session();
        let qp = qp(&session, pd);
        let mut timers = Timers::default();
        let now = Instant::now();
        let hours = now + Duration::from_secs(7200);
        for _ in 0..100_000 {
            timers.at(hours, &qp, Half::Send);
        }
        assert!(timers.heap.len() < 100, "{}", timers.heap.len());
        timers.at(now, &qp, Half::Send);
        timers.at(now, &qp, Half::Receive);
        timers.cancel(&qp, Half::Receive);
        let mut calls = 0;
        timers.expire(hours, |_, _| calls += 1);
        assert_eq!(calls, 1, "only the last one counts");
    }

    #[test]
    fn a_timer_that_was_cancelled_is_gone_at_the_next_look() {
        let (session, pd) = session();
        let (one, other) = (qp(&session, pd), qp(&session, pd));
        let mut timers = Timers::default();
        let now = Instant::now();
        let later = now + Duration::from_secs(10);
        timers.at(later, &one, Half::Send);
        timers.at(later + Duration::from_secs(1), &other, Half::Receive);
        timers.cancel(&one, Half::Send);
        timers.expire(now, |_, _| panic!("nothing is due"));
        assert_eq!(timers.heap.len(), 1);
        timers.cancel(&other, Half::Receive);
        timers.expire(now, |_, _| panic!("nothing is due"));
        assert!(timers.is_empty());
    }
}
