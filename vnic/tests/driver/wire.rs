// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests of two daemons: who finds whom, and what one queue pair's waiting means to others.
//!
//! Whatever else holds for two guests holds over a wire, too: the tests of pairs run there with `VNIC_TEST_WIRE=tcp`.

use std::time::{Duration, Instant};

use vnic_abi::cqe::WcStatus;
use vnic_testbed::process_guest::verbs::{ConnectOptions, Endpoint, SendWr, connect, connect_with};
use vnic_testbed::process_guest::{Daemon, GuestOptions};

use crate::common::{
    KEY, Pair, assert_same, calling, close, daemon_options, listening, listens_on, pattern,
    wait_for_link,
};
use crate::faults::{ignore, provide, wait_until};

fn pair() -> Pair {
    Pair::apart(daemon_options, GuestOptions::default())
}

/// Connections that give up soon.
fn impatient() -> ConnectOptions {
    ConnectOptions { timeout: 8, retry_cnt: 2, ..ConnectOptions::default() }
}

/// What becomes of a WRITE from a guest of `a` to one of `b`.
fn write_between(a: &Daemon, b: &Daemon) -> WcStatus {
    let (one, other) = (Endpoint::boot(&a.socket("a"), 1), Endpoint::boot(&b.socket("b"), 2));
    let (qa, qb) = (one.qp(), other.qp());
    connect_with(&qa, &qb, &impatient());
    let (to, to_mr) = other.region(64);
    qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"hello"));
    let status = qa.send_cq.wait().status;
    if status == WcStatus::Success {
        assert_eq!(to.read(0, 5), b"hello");
    }
    drop((qa, qb, to, to_mr));
    close(one);
    close(other);
    status
}

/// Time in which daemons that would find each other have.
fn give_them_time() {
    std::thread::sleep(Duration::from_secs(2));
}

fn is_linked(daemon: &Daemon) -> bool {
    daemon.status()["wire"]["peers"][0]["connected"] == true
}

#[test]
fn guests_of_two_daemons_reach_each_other_and_nothing_is_pinned() {
    let pair = pair();
    let (qa, qb) = pair.qps();
    let len = 8 << 20;
    let (from, from_mr) = pair.a.lazy_region(len);
    let (to, to_mr) = pair.b.lazy_region(len);
    let data = pattern(1, len);
    from.write(0, &data);
    let sge = from_mr.sge(from.addr(), len as u32);
    qa.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()));
    qa.send_cq.expect(0);
    assert_same(&to.read(0, len), &data, "WRITE");
    for daemon in [&pair.daemon, pair.daemon_of_b()] {
        let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
        for line in
            status.lines().filter(|line| line.starts_with("VmPin") || line.starts_with("VmLck"))
        {
            assert!(line.ends_with(" 0 kB"), "{line}");
        }
    }
    drop((qa, qb, from, from_mr, to, to_mr));
    pair.finish();
}

#[test]
fn the_same_program_reaches_guests_here_and_there() {
    let pair = pair();
    let here = Endpoint::boot(&pair.daemon.socket("c"), 3);
    let (qa, qb) = pair.qps();
    let (qd, qc) = (pair.a.qp(), here.qp());
    connect(&qd, &qc);
    let targets = [pair.b.region(64), here.region(64)];
    for (qp, (to, to_mr)) in [&qa, &qd].into_iter().zip(&targets) {
        qp.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"hello"));
        qp.send_cq.expect(0);
        assert_eq!(to.read(0, 5), b"hello");
    }
    drop((qa, qb, qc, qd, targets));
    close(here);
    pair.finish();
}

#[test]
fn a_page_that_does_not_come_holds_up_nobody_else() {
    let pair = pair();
    let (slow, slow_peer) = pair.qps();
    let (quick, quick_peer) = pair.qps();
    let (to, to_mr) = pair.b.lazy_region(1 << 20);
    let (there, there_mr) = pair.b.region(4096);
    let (from, from_mr) = pair.a.region(1 << 20);
    let data = pattern(2, 1 << 20);
    from.write(0, &data);
    ignore(&pair.b);
    let sge = from_mr.sge(from.addr(), 1 << 20);
    slow.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()).id(1));
    slow.post_send(&SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"behind").id(2));
    wait_until("a page request", || pair.b.driver.page_requests().len() == 1);
    for n in 0..500u64 {
        let bytes = n.to_le_bytes();
        quick
            .post_send(&SendWr::write(&[], there.addr() + 8, there_mr.rkey()).inline(&bytes).id(n));
        quick.send_cq.expect(n);
        assert_eq!(there.read(8, 8), bytes);
    }
    assert!(slow.send_cq.poll().is_none(), "its page has not come");
    assert_eq!(there.read(0, 6), [0; 6], "nothing overtakes it");
    let mut answered = 0;
    while slow.send_cq.poll().is_none_or(|done| done.wr_id != 2) {
        let requests = pair.b.driver.page_requests();
        for request in &requests[answered..] {
            provide(&pair.b, request);
        }
        answered = requests.len();
    }
    assert_same(&to.read(0, 1 << 20), &data, "WRITE");
    assert_eq!(there.read(0, 6), *b"behind");
    drop((slow, slow_peer, quick, quick_peer, from, from_mr, to, to_mr, there, there_mr));
    pair.finish();
}

#[test]
fn daemons_with_different_keys_are_strangers() {
    let b = daemon_options().config(&listening("127.0.0.1:0", KEY, "")).start();
    let other = KEY.replace('f', "e");
    let a = daemon_options().config(&calling(&listens_on(&b), &other, "")).start();
    give_them_time();
    assert!(!is_linked(&a) && !is_linked(&b));
    assert_eq!(write_between(&a, &b), WcStatus::RetryExcErr);
    let log = a.log();
    assert!(log.contains("the keys of both ends differ"), "{log}");
    a.stop();
    b.stop();
}

#[test]
fn a_peer_has_its_part_in_the_networks_that_it_was_given() {
    for (named, status) in [("elsewhere", WcStatus::RetryExcErr), ("default", WcStatus::Success)] {
        let more = format!("networks = ['{named}']");
        let b = daemon_options().config(&listening("127.0.0.1:0", KEY, &more)).start();
        let a = daemon_options().config(&calling(&listens_on(&b), KEY, "")).start();
        wait_for_link(&[&a, &b]);
        assert_eq!(write_between(&a, &b), status, "{named}");
        a.stop();
        b.stop();
    }
}

#[test]
fn any_numbers_of_workers_fit_each_other() {
    for (one, other) in [(1, 3), (3, 1), (2, 2)] {
        let b = daemon_options().workers(other).config(&listening("127.0.0.1:0", KEY, "")).start();
        let listen = listens_on(&b);
        let a = daemon_options().workers(one).config(&calling(&listen, KEY, "")).start();
        wait_for_link(&[&a, &b]);
        let (here, there) = (Endpoint::boot(&a.socket("a"), 1), Endpoint::boot(&b.socket("b"), 2));
        let qps: Vec<_> = (0..8).map(|_| (here.qp(), there.qp())).collect();
        qps.iter().for_each(|(qa, qb)| connect(qa, qb));
        let (to, to_mr) = there.region(4096);
        let (back, back_mr) = here.region(4096);
        for (n, (qa, qb)) in qps.iter().enumerate() {
            let at = n as u64 * 8;
            let bytes = (at + 1).to_le_bytes();
            qa.post_send(&SendWr::write(&[], to.addr() + at, to_mr.rkey()).inline(&bytes));
            qb.post_send(&SendWr::write(&[], back.addr() + at, back_mr.rkey()).inline(&bytes));
            qa.send_cq.expect(0);
            qb.send_cq.expect(0);
            assert_eq!((to.read(at, 8), back.read(at, 8)), (bytes.to_vec(), bytes.to_vec()));
        }
        drop((qps, to, to_mr, back, back_mr));
        close(here);
        close(there);
        a.stop();
        b.stop();
    }
}

#[test]
fn an_idle_wire_lets_its_workers_sleep() {
    let pair = pair();
    let (qa, qb) = pair.qps();
    let (to, to_mr) = pair.b.region(64);
    let used = |daemon: &Daemon| {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid())).unwrap();
        let fields: Vec<&str> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    for n in 0..3 {
        qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"wake up").id(n));
        qa.send_cq.expect(n);
        let before = [&pair.daemon, pair.daemon_of_b()].map(used);
        let since = Instant::now();
        std::thread::sleep(Duration::from_secs(1));
        let after = [&pair.daemon, pair.daemon_of_b()].map(used);
        // In hundredths of a second.
        let most = since.elapsed().as_millis() as u64 / 100;
        for (before, after) in before.into_iter().zip(after) {
            assert!(after - before <= most, "{} ticks of processor time", after - before);
        }
    }
    drop((qa, qb, to, to_mr));
    pair.finish();
}
