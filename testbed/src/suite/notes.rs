// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a reader must know about the numbers that are there, and about those that are not.

use super::Options;
use crate::{
    measure::{Kind, Transport, Values},
    report::Report,
    workload::tcp,
};

/// Fewer iterations than this have no 99th percentile of their own.
const PERCENTILE: u64 = 100;

pub(super) fn of(report: &Report, options: &Options) -> Vec<String> {
    let mut notes = Vec::new();
    if report.environment.accelerator == "TCG" {
        notes.push(
            "The guests' processors are emulated: compare columns with each other, not with other \
             machines."
                .into(),
        );
    }
    let bandwidth = options.programs.iter().any(|p| p.kind() == Kind::Bandwidth);
    if options.sweep && bandwidth {
        notes.push(
            "Bandwidths come from one run over all sizes. Those of small messages last \
             milliseconds, and a time slice lost to another program moves them; --full and --sizes \
             measure each size for longer."
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
