// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Compare-and-swap and fetch-and-add.

use std::sync::atomic::{AtomicU64, Ordering};

use vnic_abi::config::Features;
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_testbed::process_guest::GuestOptions;
use vnic_testbed::process_guest::verbs::SendWr;

use crate::common::Pair;

fn pair() -> Pair {
    Pair::with(GuestOptions { init: Some(Features::ATOMIC), ..GuestOptions::default() })
}

fn word(bytes: Vec<u8>) -> u64 {
    u64::from_le_bytes(bytes.try_into().expect("eight bytes"))
}

#[test]
fn the_old_value_comes_back_and_the_new_one_stays() {
    let pair = pair();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    let (addr, rkey) = (to.addr() + 16, to_mr.rkey());
    // The result may lie anywhere, over two entries and odd.
    let places = [from_mr.sge(from.addr() + 1, 3), from_mr.sge(from.addr() + 4091, 5)];
    let result = |from: &vnic_testbed::process_guest::UserBuffer| {
        word([from.read(1, 3), from.read(4091, 5)].concat())
    };
    to.write(16, &u64::MAX.to_le_bytes());
    qa.post_send(&SendWr::fetch_add(&places, addr, rkey, 3).id(1));
    assert_eq!(qa.send_cq.expect(1).opcode, WcOpcode::FetchAdd);
    assert_eq!((result(&from), word(to.read(16, 8))), (u64::MAX, 2));
    qa.post_send(&SendWr::compare_swap(&places, addr, rkey, 7, 9).id(2));
    assert_eq!(qa.send_cq.expect(2).opcode, WcOpcode::CompSwap);
    assert_eq!((result(&from), word(to.read(16, 8))), (2, 2));
    qa.post_send(&SendWr::compare_swap(&places, addr, rkey, 2, 9).id(3));
    qa.send_cq.expect(3);
    assert_eq!((result(&from), word(to.read(16, 8))), (2, 9));
    assert_eq!((to.read(8, 8), to.read(24, 8)), (vec![0; 8], vec![0; 8]));
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn they_are_atomic_against_the_guests_own_processors() {
    const ROUNDS: u64 = 20_000;
    let pair = pair();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    let place = [from_mr.sge(from.addr(), 8)];
    // SAFETY: an aligned word of a buffer that outlives the thread, used as an atomic by both.
    #[allow(unsafe_code, reason = "the guest's processor works on the same word as the device")]
    let shared = unsafe { AtomicU64::from_ptr(to.addr() as *mut u64) };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                // Relaxed: only the sum is looked at, after the thread has ended.
                shared.fetch_add(1 << 32, Ordering::Relaxed);
            }
        });
        for round in 0..ROUNDS {
            qa.post_send(&SendWr::fetch_add(&place, to.addr(), to_mr.rkey(), 1).id(round));
            qa.send_cq.expect(round);
        }
    });
    assert_eq!(word(to.read(0, 8)), (ROUNDS << 32) + ROUNDS);
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn a_missing_page_on_either_side_delays_an_atomic_and_does_not_repeat_it() {
    let pair = pair();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.lazy_region(8192);
    let (to, to_mr) = pair.b.lazy_region(4096);
    // The result crosses from one missing page into another.
    let place = [from_mr.sge(from.addr() + 4092, 8)];
    qa.post_send(&SendWr::fetch_add(&place, to.addr(), to_mr.rkey(), 5).id(1));
    qa.send_cq.expect(1);
    assert_eq!(word(to.read(0, 8)), 5);
    assert_eq!(word(from.read(4092, 8)), 0);
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn odd_addresses_and_atomics_that_were_not_negotiated_are_refused() {
    let pair = pair();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    let place = [from_mr.sge(from.addr(), 8)];
    qa.post_send(&SendWr::fetch_add(&place, to.addr() + 4, to_mr.rkey(), 1));
    assert_eq!(qa.send_cq.wait().status, WcStatus::RemInvReqErr);
    assert_eq!(to.read(0, 16), [0; 16]);
    drop((qa, qb, from_mr, to_mr));
    pair.finish();

    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    let place = [from_mr.sge(from.addr(), 8)];
    qa.post_send(&SendWr::fetch_add(&place, to.addr(), to_mr.rkey(), 1));
    assert_eq!(qa.send_cq.wait().status, WcStatus::LocQpOpErr);
    assert_eq!(to.read(0, 8), [0; 8]);
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}
