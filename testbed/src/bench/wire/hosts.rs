// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the ends of the wire are: two hosts that are virtual machines with rxe, or this machine with a device of its
//! own.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use super::subject::Subject;
use crate::{
    error::{Doing, Error, Result},
    lab::{self, HostDaemon, WIRE_BENCH},
    process::{cleanup, spawn},
    process_guest::Daemon,
    provision::{Provision, workspace::Workspace},
    topology::Pair,
    workload::end::End,
};

/// Longest run of the program on an emulated host that has to share its processors.
const LIMIT: Duration = Duration::from_secs(600);
/// How long its other end may take to be ready.
const READY: Duration = Duration::from_secs(60);
/// Where the ends meet.
const MEETING: u16 = 18700;
/// Where the kernel shows its RDMA devices.
const SYSFS: &str = "/sys/class/infiniband";

/// Two hosts with a wire and a daemon each.
pub trait Hosts {
    /// Where figures come from, in a line.
    fn lane(&self) -> String;

    /// Whether both ends are on one machine.
    fn one_machine(&self) -> bool;

    /// The end on a side (0 leads, 1 follows), as `wire_bench` takes it.
    fn end(&self, subject: Subject, side: usize) -> Vec<String>;

    /// Why guests that go direct keep their pages where they are; `None` if they do not.
    ///
    /// # Errors
    /// When the leader's daemon does not say it.
    fn pinned(&self) -> Result<Option<String>>;

    /// Runs the follower, then the leader to its end, each with what it adds to its words; what the leader prints.
    ///
    /// # Errors
    /// When one of them fails, with what it and the daemons said.
    fn run(&self, subject: Subject, plan: &str) -> Result<String>;
}

/// Virtual machines that play hosts, with stock rxe.
pub struct Machines {
    ends: [End; 2],
    kernel: String,
    accelerator: String,
    daemons: [HostDaemon; 2],
    /// The last field: what runs in them is gone before.
    pair: Pair,
}

impl Machines {
    /// Boots them, and starts the daemons.
    ///
    /// # Errors
    /// When a program was not built, or a machine or a daemon does not start.
    pub fn boot(provision: &Provision, workspace: &Workspace) -> Result<Self> {
        let (pair, ends) = lab::two_hosts(provision, &lab::programs(workspace)?)?;
        let release = ends[0].place.run(["uname", "-r"], READY)?.stdout_text();
        let accelerator = pair.left.accelerator().to_string();
        let daemons = lab::wired(&ends, &["--workers", "1"])?;
        Ok(Self { ends, kernel: release.trim().into(), accelerator, daemons, pair })
    }

    /// The machines.
    pub fn pair(&self) -> &Pair {
        &self.pair
    }
}

impl Hosts for Machines {
    fn lane(&self) -> String {
        format!("rxe between two hosts of Linux {} under {}", self.kernel, self.accelerator)
    }

    fn one_machine(&self) -> bool {
        false
    }

    fn end(&self, subject: Subject, side: usize) -> Vec<String> {
        let device = &self.ends[side].device.name;
        if subject.is_guest(side) {
            of_guest(subject, &self.daemons[side].socket(port_of(subject)), side, device)
        } else {
            of_host(device)
        }
    }

    fn pinned(&self) -> Result<Option<String>> {
        Ok(reason(&self.daemons[0].status()?))
    }

    fn run(&self, subject: Subject, plan: &str) -> Result<String> {
        let meeting = format!("{}:{MEETING}", self.ends[1].address);
        let words = |side: usize, more: [&str; 2]| {
            let more = more.map(String::from);
            [vec![WIRE_BENCH.to_string()], self.end(subject, side), more.to_vec()].concat()
        };
        let follower = self.ends[1].place.command(words(1, ["--listen", &meeting])).spawn()?;
        follower.wait_for_output("listening", READY)?;
        let plan = ["--plan".to_string(), plan.into()];
        let leader = [words(0, ["--connect", &meeting]), plan.to_vec()].concat();
        let led = self.ends[0].place.command(leader).limit(LIMIT).run().map_err(|error| {
            let followed = follower.output_so_far().map(|output| output.all_text());
            let logs = self.daemons.each_ref().map(|daemon| daemon.log().unwrap_or_default());
            error.with_output(&format!(
                "The other end had printed:\n{}\nThe daemons had logged:\n{}\n{}",
                followed.unwrap_or_default(),
                logs[0],
                logs[1]
            ))
        })?;
        follower.wait(READY)?.success()?;
        Ok(led.stdout_text())
    }
}

/// This machine, with an RDMA device: both ends are here, and what they send goes through the device's port and back.
pub struct Here {
    device: String,
    program: PathBuf,
    daemons: [Daemon; 2],
}

impl Here {
    /// Starts the daemons on the device called `device`.
    ///
    /// # Errors
    /// When there is no such device, or the programs were not built.
    ///
    /// # Panics
    /// When a daemon does not start.
    pub fn start(device: &str, workspace: &Workspace) -> Result<Self> {
        present(device)?;
        let built = lab::built(workspace);
        let program = built.join("examples/wire_bench");
        if !program.exists() {
            let what = format!("there is no {}", program.display());
            return Err(Error::unfit(what, "`cargo xtask testbed --wire` builds it."));
        }
        cleanup::on_interrupt().doing(|| "watch for interrupts".into())?;
        let addresses = [free_address()?, free_address()?];
        let start = |side: usize| {
            let names = [lab::SIDES[side], lab::SIDES[1 - side]];
            let addresses = [addresses[side].as_str(), addresses[1 - side].as_str()];
            let text = lab::configuration(names, addresses, true);
            let daemon = Daemon::of(built.join("vnic")).port(lab::PORT).config(&text);
            let daemon = daemon.port_with(lab::DIRECT_PORT, "direct=true");
            daemon.workers(1).arg("--wire").arg(device).start()
        };
        Ok(Self { device: device.into(), program, daemons: [start(0), start(1)] })
    }
}

impl Hosts for Here {
    fn lane(&self) -> String {
        format!("{}, both ends on this machine", self.device)
    }

    fn one_machine(&self) -> bool {
        true
    }

    fn end(&self, subject: Subject, side: usize) -> Vec<String> {
        if subject.is_guest(side) {
            let socket = self.daemons[side].socket(port_of(subject));
            of_guest(subject, &socket.display().to_string(), side, &self.device)
        } else {
            of_host(&self.device)
        }
    }

    fn pinned(&self) -> Result<Option<String>> {
        Ok(reason(&self.daemons[0].status()))
    }

    fn run(&self, subject: Subject, plan: &str) -> Result<String> {
        let meeting = free_address()?;
        let start = |side: usize, more: &[&str]| {
            let mut command = Command::new(&self.program);
            command.args(self.end(subject, side)).args(more).stdin(Stdio::null());
            command.stdout(Stdio::piped()).stderr(Stdio::inherit());
            spawn(command).doing(|| format!("start {}", self.program.display()))
        };
        let mut follower = start(1, &["--listen", &meeting])?;
        let _follower = cleanup::child(&follower).doing(|| "watch the other end".into())?;
        let mut line = String::new();
        if let Some(output) = follower.stdout.take() {
            BufReader::new(output).read_line(&mut line).doing(|| "read it".into())?;
        }
        let mut leader = start(0, &["--connect", &meeting, "--plan", plan])?;
        let _leader = cleanup::child(&leader).doing(|| "watch the leading end".into())?;
        let mut printed = String::new();
        if let Some(mut output) = leader.stdout.take() {
            output.read_to_string(&mut printed).doing(|| "read what it prints".into())?;
        }
        for mut child in [leader, follower] {
            let status = child.wait().doing(|| "wait for an end".into())?;
            if !status.success() {
                let logs = self.daemons.each_ref().map(Daemon::log).join("\n");
                let what = format!("wire_bench, {subject}: {status}; the daemons' logs:\n{logs}");
                return Err(Error::unfit(what, "Its own words are above."));
            }
        }
        Ok(printed)
    }
}

/// Why pages stay, from what a daemon says of itself.
fn reason(status: &Value) -> Option<String> {
    let ports = status["ports"].as_array()?;
    let port = ports.iter().find(|port| port["name"] == lab::DIRECT_PORT)?;
    port["direct"]["because"].as_str().map(String::from)
}

fn of_host(device: &str) -> Vec<String> {
    vec!["--bare".into(), device.into()]
}

/// The port that a guest is on.
fn port_of(subject: Subject) -> &'static str {
    if subject == Subject::Direct { lab::DIRECT_PORT } else { lab::PORT }
}

fn of_guest(subject: Subject, socket: &str, side: usize, device: &str) -> Vec<String> {
    let mut words =
        ["--guest", socket, "--host", &(side + 1).to_string()].map(String::from).to_vec();
    if subject == Subject::Direct {
        // The peer knows it by the address of its host.
        words.extend(["--by", device].map(String::from));
    }
    words
}

/// An address of this machine at which nobody listens.
fn free_address() -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0").doing(|| "find a free port".into())?;
    Ok(listener.local_addr().doing(|| "name a free port".into())?.to_string())
}

/// Fails if this machine has no such device, and says which it has.
///
/// # Errors
/// That.
pub fn present(device: &str) -> Result<()> {
    find(device, Path::new(SYSFS))
}

fn find(device: &str, folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut there = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names = there.by_ref().collect::<Vec<_>>();
    if names.iter().any(|name| name == device) {
        return Ok(());
    }
    names.sort();
    let there = match &names[..] {
        [] => "none at all".into(),
        names => names.join(", "),
    };
    Err(Error::unfit(
        format!("this machine has no RDMA device {device}, but {there}"),
        "`rdma link` (iproute2) lists devices; load the driver of yours (modprobe mlx5_ib), or take \
         `--wire rxe`, which needs none.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_named_with_what_there_is() {
        let folder = tempfile::tempdir().unwrap();
        let said = |device| find(device, folder.path()).unwrap_err().to_string();
        assert!(said("mlx5_0").contains("no RDMA device mlx5_0, but none at all. `rdma link`"));
        fs::create_dir(folder.path().join("mlx5_1")).unwrap();
        assert!(said("mlx5_0").contains("but mlx5_1"));
        find("mlx5_1", folder.path()).unwrap();
    }

    #[test]
    fn ends_are_what_the_subject_says() {
        let guests = |subject: Subject| [0, 1].map(|side| subject.is_guest(side));
        assert_eq!(Subject::ALL.map(guests), [[false, false], [true, true], [true, false]]);
        let guest = of_guest(Subject::Relay, "a.sock", 1, "rxe0");
        assert_eq!(guest, ["--guest", "a.sock", "--host", "2"]);
        let guest = of_guest(Subject::Direct, "a.sock", 0, "rxe0");
        assert_eq!(guest, ["--guest", "a.sock", "--host", "1", "--by", "rxe0"]);
    }
}
