// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Programs of Debian's packages, as they are.

use anyhow::{Result, ensure};
use vnic_testbed::{
    provision::kernel::Series,
    workload::{
        perftest,
        pingpong::{self, Options},
        rdma::Device,
    },
};

use crate::{
    bed::{Bed, LIMIT, with_pair, with_pair_of},
    counters::nothing_is_held,
};

pub fn run_unmodified(series: Series) -> Result<()> {
    with_pair(series, "", |bed| {
        let devices = bed.load()?;
        for (guest, device) in bed.pair.guests().into_iter().zip(&devices) {
            let text = guest.run(["ibv_devinfo", "-v", "-d", &device.name], LIMIT)?.stdout_text();
            ensure!(text.contains("PORT_ACTIVE") && text.contains("Ethernet"), "{text}");
        }

        ping_pong_and_latencies(bed, &devices)?;
        let before = bed.status()?;
        for program in ["ib_write_bw", "ib_read_bw", "ib_send_bw"] {
            let arguments = ["-s", "65536", "-n", "50"];
            let rows = perftest::bandwidth(&bed.pair, &devices, program, &arguments, LIMIT)?;
            ensure!(rows.len() == 1 && rows[0].average > 0.0, "{program}: {rows:?}");
        }
        // It went through the daemon and through nothing else: the client's side asked for it all.
        let bytes = |status: &crate::counters::Status| status.port(1).count("bytes");
        let carried = bytes(&bed.status()?)? - bytes(&before)?;
        ensure!(carried >= 3 * 50 * 65536, "the daemon has carried {carried} bytes only");
        nothing_is_held(bed, 0)?;
        nothing_is_held(bed, 1)
    })
}

fn ping_pong_and_latencies(bed: &Bed, devices: &[Device; 2]) -> Result<()> {
    for (bytes, check, events) in
        [(4096, true, false), (4096, true, true), (1 << 20, true, false), (8, false, true)]
    {
        let options = Options { bytes, iterations: 30, check, events };
        let trips = pingpong::run(&bed.pair, devices, &options, LIMIT)?;
        ensure!(trips.iterations == 30, "{trips:?}");
    }

    for program in ["ib_write_lat", "ib_read_lat", "ib_send_lat"] {
        let arguments = ["-s", "64", "-n", "50"];
        let rows = perftest::latency(&bed.pair, devices, program, &arguments, LIMIT)?;
        let [row] = rows.as_slice() else { anyhow::bail!("{program}: {rows:?}") };
        ensure!((row.bytes, row.iterations) == (64, 50), "{program}: {row:?}");
    }
    Ok(())
}

/// The same programs, with a daemon for each guest and a wire between them.
pub fn run_over_a_wire(series: Series) -> Result<()> {
    with_pair_of(
        series,
        |config| config.wire = true,
        |bed| {
            let devices = bed.load()?;
            bed.is_linked()?;
            ping_pong_and_latencies(bed, &devices)?;
            for program in ["ib_write_bw", "ib_read_bw", "ib_send_bw"] {
                let arguments = ["-s", "65536", "-n", "50"];
                let rows = perftest::bandwidth(&bed.pair, &devices, program, &arguments, LIMIT)?;
                ensure!(rows.len() == 1 && rows[0].average > 0.0, "{program}: {rows:?}");
            }
            Ok(())
        },
    )
}
