// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether KVM works here. That `/dev/kvm` exists proves nothing: a machine may offer it and hang
//! in the first instructions of a kernel, so a guest is booted before KVM is used.

use std::{
    fmt, fs,
    path::Path,
    process::Stdio,
    thread,
    time::{Duration, Instant},
};

use vnic_guest_agent::{PROBE_ARGUMENT, PROBE_MARKER};

use super::{Files, RunDir, VmConfig, arguments, read_lossy};
use crate::{
    error::{Doing, Result},
    process::{cleanup, spawn},
    provision::{Provision, cache::Key, image::Image, progress::Step, qemu::Qemu},
};

/// Longest time for a guest to reach user space under KVM, which takes it about one second.
const LIMIT: Duration = Duration::from_secs(10);

/// How the processors of a guest run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    /// On the host's processors.
    Kvm,
    /// Translated by QEMU, one thread for each.
    Tcg,
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "TCG",
        })
    }
}

impl Accelerator {
    /// KVM if a guest boots under it, else TCG. The answer is kept until the machine restarts.
    ///
    /// # Errors
    /// When the probe cannot be run at all.
    pub fn choose(provision: &Provision, image: &Image) -> Result<Self> {
        const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
        if !Path::new("/dev/kvm").exists() {
            return Ok(Self::Tcg);
        }
        let boot = fs::read_to_string(BOOT_ID).at("read", Path::new(BOOT_ID))?;
        let key = Key::new("accelerator", 1).text(boot.trim()).text(&provision.qemu.version);
        let key = key.text(&image.kernel.release);
        let folder = provision.cache().get("accelerator", &key, |at| {
            let step = Step::start("trying KVM");
            let works = boots_under_kvm(&provision.qemu, image)?;
            fs::write(at.join("answer"), if works { "kvm" } else { "tcg" }).at("write", at)?;
            step.done();
            Ok(())
        })?;
        let answer = folder.join("answer");
        let works = fs::read_to_string(&answer).at("read", &answer)? == "kvm";
        Ok(if works { Self::Kvm } else { Self::Tcg })
    }
}

fn boots_under_kvm(qemu: &Qemu, image: &Image) -> Result<bool> {
    let run = RunDir::new()?;
    let mut config = VmConfig::new("probe", Accelerator::Kvm);
    config.memory = 512;
    config.kernel_arguments = PROBE_ARGUMENT.into();
    // The agent's port is part of the machine, so something has to listen.
    let files = Files::new(&run, &config)?;
    let agent = files.agent.path();
    let _listener = std::os::unix::net::UnixListener::bind(agent).at("listen on", agent)?;
    let mut command = qemu.command();
    command.args(arguments::of(image, &config, &files));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = spawn(command).doing(|| "start QEMU".into())?;
    let _registered = cleanup::child(&child).doing(|| "watch QEMU".into())?;
    let until = Instant::now() + LIMIT;
    let mut ended = false;
    while !ended && Instant::now() < until && !read_lossy(&files.serial).contains(PROBE_MARKER) {
        thread::sleep(Duration::from_millis(50));
        ended = child.try_wait().doing(|| "wait for QEMU".into())?.is_some();
    }
    let _ = child.kill();
    child.wait().doing(|| "wait for QEMU".into())?;
    Ok(read_lossy(&files.serial).contains(PROBE_MARKER))
}
