// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The plots of a run of the testbed: each program by size, then how many times better the vNIC is.

use super::{Line, Plot, Point, Scale, Shape, axis::Quantity};
use crate::{
    bench::Unit,
    measure::{Kind, Measurement, Program, Transport, Values},
    report::{Report, table},
};

/// Nanoseconds of the unit in which programs tell times.
const MICRO: f64 = 1e3;

/// Bytes of the unit in which programs tell bandwidths.
const MEBI: f64 = (1 << 20) as f64;

/// All that can be plotted.
pub fn plots(report: &Report) -> Vec<Plot> {
    let programs = report.settings.programs.iter().copied();
    let mut plots =
        programs.filter_map(|program| program_plot(report, program)).collect::<Vec<_>>();
    for kind in [Kind::Latency, Kind::Bandwidth] {
        plots.extend(
            [Transport::Rxe, Transport::Tcp]
                .map(|other| ratios(report, kind, other))
                .into_iter()
                .flatten(),
        );
    }
    plots
}

fn program_plot(report: &Report, program: Program) -> Option<Plot> {
    let (unit, name, note) = match program.kind() {
        Kind::Latency => (Unit::Nanoseconds, "time", "Medians; in dashes, 99th percentiles."),
        Kind::Bandwidth => (Unit::BytesPerSecond, "bandwidth", ""),
        Kind::Show | Kind::PingPong => return None,
    };
    let mut lines = Vec::new();
    for transport in [Transport::Vnic, Transport::Rxe, Transport::Tcp] {
        let found = table::of(report, program, transport);
        let line = |variant: &str, value: fn(&Values) -> Option<f64>| Line {
            device: transport.to_string(),
            variant: variant.into(),
            points: points(&found, |m| value(&m.values)),
        };
        match program.kind() {
            Kind::Latency => {
                lines.push(line("p50", |values| Some(values.primary() * MICRO)));
                lines.push(line("p99", |values| Some(values.p99()? * MICRO)));
            }
            _ => lines.push(line("", |values| Some(values.primary() * MEBI))),
        }
    }
    lines.retain(|line| !line.points.is_empty());
    let several = lines.iter().any(|line| line.points.len() > 1);
    let shape = Shape::Lines {
        x: Scale { name: "size of a message".into(), quantity: Quantity::Size },
        y: Scale { name: name.into(), quantity: Quantity::Unit(unit) },
        lines,
        level: None,
    };
    several.then(|| Plot { title: program.to_string(), note: note.into(), shape })
}

fn points(
    found: &[(u64, &Measurement)],
    value: impl Fn(&Measurement) -> Option<f64>,
) -> Vec<Point> {
    let points = found.iter().filter_map(|(bytes, measurement)| {
        let y = value(measurement).filter(|value| value.is_finite())?;
        Some(Point { x: *bytes as f64, y, half: None })
    });
    points.collect()
}

fn ratios(report: &Report, kind: Kind, other: Transport) -> Option<Plot> {
    let programs =
        report.settings.programs.iter().copied().filter(|program| program.kind() == kind);
    let lines = programs.map(|program| {
        let vnic = table::of(report, program, Transport::Vnic);
        let theirs = table::of(report, program, other);
        let both = vnic.iter().filter_map(|(bytes, vnic)| {
            let (_, theirs) = theirs.iter().find(|(size, _)| size == bytes)?;
            let times = table::times_better(vnic, theirs)?;
            (times.is_finite() && times > 0.0).then_some(Point {
                x: *bytes as f64,
                y: times,
                half: None,
            })
        });
        Line { device: program.to_string(), variant: String::new(), points: both.collect() }
    });
    let lines = lines.filter(|line| !line.points.is_empty()).collect::<Vec<_>>();
    let several = lines.iter().any(|line| line.points.len() > 1);
    let what = if kind == Kind::Latency { "latency" } else { "bandwidth" };
    let shape = Shape::Lines {
        x: Scale { name: "size of a message".into(), quantity: Quantity::Size },
        y: Scale { name: format!("times better than {other}"), quantity: Quantity::Plain },
        lines,
        level: Some(1.0),
    };
    several.then(|| Plot {
        title: format!("vNIC against {other}: {what}"),
        note: format!("Above the dotted line the vNIC is better than {other}."),
        shape,
    })
}
