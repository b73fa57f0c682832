// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest talks to endpoints of the host's network that know nothing of the daemon.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vnic_testbed::{
    guest::{Command, Running},
    lab::{Cable, DaemonPort, HostDaemon, HostVm, Netem, programs},
    provision::{Provision, kernel::Series, workspace::Workspace},
};

use super::{
    hosts::{LIMIT, pinned_kib},
    stock::was_mended_by_sending_again,
};

/// Where a guest and its peer meet.
const MEETING_PORT: u16 = 18702;

/// What guests may have of the host's network; also what the host has, to see that they do not get it.
const ALLOW: &str = "allow = ['10.78.0.0/27']\n";

/// A host with a cable, at one end of which a daemon has a port that goes direct.
struct Scene {
    cable: Cable,
    daemon: HostDaemon,
    host: HostVm,
}

impl Scene {
    /// `more` is added to the configuration of the daemon.
    fn set(more: &str) -> Result<Self> {
        Self::with(more, false)
    }

    /// The same, with an rxe whose defects are mended.
    fn set_mended(more: &str) -> Result<Self> {
        Self::with(more, true)
    }

    fn with(more: &str, mended: bool) -> Result<Self> {
        let workspace = Workspace::here();
        let mut programs = programs(&workspace)?;
        let provision = Provision::prepare(workspace)?;
        if mended {
            programs.push(provision.mended_rxe(&provision.kernel(Series::Backports)?)?);
        }
        let host = HostVm::boot(&provision, &programs)?;
        let cable = Cable::lay(host.guest())?;
        let east = &cable.ends()[0];
        let ports = [DaemonPort::direct("vm", 1)];
        let text = format!("[direct]\ndevice = '{}'\n{more}", east.device.name);
        let daemon = HostDaemon::start(&east.place, "east", &ports, &text, &["--workers", "1"])?;
        Ok(Self { cable, daemon, host })
    }

    /// The guest has the address `guest`, leads, and ends as `then` says; the bare peer is told more by `peer`. What the
    /// guest has printed, and the peer.
    fn talk(&self, guest: &str, then: &str, peer: &[&str]) -> Result<[String; 2]> {
        let bare = self.bare(peer)?;
        let led = self.guest(guest, then).run().with_context(|| {
            let said = bare.output_so_far().map(|output| output.all_text()).unwrap_or_default();
            let log = self.daemon.log().unwrap_or_default();
            format!("the bare peer has printed: {said}\nthe daemon has logged: {log}")
        })?;
        let followed = bare.wait(LIMIT)?.success()?.stdout_text();
        let led = led.stdout_text();
        ensure!(led.contains("\"op\":\"all\""), "{led}");
        eprintln!("guest:\n{led}bare:\n{followed}");
        Ok([led, followed])
    }

    fn meeting(&self) -> String {
        format!("{}:{MEETING_PORT}", self.cable.ends()[1].address)
    }

    fn bare(&self, peer: &[&str]) -> Result<Running> {
        let west = &self.cable.ends()[1];
        let meeting = self.meeting();
        let bare = ["bare_peer", "--device", &west.device.name, "--listen", &meeting];
        let bare = west.place.command(bare.iter().chain(peer).copied()).limit(4 * LIMIT).spawn()?;
        bare.wait_for_output("listening", LIMIT)?;
        Ok(bare)
    }

    fn guest(&self, address: &str, then: &str) -> Command {
        let (socket, meeting) = (self.daemon.socket("vm"), self.meeting());
        let argv =
            ["wire_guest", "--socket", &socket, "--address", address, then, "--connect", &meeting];
        self.cable.ends()[0].place.command(argv).limit(4 * LIMIT)
    }

    /// Addresses of the interface that the daemon's device is on.
    fn addresses(&self) -> Result<String> {
        let east = &self.cable.ends()[0].place;
        let shown = east.run(["ip", "-brief", "addr", "show", "dev", Cable::netdev(0)], LIMIT)?;
        Ok(shown.stdout_text())
    }

    /// The part of a processor that the daemon takes, over a second.
    fn busy(&self) -> Result<f64> {
        let pid = self.daemon.pid();
        let line = format!(
            "f=/proc/{pid}/stat; a=$(cut -d' ' -f14,15 $f); sleep 1; echo $a $(cut -d' ' -f14,15 $f)"
        );
        let said = self.cable.ends()[0].place.shell(line).limit(LIMIT).run()?.stdout_text();
        let ticks =
            said.split_whitespace().map(str::parse::<f64>).collect::<Result<Vec<_>, _>>()?;
        let [user, system, user_then, system_then] = ticks[..] else { bail!("{said}") };
        Ok((user_then + system_then - user - system) / 100.0)
    }

    /// Queue pairs and regions of programs that the daemon's device has.
    fn held(&self) -> Result<usize> {
        let east = &self.cable.ends()[0];
        let count = |what: &str| {
            let shown = east.place.run(["rdma", "resource", "show", what], LIMIT)?.stdout_text();
            let own = |line: &&str| line.contains(&east.device.name) && line.contains("pid");
            Ok::<_, anyhow::Error>(shown.lines().filter(own).count())
        };
        Ok(count("qp")? + count("mr")?)
    }
}

/// The guest's own address is on the host's interface while its driver has it, and no longer.
#[test]
fn a_guest_and_a_bare_endpoint_do_everything_to_each_other() -> Result<()> {
    let scene = Scene::set(ALLOW)?;
    let [_, followed] = scene.talk("10.78.0.11", "--both", &[])?;
    ensure!(followed.contains("\"op\":\"read_completion\""), "the peer has not led: {followed}");
    let addresses = scene.addresses()?;
    ensure!(!addresses.contains("10.78.0.11"), "the guest has left, its address not: {addresses}");
    ensure!(scene.held()? == 0, "the guest has left something: {}", scene.held()?);

    // What goes wrong is what verbs say.
    for (wrong, status) in [
        ("--wrong-key", "RemAccessErr"),
        ("--wrong-length", "LocLenErr"),
        ("--outlive", "RetryExcErr"),
    ] {
        let [led, _] = scene.talk("10.78.0.12", wrong, &[])?;
        ensure!(led.contains(&format!("\"status\":\"{status}\"")), "{wrong}: {led}");
    }
    // An address that the host has is not the guest's to send by.
    let refused = scene.talk("10.78.0.1", "--both", &[]).err().map(|error| format!("{error:#}"));
    let refused = refused.unwrap_or_default();
    ensure!(refused.contains("does not have the guest's address"), "{refused}");
    ensure!(scene.addresses()?.contains("10.78.0.1/"), "the host has lost its address");
    // Nor is one that somebody else on the network may have.
    let refused = scene.talk("10.78.0.99", "--both", &[]).err().map(|error| format!("{error:#}"));
    let refused = refused.unwrap_or_default();
    ensure!(refused.contains("direct.allow"), "{refused}");
    scene.daemon.stop()?;
    Ok(())
}

/// The guest has an address that the host's network does not know, and so has the peer for the guest.
#[test]
fn addresses_are_mapped_where_tenants_may_have_the_same() -> Result<()> {
    let map = "addresses = 'mapped'\n[[direct.map]]\nguest = '10.0.0.9'\nhost = '10.78.0.2'\n";
    let scene = Scene::set(map)?;
    let peer = ["--peer", "10.78.0.1", "--own", "10.0.0.9"];
    scene.talk("10.0.0.1", "--both", &peer)?;
    ensure!(!scene.addresses()?.contains("10.0.0.1"), "{}", scene.addresses()?);

    // A daemon that is killed while a guest is connected leaves nothing behind.
    let _bare = scene.bare(&peer)?;
    let guest = scene.guest("10.0.0.1", "--both").spawn()?;
    guest.wait_for_output("\"op\":\"write\"", LIMIT)?;
    ensure!(scene.held()? > 0, "rdma shows nothing of the daemon");
    let pid = scene.daemon.pid().to_string();
    scene.cable.ends()[0].place.run(["kill", "-9", &pid], LIMIT)?;
    let ended = guest.wait(LIMIT)?;
    ensure!(ended.success().is_err(), "the guest has not noticed");
    ensure!(scene.held()? == 0, "{} are left", scene.held()?);
    Ok(())
}

/// Memory that the kernel says is pinned for the daemon while a guest is connected and has been served, in KiB.
fn pinned_under_way(scene: &Scene) -> Result<u64> {
    let _bare = scene.bare(&[])?;
    let guest = scene.guest("10.78.0.11", "--both").spawn()?;
    guest.wait_for_output("\"op\":\"write\"", LIMIT)?;
    pinned_kib(scene.host.guest())
}

/// The device is removed under way, and there is another one of its name: the guest's program is told, and goes on with new
/// queue pairs and regions on the daemon and the port that it has.
fn goes_on_when_the_device_is_back(scene: &Scene) -> Result<()> {
    let east = &scene.cable.ends()[0];
    let name = &east.device.name;
    let bare = scene.bare(&[])?;
    let guest = scene.guest("10.78.0.11", "--survive").spawn()?;
    let until = |what: &str| {
        let found = guest.wait_for_output(what, LIMIT);
        found.with_context(|| scene.daemon.log().unwrap_or_default())
    };
    until("\"op\":\"writing\"")?;
    east.place.run(["rdma", "link", "delete", name.as_str()], LIMIT)?;
    until("\"op\":\"survive\",\"status\":\"FatalErr\"")?;
    until("\"event\":\"QpFatal\"")?;
    until("\"event\":\"PortDown\"")?;
    let status = scene.daemon.status()?;
    ensure!(status["ports"][0]["direct"]["up"] == false, "{status}");
    bare.wait(LIMIT)?.success()?;
    let idle = scene.busy()?;
    ensure!(idle < 0.5, "a lost device keeps the daemon busy, {idle} of a processor");

    let bare = scene.bare(&[])?;
    let netdev = Cable::netdev(0);
    let add = ["rdma", "link", "add", name.as_str(), "type", "rxe", "netdev", netdev];
    east.place.run(add, LIMIT)?;
    until("\"event\":\"PortUp\"")?;
    let led = guest.wait(LIMIT)?.success()?.stdout_text();
    let led_by_bare = bare.wait(LIMIT)?.success()?.stdout_text();
    ensure!(led.matches("\"op\":\"all\"").count() == 2, "{led}");
    ensure!(led_by_bare.contains("\"op\":\"read_completion\""), "{led_by_bare}");
    let status = scene.daemon.status()?;
    ensure!(status["ports"][0]["direct"]["up"] == true, "{status}");
    ensure!(scene.held()? == 0, "the guest has left something: {}", scene.held()?);
    Ok(())
}

/// An rxe that pages on demand as it should: nothing is pinned, in the guest or on the host.
#[test]
fn nothing_is_pinned_where_the_device_pages_on_demand() -> Result<()> {
    let scene = Scene::set_mended(&format!("odp = 'trust'\n{ALLOW}"))?;
    let log = scene.daemon.log()?;
    ensure!(log.contains("direct: pinned: no"), "{log}");
    scene.talk("10.78.0.11", "--both", &[])?;

    // Pages move, and go and come again, all the time that both ends write to them and read them.
    let [led, _] = scene.talk("10.78.0.11", "--restless", &[])?;
    let pinned = pinned_under_way(&scene)?;
    ensure!(pinned == 0, "{pinned} KiB are pinned");
    let moves = led.lines().find_map(|line| line.strip_prefix("moved ")).context("no moves")?;
    ensure!(moves.parse::<u64>()? > 10, "{moves}");

    // What the network loses, repeats and disorders, the devices make good.
    let (delay, jitter) = (Duration::from_micros(300), Duration::ZERO);
    scene.cable.spoil(&Netem { delay, jitter, loss: 0.3, duplicate: 0.5, reorder: 1.0 })?;
    let before = scene.cable.counters()?;
    scene.talk("10.78.0.11", "--both", &[])?;
    let after = scene.cable.counters()?;
    was_mended_by_sending_again(&[after[0].since(&before[0]), after[1].since(&before[1])])?;
    scene.cable.mend()?;
    goes_on_when_the_device_is_back(&scene)?;
    scene.daemon.stop()?;
    Ok(())
}

/// The kernel's own rxe does not pass, and the daemon says why.
#[test]
fn pages_stay_where_the_device_fails_its_trial() -> Result<()> {
    let scene = Scene::set(ALLOW)?;
    let log = scene.daemon.log()?;
    ensure!(log.contains("direct: pinned: yes, because its on-demand paging writes"), "{log}");
    let status = scene.daemon.status()?;
    let direct = &status["ports"][0]["direct"];
    ensure!(direct["pinned"] == true && direct["device"] == "rxe0", "{status}");
    // Otherwise nobody could tell that nothing is pinned elsewhere: at least the memory of the messages.
    let pinned = pinned_under_way(&scene)?;
    ensure!(pinned >= 1024, "{pinned} KiB are pinned");
    goes_on_when_the_device_is_back(&scene)?;
    scene.daemon.stop()?;
    Ok(())
}
