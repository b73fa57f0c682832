// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A pair of guests on a daemon, what a test asks of it, and what is said when it fails.

use std::{
    fs,
    path::PathBuf,
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use vnic_testbed::{
    daemon::DaemonConfig,
    guest::Guest,
    provision::{
        Provision,
        image::Image,
        kernel::{Kernel, Series},
        workspace::Workspace,
    },
    topology::{ADDRESSES, NETDEV, Pair, PairConfig},
    vm::{Accelerator, Link, LinkSocket, Vm, VmConfig},
    workload::{
        pingpong,
        rdma::{Device, wait_until_ready},
        vnic,
    },
};

use crate::counters::Status;

/// Longest time for anything that takes a moment on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The verbs program of these tests, in the guests.
pub const SHELL: &str = "/usr/bin/verbs-shell";

/// What a pair is made of, so that a machine can be added to it later.
pub struct Bed {
    provision: Provision,
    image: Image,
    config: PairConfig,
    /// The daemon's program.
    pub program: PathBuf,
    /// The guests and the daemon.
    pub pair: Pair,
}

/// Boots a pair with the driver in its image but not loaded, and runs `test` on it. A failure
/// shows all logs; a success needs kernels without complaints.
pub fn with_pair(
    series: Series,
    kernel_arguments: &str,
    test: impl FnOnce(&mut Bed) -> Result<()>,
) -> Result<()> {
    with_pair_of(series, |config| config.kernel_arguments = kernel_arguments.into(), test)
}

/// The same with guests that `choose` makes other than usual.
pub fn with_pair_of(
    series: Series,
    choose: impl FnOnce(&mut PairConfig),
    test: impl FnOnce(&mut Bed) -> Result<()>,
) -> Result<()> {
    // One pair already spins on every processor of a small machine.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let mut bed = Bed::boot(series, choose)?;
    let ended = test(&mut bed).and_then(|()| bed.kernels_are_content());
    if let Err(error) = &ended {
        // Once more at the end: the logs are long, and whoever shows them may cut them.
        eprintln!("--- failed: {error:#}");
        bed.show_logs();
    }
    ended
}

impl Bed {
    fn boot(series: Series, choose: impl FnOnce(&mut PairConfig)) -> Result<Self> {
        let workspace = Workspace::here();
        let program = workspace.target().join("release/vnic");
        ensure!(
            program.exists(),
            "there is no {}: `cargo xtask test` builds it, or `cargo build --release -p vnic`",
            program.display()
        );
        let provision = Provision::prepare(workspace)?;
        let kernel = provision.kernel(series)?;
        let image = image(&provision, &kernel)?;
        let mut config = PairConfig::new(Accelerator::choose(&provision, &image)?);
        config.daemon = Some(DaemonConfig::vnic(&program));
        choose(&mut config);
        let pair = Pair::boot(&provision.qemu, &image, &config)?;
        Ok(Self { provision, image, config, program, pair })
    }

    /// The left guest.
    pub fn left(&self) -> &Guest {
        self.pair.left.guest()
    }

    /// The right guest.
    pub fn right(&self) -> &Guest {
        self.pair.right.guest()
    }

    /// Loads the module in both guests.
    pub fn load(&self) -> Result<[Device; 2]> {
        Ok(vnic::set_up(&self.pair)?)
    }

    /// Boots another machine in the place of one that is gone: 0 for the left, 1 for the right.
    pub fn boot_again(&mut self, side: usize, name: &str) -> Result<Device> {
        let daemon = self.pair.daemon.as_ref().context("the daemon has been stopped")?;
        let port = &daemon.ports()[side];
        let mut config = VmConfig::new(name, self.config.accelerator);
        config.memory = self.config.memory;
        config.processors = self.config.processors;
        config.hardware = self.config.hardware.clone();
        let socket = self.pair.run.socket("network")?;
        config.link =
            Some(Link { socket: LinkSocket::Unix(socket), serves: side == 0, mac: port.mac });
        config.vnics = vec![port.socket.clone()];
        let vm = Vm::boot(&self.provision.qemu, &self.image, &self.pair.run, &config)?;
        let address = ADDRESSES[side];
        vm.guest()
            .shell(format!(
                "set -e; sysctl -qw net.ipv6.conf.{NETDEV}.accept_dad=0; \
                 ip link set {NETDEV} up; ip addr add {address}/24 dev {NETDEV}; \
                 modprobe {}",
                vnic::MODULE
            ))
            .limit(LIMIT)
            .run()?;
        let device = wait_until_ready(vm.guest(), vnic::NAME, address, LIMIT)?;
        *if side == 0 { &mut self.pair.left } else { &mut self.pair.right } = vm;
        Ok(device)
    }

    /// What the daemon says of itself. That it says it in time shows that it is well.
    pub fn status(&self) -> vnic_testbed::Result<Status> {
        Status::ask(&self.program, &self.pair)
    }

    /// Waits until both daemons have found each other and know the addresses of each other's guests.
    pub fn is_linked(&self) -> Result<()> {
        Ok(self.pair.wait_for_the_wire(&self.program, LIMIT)?)
    }

    /// Messages in both directions, with their contents checked.
    pub fn ping_pong(&self, devices: &[Device; 2]) -> Result<()> {
        let options =
            pingpong::Options { bytes: 16 << 10, iterations: 20, check: true, events: false };
        pingpong::run(&self.pair, devices, &options, LIMIT)?;
        Ok(())
    }

    fn kernels_are_content(&self) -> Result<()> {
        self.pair.guests().into_iter().try_for_each(kernel_is_content)
    }

    fn show_logs(&self) {
        for guest in self.pair.guests() {
            if let Ok(text) = guest.dmesg() {
                show(&format!("dmesg of {}", guest.name()), &text);
            }
        }
        for (name, text) in self.pair.logs() {
            show(&name, &text);
        }
        if self.pair.daemon.is_none() {
            let log = self.pair.run.path().join("daemon.log");
            show("daemon that was stopped", &fs::read_to_string(log).unwrap_or_default());
            return;
        }
        match self.status() {
            Ok(status) => eprintln!("--- status of the daemon:\n{status:#?}"),
            Err(error) => eprintln!("--- status of the daemon: {error}"),
        }
    }
}

/// Fails if the kernel of a guest has complained about anything.
pub fn kernel_is_content(guest: &Guest) -> Result<()> {
    Ok(vnic_testbed::complaint::kernel_is_content(guest)?)
}

fn show(name: &str, text: &str) {
    let lines = text.lines().collect::<Vec<_>>();
    eprintln!("--- {name}:\n{}", lines[lines.len().saturating_sub(40)..].join("\n"));
}

/// Asks again and again until the answer is `Some`, for [`LIMIT`]; then the last refusal is told.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let end = Instant::now() + LIMIT;
    loop {
        match ask()? {
            Ok(answer) => return Ok(answer),
            Err(seen) if Instant::now() >= end => bail!("{what} not within {LIMIT:?}: {seen}"),
            // Only how often is asked; what is right does not depend on it.
            Err(_) => thread::sleep(Duration::from_millis(30)),
        }
    }
}

fn image(provision: &Provision, kernel: &Kernel) -> Result<Image> {
    let mut overlays = provision.guest_driver(kernel)?;
    for program in provision.build_guest_programs()? {
        overlays.push(program.overlay()?);
    }
    Ok(provision.image(kernel, &overlays)?)
}
