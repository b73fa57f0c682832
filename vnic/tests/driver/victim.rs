// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two well-behaved guests whose traffic is checked byte for byte while somebody else misbehaves.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vnic_testbed::process_guest::verbs::{Endpoint, Qp, SendWr, connect};
use vnic_testbed::process_guest::{Daemon, UserBuffer};

use crate::common::{assert_same, close, daemon, pattern};

/// Rounds of the victims' traffic that must pass while a hostile guest is at work.
const ROUNDS: u64 = 20;

/// A daemon with two victims on ports `b` and `c`; port `a` is for the hostile guest.
pub struct Scene {
    pub daemon: Daemon,
    pub b: Endpoint,
    pub c: Endpoint,
}

impl Scene {
    pub fn new() -> Self {
        Self::on(daemon())
    }

    /// As [`new`](Self::new), on a daemon of the test's own.
    pub fn on(daemon: Daemon) -> Self {
        let b = Endpoint::boot(&daemon.socket("b"), 2);
        let c = Endpoint::boot(&daemon.socket("c"), 3);
        Self { daemon, b, c }
    }

    /// A guest on port `a`, ordinary so far.
    pub fn hostile(&self) -> Endpoint {
        Endpoint::boot(&self.daemon.socket("a"), 1)
    }

    /// Runs `attack` while the victims exchange checked messages before, during and after it; then
    /// checks that nothing of theirs is left and that the daemon ends well.
    pub fn attack(self, attack: impl FnOnce(&Self)) {
        let rounds = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Ends the traffic when the attack is over, also by a panic.
            let _stop = StopOnDrop(&stop);
            let traffic = scope.spawn(|| traffic(&self.b, &self.c, &rounds, &stop));
            // Relaxed: a count and a flag that carry nothing else.
            let wait = |more: u64| {
                let until = rounds.load(Ordering::Relaxed) + more;
                while rounds.load(Ordering::Relaxed) < until && !traffic.is_finished() {
                    std::thread::yield_now();
                }
            };
            wait(1);
            attack(&self);
            wait(ROUNDS);
            stop.store(true, Ordering::Relaxed);
            if let Err(panic) = traffic.join() {
                std::panic::resume_unwind(panic);
            }
        });
        close(self.b);
        close(self.c);
        self.daemon.stop();
    }
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        // Relaxed: a flag that carries nothing else.
        self.0.store(true, Ordering::Relaxed);
    }
}

const LEN: u64 = 20_000;

/// Everything outside `at..at + LEN` still has the background's value.
#[track_caller]
fn assert_message(buffer: &UserBuffer, at: u64, wanted: &[u8], what: &str) {
    let all = buffer.read(0, buffer.len());
    assert_same(&all[at as usize..(at + LEN) as usize], wanted, what);
    let outside = all[..at as usize].iter().chain(&all[(at + LEN) as usize..]);
    assert!(outside.copied().all(|byte| byte == 0x5a), "{what}: bytes around it changed");
}

fn traffic(b: &Endpoint, c: &Endpoint, rounds: &AtomicU64, stop: &AtomicBool) {
    let (qb, qc): (Qp, Qp) = (b.qp(), c.qp());
    connect(&qb, &qc);
    let (here, here_mr) = b.region(LEN);
    let (there, there_mr) = c.region(LEN + 8192);
    let (back, back_mr) = b.region(LEN + 8192);
    let mut round = 0;
    // Relaxed: see `attack`.
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let at = round % 8192;
        let data = pattern(round, LEN);
        here.write(0, &data);
        there.fill(0x5a);
        back.fill(0x5a);
        let sge = here_mr.sge(here.addr(), LEN as u32);
        qb.post_send(&SendWr::write(&[sge], there.addr() + at, there_mr.rkey()).id(1));
        qb.send_cq.expect(1);
        assert_message(&there, at, &data, "the victims' WRITE");
        let sge = back_mr.sge(back.addr() + at, LEN as u32);
        qb.post_send(&SendWr::read(&[sge], there.addr() + at, there_mr.rkey()).id(2));
        qb.send_cq.expect(2);
        assert_message(&back, at, &data, "the victims' READ");
        back.fill(0x5a);
        qb.post_recv(3, &[back_mr.sge(back.addr() + at, LEN as u32)]);
        let sge = there_mr.sge(there.addr() + at, LEN as u32);
        qc.post_send(&SendWr::send(&[sge]).imm([7, 7, 7, round as u8]).id(4));
        qc.send_cq.expect(4);
        let done = qb.recv_cq.expect(3);
        assert_eq!((done.imm, u64::from(done.byte_len)), ([7, 7, 7, round as u8], LEN));
        assert_message(&back, at, &data, "the victims' SEND");
        assert!(qb.send_cq.poll().is_none() && qc.send_cq.poll().is_none());
        rounds.fetch_add(1, Ordering::Relaxed);
    }
}
