// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Regions that change under traffic, and regions that are a whole address space.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vnic_abi::config::Features;
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::{AccessFlags, MrAttrMask, MrModify};
use vnic_abi::status::Status;
use vnic_testbed::process_guest::verbs::{ALL_ACCESS, Endpoint, Mr, Pd, SendWr, connect};
use vnic_testbed::process_guest::{Daemon, Driver, GuestOptions, UserBuffer};

use crate::common::{Pair, assert_same, close, pattern};

/// By which peers name the first byte, wherever the region lies.
const IOVA: u64 = 0x7000_0000;
const LEN: u64 = 64 << 10;
/// WRITEs that are under way at a time.
const DEPTH: u64 = 32;

/// A change of `mr`, of nothing so far.
fn change(mr: &Mr, mask: MrAttrMask) -> MrModify {
    MrModify { mr: mr.handle().into(), mask: mask.bits().into(), ..Default::default() }
}

/// Makes `mr` the window over `buffer`, named by [`IOVA`].
fn move_to(driver: &Driver, mr: &Mr, buffer: &UserBuffer) {
    let change = MrModify {
        start: buffer.addr().into(),
        length: buffer.len().into(),
        iova: IOVA.into(),
        ..change(mr, MrAttrMask::TRANSLATION)
    };
    let keys = driver.mr_modify(&change).expect("MR_MODIFY");
    assert_eq!((keys.handle.get(), keys.lkey.get()), (mr.handle(), mr.lkey()));
}

#[test]
fn a_region_that_moves_leaves_its_old_window_at_once() {
    for workers in [1, 2] {
        moves_under_writes(Pair::with_workers(workers));
    }
}

/// `a` writes with the key of `b` all the time while `b` moves the window to and fro. Each time the
/// buffer that was left is marked at once, and must keep its marks.
fn moves_under_writes(pair: Pair) {
    let (here, here_mr) = pair.a.region(LEN);
    here.fill(1);
    let buffers = [pair.b.space().buffer(LEN), pair.b.space().buffer(LEN)];
    let mr = Mr::of(&pair.b.pd, &buffers[0], ALL_ACCESS);
    move_to(&pair.b.driver, &mr, &buffers[0]);
    let stop = AtomicBool::new(false);
    let completed = AtomicU64::new(0);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let (qa, _qb) = pair.qps();
            let post = || {
                let sge = here_mr.sge(here.addr(), LEN as u32);
                qa.post_send(&SendWr::write(&[sge], IOVA, mr.rkey()));
            };
            (0..DEPTH).for_each(|_| post());
            // Relaxed: a flag and a count that carry nothing.
            while !stop.load(Ordering::Relaxed) {
                qa.send_cq.expect(0);
                completed.fetch_add(1, Ordering::Relaxed);
                post();
            }
            for _ in 0..DEPTH {
                qa.send_cq.expect(0);
            }
        });
        // Ends the traffic when this side is done, also by a panic.
        let _stop = StopOnDrop(&stop);
        let wait_for = |more: u64| {
            let until = completed.load(Ordering::Relaxed) + more;
            while completed.load(Ordering::Relaxed) < until && !writer.is_finished() {
                std::hint::spin_loop();
            }
        };
        wait_for(DEPTH);
        for round in 0..300 {
            let (old, new) = (&buffers[round % 2], &buffers[(round + 1) % 2]);
            new.fill(0);
            move_to(&pair.b.driver, &mr, new);
            // From here on the old window is the guest's own.
            old.fill(9);
            // All that was under way is over, and more of it after that: the whole of one WRITE, at
            // least, began after the change.
            wait_for(DEPTH + 2);
            let written = old.read(0, LEN).iter().filter(|byte| **byte != 9).count();
            assert_eq!(written, 0, "round {round}: bytes of the old window were written");
            assert_same(&new.read(0, LEN), &vec![1; LEN as usize], "the new window");
        }
    });
    drop((here_mr, mr, buffers));
    pair.finish();
}

struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        // Relaxed: a flag that carries nothing else.
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn rights_and_domains_that_are_taken_away_are_gone_at_once() {
    let pair = Pair::new();
    let (here, here_mr) = pair.a.region(LEN);
    here.fill(1);
    let elsewhere = Pd::new(&pair.b.ctx);
    for round in 0..40 {
        let (qa, qb) = pair.qps();
        let (there, there_mr) = pair.b.region(LEN);
        let sge = here_mr.sge(here.addr(), LEN as u32);
        for id in 0..DEPTH {
            qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(id));
        }
        let done = round % 5;
        for _ in 0..done {
            qa.send_cq.wait();
        }
        let wanted = match round % 2 {
            0 => MrModify {
                access: AccessFlags::REMOTE_READ.bits().into(),
                ..change(&there_mr, MrAttrMask::ACCESS)
            },
            _ => MrModify { pd: elsewhere.handle().into(), ..change(&there_mr, MrAttrMask::PD) },
        };
        pair.b.driver.mr_modify(&wanted).expect("MR_MODIFY");
        there.fill(9);
        let rest = qa.send_cq.wait_many((DEPTH - done) as usize);
        assert_same(&there.read(0, LEN), &vec![9; LEN as usize], &format!("round {round}"));
        let mut failed = rest.iter().filter(|done| done.status != WcStatus::Success);
        if let Some(first) = failed.next() {
            assert_eq!(first.status, WcStatus::RemAccessErr);
        }
        drop((qa, qb, there_mr));
    }
    drop((here_mr, elsewhere));
    pair.finish();
}

#[test]
fn a_change_that_is_refused_changes_nothing() {
    let pair = Pair::new();
    let (here, here_mr) = pair.a.region(4096);
    let (there, there_mr) = pair.b.region(4096);
    let (qa, qb) = pair.qps();
    let refused = [
        (
            MrModify {
                length: u64::MAX.into(),
                start: 1.into(),
                ..change(&there_mr, MrAttrMask::TRANSLATION)
            },
            Status::BadSize,
        ),
        (
            MrModify {
                length: 2.into(),
                iova: u64::MAX.into(),
                ..change(&there_mr, MrAttrMask::TRANSLATION)
            },
            Status::BadSize,
        ),
        (MrModify { pd: 77.into(), ..change(&there_mr, MrAttrMask::all()) }, Status::BadHandle),
        (
            MrModify { access: 2.into(), ..change(&there_mr, MrAttrMask::ACCESS) },
            Status::BadAttribute,
        ),
    ];
    for (round, (wanted, status)) in refused.into_iter().enumerate() {
        assert_eq!(pair.b.driver.mr_modify(&wanted).map(drop), Err(status));
        let data = pattern(round as u64, 4096);
        here.write(0, &data);
        let sge = here_mr.sge(here.addr(), 4096);
        qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
        qa.send_cq.expect(0);
        assert_same(&there.read(0, 4096), &data, "written with the key as before");
    }
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn a_port_offers_implicit_regions_only_if_it_is_told_to() {
    let daemon = Daemon::of(env!("CARGO_BIN_EXE_vnic"))
        .port("a")
        .port_with("b", "network=default,implicit_mr=true")
        .start();
    let features = |end: &Endpoint| Features::from_bits_retain(end.driver.config().features.get());
    let a = Endpoint::boot(&daemon.socket("a"), 1);
    assert!(!features(&a).contains(Features::IMPLICIT_MR));
    assert_eq!(a.driver.init(Features::IMPLICIT_MR), Err(Status::Unsupported));
    drop(a);

    // Offered, and not accepted.
    let b = Endpoint::boot(&daemon.socket("b"), 2);
    assert!(features(&b).contains(Features::IMPLICIT_MR));
    let all = ALL_ACCESS | AccessFlags::ON_DEMAND;
    assert_eq!(Mr::new(&b.pd, 0, u64::MAX, all).map(drop), Err(Status::Unsupported));
    close(b);

    let a = Endpoint::boot(&daemon.socket("a"), 1);
    let options = GuestOptions { init: Some(Features::IMPLICIT_MR), ..GuestOptions::default() };
    let b = Endpoint::boot_with(&daemon.socket("b"), 2, options);
    assert_eq!(Mr::new(&b.pd, 0, u64::MAX, ALL_ACCESS).map(drop), Err(Status::BadSize));
    let everything = Mr::new(&b.pd, 0, u64::MAX, all).expect("MR_CREATE");
    let (here, here_mr) = a.region(LEN);
    here.write(0, &pattern(3, LEN));
    let sge = here_mr.sge(here.addr(), LEN as u32);
    {
        let (qa, qb) = (a.qp(), b.qp());
        connect(&qa, &qb);
        // Made after the region: memory that is there, and memory that is not.
        for there in [b.space().buffer(LEN + 10), b.space().lazy_buffer(LEN + 10)] {
            there.fill(0);
            qa.post_send(&SendWr::write(&[sge], there.addr() + 10, everything.rkey()));
            qa.send_cq.expect(0);
            assert_same(&there.read(10, LEN), &pattern(3, LEN), "written by the implicit region");
        }
    }
    // What the process itself could not reach, nobody does: the hole in the middle, the kernel's half,
    // the last byte, and what is just not mapped.
    let nothing = b.space().reserve(LEN);
    for addr in [1 << 47, 0xffff_8000_0000_0000, u64::MAX - LEN, nothing.addr(), 0] {
        let (qa, qb) = (a.qp(), b.qp());
        connect(&qa, &qb);
        qa.post_send(&SendWr::write(&[sge], addr, everything.rkey()));
        assert_eq!(qa.send_cq.wait().status, WcStatus::RemAccessErr, "{addr:#x}");
    }
    // It can become an ordinary region, and be one again.
    let shrink = MrModify {
        length: LEN.into(),
        start: nothing.addr().into(),
        iova: nothing.addr().into(),
        ..change(&everything, MrAttrMask::TRANSLATION)
    };
    b.driver.mr_modify(&shrink).expect("MR_MODIFY");
    let widen =
        MrModify { length: u64::MAX.into(), ..change(&everything, MrAttrMask::TRANSLATION) };
    b.driver.mr_modify(&widen).expect("MR_MODIFY");
    let strict = MrModify { ..change(&everything, MrAttrMask::ACCESS) };
    assert_eq!(b.driver.mr_modify(&strict).map(drop), Err(Status::BadSize));
    drop((here_mr, everything));
    close(a);
    close(b);
    daemon.stop();
}
