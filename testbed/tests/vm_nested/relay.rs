// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stock programs in guests of two hosts reach each other over a wire of rxe, and hear of it when the device goes.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use vnic_testbed::{
    lab::{Counters, GuestsOfHosts},
    provision::{Provision, workspace::Workspace},
    workload::{perftest, pingpong},
};

use super::{LIMIT, daemon, plan, port, shown};

#[test]
fn stock_programs_run_between_guests_of_two_hosts() -> Result<()> {
    let since = Instant::now();
    let provision = Provision::prepare(Workspace::here())?;
    let bed = GuestsOfHosts::boot(&provision, &daemon()?, &plan(&provision)?)?;
    eprintln!("{:?} until both guests have their devices", since.elapsed());
    for machine in bed.machines() {
        eprintln!("{} booted in {:?}", machine.guest().name(), machine.boot_time());
    }
    shown(run(&bed), || bed.logs())
}

fn run(bed: &GuestsOfHosts) -> Result<()> {
    let ends = bed.ends();
    let before = sent(bed)?;
    let said = perftest::between(&ends, "ib_write_lat", &["-s", "8", "-n", "200"], LIMIT)?;
    let rows = perftest::parse_latency("ib_write_lat", &said.stdout_text())?;
    ensure!(rows.len() == 1 && rows[0].iterations == 200 && rows[0].p50 > 0.0, "{rows:?}");
    eprintln!("ib_write_lat: {rows:?}");
    let said = perftest::between(&ends, "ib_read_bw", &["-s", "65536", "-n", "50"], LIMIT)?;
    let rows = perftest::parse_bandwidth("ib_read_bw", &said.stdout_text())?;
    ensure!(rows.len() == 1 && rows[0].iterations == 50 && rows[0].average > 0.0, "{rows:?}");
    eprintln!("ib_read_bw: {rows:?}");
    let options = pingpong::Options { bytes: 16_384, iterations: 100, check: true, events: false };
    let trips = pingpong::between(&ends, &options, LIMIT)?;
    ensure!(trips.iterations == 100, "{trips:?}");
    eprintln!("ibv_rc_pingpong: {trips:?}");
    // It went over the hosts' devices.
    let grown = sent(bed)? - before;
    eprintln!("{grown} packets of the hosts' devices");
    ensure!(grown > 500, "the hosts' devices have sent {grown} packets");

    port::goes_and_comes_back(bed)?;
    let trips = pingpong::between(&ends, &options, LIMIT)?;
    ensure!(trips.iterations == 100, "{trips:?}");
    Ok(())
}

/// Packets that the hosts' devices have sent.
fn sent(bed: &GuestsOfHosts) -> Result<u64> {
    let mut sum = 0;
    for host in bed.hosts().guests() {
        let counters = Counters::read(host, "rxe0")?;
        sum += counters.get("sent_pkts").context("rxe counts what it sends")?;
    }
    Ok(sum)
}
