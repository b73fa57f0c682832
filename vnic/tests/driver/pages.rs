// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Demand paging: memory that is not there, that moves, and that goes away while in use.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use vnic_abi::cqe::WcStatus;
use vnic_abi::event::{PageAccess, PageRequest, PageResponseCode};
use vnic_testbed::process_guest::verbs::{ALL_ACCESS, Mr, SendWr};
use vnic_testbed::process_guest::{Fault, FaultAnswer, GuestOptions, Layout, Paging};

use crate::common::{Pair, assert_nothing_held, assert_same, pattern};

const LEN: u64 = 300_000;

/// Runs every operation with memory that no page table entry maps, in every role.
fn exchange_lazily(pair: &Pair) {
    let (qa, qb) = pair.qps();
    let data = pattern(17, LEN);
    let roles: [(&str, bool, bool); 3] =
        [("source", true, false), ("target", false, true), ("both", true, true)];
    for (role, lazy_here, lazy_there) in roles {
        let region = |end: &vnic_testbed::process_guest::verbs::Endpoint, lazy| {
            if lazy { end.lazy_region(LEN + 10) } else { end.region(LEN + 10) }
        };
        let fresh = || (region(&pair.a, lazy_here), region(&pair.b, lazy_there));
        {
            let ((here, here_mr), (there, there_mr)) = fresh();
            here.write(5, &data);
            let sge = here_mr.sge(here.addr() + 5, LEN as u32);
            qa.post_send(&SendWr::write(&[sge], there.addr() + 3, there_mr.rkey()).id(1));
            qa.send_cq.expect(1);
            assert_same(&there.read(3, LEN), &data, &format!("WRITE, lazy {role}"));
        }
        {
            let ((here, here_mr), (there, there_mr)) = fresh();
            there.write(5, &data);
            let sge = here_mr.sge(here.addr() + 3, LEN as u32);
            qa.post_send(&SendWr::read(&[sge], there.addr() + 5, there_mr.rkey()).id(2));
            qa.send_cq.expect(2);
            assert_same(&here.read(3, LEN), &data, &format!("READ, lazy {role}"));
        }
        {
            let ((here, here_mr), (there, there_mr)) = fresh();
            here.write(5, &data);
            qb.post_recv(3, &[there_mr.sge(there.addr() + 1, LEN as u32)]);
            qa.post_send(&SendWr::send(&[here_mr.sge(here.addr() + 5, LEN as u32)]).id(4));
            qa.send_cq.expect(4);
            qb.recv_cq.expect(3);
            assert_same(&there.read(1, LEN), &data, &format!("SEND, lazy {role}"));
        }
    }
}

#[test]
fn fresh_memory_is_faulted_in_for_every_operation() {
    let pair = Pair::new();
    exchange_lazily(&pair);
    let counters = pair.b.driver.counters();
    let requests = pair.b.driver.page_requests();
    assert!(!requests.is_empty());
    assert_eq!(counters.page_requests.get(), requests.len() as u64);
    for request in requests {
        assert_eq!(request.start.get() % 4096, 0);
        assert_eq!(request.length.get() % 4096, 0);
        assert_ne!(request.length.get(), 0);
        assert_eq!(request.pasid.get(), pair.b.ctx.pasid());
        assert_eq!(request.reserved.get(), 0);
        assert!(PageAccess::from_bits(request.access.get()).is_some_and(|a| !a.is_empty()));
    }
    pair.finish();
}

#[test]
fn five_levels_work_as_four_do() {
    let pair = Pair::with(GuestOptions { paging: Paging::Level5, ..GuestOptions::default() });
    exchange_lazily(&pair);
    pair.finish();
}

#[test]
fn a_driver_that_gives_one_page_at_a_time_is_asked_again() {
    let pair = Pair::new();
    for end in [&pair.a, &pair.b] {
        end.driver.set_fault_policy(|_| FaultAnswer::ResolvePages(1));
    }
    exchange_lazily(&pair);
    pair.finish();
}

#[test]
fn one_request_asks_for_the_whole_range() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.region(LEN);
    let (there, there_mr) = pair.b.lazy_region(LEN);
    let sge = here_mr.sge(here.addr(), LEN as u32);
    qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
    qa.send_cq.expect(0);
    let requests = pair.b.driver.page_requests();
    let pages = LEN.div_ceil(4096);
    assert!((requests.len() as u64) < pages / 4, "{} requests for {pages} pages", requests.len());
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn refused_pages_are_errors_of_the_request_alone() {
    let pair = Pair::new();
    for code in [PageResponseCode::Invalid, PageResponseCode::Gone] {
        let answer = move |_: &PageRequest| FaultAnswer::Answer(code);
        let (here, here_mr) = pair.a.region(8192);
        let (there, there_mr) = pair.b.region(8192);
        let (lazy_here, lazy_here_mr) = pair.a.lazy_region(8192);
        let (lazy_there, lazy_there_mr) = pair.b.lazy_region(8192);
        let (bystander_a, _bystander_b) = pair.qps();
        pair.a.driver.set_fault_policy(answer);
        pair.b.driver.set_fault_policy(answer);

        let local = lazy_here_mr.sge(lazy_here.addr() + 1, 5000);
        let good = here_mr.sge(here.addr() + 1, 5000);
        let target = (there.addr(), there_mr.rkey());
        let refused = (lazy_there.addr(), lazy_there_mr.rkey());
        let cases = [
            ("WRITE from", SendWr::write(&[local], target.0, target.1), WcStatus::LocProtErr),
            ("READ into", SendWr::read(&[local], target.0, target.1), WcStatus::LocProtErr),
            ("SEND from", SendWr::send(&[local]), WcStatus::LocProtErr),
            ("WRITE to", SendWr::write(&[good], refused.0, refused.1), WcStatus::RemAccessErr),
            ("READ from", SendWr::read(&[good], refused.0, refused.1), WcStatus::RemAccessErr),
        ];
        for (what, wr, status) in cases {
            let (qa, qb) = pair.qps();
            qb.post_recv(1, &[there_mr.sge(there.addr(), 8192)]);
            qa.post_send(&wr);
            assert_eq!(qa.send_cq.wait().status, status, "{what} memory refused as {code:?}");
        }
        let (qa, qb) = pair.qps();
        qb.post_recv(1, &[lazy_there_mr.sge(lazy_there.addr(), 8192)]);
        qa.post_send(&SendWr::send(&[good]));
        assert_eq!(qa.send_cq.wait().status, WcStatus::RemOpErr);
        assert_eq!(qb.recv_cq.wait().status, WcStatus::LocProtErr);

        let sge = here_mr.sge(here.addr(), 8192);
        bystander_a.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(8));
        bystander_a.send_cq.expect(8);
        for end in [&pair.a, &pair.b] {
            end.driver.set_fault_policy(|_| FaultAnswer::Resolve);
        }
    }
    pair.finish();
}

#[test]
fn read_only_memory_can_be_read_and_not_written() {
    let pair = Pair::new();
    let (here, here_mr) = pair.a.region(4096);
    for fault in [Fault::Present, Fault::Lazy] {
        let there = pair.b.space().map(4096, Layout::Linear, fault, false);
        // The key allows more than the page table does.
        let there_mr = Mr::of(&pair.b.pd, &there, ALL_ACCESS);
        there.fill(6);
        let sge = here_mr.sge(here.addr(), 100);
        let (qa, _qb) = pair.qps();
        qa.post_send(&SendWr::read(&[sge], there.addr(), there_mr.rkey()));
        qa.send_cq.expect(0);
        assert_eq!(here.read(0, 100), [6; 100]);
        qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
        assert_eq!(qa.send_cq.wait().status, WcStatus::RemAccessErr);
        assert_eq!(there.read(0, 4096), [6; 4096]);
    }
    drop(here_mr);
    pair.finish();
}

#[test]
fn a_request_that_is_never_answered_holds_up_nobody_else() {
    let pair = Pair::new();
    let (stuck_a, stuck_b) = pair.qps();
    let (qa, qb) = pair.qps();
    let (there, there_mr) = pair.b.lazy_region(4096);
    let (open, open_mr) = pair.b.region(4096);
    pair.b.driver.set_fault_policy(|_| FaultAnswer::Ignore);
    stuck_a.post_send(&SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"stuck").id(1));
    for id in 0..200 {
        qa.post_send(&SendWr::write(&[], open.addr(), open_mr.rkey()).inline(b"free").id(id));
        qa.send_cq.expect(id);
    }
    assert!(stuck_a.send_cq.poll().is_none());
    // Everything can be destroyed nevertheless.
    drop((stuck_a, stuck_b, qa, qb, there_mr, open_mr));
    let request = pair.b.driver.page_requests()[0];
    pair.finish_with_late_answer(request);
}

impl Pair {
    /// As `finish`, with an answer to a request whose queue pair is gone.
    fn finish_with_late_answer(self, request: PageRequest) {
        let driver = std::sync::Arc::clone(&self.b.driver);
        let answered = driver.try_page_response(request.id.get(), PageResponseCode::Success);
        answered.expect("an answer");
        drop(driver);
        self.finish();
    }
}

#[test]
fn a_late_answer_lets_the_request_go_on() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (there, there_mr) = pair.b.lazy_region(4096);
    pair.b.driver.set_fault_policy(|_| FaultAnswer::Ignore);
    let (other_a, _other_b) = pair.qps();
    let (open, open_mr) = pair.b.region(64);
    qa.post_send(&SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"late").id(1));
    qa.post_send(&SendWr::write(&[], there.addr() + 64, there_mr.rkey()).inline(b"later").id(2));
    // Traffic until the request is there; it comes without anybody's waiting for it.
    let mut id = 0;
    while pair.b.driver.page_requests().is_empty() {
        other_a.post_send(&SendWr::write(&[], open.addr(), open_mr.rkey()).inline(b"x").id(id));
        other_a.send_cq.expect(id);
        id += 1;
    }
    assert!(qa.send_cq.poll().is_none());
    let request = pair.b.driver.page_requests()[0];
    let (start, length) = (request.start.get(), request.length.get());
    assert_eq!(pair.b.space().fault_in(start, length, true, u64::MAX), PageResponseCode::Success);
    let answer = pair.b.driver.try_page_response(request.id.get(), PageResponseCode::Success);
    assert_eq!(answer, Ok(vnic_abi::status::Status::Ok));
    qa.send_cq.expect(1);
    qa.send_cq.expect(2);
    assert_eq!(there.read(0, 4), b"late");
    assert_eq!(there.read(64, 5), b"later");
    drop((qa, qb, there_mr, other_a, open_mr));
    pair.b.driver.set_fault_policy(|_| FaultAnswer::Resolve);
    drop(_other_b);
    pair.finish();
}

#[test]
fn registering_memory_that_was_never_touched_costs_nothing() {
    let pair = Pair::new();
    // 64 GiB in a guest of 64 MiB: the region is a permission, no page is looked at.
    let space = pair.b.space().reserve(64 << 30);
    let before = pair.b.driver.ram().free_frames();
    let mr = Mr::new(&pair.b.pd, space.addr(), space.len(), ALL_ACCESS).expect("MR_CREATE");
    assert_eq!(pair.b.driver.ram().free_frames(), before);
    assert!(pair.b.driver.page_requests().is_empty());
    let (qa, _qb) = pair.qps();
    let wr = SendWr::write(&[], space.addr() + (40 << 30), mr.rkey()).inline(b"nothing there");
    qa.post_send(&wr);
    assert_eq!(qa.send_cq.wait().status, WcStatus::RemAccessErr);
    drop((qa, _qb, mr));
    pair.finish();
}

#[test]
fn accessed_and_dirty_tell_the_guest_what_happened() {
    use vnic_testbed::process_guest::page_table::{ACCESSED, DIRTY};
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.region(4096);
    let (there, there_mr) = pair.b.region(3 * 4096);
    let sge = here_mr.sge(here.addr(), 10);
    qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
    qa.send_cq.expect(0);
    qa.post_send(&SendWr::read(&[sge], there.addr() + 4096, there_mr.rkey()));
    qa.send_cq.expect(0);
    let bits = |offset| there.entry(offset) & (ACCESSED | DIRTY);
    assert_eq!(bits(0), ACCESSED | DIRTY, "written");
    assert_eq!(bits(4096), ACCESSED, "read");
    assert_eq!(bits(8192), 0, "untouched");
    assert_eq!(here.entry(0) & (ACCESSED | DIRTY), ACCESSED | DIRTY, "read into");
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

/// Keeps WRITEs of a known pattern going from `a` to `b` while the pages there move, `moves` times at
/// least and for a few WRITEs at least, whichever side gets more of the processors.
fn under_traffic(pair: &Pair, len: u64, moves: u64) {
    let (here, here_mr) = pair.a.region(len);
    let (there, there_mr) = pair.b.region(len);
    let stop = AtomicBool::new(false);
    let rounds = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (qa, _qb) = pair.qps();
            // Relaxed: a flag and a count that carry nothing.
            while !stop.load(Ordering::Relaxed) {
                let round = rounds.fetch_add(1, Ordering::Relaxed) + 1;
                let data = pattern(round, len);
                here.write(0, &data);
                let sge = here_mr.sge(here.addr(), len as u32);
                qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(round));
                qa.send_cq.expect(round);
                assert_same(&there.read(0, len), &data, &format!("round {round}"));
            }
        });
        let mut moved = 0;
        while (moved < moves || rounds.load(Ordering::Relaxed) < 4) && !writer.is_finished() {
            there.migrate();
            moved += 1;
        }
        stop.store(true, Ordering::Relaxed);
        writer.join().expect("the writer finds its data");
    });
    drop((here_mr, there_mr));
}

#[test]
fn pages_move_under_traffic() {
    for workers in [1, 2] {
        let pair = Pair::with_workers(workers);
        under_traffic(&pair, 40_000, 200);
        pair.finish();
    }
}

#[test]
fn a_page_is_ones_own_again_as_soon_as_it_was_taken_back() {
    for workers in [1, 2] {
        take_pages_back(Pair::with_workers(workers));
    }
}

/// Takes the last page of a buffer that the device is writing to all the time, marks it at once, and
/// looks at the mark when the device has noticed that the page is gone.
fn take_pages_back(pair: Pair) {
    const LEN: u64 = 64 << 10;
    let (here, here_mr) = pair.a.region(LEN);
    let (there, there_mr) = pair.b.region(LEN);
    here.fill(1);
    // Closed while the page is the guest's own: the fault handler waits.
    let gate = Arc::new(Mutex::new(()));
    let at_gate = Arc::clone(&gate);
    pair.b.driver.set_fault_policy(move |_| {
        drop(at_gate.lock());
        FaultAnswer::Resolve
    });
    let stop = AtomicBool::new(false);
    let completed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (qa, _qb) = pair.qps();
            let post = || {
                let sge = here_mr.sge(here.addr(), LEN as u32);
                qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
            };
            (0..32).for_each(|_| post());
            // Relaxed: a flag and a count that carry nothing.
            while !stop.load(Ordering::Relaxed) {
                qa.send_cq.expect(0);
                completed.fetch_add(1, Ordering::Relaxed);
                post();
            }
            for _ in 0..32 {
                qa.send_cq.expect(0);
            }
        });
        let last = LEN - 4096;
        for round in 0..300 {
            let seen = pair.b.driver.page_requests().len();
            let closed = gate.lock();
            there.page_out_one(last);
            there.write(last, &[9; 4096]);
            while pair.b.driver.page_requests().len() == seen && !writer.is_finished() {
                std::thread::yield_now();
            }
            let found = there.read(last, 4096);
            drop(closed);
            // Only when the request was served may the gate close again, or its handler would stand
            // before it while this waits for the next request. Completions tell nothing of that:
            // there may be plenty from before.
            while pair.b.driver.counters().page_requests_outstanding.get() != 0 {
                std::thread::yield_now();
            }
            // The device is in full swing again before the next round.
            let until = completed.load(Ordering::Relaxed) + 4 + round % 5;
            while completed.load(Ordering::Relaxed) < until && !writer.is_finished() {
                std::hint::spin_loop();
            }
            if found != [9; 4096] {
                stop.store(true, Ordering::Relaxed);
                panic!("round {round}: the device wrote to a page that was taken back");
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop((here_mr, there_mr));
    pair.finish();
}

#[test]
fn nothing_is_written_after_memory_was_taken_away() {
    for workers in [1, 2] {
        take_away(Pair::with_workers(workers));
    }
}

fn take_away(pair: Pair) {
    let (here, here_mr) = pair.a.region(64 << 10);
    here.fill(1);
    for round in 0..30 {
        let (qa, qb) = pair.qps();
        let (there, there_mr) = pair.b.region(64 << 10);
        let sge = here_mr.sge(here.addr(), 64 << 10);
        for id in 0..16 {
            qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(id));
        }
        for _ in 0..round % 5 {
            qa.send_cq.wait();
        }
        there.unmap();
        // From here on the memory is the guest's own again.
        there.fill(9);
        let mut failed = false;
        for _ in round % 5..16 {
            failed |= qa.send_cq.wait().status != WcStatus::Success;
        }
        assert_eq!(there.read(0, 64 << 10), vec![9; 64 << 10], "round {round}");
        if failed {
            assert_eq!(qa.state(), vnic_abi::ctrl::QpState::Err);
        }
        drop((qa, qb, there_mr));
    }
    drop(here_mr);
    pair.finish();
}

/// Ends `b`'s process while WRITEs into it are under way, by `end`, and checks that none of them
/// touches its memory after that.
fn process_ends(end: impl Fn(&Pair)) {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (there, there_mr) = pair.b.region(64 << 10);
    let (here, here_mr) = pair.a.region(64 << 10);
    here.fill(1);
    let sge = here_mr.sge(here.addr(), 64 << 10);
    for id in 0..32 {
        qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(id));
    }
    end(&pair);
    there.fill(9);
    let done = qa.send_cq.wait_many(32);
    assert_eq!(there.read(0, 64 << 10), vec![9; 64 << 10]);
    let mut failed = done.iter().filter(|done| done.status != WcStatus::Success);
    if let Some(first) = failed.next() {
        let gone = [WcStatus::RetryExcErr, WcStatus::RemAccessErr, WcStatus::RemOpErr];
        assert!(gone.contains(&first.status), "{first:?}");
        assert!(failed.all(|done| done.status == WcStatus::WrFlushErr));
    }
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn a_closed_context_is_not_touched() {
    process_ends(|pair| {
        pair.b.driver.ctx_destroy(pair.b.ctx.handle()).expect("CTX_DESTROY");
        pair.b.driver.pasid_unbind(pair.b.ctx.pasid()).expect("PASID_UNBIND");
        assert_nothing_held(&pair.b.driver);
    });
}

#[test]
fn memory_may_end_before_the_context() {
    // As in the exit of a process: its memory is torn down first, its files are closed later.
    process_ends(|pair| {
        pair.b.driver.pasid_unbind(pair.b.ctx.pasid()).expect("PASID_UNBIND");
        assert_eq!(pair.b.driver.counters().contexts.get(), 1);
    });
}
