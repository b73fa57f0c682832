// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two honest daemons with a wire between them, in one thread: a script says who does something next, when frames
//! arrive, which pages come, go and move, and when the link is cut. In the end every request is done, and what it did
//! was done once, in order, and nowhere else.

mod end;
mod look;
mod post;

use super::Script;
use crate::wire::lane::testing::MemoryLane;
use crate::wire::link::{Link, RemotePort};
use end::{COUNTER, End, LAST_PAGE, SOURCE, SOURCE_LEN, WRITTEN, gid, source};
use look::blank;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Messages that a lane has room for.
const ROOM: usize = 8;
/// How long everything may take to end, behind the script.
const PATIENCE: Duration = Duration::from_secs(20);

/// Both daemons with their guests.
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
