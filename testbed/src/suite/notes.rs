// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a reader must know about the numbers that are there, and about those that are not.

use super::Options;
use crate::{
    host::Over,
    measure::{GOALS, Goal, Kind, Transport, Values},
    report::Report,
    workload::tcp,
};

/// Fewer iterations than this have no 99th percentile of their own.
const PERCENTILE: u64 = 100;

pub(super) fn of(report: &Report, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    let emulated = report.environment.accelerator == "TCG";
    if emulated {
        notes.push(
            "The guests' processors are emulated: compare columns with each other, not with other \
             machines."
                .into(),
        );
    }
    if options.rxe || options.tcp {
        notes.push(
            "The guests' network cards are virtio-net as QEMU itself serves it, with a socket between \
             both; with vhost-net, which needs KVM and a bridge, rxe and TCP would be quicker."
                .into(),
        );
    }
    if !options.rxe {
        notes.push("rxe was left out, as asked.".into());
    }
    if !options.tcp {
        notes.push("TCP was left out, as asked.".into());
    } else if options
        .programs
        .iter()
        .any(|p| matches!(p.kind(), Kind::Latency | Kind::PingPong) && !p.compares_with_tcp())
    {
        notes.push(
            "TCP has no counterpart of READ, and its half round trips do not compare with the \
             mean whole ones of ibv_rc_pingpong."
                .into(),
        );
    }
    let latency = options.sizes.of(Kind::Latency);
    if options.needs_tcp(Kind::Latency)
        && latency.iter().any(|&bytes| tcp::stand_in(bytes) != Some(bytes))
    {
        notes.push(format!(
            "The messages of sockperf have {} to {} bytes: the smallest stand for all smaller \
             sizes, the largest for 1 MiB, and none for more.",
            tcp::BYTES.start(),
            tcp::BYTES.end(),
        ));
    }
    if report.measurements.iter().any(|measurement| measurement.cpu.is_some()) {
        notes.push(
            "Programs of perftest that wait for a message poll for it, and use all of a processor by \
             design: their processor time is the time that passes. ib_write_bw and ib_read_bw poll on \
             the client's side only."
                .into(),
        );
        if options.programs.iter().any(|program| program.kind() == Kind::Latency) {
            notes.push(
                "Latency programs sort all their times in the end, which the client's time contains."
                    .into(),
            );
        }
        if emulated {
            notes.push(
                "Host time of the guests' processors is mostly that of emulation, which is many times \
                 that of real ones; that of QEMU's other threads and of the daemon is real. An emulated \
                 guest is not told of time that the host gave to others, and counts it as its own: where \
                 the host has fewer processors than busy threads, a guest's time exceeds that of its vCPUs."
                    .into(),
            );
        }
    }
    let undecided = GOALS.iter().filter(|goal| !options.decides(goal));
    let undecided = undecided.map(Goal::text).collect::<Vec<_>>();
    if !undecided.is_empty() {
        let undecided = undecided.join("; ");
        notes.push(format!("Not asked for, and so not decided, are these goals: {undecided}."));
    }
    notes.extend(report.over.as_ref().map(Over::note));
    let few = report.measurements.iter().any(|measurement| {
        matches!(measurement.values, Values::Latency { .. }) && measurement.iterations < PERCENTILE
    });
    if few {
        notes.push(format!(
            "The 99th percentile of fewer than {PERCENTILE} iterations is the slowest of them; \
             report.json tells the iterations of each number."
        ));
    }
    if report.measurements.iter().any(|m| m.transport != Transport::Tcp && m.values.p99().is_some())
    {
        notes.push(
            "perftest has no option that checks contents; ibv_rc_pingpong -c does, a byte of every \
             page."
                .into(),
        );
    }
    notes
}
