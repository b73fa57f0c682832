// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pair of guests with each kernel, proved by rxe and TCP between them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use vnic_testbed::{
    Result,
    provision::{Provision, kernel::Series, workspace::Workspace},
    topology::{Pair, PairConfig},
    vm::Accelerator,
    workload::{perftest, rxe, tcp},
};

const LIMIT: Duration = Duration::from_secs(120);

#[test]
fn programs_run_between_guests_of_the_stable_kernel() -> Result<()> {
    between_guests(Series::Stable)
}

#[test]
fn programs_run_between_guests_of_the_backports_kernel() -> Result<()> {
    between_guests(Series::Backports)
}

fn between_guests(series: Series) -> Result<()> {
    // One pair already spins on every processor of a small machine.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let provision = Provision::prepare(Workspace::here())?;
    let kernel = provision.kernel(series)?;
    let image = provision.image(&kernel, &[])?;
    let accelerator = Accelerator::choose(&provision, &image)?;
    let pair = Pair::boot(&provision.qemu, &image, &PairConfig::new(accelerator))?;
    for guest in pair.guests() {
        assert_eq!(guest.run(["uname", "-r"], LIMIT)?.stdout_text().trim(), kernel.release);
    }

    let devices = rxe::set_up(&pair)?;
    let rows =
        perftest::latency(&pair, &devices, "ib_write_lat", &["-s", "8", "-n", "100"], LIMIT)?;
    let [row] = rows.as_slice() else { panic!("{rows:?}") };
    assert_eq!((row.bytes, row.iterations), (8, 100));
    assert!(0.0 < row.min && row.min <= row.p50 && row.p50 <= row.p99, "{row:?}");
    let rows =
        perftest::bandwidth(&pair, &devices, "ib_send_bw", &["-s", "65536", "-n", "50"], LIMIT)?;
    assert!(rows[0].average > 0.0, "{rows:?}");
    // A program that fails says why, and so does its server.
    let error = perftest::run(&pair, &devices, "ib_write_lat", &["--no-such-option"], LIMIT);
    assert!(error.unwrap_err().to_string().contains("no-such-option"));
    rxe::tear_down(&pair)?;

    let result = tcp::ping_pong(&pair, 64, 1)?;
    assert!(result.iterations > 0 && 0.0 < result.min && result.min <= result.p50, "{result:?}");
    Ok(())
}
