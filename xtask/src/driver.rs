// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask kmod`, `provider` and `image`: the guest's side, built without booting it.

use crate::tools;
use anyhow::Result;
use vnic_testbed::provision::Provision;
use vnic_testbed::provision::kernel::{Kernel, Series};
use vnic_testbed::provision::workspace::Workspace;

/// Which guest kernel.
#[derive(clap::Args)]
pub struct KernelArgs {
    /// Guest kernel: `stable` or `backports`; both if not given
    #[arg(long, value_name = "SERIES", value_parser = series)]
    kernel: Option<Series>,
}

impl KernelArgs {
    fn kernels(&self, provision: &Provision) -> Result<Vec<Kernel>> {
        let series = match self.kernel {
            Some(series) => vec![series],
            None => Series::ALL.to_vec(),
        };
        series.into_iter().map(|series| Ok(provision.kernel(series)?)).collect()
    }
}

fn series(name: &str) -> Result<Series, String> {
    let known = Series::ALL.into_iter().find(|series| series.to_string() == name);
    known.ok_or_else(|| "no such kernel; choose `stable` or `backports`".into())
}

fn prepare() -> Result<Provision> {
    Ok(Provision::prepare(Workspace::at(&tools::root()))?)
}

/// Builds the kernel module and says where it is.
pub fn kmod(args: &KernelArgs) -> Result<()> {
    let provision = prepare()?;
    for kernel in args.kernels(&provision)? {
        for module in provision.build_kmod(&kernel)? {
            println!("{}", module.display());
        }
    }
    Ok(())
}

/// Builds the provider and says where it is.
pub fn provider() -> Result<()> {
    println!("{}", prepare()?.build_provider()?.library.display());
    Ok(())
}

/// Builds guest images with module and provider in them and says where they are.
pub fn image(args: &KernelArgs) -> Result<()> {
    let provision = prepare()?;
    for kernel in args.kernels(&provision)? {
        let overlays = provision.guest_driver(&kernel)?;
        println!("{}", provision.image(&kernel, &overlays)?.initramfs.display());
    }
    Ok(())
}
