// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Virtual machines inside two hosts, each with a vNIC of its own host's daemon, and a wire between the daemons over the
//! hosts' rxe devices: what a user of two hosts has, but slower.

use std::{
    net::Ipv4Addr,
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{DaemonPort, HostDaemon, PORT, host::two_hosts_with, wired};
use crate::{
    error::{Error, Result},
    guest::{Guest, Place},
    provision::{Provision, image::Image, image::Overlay},
    topology::{ADDRESSES, NETDEV, Pair},
    vm::{Accelerator, Hardware, Link, LinkSocket, Nest, NestedVm, VmConfig},
    workload::{end::End, rdma::Device, vnic},
};

const NAMES: [&str; 2] = ["left", "right"];
/// Where the guests' network is carried.
const CABLE_PORT: u16 = 18601;

/// MiB of memory that a host needs beside its guest's.
const HOSTS_OWN: u32 = 1280;

/// Two machines in two machines on a busy processor take their time.
const BOOT_LIMIT: Duration = Duration::from_secs(280);
const LIMIT: Duration = Duration::from_secs(60);

/// What the guests are made of.
#[derive(Debug, Clone)]
pub struct GuestPlan {
    /// What they boot. It needs the vNIC's driver.
    pub image: Image,
    /// Memory of each in MiB, unless the hardware has nodes.
    pub memory: u32,
    /// Nodes, sockets, persistent memory and disks of each.
    pub hardware: Hardware,
    /// Added to the kernel's command line.
    pub kernel_arguments: String,
}

/// The guests, the daemons that serve them, and the hosts; all gone when this is dropped.
#[derive(Debug)]
pub struct GuestsOfHosts {
    guests: [NestedVm; 2],
    daemons: [HostDaemon; 2],
    devices: [Device; 2],
    // The last field: the others live in it.
    hosts: Pair,
}

impl GuestsOfHosts {
    /// Boots the hosts with `programs`, of which one has to be the daemon with what it needs for RDMA devices, starts
    /// the daemons, boots the guests, and waits until the guests' devices can be used and the daemons know each other's addresses.
    ///
    /// # Errors
    /// When anything of it does not come about; with what the consoles and daemons have said.
    pub fn boot(provision: &Provision, programs: &[Overlay], plan: &GuestPlan) -> Result<Self> {
        let nest = Nest::new(provision);
        let extra = plan.hardware.nvdimms.iter().sum::<u32>();
        let memory = HOSTS_OWN + plan.hardware.memory(plan.memory) + extra;
        let (hosts, ends) = two_hosts_with(provision, programs, memory, Some(nest.clone()))?;
        let daemon = |side: usize| {
            let ports = [DaemonPort::new(PORT, number(side))];
            wired::start(&ends, side, &ports, &["--workers", "1"])
        };
        let daemons = [daemon(0)?, daemon(1)?];
        let start = |side: usize| {
            let config = config(side, plan, &daemons[side]);
            nest.start(&hosts.run, &ends[side].place, &plan.image, &config)
        };
        let starting = [start(0)?, start(1)?];
        let [left, right] = starting.map(|vm| vm.wait_for_agent(BOOT_LIMIT));
        let guests = [left?, right?];
        let configured = || {
            for (vm, address) in guests.iter().zip(ADDRESSES) {
                configure(vm.guest(), address)?;
            }
            let device = |side: usize| vnic::set_up_one(guests[side].guest(), ADDRESSES[side]);
            Ok([device(0)?, device(1)?])
        };
        // What stops a machine is only told by its QEMU.
        let devices = configured()
            .map_err(|error: Error| guests.iter().fold(error, |error, vm| vm.explained(error)))?;
        let booted = Self { guests, daemons, devices, hosts };
        booted.wait_for_the_wire()?;
        booted.guests()[0].run(["ping", "-c1", "-W5", ADDRESSES[1]], LIMIT)?;
        Ok(booted)
    }

    /// The inside of both guests, the left first.
    pub fn guests(&self) -> [&Guest; 2] {
        [self.guests[0].guest(), self.guests[1].guest()]
    }

    /// Both machines.
    pub fn machines(&self) -> &[NestedVm; 2] {
        &self.guests
    }

    /// Both as ends of a workload over their vNICs.
    pub fn ends(&self) -> [End; 2] {
        [0, 1].map(|side| End {
            place: Place::of(self.guests[side].guest()),
            device: self.devices[side].clone(),
            address: ADDRESSES[side].into(),
        })
    }

    /// The guests' vNICs.
    pub fn devices(&self) -> &[Device; 2] {
        &self.devices
    }

    /// The hosts.
    pub fn hosts(&self) -> &Pair {
        &self.hosts
    }

    /// What both daemons say of themselves.
    ///
    /// # Errors
    /// As [`HostDaemon::status`].
    pub fn status(&self) -> Result<[Value; 2]> {
        Ok([self.daemons[0].status()?, self.daemons[1].status()?])
    }

    /// What hosts, guests and daemons have logged, by name.
    pub fn logs(&self) -> Vec<(String, String)> {
        let mut logs = self.hosts.logs();
        for (side, name) in NAMES.iter().enumerate() {
            logs.push((format!("console inside {name}"), self.guests[side].console()));
            logs.push((format!("QEMU in {name}"), self.guests[side].said()));
            let log = self.daemons[side].log().unwrap_or_default();
            logs.push((format!("vNIC daemon of {name}"), log));
        }
        logs
    }

    /// Waits until the daemons have a link and know the addresses of each other's guests.
    ///
    /// # Errors
    /// When they have not within a minute, with what they say.
    pub fn wait_for_the_wire(&self) -> Result<()> {
        let until = Instant::now() + LIMIT;
        loop {
            let status = self.status()?;
            let linked = |status: &Value| {
                let peer = &status["wire"]["peers"][0];
                peer["connected"] == true && peer["addresses"] != 0
            };
            if status.iter().all(linked) {
                return Ok(());
            }
            if Instant::now() >= until {
                let [left, right] = status.map(|status| status["wire"].to_string());
                let what =
                    format!("daemons have not found each other in {LIMIT:?}: {left}, {right}");
                return Err(Error::unfit(what, "Their logs say why."));
            }
            // Only how often is asked; what is right does not depend on it.
            thread::sleep(Duration::from_millis(100));
        }
    }
}

fn config(side: usize, plan: &GuestPlan, daemon: &HostDaemon) -> VmConfig {
    let mut config = VmConfig::new(format!("inside {}", NAMES[side]), Accelerator::Tcg);
    config.memory = plan.memory;
    config.hardware = plan.hardware.clone();
    config.kernel_arguments = plan.kernel_arguments.clone();
    let serving = ADDRESSES[0].parse().unwrap_or(Ipv4Addr::LOCALHOST);
    let socket = LinkSocket::Tcp(serving, CABLE_PORT);
    let mac = [2, 0, 0, 0, 0, number(side)];
    config.link = Some(Link { socket, serves: side == 0, mac });
    config.vnics.push(daemon.socket(PORT).into());
    config
}

fn number(side: usize) -> u8 {
    side as u8 + 1
}

fn configure(guest: &Guest, address: &str) -> Result<()> {
    let script = format!(
        "set -e\n\
         sysctl -qw net.ipv6.conf.{NETDEV}.accept_dad=0\n\
         ip link set {NETDEV} up\n\
         ip addr add {address}/24 dev {NETDEV}\n"
    );
    guest.shell(script).limit(LIMIT).run().map(drop)
}
