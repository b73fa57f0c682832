// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests and daemons that come and go.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use vnic_abi::config::Features;
use vnic_testbed::process_guest::verbs::{
    ConnectOptions, Endpoint, Qp, SendWr, connect, connect_with,
};
use vnic_testbed::process_guest::{Daemon, Driver};

use crate::common::{Pair, assert_nothing_held, close, daemon};
use crate::victim::Scene;

/// Open descriptors and threads of the daemon.
fn footprint(daemon: &Daemon) -> (usize, usize) {
    let count = |what: &str| {
        let path = format!("/proc/{}/{what}", daemon.pid());
        fs::read_dir(path).expect("the daemon lives").count()
    };
    (count("fd"), count("task"))
}

/// Mappings of guests' memory in the daemon.
fn guest_mappings(daemon: &Daemon) -> usize {
    let maps = fs::read_to_string(format!("/proc/{}/maps", daemon.pid())).expect("it lives");
    maps.lines().filter(|line| line.contains("memfd:")).count()
}

/// Two guests with traffic between them; most of it still under way when this returns.
fn busy(pair: &Pair) -> Vec<(Qp, Qp)> {
    let options = ConnectOptions { timeout: 6, retry_cnt: 1, ..ConnectOptions::default() };
    let (here, here_mr) = pair.a.region(256 << 10);
    let (there, there_mr) = pair.b.lazy_region(256 << 10);
    let qps: Vec<_> = (0..3).map(|_| pair.qps_with(&options)).collect();
    for (qa, qb) in &qps {
        for id in 0..20 {
            let sge = here_mr.sge(here.addr(), 256 << 10);
            qa.post_send(&SendWr::write(&[sge], there.addr(), there_mr.rkey()).id(id));
            // Nobody receives these.
            qb.post_send(&SendWr::send(&[]).inline(b"hello").id(id));
        }
    }
    qps
}

#[test]
fn guests_come_and_go_in_any_order() {
    let daemon = daemon();
    let mut settled = None;
    let mut pair = None;
    for round in 0..50_u64 {
        let guests = pair.take().unwrap_or_else(|| {
            let (first, second) = if round % 2 == 0 { ("a", "b") } else { ("b", "a") };
            let one = Endpoint::boot(&daemon.socket(first), first.as_bytes()[0]);
            let two = Endpoint::boot(&daemon.socket(second), second.as_bytes()[0]);
            (one, two)
        });
        let (one, two) = guests;
        let (qa, qb) = (one.qp(), two.qp());
        connect(&qa, &qb);
        let (from, from_mr) = one.region(100_000);
        let (to, to_mr) = two.lazy_region(100_000);
        from.fill(round as u8);
        let sge = from_mr.sge(from.addr(), 100_000);
        qa.post_send(&SendWr::write(&[sge], to.addr(), to_mr.rkey()).id(round));
        match round % 5 {
            // In good order.
            0 => {
                qa.send_cq.expect(round);
                assert_eq!(to.read(0, 100_000), vec![round as u8; 100_000]);
                drop((qa, qb, from_mr, to_mr, from, to));
                close(one);
                close(two);
            }
            // One guest dies in the middle, the other one's kernel starts over.
            1 => {
                two.driver.power_off();
                one.driver.init(Features::empty()).expect("INIT");
                assert_nothing_held(&one.driver);
            }
            // One unloads the driver, the other dies with everything in use.
            2 => {
                one.driver.shutdown().expect("SHUTDOWN");
                assert_nothing_held(&one.driver);
                one.driver.nop().expect("NOP");
                two.driver.power_off();
            }
            // Both die.
            3 => {
                one.driver.power_off();
                two.driver.power_off();
            }
            // The monitor stops the queues before it goes.
            _ => {
                qa.send_cq.expect(round);
                two.driver.with_connection(|open| open.stop_queues()).expect("stop queues");
                two.driver.power_off();
                // One survives to meet the next guest on the other port.
                drop((qa, qb, from_mr, to_mr, from, to));
                drop(two);
                let other = if round % 2 == 0 { "b" } else { "a" };
                let next = Endpoint::boot(&daemon.socket(other), other.as_bytes()[0]);
                pair = Some((one, next));
            }
        }
        if round % 5 == 0 {
            // The port's thread may still be on its way back to the listening socket: a guest that
            // boots and goes on each port brings everything to the same point again.
            for port in ["a", "b"] {
                close(Endpoint::boot(&daemon.socket(port), port.as_bytes()[0]));
            }
            let here = Endpoint::boot(&daemon.socket("a"), 1);
            let there = Endpoint::boot(&daemon.socket("b"), 2);
            let first = *settled.get_or_insert_with(|| footprint(&daemon));
            // What a connection held goes a little after the connection.
            let limit = Instant::now() + Duration::from_secs(20);
            loop {
                let now = footprint(&daemon);
                if now.0 <= first.0 && now.1 <= first.1 {
                    break;
                }
                assert!(Instant::now() < limit, "round {round}: {now:?}, {first:?} at first");
                std::thread::yield_now();
            }
            close(here);
            close(there);
        }
    }
    drop(pair);
    daemon.stop();
}

/// Every worker that ever reached into a guest lets go of it, also if nobody else comes.
#[test]
fn the_memory_of_a_guest_goes_with_it() {
    for workers in [1, 3] {
        let Pair { a, b, daemon, .. } = Pair::with_workers(workers);
        let both = guest_mappings(&daemon);
        let (qa, qb) = (a.qp(), b.qp());
        connect(&qa, &qb);
        let (to, to_mr) = b.region(64);
        qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"hello"));
        qa.send_cq.expect(0);
        b.driver.power_off();
        let limit = Instant::now() + Duration::from_secs(20);
        while guest_mappings(&daemon) > both / 2 {
            assert!(Instant::now() < limit, "{workers} workers: the dead guest is still mapped");
            std::thread::yield_now();
        }
        drop((qa, qb, to_mr, to, b));
        close(a);
        daemon.stop();
    }
}

#[test]
fn a_reset_is_a_new_start() {
    let Pair { mut a, mut b, mut daemon, .. } = Pair::on_one_daemon();
    for _ in 0..5 {
        let pair = Pair { a, b, daemon, other: None };
        let qps = busy(&pair);
        let driver = Arc::clone(&pair.a.driver);
        driver.init(Features::empty()).expect("INIT");
        assert_nothing_held(&driver);
        drop(qps);
        // What the old process held is gone; its names mean nothing any more.
        let Pair { a: old, b: other, daemon: same, .. } = pair;
        drop(old);
        (a, b, daemon) = (Endpoint::open(&driver, 1), other, same);
    }
    Pair { a, b, daemon, other: None }.finish();
}

#[test]
fn sigterm_ends_a_busy_daemon() {
    let pair = Pair::on_one_daemon();
    let qps = busy(&pair);
    let Pair { a, b, daemon, .. } = pair;
    daemon.stop();
    // The guests see the device go.
    for end in [&a, &b] {
        assert!(end.driver.command(&[0; 16], 64).is_err());
        assert!(end.driver.is_closed());
    }
    drop(qps);
}

/// The port called `name` in what `vnic status --json` prints.
fn status_of(daemon: &Daemon, name: &str) -> serde_json::Value {
    let status = daemon.status();
    let ports = status["ports"].as_array().expect("a list of ports");
    ports.iter().find(|port| port["name"] == name).expect("a port of that name").clone()
}

#[test]
fn the_status_shows_what_guests_hold() {
    let Pair { a, b, daemon, .. } = Pair::on_one_daemon();
    let kinds = ["pasids", "contexts", "pds", "mrs", "cqs", "qps"];
    let held = |name: &str| {
        let port = status_of(&daemon, name);
        assert!(port["connected"] == true && port["driver"] == true, "{port}");
        kinds.map(|kind| port["objects"][kind].as_u64().expect("a number"))
    };
    assert_eq!(held("a"), [1, 1, 1, 0, 0, 0]);
    let (qa, qb) = (a.qp(), b.qp());
    connect(&qa, &qb);
    let (to, to_mr) = b.lazy_region(64);
    qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(&[1; 50]));
    qa.send_cq.expect(0);
    assert_eq!(held("a"), [1, 1, 1, 0, 1, 1]);
    assert_eq!(held("b"), [1, 1, 1, 1, 1, 1]);
    assert_eq!(status_of(&daemon, "a")["objects"]["bytes"], 50);
    assert_eq!(status_of(&daemon, "b")["objects"]["page_requests"], 1);
    drop((qa, qb, to_mr, to));
    close(a);
    close(b);
    let limit = Instant::now() + Duration::from_secs(20);
    while status_of(&daemon, "a")["connected"] == true {
        assert!(Instant::now() < limit, "a guest that is gone is not connected");
    }
    daemon.stop();
}

#[test]
fn connections_that_say_nothing_or_nonsense() {
    use std::io::Write;
    Scene::new().attack(|scene| {
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\n\r\n", &[0xff; 4096], &[0; 3]] {
            let mut stream = UnixStream::connect(scene.daemon.socket("a")).expect("connect");
            // The daemon may hang up before it has read everything.
            let _ = stream.write_all(bytes);
            drop(stream);
        }
        close(scene.hostile());
    });
}

const CHILD: &str = "VNIC_TEST_CHILD_SOCKET";

/// Not a test by itself: the body of the process that the next test kills.
#[test]
fn child_guest() {
    let Ok(socket) = std::env::var(CHILD) else { return };
    let end = Endpoint::boot(socket.as_ref(), 1);
    let (one, two) = (end.qp(), end.qp());
    connect_with(&one, &two, &ConnectOptions::default());
    let (buffer, mr) = end.region(1 << 20);
    println!("\nready");
    loop {
        let sge = mr.sge(buffer.addr(), 1 << 19);
        one.post_send(&SendWr::write(&[sge], buffer.addr() + (1 << 19), mr.rkey()).id(1));
        one.send_cq.expect(1);
    }
}

#[test]
fn a_killed_guest_leaves_nothing() {
    Scene::new().attack(|scene| {
        for _ in 0..5 {
            let mut child = Command::new(std::env::current_exe().expect("own path"))
                .args(["--exact", "lifecycle::child_guest", "--nocapture"])
                .env(CHILD, scene.daemon.socket("a"))
                .stdout(Stdio::piped())
                .spawn()
                .expect("start a guest process");
            let output = BufReader::new(child.stdout.take().expect("piped"));
            let ready = output.lines().map_while(Result::ok).any(|line| line == "ready");
            assert!(ready, "the guest process does its work");
            child.kill().expect("SIGKILL");
            child.wait().expect("reap");
            // The same port and the same address, at once.
            let next = Driver::boot(&scene.daemon.socket("a"));
            assert_nothing_held(&next);
            next.gid_set(0, vnic_testbed::process_guest::verbs::gid_of([10, 0, 0, 1].into()))
                .expect("the address is free again");
        }
    });
}
