// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the backlog, with a ring in guest memory.

use vhost_user_backend::VringT;
use virtio_bindings::virtio_ring::VRING_DESC_F_WRITE;
use vm_memory::{Bytes, GuestAddress, GuestMemoryAtomic, GuestMemoryMmap};
use zerocopy::FromBytes;

use super::*;
use crate::backend::ring::Memory;

const SIZE: u16 = 8;
const DESC: u64 = 0;
const AVAIL: u64 = 0x1000;
const USED: u64 = 0x2000;
const BUFFERS: u64 = 0x3000;

/// The driver's side of a ring.
struct Driver {
    memory: GuestMemoryMmap,
    ring: Ring,
    posted: u16,
    seen: u16,
}

impl Driver {
    fn new() -> Self {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1_0000)]).unwrap();
        let ring = Ring::new(Memory::from(GuestMemoryAtomic::new(memory.clone())), 256).unwrap();
        ring.set_queue_size(SIZE);
        ring.set_queue_info(DESC, AVAIL, USED).unwrap();
        ring.set_queue_ready(true);
        ring.set_enabled(true);
        Self { memory, ring, posted: 0, seen: 0 }
    }

    fn post(&mut self, len: u32) {
        let slot = self.posted % SIZE;
        let descriptor = DESC + 16 * u64::from(slot);
        let buffer = BUFFERS + 64 * u64::from(slot);
        self.memory.write_obj(buffer, GuestAddress(descriptor)).unwrap();
        self.memory.write_obj(len, GuestAddress(descriptor + 8)).unwrap();
        self.memory.write_obj(VRING_DESC_F_WRITE as u16, GuestAddress(descriptor + 12)).unwrap();
        self.memory.write_obj(slot, GuestAddress(AVAIL + 4 + 2 * u64::from(slot))).unwrap();
        self.posted = self.posted.wrapping_add(1);
        self.memory.write_obj(self.posted, GuestAddress(AVAIL + 2)).unwrap();
    }

    /// The events that came, `None` for a buffer that came back empty.
    fn events(&mut self) -> Vec<Option<Event>> {
        let used: u16 = self.memory.read_obj(GuestAddress(USED + 2)).unwrap();
        let mut events = vec![];
        while self.seen != used {
            let element = USED + 4 + 8 * u64::from(self.seen % SIZE);
            let id: u32 = self.memory.read_obj(GuestAddress(element)).unwrap();
            let len: u32 = self.memory.read_obj(GuestAddress(element + 4)).unwrap();
            let mut bytes = [0; size_of::<Event>()];
            let buffer = GuestAddress(BUFFERS + 64 * u64::from(id));
            self.memory.read_slice(&mut bytes, buffer).unwrap();
            events.push((len != 0).then(|| Event::read_from_bytes(&bytes).unwrap()));
            self.seen = self.seen.wrapping_add(1);
        }
        events
    }

    fn wants_kick(&self) -> bool {
        self.memory.read_obj::<u16>(GuestAddress(USED)).unwrap() == 0
    }
}

fn completion(cq: u32) -> Event {
    Event {
        kind: EventKind::Completion.0.into(),
        object: cq.into(),
        cookie: u64::from(cq + 100).into(),
    }
}

fn of_kind(kind: EventKind, object: u32) -> Event {
    Event { kind: kind.0.into(), object: object.into(), cookie: 0.into() }
}

fn upcalls() -> Upcalls {
    let limits = Limits { max_cq: 2, max_qp: 1, max_ctx: 1, ..Limits::default() };
    Upcalls::new("test", &limits)
}

#[test]
fn events_wait_for_buffers_and_keep_their_order() {
    let mut driver = Driver::new();
    let upcalls = upcalls();
    upcalls.event(completion(1));
    upcalls.event(completion(2));
    assert_eq!(upcalls.waiting(), (2, 0));
    upcalls.event_ring(&driver.ring);
    assert!(driver.wants_kick());
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [Some(completion(1))]);
    driver.post(64);
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [Some(completion(2))]);
    // A buffer is left, so the next event goes at once and no kick is asked for.
    assert!(!driver.wants_kick());
    upcalls.event(completion(1));
    assert_eq!(driver.events(), [Some(completion(1))]);
    assert_eq!(upcalls.waiting(), (0, 0));
}

#[test]
fn a_buffer_that_is_too_small_gets_nothing_and_the_event_waits() {
    let mut driver = Driver::new();
    let upcalls = upcalls();
    driver.post(15);
    driver.post(0);
    upcalls.event_ring(&driver.ring);
    upcalls.event(completion(1));
    assert_eq!(driver.events(), [None, None]);
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [Some(completion(1))]);
}

#[test]
fn one_delivery_looks_at_few_useless_buffers() {
    let mut driver = Driver::new();
    let upcalls = upcalls();
    for _ in 0..7 {
        driver.post(0);
    }
    upcalls.event_ring(&driver.ring);
    upcalls.event(completion(1));
    assert_eq!(driver.events(), [None; USELESS]);
    // A driver that was only mistaken is served with its next notification.
    assert!(driver.wants_kick());
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [None, None, None, Some(completion(1))]);
}

#[test]
fn what_waits_already_is_not_added_again() {
    let mut driver = Driver::new();
    let upcalls = upcalls();
    for _ in 0..1000 {
        upcalls.event(completion(1));
    }
    assert_eq!(upcalls.waiting(), (1, 0));
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [Some(completion(1))]);
    // Delivered, so the next is news.
    upcalls.event(completion(1));
    assert_eq!(upcalls.waiting(), (1, 0));
}

#[test]
fn of_the_port_a_driver_hears_what_is_so_now() {
    let mut driver = Driver::new();
    let upcalls = upcalls();
    for kind in [EventKind::PortDown, EventKind::PortUp, EventKind::PortDown] {
        upcalls.event(of_kind(kind, 1));
    }
    assert_eq!(upcalls.waiting(), (1, 0));
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [Some(of_kind(EventKind::PortDown, 1))]);
    upcalls.event(of_kind(EventKind::PortUp, 1));
    assert_eq!(upcalls.waiting(), (1, 0));
}

/// Everything that two completion queues, one queue pair, one context and the port can have to say fits.
#[test]
fn every_object_within_the_limits_has_room() {
    let upcalls = upcalls();
    let kinds = |kinds: &[EventKind], object| {
        kinds.iter().map(|&kind| of_kind(kind, object)).collect::<Vec<_>>()
    };
    let cq = [EventKind::Completion, EventKind::CqError];
    let qp = [
        EventKind::QpFatal,
        EventKind::QpRequestError,
        EventKind::QpAccessError,
        EventKind::CommEstablished,
        EventKind::LastWqeReached,
    ];
    let single = [EventKind::ContextFatal, EventKind::PortDown];
    let all = [kinds(&cq, 1), kinds(&cq, 2), kinds(&qp, 1), kinds(&single, 1)].concat();
    // Of the port, the last word is the only one that waits.
    assert_eq!(all.len(), EventKind::INFO.values.len() + cq.len() - 1);
    for &event in &all {
        upcalls.event(event);
    }
    assert_eq!(upcalls.waiting(), (all.len(), 0));
    // Nothing beyond them is kept, and nothing is lost for it.
    for stale in 10..1000 {
        upcalls.event(completion(stale));
    }
    assert_eq!(upcalls.waiting(), (all.len(), 0));
    let mut driver = Driver::new();
    let mut got = vec![];
    while got.len() < all.len() {
        driver.post(16);
        upcalls.event_ring(&driver.ring);
        got.extend(driver.events().into_iter().flatten());
    }
    assert_eq!(got, all);
}

#[test]
fn a_destroyed_object_is_not_heard_of_again() {
    let upcalls = upcalls();
    upcalls.event(of_kind(EventKind::Completion, 1));
    upcalls.event(of_kind(EventKind::QpFatal, 1));
    upcalls.forget(1, |kind| kind == EventKind::Completion);
    assert_eq!(upcalls.waiting(), (1, 0));
    upcalls.event(of_kind(EventKind::Completion, 1));
    assert_eq!(upcalls.waiting(), (2, 0));
    upcalls.clear();
    assert_eq!(upcalls.waiting(), (0, 0));
}

#[test]
fn a_stopped_ring_is_not_touched() {
    let mut driver = Driver::new();
    let upcalls = upcalls();
    driver.post(16);
    upcalls.event_ring(&driver.ring);
    driver.ring.set_queue_ready(false);
    upcalls.event(completion(1));
    assert_eq!(driver.events(), []);
    driver.ring.set_queue_ready(true);
    driver.ring.set_enabled(false);
    upcalls.event(completion(2));
    assert_eq!(driver.events(), []);
    driver.ring.set_enabled(true);
    upcalls.event_ring(&driver.ring);
    assert_eq!(driver.events(), [Some(completion(1))]);
}

#[test]
fn rings_that_lead_nowhere_end_the_delivery() {
    let driver = Driver::new();
    let upcalls = upcalls();
    // An index that jumped.
    driver.memory.write_obj(u16::MAX, GuestAddress(AVAIL + 2)).unwrap();
    upcalls.event_ring(&driver.ring);
    upcalls.event(completion(1));
    // An available ring whose entries are outside memory: announced, never there.
    driver.ring.set_queue_info(DESC, 0xfffc, USED).unwrap();
    driver.memory.write_obj(1u16, GuestAddress(0xfffe)).unwrap();
    upcalls.event(completion(2));
    // Descriptors and used ring outside memory.
    driver.ring.set_queue_info(0x10_0000, AVAIL, 0x20_0000).unwrap();
    driver.memory.write_obj(1u16, GuestAddress(AVAIL + 2)).unwrap();
    upcalls.event_ring(&driver.ring);
    assert_eq!(upcalls.waiting(), (2, 0));
}
