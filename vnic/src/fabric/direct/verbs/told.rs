// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device says of its own accord: events of the host's queue pairs become those of the guests'.

use crate::device::Device as Engine;
use crate::wire::verbs::device::Device;
use crate::wire::verbs::events::DeviceEvent;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use vnic_abi::event::EventKind;

/// A thread that listens until this is dropped.
#[derive(Debug)]
pub struct Listener {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    /// Listens to `device` for the queue pairs of `engine`.
    pub fn start(device: Arc<Device>, engine: Weak<Engine>) -> io::Result<Self> {
        let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC)?);
        let thread = thread::Builder::new().name("direct-events".into()).spawn({
            let stop = stop.clone();
            move || listen(&device, &engine, &stop)
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = rustix::io::write(&*self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

fn listen(device: &Device, engine: &Weak<Engine>, stop: &OwnedFd) {
    let event = device.event();
    loop {
        let mut files = [PollFd::new(&event, PollFlags::IN), PollFd::new(stop, PollFlags::IN)];
        let polled = poll(&mut files, None);
        if !files[1].revents().is_empty() {
            return;
        }
        if polled.is_ok() && !hear(device, engine) {
            // Nothing can be heard from what is gone for good.
            return;
        }
    }
}

/// Takes what there is. `false` if nothing will come any more.
fn hear(device: &Device, engine: &Weak<Engine>) -> bool {
    while let Some(event) = device.next_event() {
        event.log(device.name());
        match event {
            DeviceEvent::Fatal => {
                // Workers tell the queue pairs that go direct.
                device.lose();
                if let Some(engine) = engine.upgrade() {
                    engine.kick();
                }
                return false;
            }
            DeviceEvent::QueuePair(kind, qpn) => tell(engine, qpn, kind),
            _ => {}
        }
    }
    true
}

/// Passes an event on to the guest whose queue pair it is about.
fn tell(engine: &Weak<Engine>, qpn: u32, kind: EventKind) {
    let Some(engine) = engine.upgrade() else { return };
    let qp = engine.qpns().read().get(&qpn).and_then(Weak::upgrade);
    if let Some(qp) = qp.filter(|qp| qp.is_direct()) {
        qp.event(kind);
    }
}
