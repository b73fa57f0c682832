// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two honest daemons with a wire between them, in one thread: a script says who does something next, when frames
//! arrive, which pages come, go and move, and when the link is cut. In the end every request is done, and what it did
//! was done once, in order, and nowhere else.

use super::Script;
use super::guest::{BASE, DEPTH, Guest};
use crate::device::{Device, DeviceConfig};
use crate::engine::worker::Worker;
use crate::wire::frame::Frame;
use crate::wire::lane::testing::{Far, MemoryLane};
use crate::wire::link::{Link, RemotePort};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vnic_abi::cqe::{Cqe, CqeFlags, WcOpcode, WcStatus};
use vnic_abi::event::EventKind;
use vnic_abi::wqe::{AtomicWqe, Opcode, RecvWqe, SendWqe, Sge, WqeFlags};
use zerocopy::IntoBytes;

/// Bytes that a message may have, with what may be before it.
const SLOT: u64 = 16 << 10;
/// Most of what is before it.
const BEFORE: u64 = 64;
/// Messages of each kind that have places of their own.
const SLOTS: u32 = 8;
/// What is sent and read: nobody changes it.
const SOURCE: u64 = BASE;
const SOURCE_LEN: u64 = 8 * SLOT;
const WRITTEN: u64 = SOURCE + SOURCE_LEN;
const RECEIVED: u64 = WRITTEN + SLOTS as u64 * SLOT;
const READ: u64 = RECEIVED + SLOTS as u64 * SLOT;
/// What atomics of the peer count.
const COUNTER: u64 = READ + SLOTS as u64 * SLOT;
const LAST_PAGE: u64 = 128;
const _: () = assert!(COUNTER == BASE + LAST_PAGE * 4096);

/// Messages that a lane has room for.
const ROOM: usize = 8;
/// How long everything may take to end, behind the script.
const PATIENCE: Duration = Duration::from_secs(20);

/// A request that was posted.
#[derive(Debug, Clone, Copy)]
struct Posted {
    opcode: Opcode,
    /// Its number.
    number: u32,
    /// Place of its bytes in the source of whoever has them.
    from: u64,
    /// Offset in the slot that they go to.
    before: u64,
    len: u64,
    signaled: bool,
}

impl Posted {
    fn slot(&self, area: u64) -> u64 {
        area + u64::from(self.number % SLOTS) * SLOT + self.before
    }
}

/// What a receiver has to find.
#[derive(Debug, Clone, Copy)]
struct Expected {
    from: u64,
    len: u64,
    /// The bytes are in its receive element's slot, not where a WRITE put them.
    in_slot: bool,
    imm: Option<[u8; 4]>,
}

struct End {
    guest: Guest,
    worker: Worker,
    link: Arc<Link>,
    far: Far,
    /// Frames that have left, and not arrived.
    away: VecDeque<Vec<u8>>,
    number: u32,
    sending: VecDeque<Posted>,
    receives: u32,
    receiving: VecDeque<u32>,
    expected: VecDeque<Expected>,
    /// Atomics that this end has had done.
    counted: u64,
}

fn gid(end: usize) -> [u8; 16] {
    [end as u8 + 7; 16]
}

/// Byte of the source of `end`.
fn source(end: usize, at: u64) -> u8 {
    // 251 is prime, so that pages and slots differ, and no byte is zero.
    ((at + at / 251 + end as u64 * 89) % 250 + 1) as u8
}

impl End {
    fn new(index: usize) -> Self {
        let device = Device::new(DeviceConfig { workers: 1, ..DeviceConfig::default() });
        let guest = Guest::boot(&device, gid(index));
        let bytes = (0..SOURCE_LEN).map(|at| source(index, at)).collect::<Vec<_>>();
        guest.write(SOURCE, &bytes);
        let worker = Worker::new(device, 0);
        let (link, far) = (Link::new("nobody", None), MemoryLane::new(0).1);
        Self {
            guest,
            worker,
            link,
            far,
            away: VecDeque::new(),
            number: 0,
            sending: VecDeque::new(),
            receives: 0,
            receiving: VecDeque::new(),
            expected: VecDeque::new(),
            counted: 0,
        }
    }

    fn device(&self) -> Arc<Device> {
        self.guest.session.device.clone()
    }

    fn step(&mut self) {
        let device = self.device();
        self.worker.step(&device);
        for frame in self.far.take() {
            assert!(Frame::parse(&frame).is_ok(), "a daemon says what means nothing");
            self.away.push_back(frame);
        }
        assert!(self.link.why().is_none(), "{:?}", self.link.why());
    }

    fn post_receive(&mut self) {
        if self.receiving.len() as u32 >= DEPTH {
            return;
        }
        let slot = self.receives % SLOTS;
        let addr = RECEIVED + u64::from(slot) * SLOT;
        let head = RecvWqe { num_sge: 1, wr_id: u64::from(slot).into(), ..RecvWqe::default() };
        self.guest.post_receive(&[head.as_bytes(), self.sge(addr, SLOT).as_bytes()].concat());
        self.receiving.push_back(slot);
        self.receives += 1;
    }

    fn sge(&self, addr: u64, len: u64) -> Sge {
        Sge { addr: addr.into(), length: (len as u32).into(), lkey: self.guest.key.into() }
    }
}

struct Pair([End; 2]);

impl Pair {
    fn new(rnr_timers: [u8; 2]) -> Self {
        let mut pair = Self([End::new(0), End::new(1)]);
        let numbers = pair.0.each_ref().map(|end| end.guest.qp.qpn);
        for (index, timer) in rnr_timers.into_iter().enumerate() {
            pair.0[index].guest.connect(gid(1 - index), numbers[1 - index], timer);
        }
        pair.meet();
        pair
    }

    /// A new link between the two.
    fn meet(&mut self) {
        let ports = [0, 1].map(|end| self.0[end].guest.session.port_number());
        for (index, end) in self.0.iter_mut().enumerate() {
            let device = end.device();
            let (lane, far) = MemoryLane::new(ROOM);
            end.link = Link::new("peer", None);
            end.far = far;
            device.adopt_lane(&end.link, 0, Box::new(lane));
            device.links().add(&end.link);
            let (network, gid, port) = ("default".into(), gid(1 - index), ports[1 - index]);
            end.link.set_ports([RemotePort { network, gid, port }]);
            device.look_for_peers_again();
        }
    }

    /// The link is lost, with all that was under way.
    fn cut(&mut self) {
        for end in &mut self.0 {
            end.link.lose("it was cut");
            let device = end.device();
            device.links().remove(&end.link);
            device.link_lost();
            end.away.clear();
        }
    }

    fn post(&mut self, index: usize, script: &mut Script<'_>) {
        let [one, other] = &mut self.0;
        let (end, peer) = if index == 0 { (one, other) } else { (other, one) };
        if end.sending.len() as u32 >= DEPTH {
            return;
        }
        let opcode = match script.or_zero() % 8 {
            0 => Opcode::Send,
            1 => Opcode::SendWithImm,
            2 | 3 => Opcode::RdmaWrite,
            4 => Opcode::RdmaWriteWithImm,
            5 | 6 => Opcode::RdmaRead,
            _ => Opcode::AtomicFetchAdd,
        };
        let how = script.or_zero();
        let mut posted = Posted {
            opcode,
            number: end.number,
            from: script.below(SOURCE_LEN - SLOT),
            before: u64::from(how) % BEFORE,
            len: script.below(if how & 0x80 == 0 { 200 } else { SLOT - BEFORE + 1 }),
            // A driver has no other way to learn of room.
            signaled: how & 0x40 == 0 || end.sending.len() as u32 == DEPTH - 1,
        };
        let imm = posted.number.to_le_bytes();
        let written = posted.slot(WRITTEN);
        let (local, remote) = match opcode {
            Opcode::RdmaRead => (posted.slot(READ), SOURCE + posted.from),
            Opcode::AtomicFetchAdd => {
                (posted.before, posted.len) = (0, 8);
                (posted.slot(READ), COUNTER)
            }
            _ => (SOURCE + posted.from, written),
        };
        if matches!(opcode, Opcode::RdmaWrite | Opcode::RdmaWriteWithImm) {
            blank(&peer.guest, WRITTEN + u64::from(posted.number % SLOTS) * SLOT, SLOT);
        }
        let rkey = if matches!(opcode, Opcode::Send | Opcode::SendWithImm) {
            (0, 0)
        } else {
            (peer.guest.key, remote)
        };
        let mut flags = WqeFlags::empty();
        flags.set(WqeFlags::SIGNALED, posted.signaled);
        flags.set(WqeFlags::FENCE, how & 0x20 != 0);
        let with_imm = matches!(opcode, Opcode::SendWithImm | Opcode::RdmaWriteWithImm);
        let head = SendWqe {
            opcode: opcode.0,
            flags: flags.bits(),
            num_sge: 1,
            wr_id: u64::from(posted.number).into(),
            imm: if with_imm { imm } else { [0; 4] },
            rkey: rkey.0.into(),
            remote_addr: rkey.1.into(),
            ..SendWqe::default()
        };
        let sge = end.sge(local, posted.len);
        let element = if opcode == Opcode::AtomicFetchAdd {
            let head = AtomicWqe { base: head, compare_add: 1.into(), swap: 0.into() };
            [head.as_bytes(), sge.as_bytes()].concat()
        } else {
            [head.as_bytes(), sge.as_bytes()].concat()
        };
        let in_slot = matches!(opcode, Opcode::Send | Opcode::SendWithImm);
        if in_slot || with_imm {
            let imm = with_imm.then_some(imm);
            let Posted { from, len, .. } = posted;
            peer.expected.push_back(Expected { from, len, in_slot, imm });
        }
        end.guest.post_send(&element);
        end.number += 1;
        end.sending.push_back(posted);
    }

    /// The oldest frames that `from` has sent arrive.
    fn deliver(&mut self, from: usize, count: usize) {
        for _ in 0..count {
            let Some(frame) = self.0[from].away.pop_front() else { return };
            self.0[from].far.give_room(1);
            self.0[1 - from].far.say(&frame);
        }
    }

    /// What one end has to say arrives, and what the other answers.
    fn round_trip(&mut self, index: usize) {
        for end in [index, 1 - index, index] {
            self.0[end].step();
            self.deliver(end, ROOM);
        }
    }

    fn look(&mut self) {
        for index in 0..2 {
            while let Some(cqe) = self.0[index].guest.poll() {
                assert_eq!(cqe.status, WcStatus::Success.0, "{cqe:?}");
                if matches!(WcOpcode(cqe.opcode), WcOpcode::Recv | WcOpcode::RecvRdmaWithImm) {
                    self.received(index, &cqe);
                } else {
                    self.sent(index, &cqe);
                }
            }
            for event in self.0[index].guest.events() {
                let kind = EventKind(event.kind.get());
                let fine = matches!(kind, EventKind::Completion | EventKind::CommEstablished);
                assert!(fine, "{event:?}");
            }
        }
    }

    /// A request is done, and all before it that are not told of.
    fn sent(&mut self, index: usize, cqe: &Cqe) {
        loop {
            let posted = self.0[index].sending.pop_front().expect("a completion of nothing");
            self.done(index, &posted);
            if u64::from(posted.number) == cqe.wr_id.get() {
                assert!(posted.signaled, "nobody asked for {cqe:?}");
                return;
            }
            assert!(!posted.signaled, "{posted:?} has no completion");
        }
    }

    fn done(&mut self, index: usize, posted: &Posted) {
        let len = posted.len as usize;
        let wanted = |end: usize| {
            (0..posted.len).map(|at| source(end, posted.from + at)).collect::<Vec<_>>()
        };
        let (own, peer) = (&self.0[index].guest, &self.0[1 - index].guest);
        match posted.opcode {
            Opcode::RdmaWrite | Opcode::RdmaWriteWithImm => {
                let at = posted.slot(WRITTEN);
                assert!(peer.read(at, len) == wanted(index), "{posted:?}");
                peer.write(at, &vec![0; len]);
            }
            Opcode::RdmaRead => {
                let at = posted.slot(READ);
                assert!(own.read(at, len) == wanted(1 - index), "{posted:?}");
                own.write(at, &vec![0; len]);
            }
            Opcode::AtomicFetchAdd => {
                let at = posted.slot(READ);
                let former = own.read(at, 8);
                assert_eq!(former, self.0[index].counted.to_le_bytes(), "{posted:?}");
                own.write(at, &[0; 8]);
                self.0[index].counted += 1;
            }
            _ => {}
        }
    }

    fn received(&mut self, index: usize, cqe: &Cqe) {
        let end = &mut self.0[index];
        let expected = end.expected.pop_front().expect("a message that nobody sent");
        let slot = end.receiving.pop_front().expect("a receive that nobody posted");
        assert_eq!(cqe.wr_id.get(), u64::from(slot));
        assert_eq!(u64::from(cqe.byte_len.get()), expected.len, "{expected:?}");
        let flags = CqeFlags::from_bits_retain(cqe.flags);
        let imm = flags.contains(CqeFlags::WITH_IMM).then_some(cqe.imm);
        assert_eq!(imm, expected.imm, "{expected:?}");
        let at = RECEIVED + u64::from(slot) * SLOT;
        if !expected.in_slot {
            return blank(&end.guest, at, SLOT);
        }
        let len = expected.len as usize;
        let wanted = (0..expected.len).map(|at| source(1 - index, expected.from + at));
        assert!(end.guest.read(at, len) == wanted.collect::<Vec<_>>(), "{expected:?}");
        end.guest.write(at, &vec![0; len]);
        blank(&end.guest, at, SLOT);
    }

    /// Lets everything come to its end.
    fn finish(&mut self) {
        for index in 0..2 {
            if self.0[index].sending.back().is_some_and(|last| !last.signaled) {
                // A WRITE that tells that those before it are done.
                self.post(index, &mut Script(&[2, 0, 0, 0, 0, 5]));
            }
        }
        let until = Instant::now() + PATIENCE;
        let mut quiet = 0;
        while quiet < 3 {
            let mut busy = false;
            for index in 0..2 {
                let end = &mut self.0[index];
                while end.guest.serve() {
                    busy = true;
                }
                if end.receiving.len() < end.expected.len() {
                    end.post_receive();
                }
                end.step();
                self.deliver(index, ROOM);
                self.look();
                let end = &self.0[index];
                busy |= !end.away.is_empty() || !end.expected.is_empty();
                busy |= !end.sending.is_empty();
            }
            quiet = if busy { 0 } else { quiet + 1 };
            let left = || self.0.each_ref().map(|end| (end.sending.clone(), end.expected.clone()));
            assert!(Instant::now() < until, "it does not end: {:?}", left());
        }
        for (index, end) in self.0.iter().enumerate() {
            let whole = (0..SOURCE_LEN).map(|at| source(index, at)).collect::<Vec<_>>();
            assert!(end.guest.read(SOURCE, SOURCE_LEN as usize) == whole, "a source has changed");
            blank(&end.guest, WRITTEN, COUNTER - WRITTEN);
            let counter = end.guest.read(COUNTER, 8);
            assert_eq!(counter, self.0[1 - index].counted.to_le_bytes());
        }
    }
}

#[track_caller]
fn blank(guest: &Guest, at: u64, len: u64) {
    let bytes = guest.read(at, len as usize);
    let first = bytes.iter().position(|byte| *byte != 0);
    assert_eq!(first, None, "bytes behind {at:#x} that nobody put there");
}

/// Follows the script to its end, and then to that of everything that it began.
pub fn run(data: &[u8]) {
    let mut script = Script(data);
    // 0.01 ms, or half a second: too long for anybody to wait, and so it is a receive that ends it.
    let timers = script.or_zero();
    let mut pair = Pair::new([1, 2].map(|bit| if timers & bit == 0 { 1 } else { 31 }));
    while let Some(what) = script.byte() {
        let index = usize::from(what >> 7);
        let number = what >> 4 & 7;
        match what & 15 {
            0..=3 => pair.post(index, &mut script),
            // Seldom enough that messages often find none.
            4 => pair.0[index].post_receive(),
            5 => pair.round_trip(index),
            6..=8 => pair.0[index].step(),
            9..=11 => pair.deliver(index, usize::from(number) + 1),
            12 => {
                pair.0[index].guest.serve();
            }
            13 => pair.0[index].guest.take_away(script.below(LAST_PAGE + 1)),
            14 => pair.0[index].guest.migrate(script.below(LAST_PAGE + 1)),
            _ if number == 0 => {
                pair.cut();
                pair.meet();
            }
            _ => pair.0[index].guest.serve_all(),
        }
        pair.look();
    }
    pair.finish();
    let devices = pair.0.each_mut().map(|end| {
        let device = end.device();
        end.guest.end();
        end.worker.step(&device);
        Arc::downgrade(&device)
    });
    drop(pair);
    assert!(devices.iter().all(|device| device.strong_count() == 0), "something holds a device");
}
