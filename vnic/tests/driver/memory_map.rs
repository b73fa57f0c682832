// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory modules that come and go while the guest's traffic runs.

use std::sync::atomic::{AtomicU64, Ordering};

use vnic_abi::cqe::WcStatus;
use vnic_testbed::process_guest::verbs::{ALL_ACCESS, Endpoint, Mr, Qp, SendWr, connect};
use vnic_testbed::process_guest::{Daemon, Dimm};

use crate::common::{assert_same, close, pattern};
use crate::victim::Scene;

const LEN: u64 = 256 << 10;
/// Where modules go: above all RAM of the guests.
const PLACE: u64 = 1 << 40;

/// How a monitor tells of a change.
#[derive(Debug, Clone, Copy)]
enum Style {
    /// One message for each region that comes or goes.
    Slots,
    /// All regions each time.
    Table,
}

const STYLES: [Style; 2] = [Style::Slots, Style::Table];

impl Style {
    fn plug(self, end: &Endpoint, dimm: &Dimm) {
        end.driver.with_connection(|connection| match self {
            Self::Slots => connection.plug(dimm).unwrap(),
            Self::Table => connection.set_memory(end.driver.ram(), &[dimm]).unwrap(),
        });
    }

    fn unplug(self, end: &Endpoint, dimm: &Dimm) {
        end.driver.with_connection(|connection| match self {
            Self::Slots => connection.unplug(dimm).unwrap(),
            Self::Table => connection.set_memory(end.driver.ram(), &[]).unwrap(),
        });
    }
}

/// The guest whose memory changes, a module for it, and a region over the module. No entry of the
/// page table leads to it yet.
struct Plugged<'a> {
    end: &'a Endpoint,
    dimm: Dimm,
    mr: Mr,
}

impl<'a> Plugged<'a> {
    fn new(end: &'a Endpoint) -> Self {
        let dimm = Dimm::new(PLACE, LEN);
        let mr = Mr::new(&end.pd, dimm.addr(), LEN, ALL_ACCESS).unwrap();
        Self { end, dimm, mr }
    }

    /// Fresh queue pairs to a guest that does not change.
    fn qps(&self, peer: &Endpoint) -> (Qp, Qp) {
        let (here, there) = (self.end.qp(), peer.qp());
        connect(&here, &there);
        (here, there)
    }

    /// One WRITE and one READ between the module and `peer`, each way; tells how it ended.
    fn exchange(&self, peer: &Endpoint, seed: u64) -> WcStatus {
        let (_here, there) = self.qps(peer);
        let (buffer, buffer_mr) = peer.region(LEN);
        let data = pattern(seed, LEN);
        buffer.write(0, &data);
        let (remote, key) = (self.dimm.addr(), self.mr.rkey());
        let sge = buffer_mr.sge(buffer.addr(), LEN as u32);
        there.post_send(&SendWr::write(&[sge], remote, key).id(1));
        let done = there.send_cq.wait();
        if done.status != WcStatus::Success {
            return done.status;
        }
        assert_same(&self.dimm.content(), &data, "WRITE into the module");
        let data = pattern(seed + 1, LEN);
        self.dimm.slice().copy_from(&data);
        there.post_send(&SendWr::read(&[sge], remote, key).id(2));
        there.send_cq.expect(2);
        assert_same(&buffer.read(0, LEN), &data, "READ from the module");
        WcStatus::Success
    }
}

fn mapped(daemon: &Daemon, dimm: &Dimm) -> bool {
    dimm.is_mapped_by(daemon.pid())
}

#[test]
fn plugged_memory_is_reached_at_once() {
    for style in STYLES {
        let scene = Scene::new();
        scene.attack(|scene| {
            let changing = scene.hostile();
            for round in 0..10 {
                let plugged = Plugged::new(&changing);
                plugged.dimm.map(changing.space());
                let before = plugged.exchange(&scene.b, round);
                assert_eq!(before, WcStatus::RemAccessErr, "{style:?}: it is not there yet");
                style.plug(&changing, &plugged.dimm);
                assert_eq!(plugged.exchange(&scene.b, round), WcStatus::Success, "{style:?}");
                assert!(mapped(&scene.daemon, &plugged.dimm));
                plugged.dimm.unmap(changing.space());
                style.unplug(&changing, &plugged.dimm);
                assert!(!mapped(&scene.daemon, &plugged.dimm), "{style:?}");
            }
            close(changing);
        });
    }
}

/// The guest is as careless as can be: its page table leads to the module while that is pulled out,
/// and WRITEs arrive. None of them reaches the module once the device has agreed.
#[test]
fn pulled_memory_is_not_touched_once_the_device_has_agreed() {
    const POISON: u8 = 0xdb;
    for style in STYLES {
        let scene = Scene::new();
        scene.attack(|scene| {
            let changing = scene.hostile();
            let (source, source_mr) = scene.b.region(LEN);
            source.fill(1);
            // Small ones hit the translations that are cached, large ones are in the middle of it.
            for (round, len) in (0..24).zip([64u32, 4096, LEN as u32].into_iter().cycle()) {
                let plugged = Plugged::new(&changing);
                plugged.dimm.map(changing.space());
                style.plug(&changing, &plugged.dimm);
                let (_here, there) = plugged.qps(&scene.b);
                let done = AtomicU64::new(0);
                let status = std::thread::scope(|scope| {
                    let stream = scope
                        .spawn(|| stream(&there, &plugged, &source_mr, source.addr(), len, &done));
                    // Relaxed: a count.
                    while done.load(Ordering::Relaxed) < 20 && !stream.is_finished() {
                        std::thread::yield_now();
                    }
                    style.unplug(&changing, &plugged.dimm);
                    plugged.dimm.fill(POISON);
                    stream.join().unwrap()
                });
                assert_eq!(status, WcStatus::RemAccessErr, "{style:?} {round}");
                let touched = plugged.dimm.content().iter().filter(|&&byte| byte != POISON).count();
                assert_eq!(touched, 0, "{style:?} {round}: bytes written after the answer");
                assert!(!mapped(&scene.daemon, &plugged.dimm), "{style:?}");
                plugged.dimm.unmap(changing.space());
            }
            close(changing);
        });
    }
}

/// WRITEs all over the module, eight at a time, until one fails; tells how.
fn stream(qp: &Qp, to: &Plugged<'_>, from: &Mr, at: u64, len: u32, done: &AtomicU64) -> WcStatus {
    let slots = LEN / u64::from(len);
    let post = |n: u64| {
        let remote = to.dimm.addr() + n % slots * u64::from(len);
        qp.post_send(&SendWr::write(&[from.sge(at, len)], remote, to.mr.rkey()).id(n));
    };
    (0..8).for_each(post);
    let mut posted = 8;
    loop {
        let completion = qp.send_cq.wait();
        if completion.status != WcStatus::Success {
            // The rest is flushed.
            qp.send_cq.wait_many(7);
            return completion.status;
        }
        // Relaxed: a count.
        done.fetch_add(1, Ordering::Relaxed);
        post(posted);
        posted += 1;
    }
}

/// As a kernel does it: the pages leave the process first. What is not there is asked for, and an
/// error only when the guest says that it has none.
#[test]
fn pages_that_left_before_the_module_are_asked_for() {
    let scene = Scene::new();
    scene.attack(|scene| {
        let changing = scene.hostile();
        let plugged = Plugged::new(&changing);
        plugged.dimm.map(changing.space());
        Style::Slots.plug(&changing, &plugged.dimm);
        assert_eq!(plugged.exchange(&scene.b, 1), WcStatus::Success);
        plugged.dimm.unmap(changing.space());
        Style::Slots.unplug(&changing, &plugged.dimm);
        assert!(changing.driver.page_requests().is_empty());
        assert_eq!(plugged.exchange(&scene.b, 2), WcStatus::RemAccessErr);
        let asked = changing.driver.page_requests();
        assert_eq!(asked.len(), 1);
        assert_eq!(asked[0].start.get(), plugged.dimm.addr());
        drop(plugged);
        close(changing);
    });
}
