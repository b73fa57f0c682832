// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guests that see each other.

mod pinning;
mod wire;

use std::time::Duration;

pub use self::pinning::{Pin, Pinning};
use crate::{
    daemon::{Daemon, DaemonConfig},
    error::Result,
    guest::Guest,
    host::pages::Pages,
    provision::{image::Image, qemu::Qemu},
    vm::{Accelerator, Hardware, Link, LinkSocket, Nest, RunDir, Vm, VmConfig},
};

/// Longest time for one step of a guest's set-up.
const LIMIT: Duration = Duration::from_secs(30);

/// The network card that every guest of a topology has.
pub const NETDEV: &str = "eth0";

/// IPv4 addresses of the two guests of a pair, on [`NETDEV`].
pub const ADDRESSES: [&str; 2] = ["10.77.0.1", "10.77.0.2"];

const NAMES: [&str; 2] = ["left", "right"];
const MACS: [[u8; 6]; 2] = [[0x52, 0x54, 0, 0x77, 0, 1], [0x52, 0x54, 0, 0x77, 0, 2]];

/// The choices for a pair.
#[derive(Debug, Clone)]
pub struct PairConfig {
    /// How the processors run.
    pub accelerator: Accelerator,
    /// Memory of each guest in MiB.
    pub memory: u32,
    /// Processors of each guest.
    pub processors: u32,
    /// Whether that memory is of huge pages, which the host must have set aside.
    pub huge_pages: bool,
    /// Nodes, sockets, persistent memory and disks of each guest.
    pub hardware: Hardware,
    /// The daemon that gives each guest a vNIC, if there is to be one.
    pub daemon: Option<DaemonConfig>,
    /// Whether each guest has a daemon of its own, of that program, with a wire between them.
    pub wire: bool,
    /// Modules to load in both guests once their network is up.
    pub modules: Vec<String>,
    /// Added to the kernel's command line.
    pub kernel_arguments: String,
    /// What each guest has for one inside it, if it is to have one.
    pub nest: Option<Nest>,
}

impl PairConfig {
    /// Guests of two processors and 1 GiB, without a vNIC.
    pub fn new(accelerator: Accelerator) -> Self {
        Self {
            accelerator,
            memory: 1024,
            processors: 2,
            huge_pages: false,
            hardware: Hardware::default(),
            daemon: None,
            wire: false,
            modules: Vec::new(),
            kernel_arguments: String::new(),
            nest: None,
        }
    }
}

/// Two guests with a virtio network between them, and a vNIC each if a daemon serves them.
#[derive(Debug)]
pub struct Pair {
    /// The guest with the first of [`ADDRESSES`].
    pub left: Vm,
    /// The guest with the second.
    pub right: Vm,
    /// The daemon, if there is one.
    pub daemon: Option<Daemon>,
    /// That of the right guest, if it has its own.
    pub other: Option<Daemon>,
    /// Sockets and logs. The last field: it must outlive what uses them.
    pub run: RunDir,
}

impl Pair {
    /// Boots both guests at once, gives them their addresses and loads their modules.
    ///
    /// # Errors
    /// When a guest or the daemon does not start; the error shows what they logged. When there are too few
    /// huge pages, if they are asked for.
    pub fn boot(qemu: &Qemu, image: &Image, config: &PairConfig) -> Result<Self> {
        if config.huge_pages {
            Pages::look()?.ensure(&[config.hardware.memory(config.memory); NAMES.len()])?;
        }
        let run = RunDir::new()?;
        let guests = [(NAMES[0], MACS[0]), (NAMES[1], MACS[1])];
        let (daemon, other) = daemons(config, &run, &guests)?;
        let vm = |index: usize| {
            let mut vm = VmConfig::new(NAMES[index], config.accelerator);
            vm.memory = config.memory;
            vm.processors = config.processors;
            vm.huge_pages = config.huge_pages;
            vm.hardware = config.hardware.clone();
            vm.kernel_arguments = config.kernel_arguments.clone();
            let socket = run.socket("network")?;
            vm.link = Some(Link {
                socket: LinkSocket::Unix(socket),
                serves: index == 0,
                mac: MACS[index],
            });
            let ports = daemon.iter().chain(&other).flat_map(Daemon::ports);
            vm.vnics = ports.skip(index).take(1).map(|port| port.socket.clone()).collect();
            config.nest.iter().try_for_each(|nest| nest.equip(&run, &mut vm))?;
            Ok(vm)
        };
        let (left, right) = (vm(0)?, vm(1)?);
        let starting =
            (Vm::start(qemu, image, &run, &left)?, Vm::start(qemu, image, &run, &right)?);
        let pair = Self {
            left: starting.0.wait_for_agent(left.boot_limit)?,
            right: starting.1.wait_for_agent(right.boot_limit)?,
            daemon,
            other,
            run,
        };
        for (guest, address) in pair.guests().into_iter().zip(ADDRESSES) {
            configure(guest, address, &config.modules)?;
        }
        // Proves the cable, and fills the neighbour tables before anything is measured.
        let ping = ["ping", "-c1", "-W5", ADDRESSES[1]];
        pair.left.guest().command(ping).limit(LIMIT).run()?;
        Ok(pair)
    }

    /// What both consoles and the daemon have logged, by name, for whoever reports a failure.
    pub fn logs(&self) -> Vec<(String, String)> {
        let consoles = [&self.left, &self.right]
            .map(|vm| (format!("console of guest {}", vm.name()), vm.console()));
        let daemons = self.daemons().map(|daemon| ("vNIC daemon".into(), daemon.log()));
        consoles.into_iter().chain(daemons).collect()
    }

    /// The daemons, that of the left guest first.
    pub fn daemons(&self) -> impl Iterator<Item = &Daemon> {
        self.daemon.iter().chain(&self.other)
    }

    /// Both guests, the left first.
    pub fn guests(&self) -> [&Guest; 2] {
        [self.left.guest(), self.right.guest()]
    }
}

/// One daemon for both guests, or one for each, or none.
fn daemons(
    config: &PairConfig,
    run: &RunDir,
    guests: &[(&str, [u8; 6]); 2],
) -> Result<(Option<Daemon>, Option<Daemon>)> {
    let Some(daemon) = &config.daemon else { return Ok((None, None)) };
    if !config.wire {
        return Ok((Some(Daemon::start(daemon, run, guests)?), None));
    }
    let [left, right] = DaemonConfig::vnics_with_a_wire(&daemon.program, run.path())?;
    let right = Daemon::start(&right, run, &guests[1..])?;
    Ok((Some(Daemon::start(&left, run, &guests[..1])?), Some(right)))
}

fn configure(guest: &Guest, address: &str, modules: &[String]) -> Result<()> {
    // Without duplicate detection, which would hold the link-local address back for a second.
    let script = format!(
        "set -e\n\
         sysctl -qw net.ipv6.conf.{NETDEV}.accept_dad=0\n\
         ip link set {NETDEV} up\n\
         ip addr add {address}/24 dev {NETDEV}\n"
    );
    guest.shell(script).limit(LIMIT).run()?;
    if !modules.is_empty() {
        let argv = ["modprobe", "-a"].into_iter().map(String::from).chain(modules.iter().cloned());
        guest.run(argv, LIMIT)?;
    }
    Ok(())
}
