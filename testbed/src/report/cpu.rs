// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processor time of operations as a table.

use super::{
    Report,
    table::{self, MISSING, Style},
};
use crate::measure::{CpuTime, GOALS, Measurement, sizes};

/// Headings of the columns.
pub(crate) const HEADINGS: [&str; 13] = [
    "program",
    "size",
    "over",
    "server user",
    "system",
    "irq",
    "client user",
    "system",
    "irq",
    "server vCPUs",
    "client vCPUs",
    "QEMU",
    "daemon",
];

/// What the table shows.
pub const HEADING: &str = "CPU time per operation";

/// Explains the columns.
pub const LEGEND: &str = "\
All in microseconds. An operation is a message; of ib_write_lat and ib_send_lat, which take turns, one each way. The first \
six columns are the guests' own account, in ticks of 10 ms; \"vCPUs\" is what the host gave to the threads \
that run the guests' processors, for all of that; \"QEMU\" are its other threads of both guests, \"daemon\" \
all threads of the vNIC's daemon. The program's set-up is taken off, as a run of 5 iterations of the \
smallest size shows it; what is less than its scatter (50 ms a run) is shown as <.";

/// Draws the table, of the sizes that goals are about if they were measured; empty without numbers.
pub fn render(report: &Report, style: Style) -> String {
    table::draw(&HEADINGS, rows(report), style)
}

/// Each row, under its program.
pub(crate) fn rows(report: &Report) -> Vec<(String, Vec<String>)> {
    let all = report.measurements.iter().filter(|measurement| measurement.cpu.is_some());
    let all = all.collect::<Vec<_>>();
    let usual = |one: &&Measurement| GOALS.iter().any(|goal| goal.bytes == one.bytes);
    let shown = all.iter().copied().filter(usual).collect::<Vec<_>>();
    let mut shown = if shown.is_empty() { all } else { shown };
    // A size of one device below that of the other.
    shown.sort_by_key(|one| (one.program, one.bytes, one.transport));
    let rows = shown.iter().filter_map(|one| {
        let program = one.program?;
        Some((program.name().to_string(), cells(one, one.cpu.as_ref()?)))
    });
    rows.collect()
}

fn cells(measurement: &Measurement, cpu: &CpuTime) -> Vec<String> {
    let CpuTime { server, client, daemon, scatter } = *cpu;
    let time = |nanoseconds: f64| {
        let micros = |value: f64| table::number(value / 1e3);
        if nanoseconds < scatter { format!("<{}", micros(scatter)) } else { micros(nanoseconds) }
    };
    let mut cells = vec![
        measurement.program.map_or(MISSING.into(), |program| program.to_string()),
        sizes::text(measurement.bytes),
        measurement.transport.to_string(),
    ];
    let guests = [server, client].map(|side| [side.user, side.system, side.interrupts]);
    let host = [server.vcpus, client.vcpus, server.qemu + client.qemu, daemon];
    cells.extend(guests.into_iter().flatten().chain(host).map(time));
    cells
}
