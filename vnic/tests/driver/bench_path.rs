// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bench of the data path, cut as short as it can be: it runs to its end, and finds a number for
//! everything that it lists. What the numbers are is nobody's business here.

use std::path::Path;

use vnic::device::DeviceConfig;
use vnic_testbed::bench::Findings;
use vnic_testbed::bench::path::{self, Effort, Plan, Subject, crowd::Size, neighbour};

/// Runs `only`; every row has a figure or says why not, every goal has a number.
fn run(only: &[Subject]) -> Findings {
    let most = Size { ports: 3, qps: 20 };
    let effort = Effort { rounds: 2, samples: 2, operations: 10, most, quick: true };
    let plan = Plan { effort, only: only.to_vec(), workers: 1 };
    let found = path::run(Path::new(env!("CARGO_BIN_EXE_vnic")), &plan).expect("the bench");
    for row in &found.rows {
        assert!(row.figure.is_some() || row.missing.is_some(), "{row:?}");
        if let Some(figure) = row.figure {
            assert_eq!(row.rounds.len(), figure.rounds, "{row:?}");
            assert!(figure.rounds == effort.rounds && figure.median.is_finite(), "{row:?}");
        }
    }
    for verdict in &found.verdicts {
        assert!(verdict.found.is_some_and(f64::is_finite), "{verdict:?}");
    }
    found
}

/// Devices of the rows whose subject begins with `subject`, with the places that they have on its axis.
fn lines(found: &Findings, subject: &str) -> Vec<(String, usize)> {
    let mut lines: Vec<(String, usize)> = Vec::new();
    for row in found.rows.iter().filter(|row| row.subject.starts_with(subject)) {
        let places = usize::from(row.at.is_some() && row.figure.is_some());
        match lines.iter_mut().find(|(device, _)| *device == row.device) {
            Some((_, count)) => *count += places,
            None => lines.push((row.device.clone(), places)),
        }
    }
    lines
}

#[test]
fn the_bench_times_small_and_large_operations_beside_their_limits() {
    let found = run(&[Subject::Latency, Subject::Rate, Subject::Bandwidth]);
    let small = found.rows.iter().filter(|row| row.subject == "8 B, one at a time");
    let small = small.map(|row| &*row.device).collect::<Vec<_>>();
    assert_eq!(small, ["cache line", "vNIC", "vNIC", "vNIC", "vNIC"]);
    assert_eq!(lines(&found, "64 B WRITEs per second"), [("vNIC".into(), 5)]);
    // Three sizes there, and three back.
    let bandwidth = ["memcpy", "vNIC", "memcpy by pages"].map(|device| (device.into(), 6));
    assert_eq!(lines(&found, "bandwidth"), bandwidth);
    assert_eq!(found.verdicts.len(), 4 + 2 + 6);
    let compared = found.rows.iter().filter(|row| row.compared.is_some());
    assert_eq!(compared.count(), 4 + 12 + 6, "operations beside a line, bandwidth beside memcpy");
}

#[test]
fn the_bench_shows_how_latencies_are_spread() {
    let found = run(&[Subject::Distribution]);
    for operation in ["RDMA WRITE, one way", "SEND/RECV, one way", "RDMA READ, to its completion"] {
        assert_eq!(lines(&found, &format!("{operation}: p50")), [("vNIC".into(), 5)]);
        let curves = found.curves.iter().filter(|curve| curve.label == operation);
        let ends = curves.map(|curve| curve.points.last().map(|point| point.1));
        assert_eq!(ends.collect::<Vec<_>>(), [Some(100.0); 2], "whole distributions");
    }
}

#[test]
fn the_bench_looks_at_crowds_neighbours_and_what_is_idle() {
    let only = [Subject::Crowd, Subject::Neighbour, Subject::Wake, Subject::Idle];
    let found = run(&[&only[..], &[Subject::Footprint]].concat());
    assert_eq!(lines(&found, "8 B WRITE one way, others idle"), [("vNIC".into(), 3)]);
    let beside = found.rows.iter().filter(|row| row.subject.ends_with("beside a stream"));
    assert_eq!(beside.count(), 2 * 3 + 2, "percentiles, a chunk and the stream");
    let wake = lines(&found, "wake-up from idle");
    assert_eq!(wake.iter().map(|line| &*line.0).collect::<Vec<_>>(), ["eventfd", "vNIC"]);
    let footprint = found.rows.iter().filter(|row| row.subject.starts_with("daemon's memory"));
    assert_eq!(footprint.count(), 3, "CQ, MR and QP");
    // Fewer and more queue pairs, more ports; a victim; an idle daemon; three kinds of objects.
    assert_eq!(found.verdicts.len(), 3 + 1 + 1 + 3);
}

#[test]
fn a_neighbour_is_judged_by_the_chunk_that_is_set() {
    assert_eq!(DeviceConfig::default().chunk, neighbour::CHUNK);
}

#[test]
fn the_bench_runs_others_or_says_why_not() {
    let found = run(&[Subject::Others]);
    let lines = lines(&found, "one way, beside others");
    let places = |device: &str| lines.iter().find(|line| line.0 == device).map(|line| line.1);
    for device in ["vNIC", "shared-memory ring", "UNIX socket", "TCP"] {
        assert_eq!(places(device), Some(4), "{device}");
    }
    for device in ["UCX shm", "libfabric shm"] {
        let missing = found.rows.iter().find(|row| row.device == device && row.missing.is_some());
        let why = missing.and_then(|row| row.missing.as_deref()).unwrap_or_default();
        let there = places(device) == Some(4) && missing.is_none();
        assert!(there || why.contains("not installed"), "{device}: {why:?}");
    }
}
