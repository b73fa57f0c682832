// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Boots machines that play hosts, with programs that were built outside.

use crate::{
    error::Result,
    guest::{Guest, Place},
    provision::{
        Provision,
        image::{Image, Overlay},
        kernel::Series,
    },
    topology::{Pair, PairConfig},
    vm::{Accelerator, Nest, RunDir, Vm, VmConfig},
    workload::{end::End, rxe},
};

/// MiB of memory of a host: its guests' memory is in it.
const MEMORY: u32 = 2048;

/// One host, killed when it is dropped.
#[derive(Debug)]
pub struct HostVm {
    vm: Vm,
    /// The last field: it must outlive what uses it.
    run: RunDir,
}

impl HostVm {
    /// Boots one with the newer kernel, two processors, 2 GiB of memory, no network, and `programs` over the image.
    /// Programs of an older Debian run in it.
    ///
    /// # Errors
    /// When a program cannot be read or needs a library that the root lacks, or the machine does not start.
    pub fn boot(provision: &Provision, programs: &[Overlay]) -> Result<Self> {
        Self::boot_with(provision, programs, None)
    }

    /// As [`boot`](Self::boot), with what it takes to have a guest of its own, if there is a `nest`.
    ///
    /// # Errors
    /// As [`boot`](Self::boot).
    pub(super) fn boot_with(
        provision: &Provision,
        programs: &[Overlay],
        nest: Option<&Nest>,
    ) -> Result<Self> {
        let run = RunDir::new()?;
        let (image, accelerator) = prepare(provision, programs, &run)?;
        let mut config = VmConfig::new("host", accelerator);
        config.memory = MEMORY;
        nest.map_or(Ok(()), |nest| nest.equip(&run, &mut config))?;
        let vm = Vm::boot(&provision.qemu, &image, &run, &config)?;
        Ok(Self { vm, run })
    }

    /// The inside.
    pub fn guest(&self) -> &Guest {
        self.vm.guest()
    }

    /// The network namespace that the machine starts with.
    pub fn place(&self) -> Place {
        Place::of(self.guest())
    }

    /// Where its sockets and logs are.
    pub(super) fn run(&self) -> &RunDir {
        &self.run
    }

    /// The machine.
    pub fn vm(&self) -> &Vm {
        &self.vm
    }
}

/// Boots two hosts like [`HostVm`] with a network between them and an rxe device on it in both, named `rxe0`.
///
/// # Errors
/// As [`HostVm::boot`], and when a device does not become active.
pub fn two_hosts(provision: &Provision, programs: &[Overlay]) -> Result<(Pair, [End; 2])> {
    two_hosts_with(provision, programs, MEMORY, None)
}

/// As [`two_hosts`], each with so many MiB of memory, and with what it takes to have a guest of its own, if there is a `nest`.
///
/// # Errors
/// As [`two_hosts`].
pub(super) fn two_hosts_with(
    provision: &Provision,
    programs: &[Overlay],
    memory: u32,
    nest: Option<Nest>,
) -> Result<(Pair, [End; 2])> {
    // Needed until QEMU has read the image.
    let run = RunDir::new()?;
    let (image, accelerator) = prepare(provision, programs, &run)?;
    let mut config = PairConfig::new(accelerator);
    config.memory = memory;
    config.nest = nest;
    let pair = Pair::boot(&provision.qemu, &image, &config)?;
    let devices = rxe::set_up(&pair)?;
    let ends = End::of_pair(&pair, &devices);
    Ok((pair, ends))
}

fn prepare(
    provision: &Provision,
    programs: &[Overlay],
    run: &RunDir,
) -> Result<(Image, Accelerator)> {
    let image = provision.image(&provision.kernel(Series::Backports)?, &[])?;
    let accelerator = Accelerator::choose(provision, &image)?;
    Ok((provision.attach(&image, programs, run)?, accelerator))
}
