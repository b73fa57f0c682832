// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A wire that breaks: what was under way is done once, or fails as verbs say, and what comes later works.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use vnic_abi::config::Features;
use vnic_abi::cqe::WcStatus;
use vnic_testbed::process_guest::verbs::{ConnectOptions, Endpoint, SendWr, connect_with};
use vnic_testbed::process_guest::{Daemon, GuestOptions};

use crate::common::{
    KEY, calling, close, daemon_options, listening, listens_on, wait_for_addresses, wait_for_link,
};
use crate::faults::{ignore, provide, wait_until};

/// A cable between two daemons that can be cut.
struct Cable {
    address: String,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Cable {
    fn to(address: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = listener.local_addr().unwrap().to_string();
        let open = Arc::new(Mutex::new(Vec::new()));
        let streams = open.clone();
        // Lives as long as the test.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(near), Ok(far)) = (stream, TcpStream::connect(&address)) else { continue };
                streams.lock().unwrap().push(near.try_clone().unwrap());
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    thread::spawn(move || carry(from, to));
                }
            }
        });
        Self { address: near, open }
    }

    /// Cuts it. Whatever is in it is lost, on the way there or back.
    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn carry(mut from: TcpStream, mut to: TcpStream) {
    let mut bytes = [0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut bytes) {
        if to.write_all(&bytes[..len]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

fn daemons() -> (Daemon, Daemon, Cable) {
    let b = daemon_options().config(&listening("127.0.0.1:0", KEY, "")).start();
    let cable = Cable::to(listens_on(&b));
    let a = daemon_options().config(&calling(&cable.address, KEY, "")).start();
    wait_for_link(&[&a, &b]);
    (a, b, cable)
}

/// Time-outs of 2 s, seven times.
fn patient() -> ConnectOptions {
    ConnectOptions { timeout: 19, max_rd_atomic: 8, ..ConnectOptions::default() }
}

#[test]
fn a_cable_that_is_cut_loses_nothing_and_repeats_nothing() {
    let (a, b, cable) = daemons();
    let options = GuestOptions { init: Some(Features::ATOMIC), ..GuestOptions::default() };
    let here = Endpoint::boot_with(&a.socket("a"), 1, options.clone());
    let there = Endpoint::boot_with(&b.socket("b"), 2, options);
    wait_for_addresses(&[&a, &b]);
    let (qa, qb) = (here.qp(), there.qp());
    connect_with(&qa, &qb, &patient());
    let (word, word_mr) = there.region(4096);
    let (results, results_mr) = here.region(1 << 16);
    let (inbox, inbox_mr) = there.region(1 << 16);
    let mut sent = 0u64;
    for round in 0..4 {
        let rounds = 24u64;
        for n in 0..rounds {
            qb.post_recv(n, &[inbox_mr.sge(inbox.addr() + n * 8, 8)]);
        }
        for n in 0..rounds {
            let sge = results_mr.sge(results.addr() + n * 8, 8);
            qa.post_send(&SendWr::fetch_add(&[sge], word.addr(), word_mr.rkey(), 1).id(2 * n));
            qa.post_send(&SendWr::send(&[]).inline(&(sent + n).to_le_bytes()).id(2 * n + 1));
            if n == rounds / 2 {
                cable.cut();
            }
        }
        for id in 0..2 * rounds {
            let done = qa.send_cq.wait();
            assert_eq!((done.wr_id, done.status), (id, WcStatus::Success), "round {round}");
        }
        for n in 0..rounds {
            let done = qb.recv_cq.wait();
            assert_eq!((done.wr_id, done.status), (n, WcStatus::Success), "round {round}");
            let number = |buffer: &[u8]| u64::from_le_bytes(buffer.try_into().unwrap());
            assert_eq!(number(&inbox.read(n * 8, 8)), sent + n, "each message once, in order");
            assert_eq!(number(&results.read(n * 8, 8)), sent + n, "each addition once, in order");
        }
        sent += rounds;
    }
    assert!(qb.recv_cq.poll().is_none());
    drop((qa, qb, word, word_mr, results, results_mr, inbox, inbox_mr));
    close(here);
    close(there);
    a.stop();
    b.stop();
}

#[test]
fn a_page_that_comes_while_the_cable_is_cut_is_found_afterwards() {
    let (a, b, cable) = daemons();
    let here = Endpoint::boot(&a.socket("a"), 1);
    let there = Endpoint::boot(&b.socket("b"), 2);
    wait_for_addresses(&[&a, &b]);
    let (qa, qb) = (here.qp(), there.qp());
    connect_with(&qa, &qb, &ConnectOptions { timeout: 17, ..ConnectOptions::default() });
    let (to, to_mr) = there.lazy_region(1 << 20);
    let (from, from_mr) = here.region(1 << 20);
    from.fill(7);
    ignore(&there);
    let sge = from_mr.sge(from.addr(), 1 << 20);
    qa.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()));
    wait_until("a page request", || there.driver.page_requests().len() == 1);
    cable.cut();
    provide(&there, &there.driver.page_requests()[0]);
    let mut answered = 1;
    let done = loop {
        if let Some(done) = qa.send_cq.poll() {
            break done;
        }
        let requests = there.driver.page_requests();
        for request in &requests[answered..] {
            provide(&there, request);
        }
        answered = requests.len();
    };
    assert_eq!(done.status, WcStatus::Success);
    assert!(to.read(0, 1 << 20).iter().all(|byte| *byte == 7));
    drop((qa, qb, to, to_mr, from, from_mr));
    close(here);
    close(there);
    a.stop();
    b.stop();
}

#[test]
fn a_daemon_that_dies_is_a_retry_error_and_its_successor_is_reached() {
    let b = daemon_options().config(&listening("127.0.0.1:0", KEY, "")).start();
    let listen = listens_on(&b);
    let a = daemon_options().config(&calling(&listen, KEY, "")).start();
    wait_for_link(&[&a, &b]);
    let here = Endpoint::boot(&a.socket("a"), 1);
    let there = Endpoint::boot(&b.socket("b"), 2);
    wait_for_addresses(&[&a, &b]);
    let (qa, qb) = (here.qp(), there.qp());
    let impatient = ConnectOptions { timeout: 14, retry_cnt: 2, ..ConnectOptions::default() };
    connect_with(&qa, &qb, &impatient);
    let (to, to_mr) = there.region(1 << 20);
    let (from, from_mr) = here.region(1 << 20);
    let post = |id| {
        let sge = from_mr.sge(from.addr(), 1 << 20);
        qa.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()).id(id));
    };
    post(0);
    qa.send_cq.expect(0);
    (1..9).for_each(&post);
    drop(b);
    let mut statuses: Vec<WcStatus> = (1..9).map(|_| qa.send_cq.wait().status).collect();
    statuses.dedup();
    let failed: Vec<_> =
        statuses.into_iter().filter(|status| *status != WcStatus::Success).collect();
    assert!(
        matches!(
            failed[..],
            [WcStatus::RetryExcErr] | [WcStatus::RetryExcErr, WcStatus::WrFlushErr]
        ),
        "{failed:?}"
    );
    drop((qa, qb, to, to_mr));
    drop(there);

    let b = daemon_options().config(&listening(&listen, KEY, "")).start();
    wait_for_link(&[&a, &b]);
    let there = Endpoint::boot(&b.socket("b"), 2);
    wait_for_addresses(&[&a, &b]);
    let (qa, qb) = (here.qp(), there.qp());
    connect_with(&qa, &qb, &impatient);
    let (to, to_mr) = there.region(64);
    qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"successor"));
    qa.send_cq.expect(0);
    assert_eq!(to.read(0, 9), *b"successor");
    drop((qa, qb, to, to_mr, from, from_mr));
    close(here);
    close(there);
    a.stop();
    b.stop();
}

#[test]
fn whoever_waits_without_limit_is_answered_when_the_cable_is_back() {
    let (a, b, cable) = daemons();
    let here = Endpoint::boot(&a.socket("a"), 1);
    let there = Endpoint::boot(&b.socket("b"), 2);
    wait_for_addresses(&[&a, &b]);
    let (qa, qb) = (here.qp(), there.qp());
    connect_with(&qa, &qb, &ConnectOptions { timeout: 0, ..ConnectOptions::default() });
    let (to, to_mr) = there.region(64);
    for n in 0..3u64 {
        cable.cut();
        let bytes = (n + 1).to_le_bytes();
        qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(&bytes).id(n));
        qa.send_cq.expect(n);
        assert_eq!(to.read(0, 8), bytes);
        thread::sleep(Duration::from_millis(10));
    }
    drop((qa, qb, to, to_mr));
    close(here);
    close(there);
    a.stop();
    b.stop();
}
