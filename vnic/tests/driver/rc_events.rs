// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Completion events, asynchronous events, RNR, counters.

use vnic_abi::cqe::WcStatus;
use vnic_abi::event::EventKind;
use vnic_testbed::process_guest::verbs::{ConnectOptions, Qp, QpOptions, SendWr, connect};

use crate::common::{Pair, pattern};

#[test]
fn an_armed_queue_tells_of_the_next_completion_once() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(4096);
    let cq = &qb.recv_cq;
    cq.arm(false);
    for id in 0..3 {
        qb.post_recv(id, &[to_mr.sge(to.addr(), 64)]);
        qa.post_send(&SendWr::send(&[]).inline(b"hello").id(id));
        qa.send_cq.expect(id);
    }
    let event = cq.wait_event();
    assert_eq!(event.kind.get(), EventKind::Completion.0);
    assert_eq!((event.object.get(), event.cookie.get()), (cq.handle(), cq.cookie()));
    cq.wait_many(3);
    // Two more completions came while the queue was not armed. Events travel in order, so that one
    // of them would be here before the event of the next armed completion.
    cq.arm(false);
    qb.post_recv(9, &[to_mr.sge(to.addr(), 64)]);
    qa.post_send(&SendWr::send(&[]).inline(b"hello"));
    qa.send_cq.expect(0);
    cq.wait_event();
    cq.expect(9);
    assert!(cq.try_event().is_none());
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn a_queue_armed_for_solicited_completions_ignores_others() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(4096);
    qb.recv_cq.arm(true);
    for id in 0..2 {
        qb.post_recv(id, &[to_mr.sge(to.addr(), 64)]);
    }
    qa.post_send(&SendWr::send(&[]).inline(b"quiet").id(1));
    qa.send_cq.expect(1);
    qb.recv_cq.expect(0);
    // The queue is still armed, since nothing solicited has come: the next message shows it. Were
    // the first one's event there, it would be the one taken here, and a second one would follow.
    qa.post_send(&SendWr::send(&[]).inline(b"loud").solicited().id(2));
    qa.send_cq.expect(2);
    qb.recv_cq.wait_event();
    qb.recv_cq.expect(1);
    assert!(qb.recv_cq.try_event().is_none());
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn a_failure_is_an_event_even_for_solicited_arming() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    qa.send_cq.arm(true);
    qa.post_send(&SendWr::write(&[], 0x1000, 0x1234).inline(b"x"));
    qa.send_cq.wait_event();
    assert_eq!(qa.send_cq.wait().status, WcStatus::RemAccessErr);
    drop((qa, qb));
    pair.finish();
}

#[test]
fn a_sender_waits_for_a_late_receiver() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(4096);
    for round in 0..5 {
        qa.post_send(&SendWr::send(&[]).inline(&pattern(round, 100)).id(round));
        // The device is at it: another queue pair's traffic comes and goes meanwhile.
        let (other, peer) = pair.qps();
        other.post_send(&SendWr::write(&[], to.addr() + 1000, to_mr.rkey()).inline(b"meanwhile"));
        other.send_cq.expect(0);
        assert!(qa.send_cq.poll().is_none(), "a SEND cannot complete before it is received");
        qb.post_recv(round, &[to_mr.sge(to.addr(), 100)]);
        qa.send_cq.expect(round);
        qb.recv_cq.expect(round);
        assert_eq!(to.read(0, 100), pattern(round, 100));
        drop((other, peer));
    }
    drop((qa, qb, to_mr));
    pair.finish();
}

#[test]
fn rnr_retries_end() {
    let pair = Pair::new();
    for rnr_retry in [0, 3] {
        let options = ConnectOptions { rnr_retry, ..ConnectOptions::default() };
        let (qa, qb) = pair.qps_with(&options);
        qa.post_send(&SendWr::send(&[]).inline(b"nobody listens").id(5));
        qa.post_send(&SendWr::send(&[]).inline(b"behind it").id(6));
        let done = qa.send_cq.wait_many(2);
        assert_eq!((done[0].wr_id, done[0].status), (5, WcStatus::RnrRetryExcErr));
        assert_eq!((done[1].wr_id, done[1].status), (6, WcStatus::WrFlushErr));
        assert!(qb.recv_cq.poll().is_none());
        drop((qa, qb));
    }
    pair.finish();
}

#[test]
fn an_overrun_completion_queue_is_an_error_of_that_queue() {
    let pair = Pair::new();
    let cq = pair.a.cq(4);
    let other = pair.b.qp();
    let qp = Qp::new(&pair.a.pd, &cq, &cq, pair.a.gid, QpOptions::default());
    connect(&qp, &other);
    let (to, to_mr) = pair.b.region(4096);
    for id in 0..12 {
        qp.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"x").id(id));
    }
    let event = pair.a.driver.wait_async(EventKind::CqError, cq.cookie());
    assert_eq!(event.object.get(), cq.handle());
    // Other queues of the same guest are not concerned.
    let (qa, qb) = pair.qps();
    qa.post_send(&SendWr::write(&[], to.addr() + 8, to_mr.rkey()).inline(b"fine"));
    qa.send_cq.expect(0);
    assert_eq!(to.read(8, 4), b"fine");
    drop((qp, other, cq, qa, qb, to_mr));
    pair.finish();
}

#[test]
fn counters_count() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(4096);
    let before = pair.a.driver.counters();
    for id in 0..10 {
        qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(&[1; 100]).id(id));
        qa.send_cq.expect(id);
    }
    let after = pair.a.driver.counters();
    assert_eq!(after.send_requests.get() - before.send_requests.get(), 10);
    assert_eq!(after.bytes.get() - before.bytes.get(), 1000);
    assert_eq!((after.qps.get(), after.cqs.get(), after.mrs.get()), (1, 1, 0));
    assert_eq!((after.pds.get(), after.contexts.get(), after.pasids.get()), (1, 1, 1));
    assert_eq!(pair.b.driver.counters().mrs.get(), 1);
    drop((qa, qb, to_mr));
    pair.finish();
}
