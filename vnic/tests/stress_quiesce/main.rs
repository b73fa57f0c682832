// SPDX-License-Identifier: Apache-2.0 OR MIT
//! No access reaches a page that was taken back: the daemon under full traffic between two process
//! guests, while the memory of both changes all the time and is poisoned the moment it is free.
//!
//! `VNIC_STRESS_SECONDS` says how long it goes on, 60 by default.
//!
//! The ignored tests want a daemon that was built with `--cfg vnic_sabotage` and is named by
//! `VNIC_SABOTAGED_DAEMON`; it leaves out one step of the protocol, and the same stress has to find
//! that. `cargo xtask test` builds it and runs them.

mod arena;
mod frames;
mod random;
mod traffic;

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vnic_abi::config::Features;
use vnic_testbed::process_guest::verbs::{ALL_ACCESS, Endpoint, Mr};
use vnic_testbed::process_guest::{Daemon, FaultAnswer, GuestOptions};

use arena::{Arena, KINDS};
use frames::Violation;
use random::Random;
use traffic::{Done, End, FLOWS};

/// Mutations between two looks at all traps by the same thread.
const CHECK: u64 = 2000;

/// The first violation ends a run.
#[derive(Default)]
struct Verdict(Mutex<Option<Violation>>);

impl Verdict {
    fn report(&self, violation: Violation) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(violation);
    }

    fn found(&self) -> Option<Violation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a run without a violation did.
#[derive(Default)]
struct Activity {
    invalidations: u64,
    waits: u64,
    requests: u64,
    mutations: [u64; KINDS.len()],
    done: [u64; FLOWS.len()],
    pauses: u64,
    checks: u64,
}

impl Activity {
    fn add(&mut self, arenas: &[Arc<Arena>; 2], done: &Done, checks: &AtomicU64) {
        // Relaxed: the threads that counted have ended.
        let get = |count: &AtomicU64| count.load(Ordering::Relaxed);
        for counts in arenas.iter().map(|arena| arena.counts()) {
            self.invalidations += get(&counts.invalidations);
            self.waits += get(&counts.waits);
            self.requests += get(&counts.requests);
            for (sum, count) in self.mutations.iter_mut().zip(&counts.mutations) {
                *sum += get(count);
            }
        }
        for (sum, count) in self.done.iter_mut().zip(&done.requests) {
            *sum += get(count);
        }
        self.pauses += get(&done.pauses);
        self.checks += get(checks);
    }

    fn print(&self) {
        println!("invalidations {}, of which met a busy worker {}", self.invalidations, self.waits);
        println!("page requests {}, pauses {}, checks {}", self.requests, self.pauses, self.checks);
        for (kind, count) in KINDS.iter().zip(self.mutations) {
            println!("{:16} {count}", kind.name);
        }
        for ((op, forth), count) in FLOWS.iter().zip(self.done) {
            println!(
                "{:16} {count}",
                format!("{op:?} {}", if *forth { "a to b" } else { "b to a" })
            );
        }
    }

    /// A run in which little happened shows little.
    fn assert_enough(&self, seconds: u64) {
        assert!(self.waits >= 2 * seconds, "few invalidations met a busy worker");
        assert!(self.requests >= 20 * seconds, "few page requests");
        assert!(self.pauses >= 1, "no worker had time to sleep");
        for (kind, count) in KINDS.iter().zip(self.mutations) {
            assert!(count >= kind.share * seconds, "{}: only {count}", kind.name);
        }
        for (flow, count) in FLOWS.iter().zip(self.done) {
            assert!(count >= 50 * seconds, "{flow:?}: only {count}");
        }
    }
}

/// Traffic, and mutation by `mutators` threads, for `time`, or until the first violation.
fn stress(
    daemon: Daemon,
    mutators: u64,
    time: Duration,
    activity: &mut Activity,
) -> Result<(), Violation> {
    let ends = ["a", "b"].map(|port| {
        let options = GuestOptions { init: Some(Features::ATOMIC), ..GuestOptions::default() };
        let host = port.as_bytes()[0] - b'a' + 1;
        Endpoint::boot_with(&daemon.socket(port), host, options)
    });
    let arenas = ends.each_ref().map(|end| Arc::new(Arena::new(end.space())));
    let verdict = Arc::new(Verdict::default());
    for (end, arena) in ends.iter().zip(&arenas) {
        let (arena, verdict) = (Arc::clone(arena), Arc::clone(&verdict));
        end.driver.set_fault_policy(move |request| match arena.serve(request) {
            Ok(code) => FaultAnswer::Answer(code),
            Err(violation) => {
                verdict.report(violation);
                FaultAnswer::Answer(vnic_abi::event::PageResponseCode::Invalid)
            }
        });
    }
    let mrs = ends
        .each_ref()
        .map(|end| Mr::new(&end.pd, arena::BASE, Arena::span(), ALL_ACCESS).expect("MR_CREATE"));
    let (done, checks) = (Done::default(), AtomicU64::new(0));
    let limit = Instant::now() + time;
    let over = || Instant::now() >= limit || verdict.found().is_some();
    std::thread::scope(|scope| {
        for seed in 0..mutators {
            let (arenas, verdict, over, checks) = (&arenas, &verdict, &over, &checks);
            scope.spawn(move || {
                if let Err(violation) = mutate(arenas, seed, over, checks) {
                    verdict.report(violation);
                }
            });
        }
        let [a, b] = [0, 1].map(|i| End { endpoint: &ends[i], mr: &mrs[i] });
        if let Err(violation) = traffic::run([&a, &b], over, &done) {
            verdict.report(violation);
        }
    });
    for arena in &arenas {
        arena.close().unwrap_or_else(|violation| verdict.report(violation));
    }
    drop(mrs);
    drop(ends);
    daemon.stop();
    activity.add(&arenas, &done, &checks);
    verdict.found().map_or(Ok(()), Err)
}

fn mutate(
    arenas: &[Arc<Arena>; 2],
    seed: u64,
    over: impl Fn() -> bool,
    checks: &AtomicU64,
) -> Result<(), Violation> {
    let mut random = Random::new(seed + 1);
    while !over() {
        for _ in 0..CHECK {
            arenas[random.below(2) as usize].mutate(&mut random)?;
        }
        arenas.iter().try_for_each(|arena| arena.check())?;
        // Relaxed: a count.
        checks.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

fn daemon(binary: &Path, workers: u32) -> vnic_testbed::process_guest::daemon::DaemonOptions {
    Daemon::of(binary).port("a").port("b").workers(workers)
}

#[test]
fn no_access_reaches_what_was_taken_back() {
    let asked = std::env::var("VNIC_STRESS_SECONDS").ok();
    let seconds = asked.map_or(60, |text| text.parse::<u64>().expect("VNIC_STRESS_SECONDS"));
    let mut activity = Activity::default();
    let half = Duration::from_millis(seconds * 500);
    for workers in [1, 2] {
        let daemon = daemon(Path::new(env!("CARGO_BIN_EXE_vnic")), workers).start();
        if let Err(violation) = stress(daemon, workers.into(), half, &mut activity) {
            panic!("{workers} workers: {violation}");
        }
    }
    activity.print();
    activity.assert_enough(seconds);
}

/// The daemon leaves out `step`, and the stress finds a violation within a minute.
fn sabotage_is_found(step: &str) {
    let binary = std::env::var_os("VNIC_SABOTAGED_DAEMON").expect("VNIC_SABOTAGED_DAEMON");
    let start = Instant::now();
    for round in 0.. {
        let workers = 1 + round % 2;
        let left = Duration::from_secs(60).saturating_sub(start.elapsed());
        assert!(!left.is_zero(), "the stress does not miss {step}");
        let daemon = daemon(Path::new(&binary), workers).env("VNIC_SABOTAGE", step).start();
        assert!(daemon.log().contains("on purpose"), "{binary:?} is not sabotaged");
        let time = left.min(Duration::from_secs(10));
        let mut activity = Activity::default();
        if let Err(violation) = stress(daemon, workers.into(), time, &mut activity) {
            println!("{step}, {workers} workers, {:?}: {violation}", start.elapsed());
            activity.print();
            return;
        }
    }
}

#[test]
#[ignore = "wants a sabotaged daemon"]
fn a_burst_without_its_fence_is_found() {
    sabotage_is_found("fence");
}

#[test]
#[ignore = "wants a sabotaged daemon"]
fn a_generation_that_nobody_reads_is_found() {
    sabotage_is_found("generation");
}

#[test]
#[ignore = "wants a sabotaged daemon"]
fn a_burst_that_ends_before_its_copy_is_found() {
    sabotage_is_found("late-leave");
}
