// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Inputs for a page: everything that can be on it, in numbers that are made up.

use std::collections::BTreeMap;

use vnic_testbed::{
    bench::{self, Curve, Findings, Machine, Row, Samples, Unit, Verdict},
    compare::{Comparison, entry},
    host::Conditions,
    measure::{CpuTime, Measurement, Program, Sizes, Transport, Values, cpu::Side, sizes},
    page::Inputs,
    report::{self, Check, Environment, Settings},
};

/// A name that is as long as names get.
const LONG: &str =
    "the first write to a page that was swapped to a slow disk and whose neighbours were, too";

/// Every part of the page, with many rows and long names.
pub fn rich() -> Inputs {
    let path = path(1.0);
    let comparison = Comparison::new(entry::of_bench(&self::path(1.15)), entry::of_bench(&path));
    let single = Comparison::new(entry::of_testbed(&guests(1.3)), entry::of_testbed(&guests(1.0)));
    Inputs {
        benches: vec![path, memory()],
        testbed: Some(guests(1.0)),
        comparisons: vec![comparison, single],
        absent: vec![
            "An earlier run is left out: old.json has schema 0, and this version reads 1.".into(),
        ],
    }
}

/// A page whose every text tries to be more than text.
pub fn hostile() -> Inputs {
    const EVIL: &str = "</script></style><script>document.title='broken'</script><img src=x onerror=\"document.title='broken'\">'\"&";
    let mut inputs = rich();
    for report in &mut inputs.benches {
        report.bench = EVIL.into();
        report.command = Some(EVIL.into());
        report.commit = Some(EVIL.into());
        report.machine.cpu = EVIL.into();
        report.machine.date = EVIL.into();
        report.notes = vec![EVIL.into()];
        for row in &mut report.rows {
            row.lane = EVIL.into();
            row.subject = EVIL.into();
            row.case = format!("{EVIL}, {}", row.case);
            row.device = format!("{EVIL} {}", row.device);
            row.compared = Some(bench::Compared { times: 2.0, with: EVIL.into(), within: None });
        }
        for verdict in &mut report.verdicts {
            verdict.goal = EVIL.into();
            verdict.lane = EVIL.into();
        }
        for curve in &mut report.curves {
            curve.plot = EVIL.into();
            curve.label = EVIL.into();
            curve.x = EVIL.into();
            curve.y = EVIL.into();
        }
    }
    if let Some(report) = &mut inputs.testbed {
        report.failure = Some(EVIL.into());
        report.command = Some(EVIL.into());
        report.notes = vec![EVIL.into()];
        report.checks.iter_mut().for_each(|check| check.result = EVIL.into());
        report.environment.commit = EVIL.into();
        report.environment.packages = BTreeMap::from([(EVIL.into(), EVIL.into())]);
    }
    let (run, entries) = entry::of_bench(&inputs.benches[0]);
    inputs.comparisons = vec![Comparison::new((run.clone(), entries.clone()), (run, entries))];
    inputs.absent = vec![EVIL.into()];
    inputs
}

fn machine() -> Machine {
    Machine {
        date: "2001-02-03T04:05:06Z".into(),
        cpu: "A processor with 2 cores of 3.0 GHz".into(),
        cores: 2,
        memory_mib: 24_000,
        kernel: "6.12.0".into(),
        load: 1.7,
        jitter: 1.31,
        conditions: Conditions::default(),
    }
}

/// Nine rounds of samples around `middle`.
fn samples(unit: Unit, middle: f64) -> Samples {
    let mut samples = Samples::new(unit);
    for round in 0..9 {
        let around =
            |part: i32| middle * (1.0 + f64::from((round * 5 + part * 7) % 11 - 5) / 150.0);
        samples.push_round((0..5).map(around).collect());
    }
    samples
}

fn time(subject: &str, case: &str, ns: f64) -> Row {
    Row::of(subject, case, &samples(Unit::Nanoseconds, ns))
}

/// A bench of the data path; `slower` tells how much slower it is than usual.
fn path(slower: f64) -> bench::Report {
    let mut findings =
        Findings { rows: path_rows(slower), curves: curves(), ..Findings::default() };
    findings.rows.iter_mut().for_each(|row| row.lane = "data path".into());
    findings.verdicts = vec![
        Verdict::at_most(
            "8 B RDMA WRITE, one way, over a cache line's round trip",
            Some(1.62),
            1.8,
        ),
        Verdict::at_most("8 B SEND/RECV, one way, over a cache line's round trip", Some(2.65), 2.5),
        Verdict::at_least("million 64 B WRITEs per second, 1 QP", Some(22.4), 20.0),
        Verdict::at_least("bandwidth of WRITE over memcpy's, 64 KiB", Some(0.93), 0.9),
        Verdict::at_most("8 B WRITE with 10,000 QPs over 1 QP", None, 1.2),
        Verdict::at_most("share of a core of an idle daemon with 64 ports, %", Some(0.0), 0.5),
    ];
    findings.verdicts.iter_mut().for_each(|verdict| verdict.lane = "data path".into());
    findings.notes = machine().warnings();
    let mut report = bench::Report::new("path", false, machine(), findings);
    report.command = Some("cargo xtask bench --rounds 9".into());
    report.commit = Some("0123456789abcdef0123456789abcdef01234567, with changes".into());
    report
}

fn path_rows(slower: f64) -> Vec<Row> {
    let mut rows = Vec::new();
    for (device, case, ns) in [
        ("cache line", "cache line there and back", 131.0),
        ("vNIC", "RDMA WRITE, one way", 212.0 * slower),
        ("shared-memory ring", "one way", 160.0),
        ("UCX shm", "one way", 480.0),
        ("libfabric shm", "one way", 730.0),
        ("UNIX socket", "one way", 9_400.0),
        ("TCP", "one way", 31_000.0),
        (LONG, "one way", 90_000.0),
    ] {
        let row = time("8 B, one at a time", case, ns).over(device).at(8.0);
        rows.push(row.times(Some(ns / 131.0), "cache line"));
    }
    for (index, percentile) in ["p50", "p99", "p99.9"].into_iter().enumerate() {
        for shift in [3, 6, 9, 12, 16, 20] {
            let ns = (200.0 + f64::from(1 << shift) / 12.0) * [1.0, 1.6, 9.0][index];
            let subject = format!("RDMA WRITE, one way: {percentile}");
            rows.push(
                time(&subject, &sizes::text(1 << shift), ns).over("vNIC").at(f64::from(1 << shift)),
            );
        }
    }
    for shift in [6, 9, 12, 16, 20, 26] {
        for (device, factor) in [("memcpy", 1.0), ("vNIC", 0.93), ("TCP", 0.06)] {
            let bytes = f64::from(1 << shift);
            let rate = 11e9 * factor * bytes / (bytes + 3000.0);
            let row = Row::of(
                "WRITE bandwidth",
                sizes::text(1 << shift),
                &samples(Unit::BytesPerSecond, rate),
            );
            rows.push(row.over(device).at(bytes));
        }
    }
    for (qps, rate) in [(1, 22.4e6), (4, 23.0e6), (16, 21.0e6), (64, 14.5e6), (256, 13.0e6)] {
        let case = if qps == 1 { "1 QP".into() } else { format!("{qps} QPs") };
        let row = Row::of("64 B WRITEs per second", case, &samples(Unit::PerSecond, rate / slower));
        rows.push(row.over("vNIC").at(f64::from(qps)));
    }
    rows.push(Row::new("8 B WRITE beside a stream", LONG, None).missing("left out of a quick run"));
    rows
}

fn curves() -> Vec<Curve> {
    let curve = |plot: &str, label: &str, middle: f64| {
        let points = (0..=200).map(|part| {
            let part = f64::from(part) / 200.0;
            (middle * (1.0 + 0.2 * part + (1.0 / (1.005 - part)).ln() * 0.25), 100.0 * part)
        });
        let (x, y) = ("ns".into(), "% of operations".into());
        Curve { plot: plot.into(), label: label.into(), x, y, points: points.collect() }
    };
    let mut curves = Vec::new();
    for (plot, factor) in [("Latency of 8 B", 1.0), ("Latency of 64 KiB", 28.0)] {
        curves.push(curve(plot, "RDMA WRITE, one way", 200.0 * factor));
        curves.push(curve(plot, "SEND/RECV, one way", 290.0 * factor));
        curves.push(curve(plot, "RDMA READ, to its completion", 310.0 * factor));
        curves.push(curve(plot, "FETCH_ADD, to its completion", 330.0 * factor));
    }
    curves
}

/// A bench with two lanes, devices, and many rows.
fn memory() -> bench::Report {
    let mut findings = Findings::default();
    for (lane, devices) in
        [("process guests", &[""][..]), ("Linux 6.12.117+deb13-amd64 under TCG", &["vNIC", "rxe"])]
    {
        let from = findings.rows.len();
        for device in devices {
            for (size, ns) in [(12, 54e3), (20, 54.1e3), (30, 54.3e3)] {
                let ns = if *device == "rxe" { f64::from(1 << (size - 9)) * 900.0 } else { ns };
                let case = match size {
                    12 => "4 KiB",
                    20 => "1 MiB",
                    _ => "1 GiB",
                };
                let case = format!("{case}, untouched");
                findings
                    .rows
                    .push(time("register", &case, ns).over(device).at(f64::from(1 << size)));
            }
            let none = Row::new("register", "64 GiB, untouched", None).over(device);
            findings.rows.push(none.missing("cannot be pinned in 2048 MiB"));
            for index in 0..12 {
                let case = format!("{LONG}, number {index}");
                findings.rows.push(
                    time("first 8 B WRITE", &case, 800.0 * f64::from(index + 1)).over(device),
                );
            }
            let count =
                Row::of("page requests of it", "1 MiB, page by page", &samples(Unit::Count, 256.0));
            findings.rows.push(count.over(device));
        }
        findings.verdicts.push(Verdict::at_most(
            "registering, slowest over quickest",
            Some(1.01),
            1.5,
        ));
        findings.verdicts.push(Verdict::at_most(
            "wake-ups of the daemon in 3600 invalidations",
            Some(3.0),
            0.0,
        ));
        findings.rows[from..].iter_mut().for_each(|row| row.lane = lane.into());
        findings
            .verdicts
            .iter_mut()
            .filter(|v| v.lane.is_empty())
            .for_each(|v| v.lane = lane.into());
    }
    findings.notes.push("Times under emulation are worth something only beside each other.".into());
    bench::Report::new("memory", true, machine(), findings)
}

/// A run of the testbed, so much slower than usual.
fn guests(slower: f64) -> report::Report {
    let environment = Environment {
        date: "2001-02-04T05:06:07Z".into(),
        commit: "0123456789abcdef0123456789abcdef01234567".into(),
        modified: false,
        cpu: "A processor with 2 cores of 3.0 GHz".into(),
        cores: 2,
        memory_mib: 24_000,
        host: "Debian GNU/Linux 12".into(),
        host_kernel: "6.1.0".into(),
        accelerator: "TCG".into(),
        accelerator_reason: "there is no /dev/kvm".into(),
        qemu: "QEMU emulator version 11.1.3".into(),
        guest_kernel: "6.12.117".into(),
        guest_processors: 2,
        guest_memory_mib: 1024,
        guest_huge_pages: false,
        conditions: None,
        pinning: None,
        daemon: "vnic 0.1.0".into(),
        packages: BTreeMap::from([
            ("perftest".into(), "25.01".into()),
            ("rdma-core".into(), "56.1".into()),
        ]),
    };
    let settings = Settings {
        programs: Program::ALL.to_vec(),
        transports: vec![Transport::Vnic, Transport::Rxe, Transport::Tcp],
        sizes: Sizes::steps(),
        iterations: None,
        rounds: 3,
        repeat_all: false,
    };
    let mut report = report::Report::new(environment, settings);
    let mut add = |program, transport, bytes, values| {
        let mut one = Measurement::new(program, transport, bytes, 1000, values);
        let side = Side { user: 2e3, system: 1e3, interrupts: 50.0, vcpus: 4e3, qemu: 300.0 };
        let cpu = CpuTime { server: side, client: side, daemon: 900.0, scatter: 100.0 };
        one.cpu = program.map(|_| cpu);
        report.measurements.push(one);
    };
    let latency = |p50: f64| Values::Latency {
        min: p50 * 0.8,
        p50,
        average: p50,
        p99: p50 * 6.0,
        p999: None,
        max: p50 * 9.0,
    };
    let steps = Sizes::steps();
    for (transport, base) in
        [(Transport::Vnic, 32.0 * slower), (Transport::Rxe, 7000.0), (Transport::Tcp, 290.0)]
    {
        let of = |program| (transport != Transport::Tcp).then_some(program);
        let programs = [Program::WriteLat, Program::ReadLat, Program::SendLat];
        for (index, program) in
            programs.into_iter().enumerate().take(if transport == Transport::Tcp { 1 } else { 3 })
        {
            for bytes in steps.latency.iter().map(|bytes| {
                if transport == Transport::Tcp { (*bytes).clamp(14, (1 << 20) - 1) } else { *bytes }
            }) {
                add(
                    of(program),
                    transport,
                    bytes,
                    latency(base * (1.0 + index as f64 / 4.0) * (1.0 + bytes as f64 / 6e4)),
                );
            }
        }
        for (index, program) in [Program::WriteBw, Program::ReadBw, Program::SendBw]
            .into_iter()
            .enumerate()
            .take(if transport == Transport::Tcp { 1 } else { 3 })
        {
            for bytes in &steps.bandwidth {
                let average = 1e6 / base * (1.0 - index as f64 / 5.0) * *bytes as f64
                    / (*bytes as f64 + 9000.0);
                add(
                    of(program),
                    transport,
                    *bytes,
                    Values::Bandwidth { average, message_rate: None },
                );
            }
        }
    }
    for (transport, average) in [(Transport::Vnic, 373.0 * slower), (Transport::Rxe, 2710.0)] {
        add(Some(Program::RcPingpong), transport, 4096, Values::RoundTrip { average });
    }
    report.checks.push(Check {
        program: Program::RcPingpong,
        transport: Transport::Vnic,
        options: "-c".into(),
        contents_checked: true,
        result: "200 round trips of 4 KiB".into(),
    });
    report.notes.push("The guests' processors are emulated: compare columns with each other, not with other machines.".into());
    report.warnings.push("2.5 % of the processors' time was stolen".into());
    let goal = "ib_write_lat 8 B, median: rxe over vNIC";
    report.verdicts.push(Verdict::at_least(goal, Some(219.0), 10.0));
    report.seconds = 99.6;
    report.command = Some("cargo xtask testbed".into());
    report
}
