// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtual machine inside a virtual machine: its QEMU runs in a guest, where there are devices that the machine
//! underneath lacks.
//!
//! The outer guest needs nothing but the kernel: programs, kernel and image of the inner one are where they are
//! outside, in a folder that it reads over 9P. Agent and console of the inner one come out through serial ports of the outer.

use std::{
    os::unix::net::UnixStream,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Accelerator, AgentEnd, Console, Files, RunDir, VmConfig, arguments,
    config::{PortEnd, SerialPort, Share},
    read_lossy,
};
use crate::{
    error::{Doing, Error, Result},
    guest::{Guest, Place, Running},
    provision::{Provision, image::Image, qemu::Qemu},
};

/// Names of the outer guest's ports, and of what it mounts.
const AGENT: &str = "inner.agent";
const CONSOLE: &str = "inner.console";
const TAG: &str = "testbed";

const LIMIT: Duration = Duration::from_secs(60);

/// Prints the device of the serial port of that name.
const FIND_PORT: &str = "for port in /sys/class/virtio-ports/*; do \
    [ \"$(cat $port/name)\" != \"$1\" ] || exec echo /dev/${port##*/}; done; exit 1";

/// What outer guests have for an inner one each.
#[derive(Debug, Clone)]
pub struct Nest {
    folder: PathBuf,
    qemu: Qemu,
}

impl Nest {
    /// With the QEMU and whatever else the provision keeps.
    pub fn new(provision: &Provision) -> Self {
        let folder = provision.cache().folder().into();
        Self { folder, qemu: Qemu::of_root(provision.root().path()) }
    }

    /// Gives an outer guest, whose files are in the folder of the run, what an inner one needs of it.
    ///
    /// # Errors
    /// When the folder's name is too long for a socket.
    pub fn equip(&self, run: &RunDir, outer: &mut VmConfig) -> Result<()> {
        outer.virtualization = true;
        outer.shares.push(Share { tag: TAG.into(), folder: self.folder.clone() });
        let port = |name: &str, to| SerialPort { name: name.into(), to };
        outer.ports.push(port(AGENT, PortEnd::Socket(agent(run, &outer.name)?)));
        outer.ports.push(port(CONSOLE, PortEnd::File(console(run, &outer.name))));
        Ok(())
    }

    /// Starts the inner guest's QEMU at a place in the outer one; continue with [`NestedVm::wait_for_agent`]. Sockets of `config`
    /// are the outer guest's, its accelerator is chosen here, it has one processor, and the image has to be one that the provision keeps.
    ///
    /// # Errors
    /// When the outer guest was not equipped, or QEMU cannot be started.
    pub fn start(
        &self,
        run: &RunDir,
        outer: &Place,
        image: &Image,
        config: &VmConfig,
    ) -> Result<NestedVm> {
        let folder = &self.folder.to_string_lossy();
        // Emulated processors bring AMD's kind.
        let kvm = "modprobe kvm_amd || modprobe kvm_intel; test -e /dev/kvm";
        let (place, outer) = (outer, outer.guest());
        let helped = outer.shell(kvm).output()?.success().is_ok();
        let mut config = config.clone();
        config.accelerator = if helped { Accelerator::Kvm } else { Accelerator::Tcg };
        // The first access to a page that is a device's is emulated by KVM, which refuses to ("KVM internal error. Suberror: 3")
        // while an exception is being delivered. Since Linux 6.14 it asks the type of the event that the processor left, and
        // not whether there is one; QEMU's processors leave the type of the last exception. So whoever touches such a
        // page first, and had a page fault since the last exit, stops the machine.
        config.port_notify = true;
        // With two, one in five of the machines died at odd places, with their hosts' stacks overwritten: emulated processors
        // that virtualize do not do it well at the same time.
        config.processors = 1;
        for (number, node) in config.hardware.nodes.iter_mut().enumerate() {
            node.processors = u32::from(number == 0);
        }
        // Every look at a device is slow here; this leaves out those that find nothing.
        config.kernel_arguments.push_str(" pci=noearly");
        let mount = "mountpoint -q \"$1\" || { modprobe -a 9p 9pnet_virtio && mkdir -p \"$1\" && \
             mount -t 9p -o ro,trans=virtio,version=9p2000.L,cache=loose,msize=512000 \"$2\" \"$1\"; }";
        outer.run(["/bin/sh", "-c", mount, "mount", folder, TAG], LIMIT)?;
        let port = |name: &str| -> Result<PathBuf> {
            let found = outer.run(["/bin/sh", "-c", FIND_PORT, "find", name], LIMIT)?;
            Ok(found.stdout_text().trim().into())
        };
        let name = &config.name;
        let disk = |number: usize| PathBuf::from(format!("/tmp/{name}.disk{number}"));
        let files = Files {
            agent: AgentEnd::Device(port(AGENT)?),
            monitor: format!("/run/{name}.qmp").into(),
            serial: port(CONSOLE)?,
            disks: (0..config.hardware.disks.len()).map(disk).collect(),
        };
        for (disk, size) in files.disks.iter().zip(&config.hardware.disks) {
            outer.run(["truncate", "-s", &format!("{size}M"), &disk.to_string_lossy()], LIMIT)?;
        }
        // Before the guest says anything, which would be lost.
        let agent = agent(run, outer.name())?;
        let stream = UnixStream::connect(&agent).at("connect to", &agent)?;
        let serial = console(run, outer.name());
        let console = Console {
            guest: name.clone(),
            serial: serial.clone(),
            // What QEMU says is told with the command.
            qemu: PathBuf::new(),
        };
        let guest = Guest::connect(stream, Arc::new(console))?;
        let (variables, mut words) = self.qemu.words();
        let arguments = arguments::of(image, &config, &files);
        words.extend(arguments.iter().map(|word| word.to_string_lossy().into_owned()));
        let command = place.command(words);
        let set = |command: crate::guest::Command, (name, value)| command.env(name, value);
        let command = variables.into_iter().fold(command, set);
        let since = Instant::now();
        let qemu = Mutex::new(command.spawn()?);
        Ok(NestedVm { qemu, guest, console: serial, since, boot_time: Duration::ZERO })
    }
}

/// A virtual machine inside another one, killed when it is dropped.
#[derive(Debug)]
pub struct NestedVm {
    /// Behind a lock, since only one can take what it says.
    qemu: Mutex<Running>,
    guest: Guest,
    console: PathBuf,
    since: Instant,
    boot_time: Duration,
}

impl NestedVm {
    /// Waits until its agent answers.
    ///
    /// # Errors
    /// When QEMU ends, or nothing answers within `limit` of the start; with what both have said.
    pub fn wait_for_agent(mut self, limit: Duration) -> Result<Self> {
        let until = self.since + limit;
        // In steps, so that a QEMU that ended is noticed.
        let step = Duration::from_secs(2);
        while let Err(error) = self.guest.ping(step) {
            if self.qemu().has_ended()? || Instant::now() >= until {
                return Err(self.explained(error));
            }
        }
        self.boot_time = self.since.elapsed();
        Ok(self)
    }

    /// The inside.
    pub fn guest(&self) -> &Guest {
        &self.guest
    }

    /// From the start of QEMU to the agent's first answer.
    pub fn boot_time(&self) -> Duration {
        self.boot_time
    }

    /// The whole console log so far.
    pub fn console(&self) -> String {
        read_lossy(&self.console)
    }

    fn qemu(&self) -> MutexGuard<'_, Running> {
        // Nobody leaves it half changed.
        self.qemu.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What its QEMU has said so far.
    pub fn said(&self) -> String {
        self.qemu().output_so_far().map(|output| output.all_text()).unwrap_or_default()
    }

    /// The error, with what its QEMU has said so far.
    pub(crate) fn explained(&self, error: Error) -> Error {
        error.with_output(&format!("QEMU of {} had said:\n{}", self.guest.name(), self.said()))
    }
}

/// Where the agent of the guest inside `outer` is to be found.
fn agent(run: &RunDir, outer: &str) -> Result<PathBuf> {
    run.socket(&format!("{outer}.{AGENT}"))
}

/// What the console of that guest is written to.
fn console(run: &RunDir, outer: &str) -> PathBuf {
    run.path().join(format!("{outer}.{CONSOLE}.log"))
}
