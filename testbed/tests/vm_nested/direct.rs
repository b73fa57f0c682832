// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Stock programs in a guest against stock programs on bare verbs, which know nothing of the daemon.

use anyhow::{Result, ensure};
use vnic_testbed::{
    lab::GuestOfHost,
    provision::{Provision, kernel::Series, workspace::Workspace},
    workload::{perftest, pingpong},
};

use super::{LIMIT, plan, shown};

/// Programs of perftest; READs are few at a time, as an rxe answers fewer than a vNIC may ask for.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("ib_write_lat", &["-s", "8", "-n", "50"]),
    ("ib_read_bw", &["-s", "65536", "-n", "20", "-o", "4"]),
    ("ib_send_lat", &["-s", "64", "-n", "50"]),
];

#[test]
fn a_guest_reaches_bare_verbs_with_pages_that_stay() -> Result<()> {
    reaches_bare_verbs("", false, "pinned: yes")
}

#[test]
fn a_guest_reaches_bare_verbs_with_nothing_pinned() -> Result<()> {
    reaches_bare_verbs("odp = 'trust'\n", true, "pinned: no")
}

/// With an rxe that pages on demand as it should, if it is to be `mended`; the daemon logs `said`.
fn reaches_bare_verbs(settings: &str, mended: bool, said: &str) -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let mut programs = super::daemon()?;
    if mended {
        programs.push(provision.mended_rxe(&provision.kernel(Series::Backports)?)?);
    }
    let bed = GuestOfHost::boot(&provision, &programs, settings, &plan(&provision)?)?;
    shown(stock_programs(&bed), || bed.logs())?;
    let log = bed.daemon().log()?;
    ensure!(log.contains(said), "{log}");
    Ok(())
}

fn stock_programs(bed: &GuestOfHost) -> Result<()> {
    let ends = bed.ends();
    for (program, arguments) in PROGRAMS {
        let said = perftest::between(ends, program, arguments, LIMIT)?;
        eprintln!("{}", said.stdout_text());
        ensure!(said.stdout_text().contains("#bytes"), "{program} has printed no figures");
    }
    let options = pingpong::Options { bytes: 16_384, iterations: 50, check: true, events: false };
    let trips = pingpong::between(ends, &options, LIMIT)?;
    ensure!(trips.iterations == 50, "{trips:?}");
    Ok(())
}
