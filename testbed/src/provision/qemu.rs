// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds a QEMU that can attach the device.

use std::{
    ffi::{OsStr, OsString},
    iter,
    path::{Path, PathBuf},
    process::Command,
};

use super::root::Root;
use crate::error::{Doing, Error, Result};

/// The QEMU device that carries the vNIC.
pub const DEVICE: &str = "vhost-user-test-device-pci";

const PROGRAM: &str = "qemu-system-x86_64";

/// A QEMU that was asked and knows [`DEVICE`].
#[derive(Debug, Clone)]
pub struct Qemu {
    program: PathBuf,
    leading: Vec<OsString>,
    environment: Vec<(&'static str, OsString)>,
    /// Its first line of `--version`.
    pub version: String,
}

impl Qemu {
    /// The system's QEMU if it knows the device, else the one in the root.
    ///
    /// # Errors
    /// When neither does.
    pub fn find(root: &Root) -> Result<Self> {
        let system = Self {
            program: PROGRAM.into(),
            leading: Vec::new(),
            environment: Vec::new(),
            version: String::new(),
        };
        if let Ok(qemu) = system.probed() {
            return Ok(qemu);
        }
        Self::of_root(root.path()).probed()
    }

    /// The QEMU of a Debian root, which need not be there yet and is not asked for anything.
    ///
    /// Runs the root's QEMU on the host's own file system, so that its sockets and files are
    /// ours: through the root's loader, since it needs a newer C library than the host may have.
    pub(crate) fn of_root(root: &Path) -> Self {
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut leading: Vec<OsString> =
            vec!["--argv0".into(), PROGRAM.into(), "--library-path".into()];
        leading.push(libraries.clone().into());
        leading.push(root.join("usr/bin").join(PROGRAM).into());
        for data in ["usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"] {
            leading.extend(["-L".into(), root.join(data).into()]);
        }
        Self {
            program: root.join("usr/lib64/ld-linux-x86-64.so.2"),
            leading,
            environment: vec![("QEMU_MODULE_DIR", libraries.join("qemu").into())],
            version: String::new(),
        }
    }

    /// Variables, and words to which arguments can be added, for a machine in which its files are at the same place.
    pub(crate) fn words(&self) -> (Vec<(String, String)>, Vec<String>) {
        let text = |word: &OsStr| word.to_string_lossy().into_owned();
        let variables = self.environment.iter();
        let variables = variables.map(|(name, value)| (name.to_string(), text(value))).collect();
        let words = iter::once(self.program.as_os_str());
        let words = words.chain(self.leading.iter().map(OsString::as_os_str)).map(text).collect();
        (variables, words)
    }

    /// A command to which arguments can be added.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.args(&self.leading);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    fn probed(mut self) -> Result<Self> {
        let ask = |arguments: &[&str]| {
            let output = self.command().args(arguments).output();
            let output = output.doing(|| format!("run {}", self.program.display()))?;
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        };
        let version = ask(&["--version"])?.lines().next().unwrap_or_default().to_string();
        if !ask(&["-device", "help"])?.contains(&format!("\"{DEVICE}\"")) {
            return Err(Error::unfit(
                format!("{version} has no device {DEVICE}"),
                "QEMU 11.1 or newer is needed; Debian's backports have it.",
            ));
        }
        self.version = version;
        Ok(self)
    }
}
