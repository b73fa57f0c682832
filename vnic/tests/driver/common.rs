// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A daemon with guests on it, and patterns.

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

/// Two guests on one daemon.
pub struct Pair {
    pub a: Endpoint,
    pub b: Endpoint,
    pub daemon: Daemon,
}

impl Pair {
    pub fn new() -> Self {
        Self::with(GuestOptions::default())
    }

    pub fn with(options: GuestOptions) -> Self {
        Self::on(daemon(), options)
    }

    /// Two guests on a daemon with `workers` workers.
    pub fn with_workers(workers: u32) -> Self {
        let daemon = daemon_options().workers(workers).start();
        Self::on(daemon, GuestOptions::default())
    }

    fn on(daemon: Daemon, options: GuestOptions) -> Self {
        let a = Endpoint::boot_with(&daemon.socket("a"), 1, options.clone());
        let b = Endpoint::boot_with(&daemon.socket("b"), 2, options);
        Self { a, b, daemon }
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
        self.daemon.stop();
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
