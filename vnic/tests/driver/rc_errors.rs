// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every completion error that a reliable connection knows, on both sides.

use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::{AccessFlags, QpState};
use vnic_abi::event::EventKind;
use vnic_abi::wqe::{Opcode, Sge};
use vnic_testbed::process_guest::Driver;
use vnic_testbed::process_guest::verbs::{
    ALL_ACCESS, ConnectOptions, Cq, Endpoint, Mr, Pd, Qp, QpOptions, SendWr, connect, connect_with,
};

use crate::common::Pair;

/// The failed request completes with `status`, the queue pair goes to error, and what was posted
/// behind the request is flushed.
#[track_caller]
fn expect_failure(qp: &Qp, wr: SendWr, status: WcStatus) {
    qp.post_send(&wr.id(1));
    qp.post_send(&SendWr::send(&[]).id(2).unsignaled());
    let done = qp.send_cq.wait();
    assert_eq!((done.wr_id, done.status), (1, status), "{done:?}");
    let flushed = qp.send_cq.wait();
    assert_eq!((flushed.wr_id, flushed.status), (2, WcStatus::WrFlushErr), "{flushed:?}");
    assert_eq!(qp.state(), QpState::Err);
}

#[test]
fn local_keys_protect_the_source() {
    let pair = Pair::new();
    let (from, from_mr) = pair.a.region(8192);
    let (to, to_mr) = pair.b.region(8192);
    let foreign_pd = Pd::new(&pair.a.ctx);
    let foreign = Mr::of(&foreign_pd, &from, ALL_ACCESS);
    let gone = {
        let mr = Mr::of(&pair.a.pd, &from, ALL_ACCESS);
        mr.lkey()
    };
    let sge = |addr: u64, length: u32, lkey: u32| Sge {
        addr: addr.into(),
        length: length.into(),
        lkey: lkey.into(),
    };
    let (start, end) = (from.addr(), from.addr() + 8192);
    let bad = [
        ("no such key", sge(start, 8, 0xdead_beef)),
        ("key 0", sge(start, 8, 0)),
        ("the peer's key", sge(start, 8, to_mr.rkey())),
        ("another domain's key", sge(start, 8, foreign.lkey())),
        ("a destroyed region's key", sge(start, 8, gone)),
        ("before the region", sge(start - 1, 8, from_mr.lkey())),
        ("past the end", sge(end - 7, 8, from_mr.lkey())),
        ("behind the end", sge(end, 1, from_mr.lkey())),
        ("wraps", sge(u64::MAX - 3, 8, from_mr.lkey())),
        ("4 GiB long", sge(start, u32::MAX, from_mr.lkey())),
    ];
    for (what, sge) in bad {
        println!("{what}");
        let (qa, _qb) = pair.qps();
        let good = from_mr.sge(start, 8);
        let expected = if sge.length.get() == u32::MAX {
            // Too long for a message as well; which check comes first is the device's affair.
            let (qa, _qb) = pair.qps();
            qa.post_send(&SendWr::write(&[good, sge], to.addr(), to_mr.rkey()));
            let status = qa.send_cq.wait().status;
            assert!([WcStatus::LocProtErr, WcStatus::LocLenErr].contains(&status), "{status:?}");
            status
        } else {
            WcStatus::LocProtErr
        };
        to.fill(0);
        expect_failure(&qa, SendWr::write(&[good, sge], to.addr(), to_mr.rkey()), expected);
    }
    drop((from_mr, to_mr, foreign, foreign_pd));
    pair.finish();
}

#[test]
fn a_read_needs_the_right_to_write_locally() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, _) = pair.a.region(4096);
    let read_only = Mr::of(&pair.a.pd, &here, AccessFlags::empty());
    let (there, there_mr) = pair.b.region(4096);
    there.fill(7);
    let sge = read_only.sge(here.addr(), 64);
    expect_failure(&qa, SendWr::read(&[sge], there.addr(), there_mr.rkey()), WcStatus::LocProtErr);
    assert_eq!(here.read(0, 64), [0; 64]);
    drop((qa, qb, read_only, there_mr));
    pair.finish();
}

#[test]
fn remote_keys_protect_the_target() {
    let pair = Pair::new();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    from.fill(0xff);
    let with = |access| Mr::of(&pair.b.pd, &to, access);
    let no_access = with(AccessFlags::empty());
    let read_only = with(AccessFlags::REMOTE_READ);
    let write_only = with(AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE);
    let foreign_pd = Pd::new(&pair.b.ctx);
    let foreign = Mr::of(&foreign_pd, &to, ALL_ACCESS);
    let gone = with(ALL_ACCESS).rkey();
    let (start, end) = (to.addr(), to.addr() + 4096);
    let sge = from_mr.sge(from.addr(), 64);
    let write = |addr, rkey| SendWr::write(&[sge], addr, rkey);
    let read = |addr, rkey| SendWr::read(&[sge], addr, rkey);
    let bad = [
        ("WRITE without a key", write(start, 0)),
        ("WRITE with a guessed key", write(start, to_mr.rkey() ^ 1)),
        ("WRITE with the sender's own key", write(start, from_mr.rkey())),
        ("WRITE to another domain's region", write(start, foreign.rkey())),
        ("WRITE to a destroyed region", write(start, gone)),
        ("WRITE before the region", write(start - 1, to_mr.rkey())),
        ("WRITE past the end", write(end - 63, to_mr.rkey())),
        ("WRITE that wraps", write(u64::MAX - 3, to_mr.rkey())),
        ("WRITE to a region for nobody", write(start, no_access.rkey())),
        ("WRITE to a region for reading", write(start, read_only.rkey())),
        ("READ from a region for writing", read(start, write_only.rkey())),
        ("READ from a region for nobody", read(start, no_access.rkey())),
        ("READ past the end", read(end - 63, to_mr.rkey())),
        (
            "WRITE with immediate to a region for reading",
            write(start, read_only.rkey()).imm([0; 4]),
        ),
    ];
    for (what, wr) in bad {
        println!("{what}");
        to.fill(3);
        let (qa, qb) = pair.qps();
        qb.post_recv(1, &[]);
        expect_failure(&qa, wr, WcStatus::RemAccessErr);
        assert_eq!(to.read(0, 4096), [3; 4096], "{what}");
        pair.b.driver.wait_async(EventKind::QpAccessError, qb.cookie());
    }
    drop((from_mr, to_mr, no_access, read_only, write_only, foreign, foreign_pd));
    pair.finish();
}

#[test]
fn a_queue_pair_may_refuse_what_a_region_allows() {
    let pair = Pair::new();
    let (from, from_mr) = pair.a.region(4096);
    let (to, to_mr) = pair.b.region(4096);
    let sge = from_mr.sge(from.addr(), 8);
    let cases = [
        (AccessFlags::REMOTE_READ, SendWr::write(&[sge], to.addr(), to_mr.rkey())),
        (AccessFlags::REMOTE_WRITE, SendWr::read(&[sge], to.addr(), to_mr.rkey())),
    ];
    for (access, wr) in cases {
        let options = ConnectOptions { access, ..ConnectOptions::default() };
        let (qa, _qb) = pair.qps_with(&options);
        qa.post_send(&wr);
        let status = qa.send_cq.wait().status;
        // The specification calls it an access error, some devices an invalid request.
        assert!(
            [WcStatus::RemAccessErr, WcStatus::RemInvReqErr].contains(&status),
            "{access:?}: {status:?}"
        );
    }
    drop((from_mr, to_mr));
    pair.finish();
}

#[test]
fn a_message_that_does_not_fit_fails_on_both_sides() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (from, from_mr) = pair.a.region(8192);
    let (to, to_mr) = pair.b.region(8192);
    to.fill(1);
    qb.post_recv(11, &[to_mr.sge(to.addr(), 4095)]);
    qb.post_recv(12, &[to_mr.sge(to.addr(), 4095)]);
    expect_failure(&qa, SendWr::send(&[from_mr.sge(from.addr(), 4096)]), WcStatus::RemInvReqErr);
    let done = qb.recv_cq.wait();
    assert_eq!((done.wr_id, done.status), (11, WcStatus::LocLenErr));
    let flushed = qb.recv_cq.wait();
    assert_eq!((flushed.wr_id, flushed.status), (12, WcStatus::WrFlushErr));
    assert_eq!(to.read(4095, 1), [1], "behind the receive buffer");
    assert_eq!(qb.state(), QpState::Err);
    drop((qa, qb, from_mr, to_mr));
    pair.finish();
}

#[test]
fn a_receive_buffer_that_may_not_be_written_fails_on_both_sides() {
    let pair = Pair::new();
    let (to, to_mr) = pair.b.region(4096);
    let read_only = Mr::of(&pair.b.pd, &to, AccessFlags::empty());
    let bad = [
        ("read-only region", read_only.sge(to.addr(), 64)),
        ("past the end", to_mr.sge(to.addr() + 4090, 64)),
        ("no such key", Sge { lkey: 0x1234_5678.into(), ..to_mr.sge(to.addr(), 64) }),
    ];
    for (what, sge) in bad {
        println!("{what}");
        let (qa, qb) = pair.qps();
        qb.post_recv(11, &[sge]);
        expect_failure(&qa, SendWr::send(&[]).inline(&[9; 64]), WcStatus::RemOpErr);
        let done = qb.recv_cq.wait();
        assert_eq!((done.wr_id, done.status), (11, WcStatus::LocProtErr));
        assert_eq!(to.read(0, 4096), [0; 4096]);
    }
    drop((to_mr, read_only));
    pair.finish();
}

#[test]
fn a_message_longer_than_the_limit_is_a_local_error() {
    let pair = Pair::new();
    let max = pair.a.driver.config().max_msg_size.get();
    let space = pair.a.space();
    let huge = space.reserve(u64::from(max) + 4096);
    let mr = Mr::new(&pair.a.pd, huge.addr(), huge.len(), ALL_ACCESS).expect("MR_CREATE");
    let (to, to_mr) = pair.b.region(4096);
    let (qa, qb) = pair.qps();
    let sge = mr.sge(huge.addr(), max.checked_add(1).expect("a limit below 4 GiB"));
    expect_failure(&qa, SendWr::write(&[sge], to.addr(), to_mr.rkey()), WcStatus::LocLenErr);
    drop((qa, qb, mr, to_mr));
    pair.finish();
}

#[test]
fn an_unknown_operation_is_an_error_of_the_request() {
    let pair = Pair::new();
    // 6 and 7 are atomics, which were not negotiated.
    for opcode in [0, 6, 7, 8, 77, 255] {
        let (qa, _qb) = pair.qps();
        let wr = SendWr::new(Opcode(opcode), &[]);
        expect_failure(&qa, wr, WcStatus::LocQpOpErr);
    }
    pair.finish();
}

#[test]
fn the_error_state_flushes_both_queues() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (buffer, mr) = pair.a.region(4096);
    for id in 0..5 {
        qa.post_recv(100 + id, &[mr.sge(buffer.addr(), 64)]);
    }
    qa.set_state(QpState::Err).expect("ERR");
    let done = qa.send_cq.wait_many(5);
    for (i, done) in done.iter().enumerate() {
        assert_eq!((done.wr_id, done.status), (100 + i as u64, WcStatus::WrFlushErr));
        assert_eq!(done.opcode, WcOpcode::Recv);
    }
    // What is posted in the error state is flushed as well.
    qa.post_send(&SendWr::send(&[]).id(1));
    assert_eq!(qa.send_cq.wait().status, WcStatus::WrFlushErr);
    qa.post_recv(2, &[]);
    let done = qa.recv_cq.wait();
    assert_eq!((done.wr_id, done.status), (2, WcStatus::WrFlushErr));
    // And after a reset the queue pair works again, once its peer was reset too.
    qa.reset().expect("RESET");
    qb.reset().expect("RESET");
    connect(&qa, &qb);
    qa.post_recv(3, &[mr.sge(buffer.addr(), 64)]);
    qb.post_send(&SendWr::send(&[]).inline(b"again").id(4));
    qb.send_cq.expect(4);
    qa.recv_cq.expect(3);
    assert_eq!(buffer.read(0, 5), b"again");
    drop((qa, qb, mr));
    pair.finish();
}

/// Short time-outs, for a peer that will not answer.
fn impatient() -> ConnectOptions {
    ConnectOptions { timeout: 8, retry_cnt: 2, ..ConnectOptions::default() }
}

#[test]
fn a_destroyed_peer_is_a_retry_error() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps_with(&impatient());
    let (to, to_mr) = pair.b.region(64);
    drop(qb);
    expect_failure(
        &qa,
        SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"x"),
        WcStatus::RetryExcErr,
    );
    drop((qa, to_mr));
    pair.finish();
}

#[test]
fn a_peer_that_is_not_ready_is_a_retry_error() {
    let pair = Pair::new();
    let (to, to_mr) = pair.b.region(64);
    let (qa, qb) = (pair.a.qp(), pair.b.qp());
    qb.to_init(ALL_ACCESS).expect("INIT");
    qa.to_init(ALL_ACCESS).expect("INIT");
    qa.to_rtr(qb.qpn(), qb.gid(), &impatient()).expect("RTR");
    qa.to_rts(&impatient()).expect("RTS");
    expect_failure(
        &qa,
        SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"x"),
        WcStatus::RetryExcErr,
    );
    assert_eq!(to.read(0, 1), [0]);
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn a_peer_that_never_connected_back_gets_nothing() {
    let pair = Pair::new();
    let third = Endpoint::boot(&pair.daemon.socket("c"), 3);
    let (to, to_mr) = pair.b.region(64);
    let (qa, qb) = pair.qps();
    // A third guest aims at the queue pair that belongs to the connection of the first two.
    let qc = third.qp();
    qc.to_init(ALL_ACCESS).expect("INIT");
    qc.to_rtr(qb.qpn(), qb.gid(), &impatient()).expect("RTR");
    qc.to_rts(&impatient()).expect("RTS");
    expect_failure(
        &qc,
        SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"intruder"),
        WcStatus::RetryExcErr,
    );
    assert_eq!(to.read(0, 8), [0; 8]);
    qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"friend"));
    qa.send_cq.expect(0);
    drop((qa, qb, qc, to_mr));
    crate::common::close(third);
    pair.finish();
}

#[test]
fn networks_are_separate() {
    let pair = Pair::new();
    let stranger = Endpoint::boot(&pair.daemon.socket("other"), 2);
    let (to, to_mr) = pair.b.region(64);
    let qb = pair.b.qp();
    let qc = stranger.qp();
    // The same address exists in both networks: everybody reaches the one in his own.
    let options = impatient();
    for (here, there) in [(&qb, &qc), (&qc, &qb)] {
        here.to_init(ALL_ACCESS).expect("INIT");
        here.to_rtr(there.qpn(), there.gid(), &options).expect("RTR");
        here.to_rts(&options).expect("RTS");
    }
    let wr = SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"stranger");
    expect_failure(&qc, wr, WcStatus::RetryExcErr);
    assert_eq!(to.read(0, 8), [0; 8]);
    drop((qb, qc, to_mr));
    crate::common::close(stranger);
    pair.finish();
}

#[test]
fn a_guest_that_dies_is_a_retry_error_for_its_peers() {
    let pair = Pair::new();
    let Pair { a, b, daemon, other } = pair;
    let (qa, qb) = (a.qp(), b.qp());
    connect_with(&qa, &qb, &impatient());
    let (to, to_mr) = b.region(1 << 20);
    let (from, from_mr) = a.region(1 << 20);
    let post = || {
        let sge = from_mr.sge(from.addr(), 1 << 20);
        qa.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()));
    };
    // Always a few under way, death somewhere in the middle of one.
    (0..8).for_each(|_| post());
    for _ in 0..8 {
        assert_eq!(qa.send_cq.wait().status, WcStatus::Success);
        post();
    }
    b.driver.power_off();
    // What was under way may still arrive; the device learns of the death a moment later.
    let first = loop {
        let done = qa.send_cq.wait();
        if done.status != WcStatus::Success {
            break done;
        }
        post();
    };
    assert_eq!(first.status, WcStatus::RetryExcErr);
    let flushed = qa.send_cq.wait_many(7);
    assert!(flushed.iter().all(|done| done.status == WcStatus::WrFlushErr));
    drop((qa, qb, from_mr, to_mr, to));
    drop(b);
    // The next guest on that port finds a working device.
    let b = Endpoint::boot(&other.as_ref().unwrap_or(&daemon).socket("b"), 2);
    let pair = Pair { a, b, daemon, other };
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(64);
    qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"newcomer"));
    qa.send_cq.expect(0);
    assert_eq!(to.read(0, 8), b"newcomer");
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn separate_completion_queues_get_their_own_flushes() {
    let pair = Pair::new();
    let make = |end: &Endpoint| -> (Qp, std::sync::Arc<Cq>, std::sync::Arc<Cq>) {
        let (send, recv) = (end.cq(16), end.cq(16));
        let qp = Qp::new(&end.pd, &send, &recv, end.gid, QpOptions::default());
        (qp, send, recv)
    };
    let (qa, send, recv) = make(&pair.a);
    let (qb, ..) = make(&pair.b);
    connect(&qa, &qb);
    qa.post_recv(1, &[]);
    // Something that cannot be done at once: nobody receives it.
    qa.post_send(&SendWr::send(&[]).inline(b"x").id(2));
    qa.set_state(QpState::Err).expect("ERR");
    assert_eq!((send.wait().wr_id, recv.wait().wr_id), (2, 1));
    assert!(send.poll().is_none() && recv.poll().is_none());
    drop((qa, qb, send, recv));
    pair.finish();
}

/// Keeps the import of `Driver` honest: a fault in the guest's own threads is a failed test too.
#[test]
fn a_guest_without_init_may_only_init() {
    let daemon = crate::common::daemon();
    let options = vnic_testbed::process_guest::GuestOptions { init: None, ..Default::default() };
    let driver = Driver::boot_with(&daemon.socket("a"), options).expect("attach");
    assert!(driver.pasid_bind(&driver.new_space()).is_err());
    driver.init(vnic_abi::config::Features::empty()).expect("INIT");
    let pasid = driver.pasid_bind(&driver.new_space()).expect("PASID_BIND");
    driver.pasid_unbind(pasid).expect("PASID_UNBIND");
    drop(driver);
    daemon.stop();
}
