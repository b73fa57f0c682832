// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Events and page requests on their way to the driver.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::sync::OnceLock;

use parking_lot::Mutex;
use virtio_queue::{Error as QueueError, Queue, QueueT};
use vnic_abi::event::{Event, EventKind, PageRequest};
use zerocopy::{Immutable, IntoBytes};

use super::chain::Exchange;
use super::rate::RateLimit;
use super::ring::{MemoryGuard, Ring, pop};
use crate::port::{Limits, PortEvents};

/// Buffers that one delivery uses, at most: a driver that posts buffers as fast as they are filled,
/// or useless ones, keeps a worker no longer than this. What is left goes with the next buffer.
const DELIVERY: usize = 256;
/// Useless buffers that one delivery looks at. They move no message, so that a driver could make a
/// worker go through a whole ring of them for each event.
const USELESS: usize = 4;

/// Everything that a port tells its driver.
///
/// Workers call this. They never wait for the guest: what finds no buffer stays in a backlog until
/// the driver posts one.
pub struct Upcalls {
    events: Channel<Event, (u32, u32, u64)>,
    page_requests: Channel<PageRequest, u32>,
}

impl Upcalls {
    /// Channels with room for whatever a port within `limits` can have to say.
    ///
    /// An event that is in the backlog is not added twice: the driver looks at the object when it
    /// gets the event, so one tells what two would. The backlog therefore holds no more than each
    /// object's kinds of events: two for a completion queue, five for a queue pair, one for a
    /// context, one for the port. Nothing can be lost, and neither a driver that posts no buffers nor one that re-arms
    /// without looking grows it. Page requests are bounded by their
    /// budget; those of address spaces that went away may still be here.
    pub fn new(port: &str, limits: &Limits) -> Self {
        let events =
            2 * limits.max_cq as usize + 5 * limits.max_qp as usize + limits.max_ctx as usize + 1;
        let requests = limits.max_page_requests as usize + 2 * limits.max_qp as usize;
        Self {
            events: Channel::new(port, "event", events, |event: &Event| {
                (event.kind.get(), event.object.get(), event.cookie.get())
            }),
            page_requests: Channel::new(port, "page request", requests, |request: &PageRequest| {
                request.id.get()
            }),
        }
    }

    /// The event ring is there, or has new buffers.
    pub fn event_ring(&self, ring: &Ring) {
        self.events.serve(ring);
    }

    /// The page request ring is there, or has new buffers.
    pub fn page_request_ring(&self, ring: &Ring) {
        self.page_requests.serve(ring);
    }

    /// Drops everything that waits: the driver that it was for is gone.
    pub fn clear(&self) {
        self.events.retain(|_| false);
        self.page_requests.retain(|_| false);
    }

    /// Returns when no message is on its way that found its buffer before the call.
    pub fn settle(&self) {
        drop(self.events.backlog.lock());
        drop(self.page_requests.backlog.lock());
    }

    /// Drops the events of a destroyed object.
    pub fn forget(&self, object: u32, of_kind: impl Fn(EventKind) -> bool) {
        self.events
            .retain(|event| event.object.get() != object || !of_kind(EventKind(event.kind.get())));
    }

    /// Events and page requests that wait for a buffer.
    pub fn waiting(&self) -> (usize, usize) {
        (self.events.len(), self.page_requests.len())
    }
}

impl PortEvents for Upcalls {
    fn event(&self, event: Event) {
        // The driver has to end with what is so now: what it has not heard yet is not so any more.
        if is_about_the_port(EventKind(event.kind.get())) {
            self.forget(event.object.get(), is_about_the_port);
        }
        self.events.send(event);
    }

    fn page_request(&self, request: PageRequest) {
        self.page_requests.send(request);
    }
}

fn is_about_the_port(kind: EventKind) -> bool {
    matches!(kind, EventKind::PortDown | EventKind::PortUp)
}

/// One queue on which the device talks.
struct Channel<T, K> {
    port: String,
    what: &'static str,
    capacity: usize,
    key: fn(&T) -> K,
    /// Known from the first time that the ring runs.
    ring: OnceLock<Ring>,
    backlog: Mutex<Backlog<T, K>>,
    complaints: RateLimit,
}

struct Backlog<T, K> {
    messages: VecDeque<T>,
    keys: HashSet<K>,
}

impl<T, K> Channel<T, K>
where
    T: IntoBytes + Immutable,
    K: Hash + Eq,
{
    fn new(port: &str, what: &'static str, capacity: usize, key: fn(&T) -> K) -> Self {
        Self {
            port: port.to_owned(),
            what,
            capacity,
            key,
            ring: OnceLock::new(),
            backlog: Mutex::new(Backlog { messages: VecDeque::new(), keys: HashSet::new() }),
            complaints: RateLimit::new(),
        }
    }

    fn len(&self) -> usize {
        self.backlog.lock().messages.len()
    }

    fn send(&self, message: T) {
        let mut backlog = self.backlog.lock();
        let Backlog { messages, keys } = &mut *backlog;
        if !keys.insert((self.key)(&message)) {
            return;
        }
        // Objects that were destroyed with their context may still have messages here; a driver
        // that lets so many pile up gets no more until it posts buffers.
        if messages.len() == self.capacity {
            keys.remove(&(self.key)(&message));
            drop(backlog);
            self.complain("the driver posts no buffers: dropped");
            return;
        }
        messages.push_back(message);
        self.deliver(&mut backlog);
    }

    fn serve(&self, ring: &Ring) {
        let _ = self.ring.set(ring.clone());
        self.deliver(&mut self.backlog.lock());
    }

    fn retain(&self, keep: impl Fn(&T) -> bool) {
        let mut backlog = self.backlog.lock();
        let Backlog { messages, keys } = &mut *backlog;
        messages.retain(|message| {
            let kept = keep(message);
            if !kept {
                keys.remove(&(self.key)(message));
            }
            kept
        });
    }

    /// Moves what it can from the backlog to the ring.
    fn deliver(&self, backlog: &mut Backlog<T, K>) {
        let Some(ring) = self.ring.get() else { return };
        match ring.while_running(|queue, memory| self.fill(backlog, queue, memory)) {
            None | Some(Ok(false)) => {}
            Some(Ok(true)) => ring.interrupt(),
            Some(Err(error)) => self.complain(&error.to_string()),
        }
    }

    /// Fills buffers of a running queue; tells whether to interrupt the driver.
    fn fill(
        &self,
        backlog: &mut Backlog<T, K>,
        queue: &mut Queue,
        memory: &MemoryGuard,
    ) -> Result<bool, QueueError> {
        let (mut used, mut useless) = (0, 0);
        let mut looked_again = false;
        while let Some(message) = backlog.messages.front() {
            if used == DELIVERY || useless == USELESS {
                break;
            }
            let Some(chain) = pop(queue, memory)? else {
                // Tell the driver that its next buffer is waited for. A buffer that came meanwhile
                // is taken; one that is announced but cannot be read is left alone.
                if !queue.enable_notification(&**memory)? || looked_again {
                    break;
                }
                looked_again = true;
                continue;
            };
            looked_again = false;
            let exchange = Exchange::gather(chain, 0, memory.clone());
            let written = exchange.write_reply(message.as_bytes());
            // A buffer that is too small goes back empty, and the message waits for a better one.
            queue.add_used(&**memory, exchange.head(), written)?;
            used += 1;
            if written == 0 {
                useless += 1;
            } else if let Some(message) = backlog.messages.pop_front() {
                backlog.keys.remove(&(self.key)(&message));
            }
        }
        if backlog.messages.is_empty() {
            queue.disable_notification(&**memory)?;
        } else if used == DELIVERY || useless == USELESS {
            queue.enable_notification(&**memory)?;
        }
        if used == 0 { Ok(false) } else { queue.needs_notification(&**memory) }
    }

    fn complain(&self, problem: &str) {
        if let Some(suppressed) = self.complaints.admit() {
            tracing::warn!(port = self.port, queue = self.what, suppressed, "{problem}");
        }
    }
}

#[cfg(test)]
#[path = "upcall_tests.rs"]
mod tests;
