// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two machines that play hosts: a network between them, an rxe device on each, and the daemon's program.

use std::{
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vnic_testbed::{
    guest::{Guest, Running},
    lab::{programs, two_hosts},
    provision::{Provision, workspace::Workspace},
    topology::{ADDRESSES, NETDEV, Pair},
    workload::{
        perftest::{self, Latency},
        rdma::Device,
        rxe,
    },
};

/// Longest time for anything that takes a moment on an idle machine.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Names of the daemons; the first calls the second.
const NAMES: [&str; 2] = ["left", "right"];
const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Where a daemon listens for its peer, and where guests meet.
const WIRE_PORT: u16 = 18600;
const GUEST_PORT: u16 = 18700;

/// The machines.
pub struct Hosts {
    pair: Pair,
    devices: [Device; 2],
}

impl Hosts {
    /// Boots them.
    pub fn boot() -> Result<Self> {
        let workspace = Workspace::here();
        let programs = programs(&workspace)?;
        let (pair, ends) = two_hosts(&Provision::prepare(workspace)?, &programs)?;
        let devices = ends.map(|end| end.device);
        Ok(Self { pair, devices })
    }

    /// Runs a test alone on this machine; if it fails, shows the logs.
    pub fn run(self, test: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        // A pair already spins on every processor of a small machine.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let ended = test(&self);
        if ended.is_err() {
            for (side, guest) in self.pair.guests().into_iter().enumerate() {
                let log = guest.read_text("/tmp/daemon.log").unwrap_or_default();
                eprintln!("--- daemon of {}:\n{log}", NAMES[side]);
                eprintln!("--- dmesg of {}:\n{}", NAMES[side], guest.dmesg().unwrap_or_default());
            }
        }
        ended
    }

    fn guest(&self, side: usize) -> &Guest {
        self.pair.guests()[side]
    }

    /// What a program says that uses the hosts' devices themselves: READs of 8 bytes.
    pub fn bare_read(&self) -> Result<Latency> {
        let arguments = ["-s", "8", "-n", "500"];
        let rows = perftest::latency(&self.pair, &self.devices, "ib_read_lat", &arguments, LIMIT)?;
        rows.into_iter().next().context("ib_read_lat measures a size")
    }

    /// What a program says that holds lanes over the device of one host to what they promise.
    pub fn try_lanes(&self) -> Result<String> {
        let tried = self.guest(0).command(["verbs_lane", "rxe0"]).limit(4 * LIMIT).run()?;
        Ok(tried.stdout_text())
    }

    /// What the daemon of a host has logged.
    pub fn log(&self, side: usize) -> Result<String> {
        Ok(self.guest(side).read_text("/tmp/daemon.log")?)
    }

    /// A daemon on each host, linked by a wire over `device`.
    pub fn start_daemons(&self, device: &str) -> Result<[Running; 2]> {
        let daemons = [self.start_daemon(0, device)?, self.start_daemon(1, device)?];
        self.until_linked(0, true)?;
        self.until_linked(1, true)?;
        Ok(daemons)
    }

    /// A daemon on one host.
    pub fn start_daemon(&self, side: usize, device: &str) -> Result<Running> {
        let daemon = self.daemon(side, device, "")?;
        daemon.wait_for_output("ready", LIMIT)?;
        Ok(daemon)
    }

    fn daemon(&self, side: usize, device: &str, more: &str) -> Result<Running> {
        let (name, peer) = (NAMES[side], NAMES[1 - side]);
        let (own, theirs) = (ADDRESSES[side], ADDRESSES[1 - side]);
        let text = format!(
            "[wire]\nname = '{name}'\nlisten = '{own}:{WIRE_PORT}'\n{more}\n\
             [[peer]]\nname = '{peer}'\naddress = '{theirs}:{WIRE_PORT}'\nkey = '{KEY}'\n"
        );
        let guest = self.guest(side);
        guest.write_file("/tmp/vnic.toml", text.as_bytes(), 0o600)?;
        let line = format!(
            "exec vnic run --ready --config /tmp/vnic.toml --wire {device} --control /tmp/control \
             --port name=vm,socket=/tmp/vm.sock,mac=02:00:00:00:00:0{} 2>/tmp/daemon.log",
            side + 1
        );
        Ok(guest.shell(line).spawn()?)
    }

    /// What a daemon says that does not start.
    pub fn refusal(&self, device: &str, more: &str) -> Result<String> {
        let output = self.daemon(0, device, more)?.wait(LIMIT)?;
        ensure!(output.clone().success().is_err(), "it starts: {}", output.all_text());
        self.log(0)
    }

    /// What `vnic status` says on a host.
    pub fn status(&self, side: usize) -> Result<Value> {
        let asked = ["vnic", "status", "--json", "--socket", "/tmp/control"];
        let output = self.guest(side).run(asked, LIMIT)?;
        serde_json::from_str(&output.stdout_text()).context("vnic status")
    }

    /// Waits until the daemon of a host has a link to its peer, or none.
    pub fn until_linked(&self, side: usize, linked: bool) -> Result<()> {
        let end = Instant::now() + LIMIT;
        while self.status(side)?["wire"]["peers"][0]["connected"] != linked {
            if Instant::now() > end {
                bail!("{}: a link is not {linked} in {LIMIT:?}", NAMES[side]);
            }
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    /// A guest on each host: they carry everything out with each other. What the leading one prints.
    pub fn guests_talk(&self) -> Result<String> {
        let guest = |side: usize, how: &str| {
            let address = ADDRESSES[0];
            let line = format!(
                "exec wire_guest --socket /tmp/vm.sock --host {} {how} {address}:{GUEST_PORT}",
                side + 1
            );
            self.guest(side).shell(line).limit(4 * LIMIT)
        };
        let follower = guest(0, "--listen").spawn()?;
        follower.wait_for_output("listening", LIMIT)?;
        let led = guest(1, "--connect").run()?;
        follower.wait(LIMIT)?.success()?;
        let said = led.stdout_text();
        ensure!(said.contains("\"op\":\"all\""), "{said}");
        Ok(said)
    }

    /// Has the network between the hosts do this to what both send, as tc-netem(8) takes it.
    pub fn spoil_the_cable(&self, how: &str) -> Result<()> {
        for guest in self.pair.guests() {
            let line = format!("modprobe sch_netem && tc qdisc add dev {NETDEV} root netem {how}");
            guest.shell(line).limit(LIMIT).run()?;
        }
        Ok(())
    }

    /// Packets that the hosts' devices sent again.
    pub fn retransmissions(&self) -> Result<u64> {
        let mut sum = 0;
        for guest in self.pair.guests() {
            let counters = "/sys/class/infiniband/rxe0/ports/1/hw_counters";
            let line = format!(
                "cat {counters}/completer_retry_err {counters}/retry_exceeded_err {counters}/out_of_seq_request {counters}/duplicate_request"
            );
            let output = guest.shell(line).limit(LIMIT).run()?;
            for number in output.stdout_text().split_whitespace() {
                sum += number.parse::<u64>().context("a counter of rxe")?;
            }
        }
        Ok(sum)
    }

    /// Takes the interface of a host `down`, or `up` again with its address.
    pub fn interface(&self, side: usize, state: &str) -> Result<()> {
        let line = format!(
            "ip link set {NETDEV} {state} && ip addr replace {}/24 dev {NETDEV}",
            ADDRESSES[side]
        );
        self.guest(side).shell(line).limit(LIMIT).run()?;
        Ok(())
    }

    /// Removes the RDMA device of a host.
    pub fn remove_device(&self, side: usize) -> Result<()> {
        self.guest(side).run(["rdma", "link", "delete", "rxe0"], LIMIT)?;
        Ok(())
    }

    /// Makes it again.
    pub fn bring_device_back(&self, side: usize) -> Result<()> {
        rxe::set_up_one(self.guest(side), ADDRESSES[side])?;
        Ok(())
    }

    /// KiB of memory that the daemon of a host has pinned.
    pub fn pinned_kib(&self, side: usize) -> Result<u64> {
        pinned_kib(self.guest(side))
    }

    /// Queue pairs that programs of a host have on its device.
    pub fn queue_pairs(&self, side: usize) -> Result<usize> {
        let line = "rdma resource show qp | grep -c 'type RC' || true";
        let output = self.guest(side).shell(line).limit(LIMIT).run()?;
        output.stdout_text().trim().parse().context("a number of queue pairs")
    }
}

/// KiB of memory that the only daemon of a host has pinned.
pub fn pinned_kib(host: &Guest) -> Result<u64> {
    let line = "awk '/^VmPin/ {print $2}' /proc/$(pidof vnic)/status";
    let output = host.shell(line).limit(LIMIT).run()?;
    output.stdout_text().trim().parse().context("VmPin")
}
