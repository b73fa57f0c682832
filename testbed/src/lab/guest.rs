// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual machine inside a host whose port goes direct, and the host's network with somebody on it who knows nothing of
//! daemons.

use std::time::Duration;

use super::{Cable, DaemonPort, HostDaemon, HostVm, SIDES, guests::GuestPlan};
use crate::{
    error::Result,
    guest::{Guest, Place},
    provision::{Provision, image::Overlay},
    topology::NETDEV,
    vm::{Accelerator, Link, LinkSocket, Nest, NestedVm, VmConfig},
    workload::{end::End, vnic},
};

/// The guest's address on the host's network, which the host does not have by itself.
const GUEST_ADDRESS: &str = "10.78.0.21";

/// What the daemon has to be told for that, beside the device.
const ALLOW: &str = "allow = ['10.78.0.21/32']\n";
const PORT: &str = "vm";
/// Of the port, and of the guest's network card.
const NUMBER: u8 = 1;

const BOOT_LIMIT: Duration = Duration::from_secs(280);
const LIMIT: Duration = Duration::from_secs(60);

/// The guest, the daemon that serves it and the host with a cable; all gone when this is dropped.
#[derive(Debug)]
pub struct GuestOfHost {
    guest: NestedVm,
    daemon: HostDaemon,
    ends: [End; 2],
    /// The last field: the others live in it.
    host: HostVm,
}

impl GuestOfHost {
    /// Boots the host with `programs`, of which one has to be the daemon with what it needs for RDMA devices, lays a
    /// [`Cable`], starts the daemon at its first end with `settings` for `[direct]`, boots the guest there, and
    /// waits until its device can be used.
    ///
    /// # Errors
    /// When anything of it does not come about.
    pub fn boot(
        provision: &Provision,
        programs: &[Overlay],
        settings: &str,
        plan: &GuestPlan,
    ) -> Result<Self> {
        let nest = Nest::new(provision);
        let host = HostVm::boot_with(provision, programs, Some(&nest))?;
        let [east, west] = Cable::lay(host.guest())?.ends().clone();
        let text = format!("[direct]\ndevice = '{}'\n{ALLOW}{settings}", east.device.name);
        let ports = [DaemonPort::direct(PORT, NUMBER)];
        let daemon = HostDaemon::start(&east.place, SIDES[0], &ports, &text, &["--workers", "1"])?;
        let config = config(plan, &daemon);
        let guest = nest.start(host.run(), &east.place, &plan.image, &config)?;
        let guest = guest.wait_for_agent(BOOT_LIMIT)?;
        configure(guest.guest())?;
        let own = End {
            place: Place::of(guest.guest()),
            device: vnic::set_up_one(guest.guest(), GUEST_ADDRESS)?,
            address: GUEST_ADDRESS.into(),
        };
        Ok(Self { guest, daemon, ends: [west, own], host })
    }

    /// The far end of the cable, whose programs are on bare verbs, and the guest. The guest can call programs there, and they
    /// cannot call the guest.
    pub fn ends(&self) -> &[End; 2] {
        &self.ends
    }

    /// The daemon in the host.
    pub fn daemon(&self) -> &HostDaemon {
        &self.daemon
    }

    /// What host, guest and daemon have logged, by name.
    pub fn logs(&self) -> Vec<(String, String)> {
        let dmesg = |guest: &Guest| guest.dmesg().unwrap_or_default();
        vec![
            ("kernel of the host".into(), dmesg(self.host.guest())),
            ("QEMU in the host".into(), self.guest.said()),
            ("console inside".into(), self.guest.console()),
            ("kernel inside".into(), dmesg(self.guest.guest())),
            ("vNIC daemon".into(), self.daemon.log().unwrap_or_default()),
        ]
    }
}

fn config(plan: &GuestPlan, daemon: &HostDaemon) -> VmConfig {
    let mut config = VmConfig::new("inside", Accelerator::Tcg);
    config.memory = plan.memory;
    config.hardware = plan.hardware.clone();
    config.kernel_arguments = plan.kernel_arguments.clone();
    let mac = [2, 0, 0, 0, 0, NUMBER];
    config.link = Some(Link { socket: LinkSocket::User, serves: false, mac });
    config.vnics.push(daemon.socket(PORT).into());
    config
}

/// Two addresses: by one it calls programs over TCP, and the other its RDMA device goes by.
fn configure(guest: &Guest) -> Result<()> {
    let script = format!(
        "set -e\n\
         sysctl -qw net.ipv6.conf.{NETDEV}.accept_dad=0\n\
         ip link set {NETDEV} up\n\
         ip addr add 10.0.2.15/24 dev {NETDEV}\n\
         ip addr add {GUEST_ADDRESS}/32 dev {NETDEV}\n\
         ip route add default via 10.0.2.2\n"
    );
    guest.shell(script).limit(LIMIT).run().map(drop)
}
