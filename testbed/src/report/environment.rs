// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The machine and the versions that a run's numbers belong to.

use std::{collections::BTreeMap, fs, path::Path, process::Command, thread, time::SystemTime};

use serde::{Deserialize, Serialize};

use crate::{
    error::{Doing, Result},
    host::Conditions,
    provision::{Provision, image::Image},
    topology::{PairConfig, Pinning},
    vm::{Accelerator, VmConfig},
};

/// Debian packages whose versions matter to the numbers.
const PACKAGES: [&str; 4] = ["perftest", "rdma-core", "sockperf", "qperf"];

const UNKNOWN: &str = "unknown";

/// Where the numbers come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Environment {
    /// When the run began, in UTC.
    pub date: String,
    /// The commit of this project.
    pub commit: String,
    /// Whether files differed from the commit.
    pub modified: bool,
    /// Model of the processor.
    pub cpu: String,
    /// Number of processors that this process may use.
    pub cores: usize,
    /// Memory of the host in MiB.
    pub memory_mib: u64,
    /// Name of the host's distribution.
    pub host: String,
    /// Release of the host's kernel.
    pub host_kernel: String,
    /// How the guests' processors run.
    pub accelerator: String,
    /// Why not otherwise.
    pub accelerator_reason: String,
    /// First line of QEMU's version.
    pub qemu: String,
    /// Release of the guests' kernel.
    pub guest_kernel: String,
    /// Virtual processors of each guest.
    pub guest_processors: u32,
    /// Memory of each guest in MiB.
    pub guest_memory_mib: u32,
    /// Whether that memory is of huge pages of the host.
    #[serde(default)]
    pub guest_huge_pages: bool,
    /// What the host's processors and memory are like.
    #[serde(default)]
    pub conditions: Option<Conditions>,
    /// Which threads were pinned where.
    #[serde(default)]
    pub pinning: Option<Pinning>,
    /// First line of the daemon's version.
    pub daemon: String,
    /// Versions of the guests' Debian packages.
    pub packages: BTreeMap<String, String>,
}

impl Environment {
    /// Asks the machine.
    ///
    /// # Errors
    /// When the provisioned root is damaged. What the host does not tell is "unknown"; its conditions and the
    /// pinning are the caller's to add.
    pub fn gather(
        provision: &Provision,
        image: &Image,
        pair: &PairConfig,
        daemon: &Path,
    ) -> Result<Self> {
        let accelerator = pair.accelerator;
        let status = provision.root().path().join("var/lib/dpkg/status");
        let status = fs::read_to_string(&status).at("read", &status)?;
        let versions = PACKAGES.iter().map(|&name| {
            ((*name).to_string(), package_version(&status, name).unwrap_or(UNKNOWN).to_string())
        });
        let workspace = provision.workspace().root();
        let (commit, modified) = commit(workspace);
        let guest = VmConfig::new("", accelerator);
        Ok(Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            commit: commit.unwrap_or_else(|| UNKNOWN.into()),
            modified,
            cpu: cpu(),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_mib: memory_mib(),
            host: os_name(&fs::read_to_string("/etc/os-release").unwrap_or_default()),
            host_kernel: kernel(),
            accelerator: accelerator.to_string(),
            accelerator_reason: reason(accelerator).into(),
            qemu: provision.qemu.version.clone(),
            guest_kernel: image.kernel.release.clone(),
            guest_processors: guest.processors,
            guest_memory_mib: pair.memory,
            guest_huge_pages: pair.huge_pages,
            conditions: None,
            pinning: None,
            daemon: said(Command::new(daemon).arg("--version")).unwrap_or_else(|| UNKNOWN.into()),
            packages: versions.collect(),
        })
    }

    /// All of it as names and values for people.
    pub fn lines(&self) -> Vec<(String, String)> {
        let mut lines = [
            ("date", self.date.clone()),
            ("commit", commit_line(&self.commit, self.modified)),
            ("CPU", format!("{}, {} cores", self.cpu, self.cores)),
            ("memory", format!("{} MiB", self.memory_mib)),
            ("host", format!("{}, Linux {}", self.host, self.host_kernel)),
            ("accelerator", format!("{}: {}", self.accelerator, self.accelerator_reason)),
            ("QEMU", self.qemu.clone()),
            ("guest kernel", self.guest_kernel.clone()),
            (
                "guests",
                format!(
                    "2, each of {} processors and {} MiB{}",
                    self.guest_processors,
                    self.guest_memory_mib,
                    if self.guest_huge_pages { " of huge pages" } else { "" },
                ),
            ),
            ("daemon", self.daemon.clone()),
        ]
        .map(|(name, value)| (name.to_string(), value))
        .to_vec();
        let more = [
            ("conditions", self.conditions.as_ref().map(Conditions::line)),
            ("pinning", self.pinning.as_ref().map(ToString::to_string)),
        ];
        lines.extend(more.into_iter().filter_map(|(name, value)| Some((name.into(), value?))));
        lines.extend(self.packages.iter().map(|(name, version)| (name.clone(), version.clone())));
        lines
    }
}

/// The commit of the files in `workspace`, if they are under version control, and whether they differ
/// from it.
pub(crate) fn commit(workspace: &Path) -> (Option<String>, bool) {
    let git =
        |arguments: &[&str]| said(Command::new("git").arg("-C").arg(workspace).args(arguments));
    let modified = git(&["status", "--porcelain", "--untracked-files=no"]).is_some();
    (git(&["rev-parse", "HEAD"]), modified)
}

/// The same for people, with whether files differ from the commit.
pub fn commit_of(workspace: &Path) -> Option<String> {
    let (commit, modified) = commit(workspace);
    commit.map(|commit| commit_line(&commit, modified))
}

/// A commit for people.
pub(crate) fn commit_line(commit: &str, modified: bool) -> String {
    format!("{commit}{}", if modified { ", with changes" } else { "" })
}

/// Model of the host's processor.
pub(crate) fn cpu() -> String {
    field("/proc/cpuinfo", "model name").unwrap_or_else(|| UNKNOWN.into())
}

/// Memory of the host in MiB; 0 if it does not tell.
pub(crate) fn memory_mib() -> u64 {
    field("/proc/meminfo", "MemTotal").and_then(|text| mebibytes(&text)).unwrap_or(0)
}

/// Release of the host's kernel.
pub(crate) fn kernel() -> String {
    rustix::system::uname().release().to_string_lossy().into_owned()
}

fn reason(accelerator: Accelerator) -> &'static str {
    match accelerator {
        Accelerator::Kvm => "a guest boots under it",
        Accelerator::Tcg if Path::new("/dev/kvm").exists() => {
            "/dev/kvm is there, but no guest boots under KVM"
        }
        Accelerator::Tcg => "there is no /dev/kvm",
    }
}

/// What a command printed, if it succeeded and printed anything.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
    (!text.is_empty()).then_some(text)
}

/// The value of a line `name : value` of a file in `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let mut fields = text.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.trim() == name).map(|(_, value)| value.trim().to_string())
}

fn mebibytes(text: &str) -> Option<u64> {
    Some(text.strip_suffix("kB")?.trim().parse::<u64>().ok()? >> 10)
}

fn os_name(text: &str) -> String {
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.map_or(UNKNOWN, |name| name.trim_matches('"')).to_string()
}

/// The version of a package in dpkg's list of what is installed.
fn package_version<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    let mut paragraphs = status.split("\n\n");
    let paragraph = paragraphs
        .find(|text| text.lines().any(|line| line.strip_prefix("Package: ") == Some(name)))?;
    paragraph.lines().find_map(|line| line.strip_prefix("Version: "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_those_of_the_whole_name() {
        let status = "Package: rdma-core-extra\nVersion: 1\n\nPackage: rdma-core\nStatus: install ok installed\nVersion: 56.1-1\n";
        assert_eq!(package_version(status, "rdma-core"), Some("56.1-1"));
        assert_eq!(package_version(status, "rdma"), None);
    }

    #[test]
    fn files_of_the_host_are_read() {
        assert_eq!(os_name("ID=debian\nPRETTY_NAME=\"Debian 13\"\n"), "Debian 13");
        assert_eq!(os_name(""), UNKNOWN);
        assert_eq!(mebibytes("2048 kB"), Some(2));
        assert!(field("/proc/meminfo", "MemTotal").is_some());
        assert!(field("/proc/meminfo", "MemTot").is_none());
    }
}
