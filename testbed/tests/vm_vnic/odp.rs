// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What programs ask of memory regions: that they change, are everything, and come before their use.
//!
//! The left guest's port allows regions over a whole address space, the right one's does not.

use anyhow::{Context, Result, ensure};
use vnic_testbed::{
    daemon::DaemonConfig,
    guest::Guest,
    provision::kernel::Series,
    topology::PairConfig,
    workload::{rdma::Device, vnic},
};

use crate::{
    bed::{Bed, LIMIT, kernel_is_content, with_pair_of},
    counters::{nothing_is_held, of_module},
};

/// The program that asks, in the guests.
const PROGRAM: &str = "vnic-regions";

/// `IBV_ODP_SUPPORT`.
const SUPPORTED: u64 = 1;
/// `IBV_ODP_SUPPORT_IMPLICIT`.
const IMPLICIT: u64 = 2;
/// SEND, RECV, WRITE, READ and ATOMIC.
const RELIABLE: u64 = 0b1_1111;
/// Bytes of a region without `IMPLICIT`.
const LONGEST: u64 = 1 << 44;

pub fn is_what_programs_ask_for(series: Series) -> Result<()> {
    let settings = |name: &str| if name == "left" { "implicit_mr=true" } else { "" };
    let allow = |config: &mut PairConfig| {
        if let Some(daemon) = &mut config.daemon {
            *daemon = DaemonConfig::vnic_with(&daemon.program, settings);
        }
    };
    with_pair_of(series, allow, |bed| {
        let devices = bed.load()?;
        what_the_device_says(bed, &devices)?;
        for (guest, device) in bed.pair.guests().into_iter().zip(&devices) {
            for case in ["by-iova", "forks", "dmabuf", "change", "advise"] {
                run(guest, device, case)?;
            }
        }
        run(bed.left(), &devices[0], "implicit-works")?;
        run(bed.right(), &devices[1], "implicit-refused")?;
        advice_saves_page_requests(bed, &devices[0])?;
        programs_go_with_advice_under_way(bed, &devices[0])?;
        nothing_is_held(bed, 0)?;
        nothing_is_held(bed, 1)
    })
}

fn run(guest: &Guest, device: &Device, case: &str) -> Result<String> {
    let gid = device.gid_index.to_string();
    let ended = guest.run([PROGRAM, &device.name, &gid, case], LIMIT);
    Ok(ended.with_context(|| format!("{case} in guest {}", guest.name()))?.stdout_text())
}

/// To programs by `ibv_query_device_ex`, and to people by `ibv_devinfo`.
fn what_the_device_says(bed: &Bed, devices: &[Device; 2]) -> Result<()> {
    let sides = [(SUPPORTED | IMPLICIT, u64::MAX), (SUPPORTED, LONGEST)];
    for ((guest, device), (general, size)) in bed.pair.guests().into_iter().zip(devices).zip(sides)
    {
        let told = run(guest, device, "capabilities")?;
        let wanted = format!("general={general:#x} rc={RELIABLE:#x} uc=0 ud=0 size={size:#x}\n");
        ensure!(told == wanted, "guest {}: {told}, not {wanted}", guest.name());

        let info = guest.run(["ibv_devinfo", "-v", "-d", &device.name], LIMIT)?.stdout_text();
        let says = |line: &str| info.lines().any(|found| found.trim() == line);
        ensure!(says("ODP_SUPPORT"), "{info}");
        ensure!(says("ODP_SUPPORT_IMPLICIT") == (general & IMPLICIT != 0), "{info}");
        ensure!(info.contains(&format!("max_mr_size:\t\t\t{size:#x}")), "{info}");
        for right in ["SEND", "RECV", "WRITE", "READ", "ATOMIC"] {
            ensure!(says(&format!("SUPPORT_{right}")), "{right}: {info}");
        }
    }
    Ok(())
}

/// With advice the device misses nothing; without it, the same program shows that misses are counted.
fn advice_saves_page_requests(bed: &Bed, device: &Device) -> Result<()> {
    let count = |case: &str| {
        let before = (bed.status()?.port(0).count("page_requests")?, of_module(bed.left())?);
        run(bed.left(), device, case)?;
        let after = (bed.status()?.port(0).count("page_requests")?, of_module(bed.left())?);
        let more = |name: &str| after.1[name] - before.1[name];
        Ok::<_, anyhow::Error>((after.0 - before.0, more("fault_pages"), more("advised_pages")))
    };
    let (requests, faults, advised) = count("advised-write")?;
    ensure!(requests == 0 && faults == 0, "{requests} page requests for {faults} pages");
    ensure!(advised == 512, "{advised} pages have come by advice");
    let (requests, faults, advised) = count("unadvised-write")?;
    ensure!(requests > 0 && faults >= 512, "{requests} page requests for {faults} pages");
    ensure!(advised == 0, "{advised} pages have come by advice");
    Ok(())
}

/// Programs that do not wait for what they asked for, and then the module.
fn programs_go_with_advice_under_way(bed: &Bed, device: &Device) -> Result<()> {
    for _ in 0..5 {
        run(bed.left(), device, "advise-and-go")?;
    }
    nothing_is_held(bed, 0)?;
    run(bed.left(), device, "advise-and-go")?;
    bed.left().run(["modprobe", "-r", vnic::MODULE], LIMIT)?;
    kernel_is_content(bed.left())?;
    bed.load().map(drop)
}
