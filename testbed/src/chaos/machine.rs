// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The guests of a case: what they are made of, and how they are readied once they run.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{case::Shape, run::Wire};
use crate::{
    counters::Status,
    daemon::DaemonConfig,
    error::Result,
    guest::Guest,
    lab::{GuestPlan, GuestsOfHosts, PROGRAM},
    provision::{
        Provision,
        image::{Image, Overlay},
        kernel::{Kernel, Series},
    },
    topology::{Pair, PairConfig},
    vm::{
        Accelerator, Hardware, Hotplug, Node, Vm,
        hardware::{DISK_MODULES, prepare_pmem},
    },
    workload::{rdma::Device, vnic},
};

/// Memory of the guests whose buffers are larger than that.
pub(super) const SMALL_MIB: u32 = 512;

/// The control group that the programs run in.
pub(super) const GROUP: &str = "/sys/fs/cgroup/chaos";

/// Free pages are filled with a pattern that is checked when they are used again, so that whoever
/// writes into memory that is not his any more is found out.
const ARGUMENTS: &str = "page_poison=1 log_buf_len=4M";

const LIMIT: Duration = Duration::from_secs(90);

/// What one kernel's guests boot, and how.
pub(super) struct Blueprint {
    pub kernel: Kernel,
    image: Image,
    accelerator: Accelerator,
    daemon: PathBuf,
    wire: Wire,
}

impl Blueprint {
    /// Builds driver, programs and image for a kernel.
    pub(super) fn draw(
        provision: &Provision,
        series: Series,
        daemon: &Path,
        wire: &Wire,
    ) -> Result<Self> {
        let kernel = provision.kernel(series)?;
        let mut overlays = provision.guest_driver(&kernel)?;
        for program in provision.build_guest_programs()? {
            overlays.push(program.overlay()?);
        }
        let image = provision.image(&kernel, &overlays)?;
        let accelerator = Accelerator::choose(provision, &image)?;
        Ok(Self { kernel, image, accelerator, daemon: daemon.into(), wire: wire.clone() })
    }

    fn config(&self, shape: Shape) -> PairConfig {
        let mut config = PairConfig::new(self.accelerator);
        config.daemon = Some(DaemonConfig::vnic(&self.daemon));
        config.wire = self.wire == Wire::Tcp;
        config.kernel_arguments = ARGUMENTS.into();
        match shape {
            Shape::Usual => {
                config.hardware = Hardware {
                    nodes: vec![Node::fast(640, 1), Node::fast(384, 1), Node::slow(384)],
                    hotplug: Some(Hotplug { slots: 4, room: 512 }),
                    nvdimms: vec![256],
                    disks: vec![1024, 512],
                };
            }
            Shape::Gigantic => {
                // Its upper half lies above 4 GiB; the kernel itself takes some from the end of that.
                config.memory = 4 << 10;
                config.kernel_arguments += " hugepagesz=1G hugepages=1";
            }
            Shape::Small => {
                config.memory = SMALL_MIB;
                config.hardware.disks = vec![5 * SMALL_MIB];
            }
        }
        config
    }
}

/// A pair of guests that is ready for cases.
pub(super) struct Machines {
    pub shape: Shape,
    bed: Bed,
}

/// Where the guests are.
enum Bed {
    /// On this machine, with the daemon of this program.
    Here { pair: Box<Pair>, devices: [Device; 2], daemon: PathBuf },
    /// Inside two hosts.
    Inside(Box<GuestsOfHosts>),
}

impl Machines {
    pub(super) fn boot(provision: &Provision, plan: &Blueprint, shape: Shape) -> Result<Self> {
        let config = plan.config(shape);
        if let Wire::Rxe(daemon) = &plan.wire {
            let programs = [Overlay::host(PROGRAM, daemon)?];
            let guests = GuestPlan {
                image: plan.image.clone(),
                memory: config.memory,
                hardware: Hardware { hotplug: None, ..config.hardware },
                kernel_arguments: config.kernel_arguments,
            };
            let guests = GuestsOfHosts::boot(provision, &programs, &guests)?;
            for guest in guests.guests() {
                ready(guest, shape)?;
            }
            return Ok(Self { shape, bed: Bed::Inside(Box::new(guests)) });
        }
        let pair = Pair::boot(&provision.qemu, &plan.image, &config)?;
        for guest in pair.guests() {
            ready(guest, shape)?;
        }
        let devices = vnic::set_up(&pair)?;
        pair.wait_for_the_wire(&plan.daemon, LIMIT)?;
        let (pair, daemon) = (Box::new(pair), plan.daemon.clone());
        Ok(Self { shape, bed: Bed::Here { pair, devices, daemon } })
    }

    /// Both guests, the left first.
    pub(super) fn guests(&self) -> [&Guest; 2] {
        match &self.bed {
            Bed::Here { pair, .. } => pair.guests(),
            Bed::Inside(guests) => guests.guests(),
        }
    }

    /// Their vNICs.
    pub(super) fn devices(&self) -> &[Device; 2] {
        match &self.bed {
            Bed::Here { devices, .. } => devices,
            Bed::Inside(guests) => guests.devices(),
        }
    }

    /// The machines, if their hardware can be changed from here.
    pub(super) fn vms(&self) -> Option<[&Vm; 2]> {
        match &self.bed {
            Bed::Here { pair, .. } => Some([&pair.left, &pair.right]),
            Bed::Inside(_) => None,
        }
    }

    /// What the daemons say of their ports.
    pub(super) fn status(&self) -> Result<Status> {
        match &self.bed {
            Bed::Here { pair, daemon, .. } => Status::ask(daemon, pair),
            Bed::Inside(guests) => Status::joined(guests.status()?),
        }
    }

    /// What consoles and daemons have logged, by name.
    pub(super) fn logs(&self) -> Vec<(String, String)> {
        match &self.bed {
            Bed::Here { pair, .. } => pair.logs(),
            Bed::Inside(guests) => guests.logs(),
        }
    }
}

/// Control group, file systems, and nothing that disturbs anybody yet.
fn ready(guest: &Guest, shape: Shape) -> Result<()> {
    let mut script = format!(
        "set -e\n\
         dmesg | grep -q 'PAGE_POISONING is on'\n\
         mount -t cgroup2 none /sys/fs/cgroup\n\
         echo +memory +cpuset >/sys/fs/cgroup/cgroup.subtree_control\n\
         mkdir {GROUP}\n\
         echo 0 >/proc/sys/kernel/numa_balancing\n"
    );
    if shape != Shape::Gigantic {
        script += &format!("modprobe -a {}\n", DISK_MODULES.join(" "));
    }
    if shape == Shape::Usual {
        prepare_pmem(guest)?;
        script += "modprobe -a ext4\n\
             mkdir -p /mnt/pmem /mnt/disk\n\
             mke2fs -b 4096 /dev/pmem0 >/dev/null\n\
             mke2fs -b 4096 /dev/vdb >/dev/null\n\
             mount -t ext4 -o dax=always /dev/pmem0 /mnt/pmem\n\
             mount -t ext4 /dev/vdb /mnt/disk\n";
    }
    guest.shell(script).limit(LIMIT).run()?;
    Ok(())
}
