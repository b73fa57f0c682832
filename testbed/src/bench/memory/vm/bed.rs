// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One guest with a vNIC and rxe. A queue pair that is its own peer takes the same way through the
//! device as two in two guests do, and leaves a processor of a small machine to what is measured.

use std::{os::unix::net::UnixListener, path::Path, time::Duration};

use super::program::{Answer, PROGRAM};
use crate::{
    daemon::{Daemon, DaemonConfig},
    error::{Doing, Result, tail},
    guest::{Command, Guest},
    provision::{
        Provision,
        image::{Image, Overlay},
        kernel::Series,
        progress::Step,
    },
    topology::{ADDRESSES, NETDEV},
    vm::{Accelerator, Link, LinkSocket, RunDir, Vm, VmConfig},
    workload::{rdma::Device, rxe, vnic},
};

/// Memory of the guest in MiB: room for a pinned region of 1 GiB.
pub const MEMORY: u32 = 2048;

/// Swap space in MiB, of the disk and of the compressed memory.
const SWAP: u32 = 256;

/// The control group of a program whose memory is reclaimed.
pub const GROUP: &str = "/sys/fs/cgroup/bench";

/// Longest time of one call of the program.
const LIMIT: Duration = Duration::from_secs(120);

const NAME: &str = "bench";
const MAC: [u8; 6] = [0x52, 0x54, 0, 0x77, 1, 1];

/// Over what a program measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// The device of this project.
    Vnic,
    /// The kernel's RDMA in software, which pins.
    Rxe,
}

impl Over {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Vnic, Self::Rxe];

    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Vnic => "vNIC",
            Self::Rxe => "rxe",
        }
    }
}

/// The guest and what it needs.
#[derive(Debug)]
pub struct Bed {
    vm: Vm,
    daemon: Daemon,
    accelerator: Accelerator,
    release: String,
    devices: [Device; 2],
    /// The other end of the guest's network card: without one, the card has no link.
    _network: UnixListener,
    /// The last field: it must outlive what uses it.
    _run: RunDir,
}

impl Bed {
    /// Builds and boots it.
    ///
    /// # Errors
    /// When any of it fails.
    pub fn boot(provision: &Provision, series: Series, program: &Path) -> Result<Self> {
        let image = image(provision, series)?;
        let accelerator = Accelerator::choose(provision, &image)?;
        let what =
            format!("booting a guest with Linux {} under {accelerator}", image.kernel.release);
        let step = Step::start(what);
        let run = RunDir::new()?;
        let daemon = Daemon::start(&DaemonConfig::vnic(program), &run, &[(NAME, MAC)])?;
        let socket = run.socket("network")?;
        let network = UnixListener::bind(&socket).at("listen on", &socket)?;
        let mut config = VmConfig::new(NAME, accelerator);
        config.memory = MEMORY;
        config.hardware.disks = vec![SWAP];
        config.link = Some(Link { socket: LinkSocket::Unix(socket), serves: false, mac: MAC });
        config.vnics = daemon.ports().iter().map(|port| port.socket.clone()).collect();
        let vm = Vm::boot(&provision.qemu, &image, &run, &config)?;
        let devices = set_up(vm.guest())?;
        step.done();
        let release = image.kernel.release;
        Ok(Self { vm, daemon, accelerator, release, devices, _network: network, _run: run })
    }

    /// What the lane of this guest is called in reports.
    pub fn lane(&self) -> String {
        format!("guest of Linux {} under {}", self.release, self.accelerator)
    }

    /// The guest.
    pub fn guest(&self) -> &Guest {
        self.vm.guest()
    }

    /// Process id of the daemon.
    pub fn daemon(&self) -> u32 {
        self.daemon.pid()
    }

    fn device(&self, over: Over) -> &Device {
        match over {
            Over::Vnic => &self.devices[0],
            Over::Rxe => &self.devices[1],
        }
    }

    /// The program, told what to measure `times` times.
    pub fn program(&self, what: &str, over: Over, times: usize, arguments: &[&str]) -> Command {
        self.guest().command(self.words(what, over, times, arguments)).limit(LIMIT)
    }

    fn words(&self, what: &str, over: Over, times: usize, arguments: &[&str]) -> Vec<String> {
        let Device { name, gid_index } = self.device(over);
        let (index, times) = (gid_index.to_string(), times.to_string());
        let words = [PROGRAM, what, name, &index, &times];
        words.iter().chain(arguments).map(ToString::to_string).collect()
    }

    /// Runs the program to its end.
    ///
    /// # Errors
    /// When it fails, or prints what cannot be read.
    pub fn measure(
        &self,
        what: &str,
        over: Over,
        times: usize,
        arguments: &[&str],
    ) -> Result<Answer> {
        Answer::read(&self.program(what, over, times, arguments).run()?.stdout_text())
    }

    /// As [`measure`](Self::measure), in the control group [`GROUP`].
    ///
    /// # Errors
    /// As [`measure`](Self::measure).
    pub fn measure_in_group(
        &self,
        what: &str,
        over: Over,
        times: usize,
        arguments: &[&str],
    ) -> Result<Answer> {
        let join = format!("echo $$ >{GROUP}/cgroup.procs && exec \"$@\"");
        let words = ["/bin/sh", "-c", &join, "sh"].into_iter().map(String::from);
        let words = words.chain(self.words(what, over, times, arguments));
        let output = self.guest().command(words).limit(LIMIT).run()?;
        Answer::read(&output.stdout_text())
    }

    /// Calls `during` while the guest can swap to `/dev/DISK`, and to nothing else.
    ///
    /// # Errors
    /// Those of `during`, and when the guest refuses the disk.
    pub fn swapping<R>(&self, disk: &str, during: impl FnOnce() -> Result<R>) -> Result<R> {
        self.guest().shell(format!("swapon /dev/{disk}")).run()?;
        let result = during();
        self.guest().shell(format!("swapoff /dev/{disk}")).run()?;
        result
    }

    /// Shows the ends of the logs on standard error.
    pub fn show_logs(&self) {
        let dmesg = self.guest().dmesg().unwrap_or_default();
        for (name, text) in [("kernel of the guest", dmesg), ("vNIC daemon", self.daemon.log())] {
            eprintln!("--- {name}:\n{}", tail(&text, 40));
        }
    }
}

fn image(provision: &Provision, series: Series) -> Result<Image> {
    let kernel = provision.kernel(series)?;
    let mut overlays = provision.build_provider()?.overlays()?;
    for module in provision.build_kmod(&kernel)? {
        overlays.push(Overlay::module(&kernel, &module)?);
    }
    for program in provision.build_guest_programs()? {
        overlays.push(program.overlay()?);
    }
    provision.image(&kernel, &overlays)
}

fn set_up(guest: &Guest) -> Result<[Device; 2]> {
    let address = ADDRESSES[0];
    // Pages are swapped in one by one, as they are touched. Address space without memory behind it
    // is there for the asking.
    guest
        .shell(format!(
            "set -e; sysctl -qw net.ipv6.conf.{NETDEV}.accept_dad=0; \
             ip link set {NETDEV} up; ip addr add {address}/24 dev {NETDEV}; \
             echo 0 >/proc/sys/vm/page-cluster; echo 1 >/proc/sys/vm/overcommit_memory; \
             mount -t cgroup2 none /sys/fs/cgroup; \
             echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir {GROUP}; \
             modprobe -a zram virtio_blk; echo {SWAP}M >/sys/block/zram0/disksize; \
             for disk in zram0 vda; do mkswap /dev/$disk >/dev/null; done"
        ))
        .run()?;
    Ok([vnic::set_up_one(guest, address)?, rxe::set_up_one(guest, address)?])
}
