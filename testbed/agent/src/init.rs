// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Process 1 of the guest: file systems, modules, the serving child, orphans, power off.

use std::{
    fs, io,
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    process::{Pid, WaitOptions},
    system::RebootCommand,
};
use vnic_guest_agent::{PROBE_ARGUMENT, PROBE_MARKER};

/// Modules named here, one a line, are loaded before the agent serves.
const MODULES: &str = "/etc/modules";

/// Does not return while the guest lives.
pub fn run() -> io::Result<()> {
    let result = boot();
    if let Err(error) = &result {
        eprintln!("vnic-guest-agent: the guest cannot start: {error}");
    }
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::PowerOff)?;
    result
}

fn boot() -> io::Result<()> {
    for (kind, target, data) in [
        ("proc", "/proc", c""),
        ("sysfs", "/sys", c""),
        ("devtmpfs", "/dev", c""),
        ("tmpfs", "/dev/shm", c"mode=1777"),
        ("devpts", "/dev/pts", c"ptmxmode=0666"),
        ("tmpfs", "/run", c"mode=755"),
        ("tmpfs", "/tmp", c"mode=1777"),
        ("debugfs", "/sys/kernel/debug", c""),
    ] {
        fs::create_dir_all(target)?;
        match mount(kind, target, kind, MountFlags::empty(), data) {
            // The kernel may have mounted /dev, and may lack debugfs.
            Ok(()) | Err(Errno::BUSY | Errno::NODEV) => {}
            Err(error) => {
                return Err(io::Error::other(format!("cannot mount {kind} on {target}: {error}")));
            }
        }
    }
    let arguments = fs::read_to_string("/proc/cmdline")?;
    if arguments.split_whitespace().any(|word| word == PROBE_ARGUMENT) {
        println!("{PROBE_MARKER}");
        return Ok(());
    }
    load_modules()?;
    // Locked memory is limited by default; verbs programs expect an administrator to have lifted it.
    let unlimited = rustix::process::Rlimit { current: None, maximum: None };
    rustix::process::setrlimit(rustix::process::Resource::Memlock, unlimited)?;
    let _ = Command::new("ip").args(["link", "set", "lo", "up"]).status();

    let agent = Command::new("/proc/self/exe")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("HOME", "/root")
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .spawn()?;
    reap_until(agent.id())
}

fn load_modules() -> io::Result<()> {
    if !Path::new(MODULES).exists() {
        return Ok(());
    }
    let list = fs::read_to_string(MODULES)?;
    let names = list.split_whitespace().collect::<Vec<_>>();
    let status = Command::new("/sbin/modprobe").arg("-a").args(&names).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("modprobe -a {}: {status}", names.join(" "))))
    }
}

/// Collects every orphan, and returns when the agent itself ends.
fn reap_until(agent: u32) -> io::Result<()> {
    loop {
        match rustix::process::wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if is(pid, agent) => {
                return Err(io::Error::other(format!("the agent ended: {status:?}")));
            }
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn is(pid: Pid, number: u32) -> bool {
    u32::try_from(pid.as_raw_nonzero().get()) == Ok(number)
}
