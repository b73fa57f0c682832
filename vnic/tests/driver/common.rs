// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A daemon with guests on it, and patterns.

use std::time::{Duration, Instant};

use vnic_abi::ctrl::Counters;
use vnic_testbed::process_guest::daemon::DaemonOptions;
use vnic_testbed::process_guest::verbs::{ConnectOptions, Endpoint, Qp, connect, connect_with};
use vnic_testbed::process_guest::{Daemon, Driver, GuestOptions};

/// A daemon with ports `a`, `b` and `c` on one network, and `other` on another.
pub fn daemon() -> Daemon {
    daemon_options().start()
}

/// As [`daemon`], not yet started.
pub fn daemon_options() -> DaemonOptions {
    Daemon::of(env!("CARGO_BIN_EXE_vnic"))
        .port("a")
        .port("b")
        .port("c")
        .port_on("other", "elsewhere")
}

/// Two guests on one daemon; or on two with a wire between them, if `VNIC_TEST_WIRE` in the environment names what
/// carries it.
pub struct Pair {
    pub a: Endpoint,
    pub b: Endpoint,
    pub daemon: Daemon,
    /// That of `b`, if it has its own.
    pub other: Option<Daemon>,
}

/// Two daemons that have found each other, with the ports that `options` adds to each.
pub fn wired(options: impl Fn() -> DaemonOptions) -> (Daemon, Daemon) {
    let b = options().config(&listening("127.0.0.1:0", KEY, "")).start();
    let a = options().config(&calling(&listens_on(&b), KEY, "")).start();
    wait_for_link(&[&a, &b]);
    (a, b)
}

/// A key.
pub const KEY: &str = "0f0e0d0c0b0a090807060504030201000f0e0d0c0b0a09080706050403020100";

/// Configuration of a daemon `b` that listens there and has a peer `a`, of which `more` is said.
pub fn listening(address: &str, key: &str, more: &str) -> String {
    format!(
        "[wire]\nname = 'b'\nlisten = '{address}'\n[[peer]]\nname = 'a'\nkey = '{key}'\n{more}\n"
    )
}

/// Configuration of a daemon `a` whose peer `b` listens there, of which `more` is said.
pub fn calling(address: &str, key: &str, more: &str) -> String {
    format!(
        "[wire]\nname = 'a'\n[[peer]]\nname = 'b'\naddress = '{address}'\nkey = '{key}'\n{more}\n"
    )
}

/// Where a daemon listens for others.
pub fn listens_on(daemon: &Daemon) -> String {
    daemon.status()["wire"]["listen"].as_str().expect("an address").to_owned()
}

/// Waits until every one of these daemons has found its peer.
pub fn wait_for_link(daemons: &[&Daemon]) {
    let since = Instant::now();
    let linked = |daemon: &Daemon| daemon.status()["wire"]["peers"][0]["connected"] == true;
    while !daemons.iter().all(|daemon| linked(daemon)) {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", daemons[0].log());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until both daemons know the addresses of the other's guests.
pub fn wait_for_addresses(daemons: &[&Daemon]) {
    let since = Instant::now();
    let known = |daemon: &Daemon| daemon.status()["wire"]["peers"][0]["addresses"] != 0;
    while !daemons.iter().all(|daemon| known(daemon)) {
        assert!(since.elapsed() < Duration::from_secs(20), "{}", daemons[0].log());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether pairs are to have a wire between them.
fn over_a_wire() -> bool {
    match std::env::var("VNIC_TEST_WIRE").as_deref() {
        Err(_) | Ok("") => false,
        Ok("tcp") => true,
        Ok(other) => panic!("VNIC_TEST_WIRE={other}: tcp is all there is"),
    }
}

impl Pair {
    pub fn new() -> Self {
        Self::with(GuestOptions::default())
    }

    pub fn with(options: GuestOptions) -> Self {
        if over_a_wire() {
            Self::apart(daemon_options, options)
        } else {
            Self::on(daemon(), options)
        }
    }

    /// Two guests on one daemon, whatever the environment says.
    pub fn on_one_daemon() -> Self {
        Self::on_one_daemon_with(GuestOptions::default())
    }

    /// The same for other guests.
    pub fn on_one_daemon_with(options: GuestOptions) -> Self {
        Self::on(daemon(), options)
    }

    /// The daemon that has the port of `b`.
    pub fn daemon_of_b(&self) -> &Daemon {
        self.other.as_ref().unwrap_or(&self.daemon)
    }

    /// Two guests on two daemons.
    pub fn apart(daemon: impl Fn() -> DaemonOptions, options: GuestOptions) -> Self {
        let (daemon, other) = wired(daemon);
        let a = Endpoint::boot_with(&daemon.socket("a"), 1, options.clone());
        let b = Endpoint::boot_with(&other.socket("b"), 2, options);
        wait_for_addresses(&[&daemon, &other]);
        Self { a, b, daemon, other: Some(other) }
    }

    /// Two guests on a daemon with `workers` workers.
    pub fn with_workers(workers: u32) -> Self {
        let options = || daemon_options().workers(workers);
        if over_a_wire() {
            return Self::apart(options, GuestOptions::default());
        }
        Self::on(options().start(), GuestOptions::default())
    }

    fn on(daemon: Daemon, options: GuestOptions) -> Self {
        let a = Endpoint::boot_with(&daemon.socket("a"), 1, options.clone());
        let b = Endpoint::boot_with(&daemon.socket("b"), 2, options);
        Self { a, b, daemon, other: None }
    }

    /// Connected queue pairs, one in each guest, each with a completion queue of its own.
    pub fn qps(&self) -> (Qp, Qp) {
        let (a, b) = (self.a.qp(), self.b.qp());
        connect(&a, &b);
        (a, b)
    }

    /// As [`qps`](Self::qps), with options.
    pub fn qps_with(&self, options: &ConnectOptions) -> (Qp, Qp) {
        let (a, b) = (self.a.qp(), self.b.qp());
        connect_with(&a, &b, options);
        (a, b)
    }

    /// Ends the guests and the daemon in good order and checks that nothing was left behind. The
    /// test has dropped its own objects before.
    pub fn finish(self) {
        for end in [self.a, self.b] {
            close(end);
        }
        for daemon in std::iter::once(self.daemon).chain(self.other) {
            // A link that was lost comes back, and hides that one daemon does not understand the other.
            let log = daemon.log();
            assert!(!log.contains("means nothing"), "{log}");
            daemon.stop();
        }
    }
}

/// Closes a guest's process and checks that the device holds nothing of it any more.
pub fn close(end: Endpoint) {
    let Endpoint { driver, ctx, pd, .. } = end;
    drop(pd);
    drop(ctx);
    assert_nothing_held(&driver);
}

/// Every gauge of the guest's counters is zero.
#[track_caller]
pub fn assert_nothing_held(driver: &Driver) {
    let held = held(&driver.counters());
    assert_eq!(held, [0; 7], "pasids, contexts, pds, mrs, cqs, qps, page requests");
}

/// The gauges of `counters`.
pub fn held(counters: &Counters) -> [u32; 7] {
    [
        counters.pasids,
        counters.contexts,
        counters.pds,
        counters.mrs,
        counters.cqs,
        counters.qps,
        counters.page_requests_outstanding,
    ]
    .map(u32::from)
}

/// `len` bytes that differ by `seed` and have no period that a page or a cache line has.
pub fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        })
        .collect()
}

/// Compares without printing a megabyte.
#[track_caller]
pub fn assert_same(found: &[u8], wanted: &[u8], what: &str) {
    assert_eq!(found.len(), wanted.len(), "{what}");
    if let Some(at) = (0..wanted.len()).find(|&i| found[i] != wanted[i]) {
        panic!(
            "{what}: byte {at} of {} is {:#x}, wanted {:#x}",
            wanted.len(),
            found[at],
            wanted[at]
        );
    }
}
