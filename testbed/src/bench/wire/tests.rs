// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::{
    overhead::{self, Goal, Line, lines},
    results::Results,
    said::{Operation, Said},
    subject::Subject,
    *,
};
use crate::{
    bench::{Machine, Report, table},
    host::Conditions,
};

const LANE: &str = "rxe between two hosts";

/// What a program would say whose operations take `slow` times as long.
fn said(slow: f64, round: u64) -> Vec<Said> {
    let nanos = |micros: f64| (micros * slow * 1000.0) as u64 + round;
    let mut said = Vec::new();
    for (index, operation) in Operation::ALL.into_iter().enumerate() {
        for bytes in [8, 4096] {
            let micros = 100.0 * (index + 1) as f64 + bytes as f64 / 100.0;
            let (p50, p99) = (nanos(micros), nanos(3.0 * micros));
            let busy = 2.0 * micros * 1000.0 * slow;
            said.push(Said::Latency {
                operation,
                bytes,
                count: 100,
                p50,
                p99,
                busy,
                packets: Some(2.0 * slow),
            });
            let (count, nanos, packets) = (1000, nanos(1000.0 * micros / 4.0), None);
            let outstanding = 32;
            said.push(Said::Throughput {
                operation,
                bytes,
                count,
                outstanding,
                nanos,
                busy,
                packets,
            });
        }
    }
    said.push(Said::Touched { first: vec![nanos(400.0); 3], again: vec![nanos(100.0); 3] });
    said.push(Said::Connected { nanos: vec![nanos(50.0); 2] });
    said.push(Said::Registered { bytes: 1 << 20, nanos: vec![nanos(20.0); 2] });
    said
}

/// So many rounds in which guests are five times as slow, and the machine twice as slow in one of them.
fn findings(rounds: u64) -> Findings {
    let mut results = Results::default();
    for round in 0..rounds {
        let slow = if round == 1 { 2.0 } else { 1.0 + round as f64 / 100.0 };
        results.add(Subject::Bare, &said(slow, round));
        results.add(Subject::Relay, &said(5.0 * slow, round));
    }
    let mut findings = results.findings();
    findings.rows.iter_mut().for_each(|row| row.lane = LANE.into());
    findings.verdicts.iter_mut().for_each(|verdict| verdict.lane = LANE.into());
    findings
}

/// A report of such a run.
pub(crate) fn report() -> Report {
    let machine = Machine {
        date: "2001-02-03T04:05:06Z".into(),
        cpu: "a processor".into(),
        cores: 2,
        memory_mib: 4096,
        kernel: "6.1".into(),
        load: 0.25,
        jitter: 1.05,
        conditions: Conditions::default(),
    };
    Report::new(NAME, false, machine, findings(7))
}

#[test]
fn the_number_for_each_operation() {
    insta::assert_snapshot!(overhead::render(&report().rows));
}

#[test]
fn the_table_of_all() {
    insta::assert_snapshot!(table::render(&report(), table::Style::Terminal));
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let report = report();
    let read = serde_json::from_str::<Report>(&report.json().unwrap()).unwrap();
    // The last digit of a number may differ.
    assert_eq!(overhead::render(&read.rows), overhead::render(&report.rows));
    assert_eq!(read.rows.len(), report.rows.len());
}

#[test]
fn one_slow_round_does_not_move_the_number() {
    for line in lines(&findings(7).rows) {
        let expected = if line.what.ends_with("p50") { 5.0 } else { 0.2 };
        let (low, high) = line.within.unwrap();
        assert!((line.times / expected - 1.0).abs() < 0.02, "{line}");
        // The interval knows of it all the same.
        assert!(low <= line.times && line.times <= high && low < high, "{line}");
        assert_eq!(line.met(), Some(false), "{line}");
    }
}

#[test]
fn few_rounds_have_a_number_and_no_interval() {
    let lines = lines(&findings(3).rows);
    // A latency of both sizes and a bandwidth of the larger one.
    assert_eq!(lines.len(), 3 * 3);
    assert!(lines.iter().all(|line| line.within.is_none()));
    assert!(lines[0].verdict().unwrap().goal.contains("too few rounds"));
    assert!(super::overhead::lines(&findings(4).rows).iter().all(|line| line.within.is_some()));
}

#[test]
fn guests_that_cost_nothing_meet_all_goals() {
    let mut results = Results::default();
    for round in 0..5 {
        results.add(Subject::Bare, &said(1.0, round));
        results.add(Subject::Relay, &said(1.04, round));
    }
    let findings = results.findings();
    assert_eq!(findings.verdicts.len(), 3 * 3);
    assert!(findings.verdicts.iter().all(|verdict| verdict.met), "{:?}", findings.verdicts);
}

#[test]
fn an_interval_around_the_goal_decides_nothing() {
    let within = |within| Line {
        what: "READ 8 B p50".into(),
        device: "relay".into(),
        times: 1.05,
        within,
        goal: Some(Goal::AtMost(1.1)),
    };
    assert_eq!(within(Some((1.01, 1.1))).judged(), "at most 1.10x: met");
    assert_eq!(within(Some((0.9, 1.4))).judged(), "at most 1.10x: met, not for certain");
    assert_eq!(within(None).judged(), "at most 1.10x: met, not for certain");
    let bandwidth = Line { goal: Some(Goal::AtLeast(0.95)), ..within(Some((0.2, 0.3))) };
    assert_eq!(Line { times: 0.25, ..bandwidth }.judged(), "at least 0.95x: missed");
}

#[test]
fn who_was_not_measured_is_told() {
    let rows = findings(1).rows;
    let found = overhead::not_run(&rows).len();
    let expected = Subject::ALL.iter().filter(|subject| subject.not_run().is_some()).count();
    assert_eq!(found, expected);
    assert_eq!(Subject::measured().count() + expected, Subject::ALL.len());
}

#[test]
fn efforts_are_what_the_program_can_do() {
    for effort in [Effort::full(), Effort::quick(), Effort::smoke()] {
        assert!(effort.plan.pages.is_power_of_two(), "{effort:?}");
        assert!(effort.plan.sizes.is_sorted() && effort.rounds > 0, "{effort:?}");
    }
    // With fewer there is no interval.
    assert!(Effort::quick().rounds >= 4);
}
