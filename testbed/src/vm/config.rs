// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a virtual machine is made of.

use std::{net::Ipv4Addr, path::PathBuf, time::Duration};

use super::{Accelerator, Hardware};

/// The choices for one machine.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Name of the guest, in file names and errors.
    pub name: String,
    /// How its processors run.
    pub accelerator: Accelerator,
    /// Number of virtual processors. Programs that spin starve each other on one.
    pub processors: u32,
    /// Memory in MiB, unless the hardware has nodes.
    pub memory: u32,
    /// Whether its memory is of pages of 2 MiB that the host has set aside. Modules that are plugged in later
    /// have ordinary ones.
    pub huge_pages: bool,
    /// NUMA nodes, sockets for memory, persistent memory and disks.
    pub hardware: Hardware,
    /// Added to the kernel's command line.
    pub kernel_arguments: String,
    /// Its virtio network card, if it has one.
    pub link: Option<Link>,
    /// Socket of a vNIC daemon, for each device that the guest has.
    pub vnics: Vec<PathBuf>,
    /// Whether it can run virtual machines itself with the help of its processor, where the machine underneath lets it.
    pub virtualization: bool,
    /// Whether drivers tell devices of news by I/O ports, as far as devices let them, and not by memory.
    pub port_notify: bool,
    /// Folders of the machine underneath that the guest may read.
    pub shares: Vec<Share>,
    /// Serial ports beside the agent's.
    pub ports: Vec<SerialPort>,
    /// The VIRTIO device id that the vNIC shows.
    pub virtio_id: u16,
    /// Longest time from the start to the agent's answer.
    pub boot_limit: Duration,
}

impl VmConfig {
    /// Two processors, 1 GiB, no network, no vNIC and no extra hardware.
    pub fn new(name: impl Into<String>, accelerator: Accelerator) -> Self {
        Self {
            name: name.into(),
            accelerator,
            processors: 2,
            memory: 1024,
            huge_pages: false,
            hardware: Hardware::default(),
            kernel_arguments: String::new(),
            link: None,
            vnics: Vec::new(),
            virtualization: false,
            port_notify: false,
            shares: Vec::new(),
            ports: Vec::new(),
            virtio_id: 38,
            boot_limit: Duration::from_secs(120),
        }
    }
}

/// A folder of the machine underneath, which the guest reads over 9P and cannot write.
#[derive(Debug, Clone)]
pub struct Share {
    /// What the guest mounts it by.
    pub tag: String,
    /// The folder.
    pub folder: PathBuf,
}

/// A serial port for programs in the guest, which find it below `/sys/class/virtio-ports` by its name.
#[derive(Debug, Clone)]
pub struct SerialPort {
    /// Its name.
    pub name: String,
    /// Where it leads.
    pub to: PortEnd,
}

/// Where a [`SerialPort`] leads.
#[derive(Debug, Clone)]
pub enum PortEnd {
    /// To a socket that QEMU makes. What the guest says before somebody has connected is lost.
    Socket(PathBuf),
    /// Into a file.
    File(PathBuf),
}

/// One end of an Ethernet cable between two guests, which is a socket, or of one that leads outside.
#[derive(Debug, Clone)]
pub struct Link {
    /// The socket. The end that serves makes it.
    pub socket: LinkSocket,
    /// Whether this end serves or connects.
    pub serves: bool,
    /// Ethernet address of the card.
    pub mac: [u8; 6],
}

/// What a [`Link`] leads to.
#[derive(Debug, Clone)]
pub enum LinkSocket {
    /// A Unix socket, of guests of one machine.
    Unix(PathBuf),
    /// A TCP socket, of guests of several: address and port of the end that serves.
    Tcp(Ipv4Addr, u16),
    /// No other guest: a network of QEMU's own, by which programs in the guest call those that the machine underneath
    /// can call. The guest is 10.0.2.15 in it, and its gateway 10.0.2.2.
    User,
}

impl Link {
    pub(crate) fn mac_text(&self) -> String {
        self.mac.map(|byte| format!("{byte:02x}")).join(":")
    }
}
