// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the device asks a guest for when pages are missing: how much at once, for whom, and until
//! when it waits.

use std::time::{Duration, Instant};

use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::QpState;
use vnic_abi::event::{PageAccess, PageRequest, PageResponseCode};
use vnic_abi::status::Status;
use vnic_testbed::process_guest::verbs::{
    ALL_ACCESS, ConnectOptions, Endpoint, Mr, Qp, QpOptions, SendWr, connect, connect_with,
};
use vnic_testbed::process_guest::{FaultAnswer, GuestOptions};

use crate::common::{Pair, assert_same, daemon_options, pattern};

const MIB: u64 = 1 << 20;

/// Waits until `done` says so; for something that has to come, however slow the machine is.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let limit = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < limit, "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Makes the pages of `request` present, and says so.
pub fn provide(end: &Endpoint, request: &PageRequest) {
    let write = PageAccess::from_bits_retain(request.access.get()).contains(PageAccess::WRITE);
    let (start, length) = (request.start.get(), request.length.get());
    let code = end.space().fault_in(start, length, write, u64::MAX);
    assert_eq!(answer(end, request, code), Status::Ok);
}

/// Answers `request` with `code`, and returns what the device says to that.
pub fn answer(end: &Endpoint, request: &PageRequest, code: PageResponseCode) -> Status {
    end.driver.try_page_response(request.id.get(), code).expect("an answer")
}

/// From now on nobody answers the page requests of a guest by itself.
pub fn ignore(end: &Endpoint) {
    end.driver.set_fault_policy(|_| FaultAnswer::Ignore);
}

/// Pages of every request so far, as numbers from the page of `base` on.
fn asked(end: &Endpoint, base: u64) -> Vec<(i64, u64)> {
    let page = |start: u64| (start as i64 - base as i64) >> 12;
    let requests = end.driver.page_requests();
    requests.iter().map(|r| (page(r.start.get()), r.length.get() >> 12)).collect()
}

/// A counter of `vnic status` about the page requests of the port `name`.
pub fn pages(pair: &Pair, name: &str, counter: &str) -> u64 {
    let daemon = if name == "b" { pair.daemon_of_b() } else { &pair.daemon };
    let status = daemon.status();
    let ports = status["ports"].as_array().expect("a list of ports");
    let port = ports.iter().find(|port| port["name"] == name).expect("a port of that name");
    port["pages"][counter].as_u64().unwrap_or_else(|| panic!("{counter} in {port}"))
}

impl Pair {
    /// Two guests on a daemon with this configuration.
    pub fn configured(config: &str) -> Self {
        let daemon = daemon_options().config(config).start();
        let a = Endpoint::boot_with(&daemon.socket("a"), 1, GuestOptions::default());
        let b = Endpoint::boot_with(&daemon.socket("b"), 2, GuestOptions::default());
        Self { a, b, daemon, other: None }
    }
}

#[test]
fn a_write_into_fresh_memory_asks_each_side_once() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.lazy_region(MIB);
    let (there, there_mr) = pair.b.lazy_region(MIB);
    let data = pattern(3, MIB);
    here.write(0, &data);
    let sge = here_mr.sge(here.addr(), MIB as u32);
    qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
    qa.send_cq.expect(0);
    assert_same(&there.read(0, MIB), &data, "WRITE");
    assert_eq!(asked(&pair.a, here.addr()), [(0, 256)]);
    assert_eq!(asked(&pair.b, there.addr()), [(0, 256)]);
    assert_eq!((pages(&pair, "b", "sent"), pages(&pair, "b", "pages")), (1, 256));
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn without_batching_every_page_is_asked_for_by_itself() {
    let pair = Pair::configured("fault_batching = false\n");
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.lazy_region(MIB);
    let (there, there_mr) = pair.b.lazy_region(MIB);
    let sge = here_mr.sge(here.addr(), MIB as u32);
    qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
    qa.send_cq.expect(0);
    for (end, base) in [(&pair.a, here.addr()), (&pair.b, there.addr())] {
        let wanted: Vec<_> = (0..256).map(|page| (page, 1)).collect();
        assert_eq!(asked(end, base), wanted);
    }
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

/// Only what is missing is asked for, from the first such page to the last.
#[test]
fn pages_that_are_there_are_left_out_at_both_ends() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.region(MIB);
    let (there, there_mr) = pair.b.region(MIB);
    for page in [5, 6, 100, 180] {
        there.page_out_one(page << 12);
    }
    let sge = here_mr.sge(here.addr(), MIB as u32);
    qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()));
    qa.send_cq.expect(0);
    assert_eq!(asked(&pair.b, there.addr()), [(5, 176)]);
    assert!(pair.a.driver.page_requests().is_empty());
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

/// Queue pairs whose requests have up to 16 entries.
fn wide_qps(pair: &Pair) -> (Qp, Qp) {
    let options = QpOptions { max_send_sge: 16, max_recv_sge: 16, ..QpOptions::default() };
    let qp = |end: &Endpoint| {
        let cq = end.cq(64);
        Qp::new(&end.pd, &cq, &cq, end.gid, options)
    };
    let (qa, qb) = (qp(&pair.a), qp(&pair.b));
    connect(&qa, &qb);
    (qa, qb)
}

#[test]
fn every_entry_of_both_lists_is_asked_for_before_the_first_answer() {
    let pair = Pair::on_one_daemon();
    let (qa, qb) = wide_qps(&pair);
    let region = |end: &Endpoint| end.lazy_region(3 * 4096);
    let here: Vec<_> = (0..16).map(|_| region(&pair.a)).collect();
    let there: Vec<_> = (0..16).map(|_| region(&pair.b)).collect();
    let data = pattern(9, 16 * 5000);
    for (index, (buffer, _)) in here.iter().enumerate() {
        buffer.write(100, &data[index * 5000..][..5000]);
    }
    ignore(&pair.a);
    ignore(&pair.b);
    // The receiver's entries have other lengths than the sender's, but for the sum.
    let gather: Vec<_> = here.iter().map(|(to, mr)| mr.sge(to.addr() + 100, 5000)).collect();
    let scatter: Vec<_> = there
        .iter()
        .enumerate()
        .map(|(i, (to, mr))| mr.sge(to.addr() + 7, if i % 2 == 0 { 4500 } else { 5500 }))
        .collect();
    qb.post_recv(1, &scatter);
    qa.post_send(&SendWr::send(&gather).id(2));
    // Nobody has answered yet. A peer may ask for a third of the peers' half of the room ahead of its
    // needs; what finds no room now is asked for when it is needed.
    for (end, first) in [(&pair.a, 16), (&pair.b, 11)] {
        wait_until("requests", || end.driver.page_requests().len() >= first);
    }
    assert_eq!(pages(&pair, "b", "skipped"), 5);
    for end in [&pair.a, &pair.b] {
        let requests = end.driver.page_requests();
        end.driver.set_fault_policy(|_| FaultAnswer::Resolve);
        requests.iter().for_each(|request| provide(end, request));
    }
    qa.send_cq.expect(2);
    qb.recv_cq.expect(1);
    let mut found = Vec::new();
    for (index, (buffer, _)) in there.iter().enumerate() {
        found.extend(buffer.read(7, if index % 2 == 0 { 4500 } else { 5500 }));
    }
    assert_same(&found, &data, "SEND");
    assert_eq!(pair.a.driver.page_requests().len(), 16);
    // The five that found no room are asked for as there is some, with both pages or for one after the other.
    let asked = pair.b.driver.page_requests().len();
    assert!((16..=16 + 5).contains(&asked), "{asked} requests");
    drop((qa, qb, here, there));
    pair.finish();
}

#[test]
fn entries_that_are_neighbours_are_one_request() {
    let pair = Pair::new();
    let (qa, qb) = wide_qps(&pair);
    let (here, here_mr) = pair.a.lazy_region(16 * 4096);
    let (there, there_mr) = pair.b.region(16 * 4096);
    let list: Vec<_> = (0..16).map(|i| here_mr.sge(here.addr() + i * 4096, 4096)).collect();
    qa.post_send(&SendWr::write(&list, there.addr(), there_mr.rkey()));
    qa.send_cq.expect(0);
    assert_eq!(asked(&pair.a, here.addr()), [(0, 16)]);
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

#[test]
fn an_atomic_asks_for_both_its_places_at_once() {
    let pair = Pair::on_one_daemon_with(GuestOptions {
        init: Some(vnic_abi::config::Features::ATOMIC),
        ..GuestOptions::default()
    });
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.lazy_region(8192);
    let (there, there_mr) = pair.b.lazy_region(4096);
    ignore(&pair.a);
    ignore(&pair.b);
    let sge = here_mr.sge(here.addr() + 4092, 8);
    qa.post_send(&SendWr::fetch_add(&[sge], there.addr(), there_mr.rkey(), 5));
    for end in [&pair.a, &pair.b] {
        wait_until("a request", || end.driver.page_requests().len() == 1);
    }
    assert_eq!(asked(&pair.a, here.addr()), [(0, 2)]);
    for end in [&pair.a, &pair.b] {
        provide(end, &end.driver.page_requests()[0]);
    }
    qa.send_cq.expect(0);
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

/// WRITEs of 4 KiB, one after the other, through 4 MiB of fresh memory on both sides: 1024 pages
/// each.
#[test]
fn a_walk_through_memory_asks_for_more_and_more() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let len = 4 * MIB;
    // The region ends before the memory does, and not at the end of a page.
    let here = pair.a.space().lazy_buffer(len + MIB);
    let there = pair.b.space().lazy_buffer(len + MIB);
    let here_mr = Mr::new(&pair.a.pd, here.addr(), len + 100, ALL_ACCESS).expect("MR_CREATE");
    let there_mr = Mr::new(&pair.b.pd, there.addr(), len + 100, ALL_ACCESS).expect("MR_CREATE");
    let data = pattern(4, len);
    here.write(0, &data);
    for at in (0..len).step_by(4096) {
        let sge = here_mr.sge(here.addr() + at, 4096);
        qa.post_send(&SendWr::write(&[sge], there.addr() + at, there_mr.rkey()).id(at));
        qa.send_cq.expect(at);
    }
    assert_same(&there.read(0, len), &data, "WRITE");
    for (name, end, base) in [("a", &pair.a, here.addr()), ("b", &pair.b, there.addr())] {
        let asked = asked(end, base);
        assert_eq!(asked[..4], [(0, 1), (1, 5), (6, 9), (15, 17)], "{name}");
        // The sum of what doubles up to 256 pages, and then pieces of 256.
        assert!(asked.len() <= 12, "{name}: {} requests for 1024 pages: {asked:?}", asked.len());
        let end = asked.iter().map(|(first, pages)| first + *pages as i64).max();
        assert_eq!(end, Some(1025), "{name}: up to the region's last page: {asked:?}");
        assert!(pages(&pair, name, "prefetched") > 900);
    }
    drop((qa, qb, here_mr, there_mr, here, there));
    pair.finish();
}

#[test]
fn requests_in_no_order_ask_for_their_own_pages() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (there, there_mr) = pair.b.lazy_region(MIB);
    let order: Vec<u64> = (0..64).map(|i| (i * 37) % 256).collect();
    for &page in &order {
        let wr = SendWr::write(&[], there.addr() + (page << 12) + 50, there_mr.rkey());
        qa.post_send(&wr.inline(&[1; 64]).id(page));
        qa.send_cq.expect(page);
    }
    let wanted: Vec<_> = order.iter().map(|&page| (page as i64, 1)).collect();
    assert_eq!(asked(&pair.b, there.addr()), wanted);
    assert_eq!(pages(&pair, "b", "prefetched"), 0);
    drop((qa, qb, there_mr));
    pair.finish();
}

/// Two queue pairs, the second one's page in the first one's request.
struct Merged {
    pair: Pair,
    qps: [(Qp, Qp); 2],
    there: vnic_testbed::process_guest::UserBuffer,
    regions: [Mr; 2],
    _here: vnic_testbed::process_guest::UserBuffer,
}

fn merged() -> Merged {
    let pair = Pair::new();
    let qps = [pair.qps(), pair.qps()];
    let (here, here_mr) = pair.a.region(8192);
    let (there, mr) = pair.b.lazy_region(8192);
    ignore(&pair.b);
    let sge = here_mr.sge(here.addr(), 8192);
    qps[0].0.post_send(&SendWr::write(&[sge], there.addr(), mr.rkey()).id(1));
    wait_until("a request", || pair.b.driver.page_requests().len() == 1);
    let wr = SendWr::write(&[], there.addr() + 5000, mr.rkey()).inline(b"merged").id(2);
    qps[1].0.post_send(&wr);
    wait_until("the second to wait too", || pages(&pair, "b", "merged") == 1);
    assert_eq!(asked(&pair.b, there.addr()), [(0, 2)]);
    Merged { pair, qps, there, regions: [here_mr, mr], _here: here }
}

#[test]
fn a_page_that_is_asked_for_is_not_asked_for_again() {
    let Merged { pair, qps, there, regions, _here } = merged();
    provide(&pair.b, &pair.b.driver.page_requests()[0]);
    qps[0].0.send_cq.expect(1);
    qps[1].0.send_cq.expect(2);
    assert_eq!(pair.b.driver.page_requests().len(), 1);
    drop((qps, regions, there, _here));
    pair.finish();
}

/// The guest refuses a request because of its first page; whoever waits for another one of its pages
/// asks for that one.
#[test]
fn a_refusal_is_for_the_page_that_the_request_begins_with() {
    let Merged { pair, qps, there, regions, _here } = merged();
    let first = pair.b.driver.page_requests()[0];
    assert_eq!(answer(&pair.b, &first, PageResponseCode::Invalid), Status::Ok);
    assert_eq!(qps[0].0.send_cq.wait().status, WcStatus::RemAccessErr);
    wait_until("a request of its own", || pair.b.driver.page_requests().len() == 2);
    assert_eq!(asked(&pair.b, there.addr())[1], (1, 1));
    provide(&pair.b, &pair.b.driver.page_requests()[1]);
    qps[1].0.send_cq.expect(2);
    assert_eq!(there.read(5000, 6), b"merged");
    drop((qps, regions, there, _here));
    pair.finish();
}

/// READ of a page that may be read, merged with a WRITE to it that may not.
#[test]
fn a_refusal_to_write_is_none_to_read() {
    use vnic_testbed::process_guest::{Fault, Layout};
    let pair = Pair::new();
    let (writer, reader) = (pair.qps(), pair.qps());
    let (here, here_mr) = pair.a.region(4096);
    let there = pair.b.space().map(4096, Layout::Linear, Fault::Lazy, false);
    let there_mr = Mr::of(&pair.b.pd, &there, ALL_ACCESS);
    there.fill(6);
    ignore(&pair.b);
    let sge = here_mr.sge(here.addr(), 100);
    writer.0.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(1));
    wait_until("a request", || pair.b.driver.page_requests().len() == 1);
    reader.0.post_send(&SendWr::read(&[sge], there.addr(), there_mr.rkey()).id(2));
    wait_until("the second to wait too", || pages(&pair, "b", "merged") == 1);
    provide(&pair.b, &pair.b.driver.page_requests()[0]);
    assert_eq!(writer.0.send_cq.wait().status, WcStatus::RemAccessErr);
    wait_until("a request of its own", || pair.b.driver.page_requests().len() == 2);
    provide(&pair.b, &pair.b.driver.page_requests()[1]);
    reader.0.send_cq.expect(2);
    assert_eq!(here.read(0, 100), [6; 100]);
    drop((writer, reader, here_mr, there_mr, there));
    pair.finish();
}

/// Answers to what nobody asked, answers twice, and answers that lie.
#[test]
fn answers_that_make_no_sense_change_nothing() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (there, there_mr) = pair.b.lazy_region(4096);
    ignore(&pair.b);
    qa.post_send(&SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"real").id(1));
    wait_until("a request", || !pair.b.driver.page_requests().is_empty());
    let first = pair.b.driver.page_requests()[0];
    for id in [0, first.id.get() + 1, first.id.get().wrapping_neg(), u32::MAX] {
        let made_up = PageRequest { id: id.into(), ..first };
        for code in [PageResponseCode::Success, PageResponseCode::Invalid] {
            assert_eq!(answer(&pair.b, &made_up, code), Status::BadHandle);
        }
    }
    assert_eq!(answer(&pair.b, &first, PageResponseCode(77)), Status::BadAttribute);
    // The other guest cannot answer for this one, even if it guesses the number.
    assert_eq!(answer(&pair.a, &first, PageResponseCode::Invalid), Status::BadHandle);
    // It says yes and does nothing: it is asked again, each time under another number.
    let mut last = first;
    for asked in 2..6 {
        assert_eq!(answer(&pair.b, &last, PageResponseCode::Success), Status::Ok);
        assert_eq!(answer(&pair.b, &last, PageResponseCode::Invalid), Status::BadHandle);
        wait_until("another request", || pair.b.driver.page_requests().len() == asked);
        last = pair.b.driver.page_requests()[asked - 1];
    }
    assert!(qa.send_cq.poll().is_none());
    provide(&pair.b, &last);
    qa.send_cq.expect(1);
    assert_eq!(there.read(0, 4), b"real");
    drop((qa, qb, there_mr));
    pair.finish();
}

/// A page that never comes: of a peer, as if the peer did not answer; of one's own, as if it were not
/// there. The ACK time-out of the queue pair has nothing to do with it.
#[test]
fn a_page_that_never_comes_is_an_error_in_the_end() {
    let pair = Pair::configured("[limits]\npage_timeout_ms = 200\n");
    let options = ConnectOptions { timeout: 1, retry_cnt: 0, ..ConnectOptions::default() };
    let qps = || {
        let (a, b) = (pair.a.qp(), pair.b.qp());
        connect_with(&a, &b, &options);
        (a, b)
    };
    let (remote, local, free) = (qps(), qps(), qps());
    let (here, here_mr) = pair.a.lazy_region(4096);
    let (there, there_mr) = pair.b.lazy_region(4096);
    let (open, open_mr) = pair.b.region(4096);
    ignore(&pair.a);
    ignore(&pair.b);
    let start = Instant::now();
    let wr = SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"never");
    remote.0.post_send(&wr);
    let sge = here_mr.sge(here.addr(), 10);
    local.0.post_send(&SendWr::write(&[sge], open.addr(), open_mr.rkey()));
    let statuses = [remote.0.send_cq.wait().status, local.0.send_cq.wait().status];
    assert!(start.elapsed() >= Duration::from_millis(200), "too early");
    assert_eq!(statuses, [WcStatus::RetryExcErr, WcStatus::LocProtErr]);
    assert_eq!((remote.0.state(), remote.1.state()), (QpState::Err, QpState::Rts));
    free.0.post_send(&SendWr::write(&[], open.addr(), open_mr.rkey()).inline(b"free").id(1));
    free.0.send_cq.expect(1);
    assert_eq!((pages(&pair, "a", "late"), pages(&pair, "b", "late")), (1, 1));
    // An answer after that finds nobody; and whoever asks now is served by it.
    remote.0.reset().expect("RESET");
    remote.1.reset().expect("RESET");
    connect_with(&remote.0, &remote.1, &options);
    remote.0.post_send(&wr);
    wait_until("the second to merge", || pages(&pair, "b", "merged") == 1);
    provide(&pair.b, &pair.b.driver.page_requests()[0]);
    remote.0.send_cq.expect(0);
    assert_eq!(there.read(0, 5), b"never");
    provide(&pair.a, &pair.a.driver.page_requests()[0]);
    drop((remote, local, free, here_mr, there_mr, open_mr));
    pair.finish();
}

/// Progress is what counts: a guest that takes longer than the limit over a whole message, but never
/// over a page of it, is waited for.
#[test]
fn a_slow_guest_is_waited_for_as_long_as_pages_come() {
    let pair = Pair::configured("[limits]\npage_timeout_ms = 1500\n");
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.region(8 * 4096);
    let (there, there_mr) = pair.b.lazy_region(8 * 4096);
    pair.b.driver.set_fault_policy(|_| {
        std::thread::sleep(Duration::from_millis(250));
        FaultAnswer::ResolvePages(1)
    });
    let start = Instant::now();
    let sge = here_mr.sge(here.addr(), 8 * 4096);
    qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(3));
    qa.send_cq.expect(3);
    assert!(start.elapsed() > Duration::from_millis(1500));
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}

/// A queue pair that is gone is no waiter any more, in whichever guest's table it was.
#[test]
fn who_is_gone_waits_for_nothing() {
    let pair = Pair::new();
    let (there, there_mr) = pair.b.lazy_region(64 * 4096);
    ignore(&pair.b);
    for page in 0..10 {
        let (qa, qb) = pair.qps();
        let to = there.addr() + page * 4096;
        qa.post_send(&SendWr::write(&[], to, there_mr.rkey()).inline(b"x"));
        wait_until("a request", || pair.b.driver.page_requests().len() as u64 > page);
        match page % 3 {
            0 => {}
            1 => qa.reset().expect("RESET"),
            _ => qa.set_state(QpState::Err).expect("ERR"),
        }
        drop((qa, qb));
    }
    // Nobody is woken by the answers, and those who come now are served by their own.
    let (qa, qb) = pair.qps();
    for request in pair.b.driver.page_requests() {
        assert_eq!(answer(&pair.b, &request, PageResponseCode::Invalid), Status::Ok);
    }
    assert_eq!(pair.b.driver.counters().page_requests_outstanding.get(), 0);
    pair.b.driver.set_fault_policy(|_| FaultAnswer::Resolve);
    qa.post_send(&SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"y").id(7));
    qa.send_cq.expect(7);
    drop((qa, qb, there_mr));
    pair.finish();
}
