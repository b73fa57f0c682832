// SPDX-License-Identifier: Apache-2.0 OR MIT

use std::collections::BTreeMap;

use super::{table::Style, *};
use crate::{
    host::Conditions,
    measure::{CpuTime, GOALS, Values, cpu::Side},
    topology::Pinning,
};

fn measurement(
    program: Option<Program>,
    transport: Transport,
    bytes: u64,
    values: Values,
) -> Measurement {
    Measurement::new(program, transport, bytes, 100, values)
}

fn latency(p50: f64) -> Values {
    Values::Latency {
        min: p50 / 2.0,
        p50,
        average: p50,
        p99: p50 * 3.0,
        p999: None,
        max: p50 * 4.0,
    }
}

fn bandwidth(average: f64) -> Values {
    Values::Bandwidth { average, message_rate: None }
}

fn rate(average: f64, rate: f64) -> Values {
    Values::Bandwidth { average, message_rate: Some(rate) }
}

fn cpu(user: f64) -> CpuTime {
    let client =
        Side { user, system: user / 10.0, interrupts: 0.0, vcpus: user * 1.5, qemu: user / 2.0 };
    let server = Side { user: 1e2, qemu: -1e2, ..Side::default() };
    CpuTime { server, client, daemon: user / 4.0, scatter: 500.0 }
}

fn report() -> Report {
    let environment = Environment {
        date: "2001-02-03T04:05:06Z".into(),
        commit: "0123abc".into(),
        modified: true,
        cpu: "A processor".into(),
        cores: 2,
        memory_mib: 24_000,
        host: "Debian GNU/Linux 13".into(),
        host_kernel: "6.12.0".into(),
        accelerator: "TCG".into(),
        accelerator_reason: "there is no /dev/kvm".into(),
        qemu: "QEMU emulator version 11.1.3".into(),
        guest_kernel: "7.3.4".into(),
        guest_processors: 2,
        guest_memory_mib: 1024,
        guest_huge_pages: false,
        conditions: Some(Conditions { cores: Some(2), ..Conditions::default() }),
        pinning: Some(Pinning { done: false, text: "too few cores".into(), warnings: vec![] }),
        daemon: "vnic 0.1.0".into(),
        packages: BTreeMap::from([("perftest".into(), "25.01".into())]),
    };
    let settings = Settings {
        programs: vec![Program::RcPingpong, Program::WriteLat, Program::ReadLat, Program::WriteBw],
        transports: vec![Transport::Vnic, Transport::Rxe, Transport::Tcp],
        sizes: Sizes { latency: vec![2, 1 << 20], bandwidth: vec![64, 64 << 10, 8 << 20] },
        iterations: None,
        rounds: 3,
        repeat_all: false,
    };
    let mut report = Report::new(environment, settings);
    let (write, read, bw) =
        (Some(Program::WriteLat), Some(Program::ReadLat), Some(Program::WriteBw));
    report.measurements = vec![
        measurement(
            Some(Program::RcPingpong),
            Transport::Vnic,
            4096,
            Values::RoundTrip { average: 20.0 },
        ),
        measurement(
            Some(Program::RcPingpong),
            Transport::Rxe,
            4096,
            Values::RoundTrip { average: 90.0 },
        ),
        measurement(write, Transport::Vnic, 2, latency(5.0)),
        measurement(write, Transport::Rxe, 2, latency(50.0)),
        measurement(read, Transport::Vnic, 2, latency(8.0)),
        measurement(bw, Transport::Vnic, 64, rate(100.0, 1.6384)),
        measurement(bw, Transport::Rxe, 64, rate(0.25, 0.004_096)),
        measurement(bw, Transport::Vnic, 65536, bandwidth(4000.0)),
        measurement(bw, Transport::Rxe, 65536, bandwidth(50.0)),
        // The smallest message of the TCP program has 14 bytes.
        measurement(None, Transport::Tcp, 14, latency(250.0)),
        measurement(None, Transport::Tcp, 65536, bandwidth(8000.0)),
    ];
    for measurement in report.measurements.iter_mut().filter(|m| m.program == bw) {
        measurement.cpu = Some(cpu(measurement.bytes as f64 * 100.0));
    }
    report.verdicts = GOALS[1..4]
        .iter()
        .map(|goal| {
            let of = |transport| report.find(goal.program, transport, goal.bytes);
            let verdict = goal.verdict(of(Transport::Vnic), of(Transport::Rxe));
            Verdict { lane: "Linux 7.3.4 under TCG".into(), ..verdict }
        })
        .collect();
    report.warnings.push("this is a virtual machine".into());
    report.over = Some(Over { seconds: 90.0, others: Some(0.1), stolen: Some(0.0), swapped: None });
    report.checks.push(Check {
        program: Program::RcPingpong,
        transport: Transport::Vnic,
        options: "-c".into(),
        contents_checked: true,
        result: "200 round trips of 4 KiB".into(),
    });
    report.notes.push("Something is missing, for a reason.".into());
    report.seconds = 99.6;
    report
}

#[test]
fn a_table_for_a_terminal() {
    insta::assert_snapshot!(table::render(&report(), Style::Terminal));
}

#[test]
fn processor_time_for_a_terminal() {
    insta::assert_snapshot!(super::cpu::render(&report(), Style::Terminal));
    let mut without = report();
    without.measurements.iter_mut().for_each(|measurement| measurement.cpu = None);
    assert_eq!(super::cpu::render(&without, Style::Terminal), "");
}

#[test]
fn a_report_for_people() {
    insta::assert_snapshot!(markdown::render(&report()));
}

#[test]
fn a_report_for_programs() {
    let report = report();
    let json = report.json().unwrap();
    insta::assert_snapshot!(json);
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
}

#[test]
fn a_failed_run_says_so_first() {
    let mut report = report();
    report.failure = Some("ib_read_lat ended with 1".into());
    let text = markdown::render(&report);
    assert!(text.find("ib_read_lat ended").unwrap() < text.find("## Results").unwrap());
}

#[test]
fn nothing_measured_draws_no_table() {
    let mut report = report();
    report.settings.programs.clear();
    assert_eq!(table::render(&report, Style::Terminal), "");
}

#[test]
fn files_are_written() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("new");
    report().write(&folder).unwrap();
    let json = fs::read_to_string(folder.join("report.json")).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap().schema, SCHEMA);
    assert!(folder.join("report.md").exists());
}
