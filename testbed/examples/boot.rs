// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Provisions the machine, boots a pair of guests with each kernel and shows that they work.

use std::time::{Duration, Instant};

use vnic_testbed::{
    provision::{Provision, kernel::Series, workspace::Workspace},
    topology::{Pair, PairConfig},
    vm::Accelerator,
    workload::{perftest, rxe, tcp},
};

fn main() -> anyhow::Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    for series in Series::ALL {
        let kernel = provision.kernel(series)?;
        let image = provision.image(&kernel, &[])?;
        let accelerator = Accelerator::choose(&provision, &image)?;
        let since = Instant::now();
        let pair = Pair::boot(&provision.qemu, &image, &PairConfig::new(accelerator))?;
        println!(
            "{} under {accelerator}, {}: guests answer after {:.2} s and {:.2} s, configured after {:.2} s",
            kernel.release,
            provision.qemu.version,
            pair.left.boot_time().as_secs_f32(),
            pair.right.boot_time().as_secs_f32(),
            since.elapsed().as_secs_f32(),
        );
        for guest in pair.guests() {
            let output = guest
                .shell("uname -a; rdma link; ip -br addr; free -m")
                .limit(Duration::from_secs(20));
            print!("{}:\n{}", guest.name(), output.run()?.stdout_text());
        }
        let limit = Duration::from_secs(120);
        let devices = rxe::set_up(&pair)?;
        for guest in pair.guests() {
            print!("{}:\n{}", guest.name(), guest.run(["rdma", "link"], limit)?.stdout_text());
        }
        for (program, size) in [("ib_write_lat", "8"), ("ib_send_lat", "8"), ("ib_read_lat", "8")] {
            let arguments = ["-s", size, "-n", "1000"];
            println!(
                "{program}: {:?}",
                perftest::latency(&pair, &devices, program, &arguments, limit)?
            );
        }
        let arguments = ["-s", "65536", "-n", "500"];
        println!(
            "ib_write_bw: {:?}",
            perftest::bandwidth(&pair, &devices, "ib_write_bw", &arguments, limit)?
        );
        println!("tcp: {:?}", tcp::ping_pong(&pair, 14, 2)?);
    }
    Ok(())
}
