// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the host itself must have: root rights and a few packages.

use std::{env, path::Path, process::Command};

use super::{cache::Cache, logged, progress::Step};
use crate::error::{Doing, Error, Result};

/// Debian packages that the provisioning itself uses.
const PACKAGES: &[&str] = &["mmdebstrap", "debian-archive-keyring", "util-linux", "mount"];

/// Checks for root rights, and installs the packages that are missing.
pub(super) fn prepare(cache: &Cache) -> Result<()> {
    require_root()?;
    install(cache, PACKAGES)
}

fn require_root() -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Err(Error::unfit(
            "the testbed is provisioned by root only",
            "Run the same command as root: it makes a Debian root and mounts inside it.",
        ));
    }
    Ok(())
}

/// Installs those of `packages` that are missing.
pub(super) fn install(cache: &Cache, packages: &[&str]) -> Result<()> {
    let missing = packages.iter().filter(|name| !installed(name)).copied().collect::<Vec<_>>();
    if missing.is_empty() {
        return Ok(());
    }
    require_root()?;
    if !Path::new("/usr/bin/apt-get").exists() {
        return Err(Error::unfit(
            format!("{} missing, and this is no Debian", missing.join(", ")),
            "Install them by hand.",
        ));
    }
    let step = Step::start(format!("installing {}", missing.join(", ")));
    let log = cache.log("host-packages");
    let doing = format!("installing {} with apt-get", missing.join(", "));
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args([
            "-y",
            "-o",
            "DPkg::Lock::Timeout=300",
        ]);
        command.args(arguments);
        command
    };
    // A stale list often still serves; a failed update must not stop an install that would work.
    let _ = logged::run(apt(&["update"]), &doing, &log, &step);
    let mut install = apt(&["install", "--no-install-recommends"]);
    install.args(&missing);
    logged::run(install, &doing, &log, &step)?;
    step.done();
    Ok(())
}

fn installed(package: &str) -> bool {
    let query =
        Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// The Debian archive that this machine itself uses, if it is one.
pub(super) fn mirror() -> Option<String> {
    const FORMAT: &str = "$(ORIGIN)|$(LABEL)|$(COMPONENT)|$(SUITE)|$(REPO_URI)";
    let output =
        Command::new("apt-get").args(["indextargets", "--format", FORMAT]).output().ok()?;
    pick_mirror(&String::from_utf8_lossy(&output.stdout))
}

fn pick_mirror(targets: &str) -> Option<String> {
    targets.lines().find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
        // Point-release and security archives have labels and suites of their own.
        ["Debian", "Debian", "main", suite, uri]
            if !suite.contains('-')
                && (uri.starts_with("http://") || uri.starts_with("https://")) =>
        {
            Some(uri.trim_end_matches('/').to_string())
        }
        _ => None,
    })
}

/// The proxy that apt is told to use, as lines of its configuration.
pub(super) fn apt_proxy() -> Result<String> {
    let output =
        Command::new("apt-config").arg("dump").output().doing(|| "run apt-config".into())?;
    let text = String::from_utf8_lossy(&output.stdout);
    let proxies = text.lines().filter(|l| l.starts_with("Acquire::http") && l.contains("::Proxy "));
    Ok(proxies.map(|line| format!("{line}\n")).collect())
}

/// Variables that programs need to reach the network from here.
pub(super) fn network_environment() -> impl Iterator<Item = (String, String)> {
    const NAMES: [&str; 3] = ["http_proxy", "https_proxy", "no_proxy"];
    env::vars().filter(|(name, _)| NAMES.contains(&name.to_ascii_lowercase().as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_debians_main_archive() {
        let targets = "Other|Other|main|stable|http://other.example/apt/\n\
                       Debian|Debian-Security|main|stable-security|http://mirror.example/security/\n\
                       Debian|Debian|main|stable-updates|http://mirror.example/debian/\n\
                       Debian|Debian|main|stable|http://mirror.example/debian/\n";
        assert_eq!(pick_mirror(targets).as_deref(), Some("http://mirror.example/debian"));
        assert_eq!(pick_mirror("Debian|Debian|main|stable|cdrom://[x]/\n"), None);
        assert_eq!(pick_mirror(""), None);
    }
}
