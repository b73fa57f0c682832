// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A daemon that has the key of the wire and says anything at all to a guest that is at work.

use super::Script;
use super::guest::{BASE, DEPTH, Guest, PAGES};
use crate::device::{Device, DeviceConfig};
use crate::engine::request::{Atomic, Op, Remote};
use crate::engine::worker::Worker;
use crate::fabric::relay::arrivals::MOST_JOBS;
use crate::wire::frame::{Answer, Frame, HEADER, Refusal, Request, What};
use crate::wire::lane::testing::{Far, MemoryLane};
use crate::wire::link::{Link, RemotePort};
use std::sync::Arc;
use vnic_abi::cqe::WcOpcode;
use vnic_abi::wqe::{RecvWqe, SendWqe, Sge, WqeFlags};
use vnic_iommu::addr::PAGE_SIZE;
use zerocopy::IntoBytes;

const OURS: [u8; 16] = [9; 16];
const THEIRS: [u8; 16] = [7; 16];
/// The queue pair of the peer that the guest has connected to.
const THEIR_QPN: u32 = 77;
/// Bytes of a frame, at most.
const MOST: usize = 4096;

struct Scene {
    device: Arc<Device>,
    guest: Guest,
    worker: Worker,
    link: Arc<Link>,
    far: Far,
    /// Of the guest's requests, once one was seen.
    connection: u32,
    /// Send requests that have completed, and receives.
    done: [u32; 2],
}

impl Scene {
    fn new() -> Self {
        let device = Device::new(DeviceConfig { workers: 1, ..DeviceConfig::default() });
        let guest = Guest::boot(&device, OURS);
        guest.connect(THEIRS, THEIR_QPN, 1);
        let worker = Worker::new(device.clone(), 0);
        let (link, far) = Self::meet(&device);
        Self { device, guest, worker, link, far, connection: 0, done: [0; 2] }
    }

    fn meet(device: &Arc<Device>) -> (Arc<Link>, Far) {
        let (lane, far) = MemoryLane::new(4);
        let link = Link::new("peer", None);
        device.adopt_lane(&link, 0, Box::new(lane));
        device.links().add(&link);
        link.set_ports([RemotePort { network: "default".into(), gid: THEIRS, port: 1 }]);
        device.look_for_peers_again();
        (link, far)
    }

    fn step(&mut self) {
        self.worker.step(&self.device);
        for frame in self.far.take() {
            match Frame::parse(&frame) {
                Ok(Frame::Request(request)) => self.connection = request.connection,
                Ok(Frame::Answer(answer)) => assert_eq!(answer.to_qpn, THEIR_QPN),
                Err(bad) => panic!("{bad}"),
            }
        }
        while let Some(cqe) = self.guest.poll() {
            let code = WcOpcode(cqe.opcode);
            let receive = matches!(code, WcOpcode::Recv | WcOpcode::RecvRdmaWithImm);
            self.done[usize::from(receive)] += 1;
        }
        let posted = [self.guest.sent, self.guest.received];
        assert!(self.done[0] <= posted[0], "{:?} of {posted:?} requests are done", self.done);
        assert!(self.done[1] <= posted[1], "{:?} of {posted:?} receives are done", self.done);
        let responder = self.guest.qp.responder.lock();
        let jobs = responder.arrivals.as_ref().map_or(0, |arrivals| arrivals.jobs.len());
        assert!(jobs <= MOST_JOBS, "{jobs} jobs");
        drop(responder);
        if self.link.is_lost() {
            // Who said what means nothing is gone, and comes again.
            self.device.links().remove(&self.link);
            self.device.link_lost();
            (self.link, self.far) = Self::meet(&self.device);
        }
    }

    /// Says a request, most of which makes sense.
    fn request(&self, script: &mut Script<'_>) {
        let (what, seq, place, len) =
            (script.or_zero(), script.or_zero(), script.below(600), script.below(3000));
        let odd = script.or_zero();
        let key = if odd & 1 == 0 { self.guest.key } else { u32::from(odd) };
        let addr = BASE + script.below(PAGES * PAGE_SIZE);
        let remote = Remote { addr: if what & 8 == 0 { addr & !7 } else { addr }, rkey: key };
        let op = match what % 6 {
            0 | 1 => Op::Send,
            2 | 3 => Op::Write(remote),
            4 => Op::Read(remote),
            _ => Op::Atomic(remote, Atomic::FetchAdd(len)),
        };
        let sends = matches!(op, Op::Send | Op::Write(_));
        let offset = if odd & 2 == 0 { 0 } else { place as u32 };
        let more = if odd & 4 == 0 { 0 } else { place as u32 };
        let (offset, total) = match op {
            Op::Atomic(..) => (0, 8),
            Op::Read(_) => (offset, offset + (len as u32) * 100),
            _ => (offset, offset + len as u32 + more),
        };
        let bytes = vec![what; if sends { len as usize } else { 0 }];
        let request = Request {
            to_port: self.guest.session.port_number(),
            to_qpn: self.guest.qp.qpn,
            from_qpn: if odd & 8 == 0 { THEIR_QPN } else { seq.into() },
            connection: u32::from(odd >> 4 & 1),
            seq: seq.into(),
            offset,
            total,
            op,
            imm: (sends && what & 16 != 0).then_some([what; 4]),
            solicited: what & 32 != 0,
            bytes: &bytes,
        };
        let mut frame = vec![0; HEADER + 16];
        let head = request.write_head(&mut frame);
        frame.truncate(head);
        frame.extend(&bytes);
        self.far.say(&frame);
    }

    /// Says an answer, most of which makes sense.
    fn answer(&self, script: &mut Script<'_>) {
        let (what, seq, number) = (script.or_zero(), script.or_zero(), script.below(5000) as u32);
        let bytes = vec![what; script.below(MOST as u64 - HEADER as u64) as usize];
        let what = match what % 8 {
            0 | 1 => What::Ack,
            2 => What::Paused,
            3 => What::Resume(number),
            4 => What::Rnr(number % 50),
            5 => What::Data { offset: number, bytes: &bytes },
            6 => What::Former(number.into()),
            _ => What::Refused(Refusal::RemoteAccess),
        };
        let answer = Answer {
            to_qpn: self.guest.qp.qpn,
            from_qpn: THEIR_QPN,
            connection: self.connection,
            seq: seq.into(),
            what,
        };
        let mut frame = vec![0; HEADER + 16];
        let head = answer.write_head(&mut frame);
        frame.truncate(head);
        if let What::Data { bytes, .. } = what {
            frame.extend(bytes);
        }
        self.far.say(&frame);
    }

    /// The guest posts a request, or a receive.
    fn post(&mut self, script: &mut Script<'_>) {
        let (what, len) = (script.or_zero(), script.below(20_000) as u32);
        let addr = BASE + script.below(PAGES * PAGE_SIZE);
        let sge = Sge { addr: addr.into(), length: len.into(), lkey: self.guest.key.into() };
        if what & 0x80 != 0 {
            if self.guest.received - self.done[1] < DEPTH {
                let head = RecvWqe { num_sge: 1, ..RecvWqe::default() };
                self.guest.post_receive(&[head.as_bytes(), sge.as_bytes()].concat());
            }
        } else if self.guest.sent - self.done[0] < DEPTH {
            let head = SendWqe {
                opcode: what % 8,
                // Told of each, so that there is room whenever one is done.
                flags: (WqeFlags::SIGNALED | WqeFlags::from_bits_retain(what >> 4 & 2)).bits(),
                num_sge: 1,
                rkey: u32::from(what).into(),
                remote_addr: addr.into(),
                ..SendWqe::default()
            };
            let operands = if matches!(what % 8, 6 | 7) { &[0; 16][..] } else { &[] };
            self.guest.post_send(&[head.as_bytes(), operands, sge.as_bytes()].concat());
        }
    }
}

/// Follows the script.
pub fn run(data: &[u8]) {
    let mut script = Script(data);
    let mut scene = Scene::new();
    while let Some(what) = script.byte() {
        match what % 12 {
            0..=2 => scene.request(&mut script),
            3 | 4 => scene.answer(&mut script),
            5 => {
                let len = script.below(200) as usize;
                let bytes = script.bytes(len).to_vec();
                scene.far.say(&bytes);
            }
            6 | 7 => scene.post(&mut script),
            8 => scene.far.give_room(usize::from(what >> 4)),
            9 => {
                scene.guest.serve();
            }
            10 => scene.guest.take_away(script.below(PAGES)),
            _ => scene.step(),
        }
    }
    scene.far.give_room(100);
    scene.guest.serve_all();
    scene.step();
    scene.guest.end();
    scene.worker.step(&scene.device);
    let device = Arc::downgrade(&scene.device);
    drop(scene);
    assert_eq!(device.strong_count(), 0, "something holds the device");
}
