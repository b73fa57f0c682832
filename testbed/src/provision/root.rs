// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The Debian root: QEMU, both guest kernels with headers, compilers, the guest's programs.
//!
//! It is made once by mmdebstrap and is never changed afterwards: builds run inside it with the
//! root mounted read-only and what they need mounted below `/host`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    cache::{Cache, Key},
    host, logged,
    progress::Step,
};
use crate::error::{Doing, Result};

/// Debian release of the root, and so of the guests.
pub const SUITE: &str = "trixie";

/// Packages for building the guest driver.
const BUILD_PACKAGES: &[&str] = &[
    "build-essential",
    "ca-certificates",
    "kmod",
    "libclang-dev",
    "libibverbs-dev",
    "librdmacm-dev",
    "pkgconf",
    "python3-minimal",
    "xz-utils",
    "zstd",
];

/// Packages whose programs and libraries go into the guest image.
pub const GUEST_PACKAGES: &[&str] = &[
    "busybox",
    "ibverbs-providers",
    "ibverbs-utils",
    "iproute2",
    "iputils-ping",
    "kmod",
    "libibverbs1",
    "perftest",
    "procps",
    "qperf",
    "rdma-core",
    "sockperf",
    "strace",
];

const SETUP: &str = include_str!("root-setup.sh");
const INSIDE: &str = include_str!("inside-root.sh");

/// A finished Debian root.
#[derive(Debug, Clone)]
pub struct Root {
    path: PathBuf,
}

/// Whether what runs inside may change something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It may not.
    ReadOnly,
    /// It may.
    ReadWrite,
}

impl Access {
    fn word(self) -> &'static str {
        match self {
            Self::ReadOnly => "ro",
            Self::ReadWrite => "rw",
        }
    }
}

impl Root {
    /// Builds the root, or finds the one built before. Takes about two minutes when it builds.
    ///
    /// # Errors
    /// When mmdebstrap or apt-get fails, with the end of their output.
    pub fn provision(cache: &Cache) -> Result<Self> {
        let key = Key::new("root", 1).text(SUITE).text(SETUP);
        let key = BUILD_PACKAGES.iter().chain(GUEST_PACKAGES).fold(key, |key, name| key.text(name));
        let path = cache.get("root", &key, |at| build(cache, at))?;
        Ok(Self { path })
    }

    /// Where it is on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Hash of what it was built from, as part of the key of whatever is built with it.
    pub fn key(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Prepares to run something inside, with the root read-only.
    pub fn inside(&self) -> Inside {
        Inside {
            root: self.path.clone(),
            access: Access::ReadOnly,
            folder: "/".into(),
            binds: Vec::new(),
            environment: Vec::new(),
        }
    }
}

/// Something to be run inside a root.
#[derive(Debug, Clone)]
pub struct Inside {
    root: PathBuf,
    access: Access,
    folder: String,
    binds: Vec<(PathBuf, String, Access)>,
    environment: Vec<(String, String)>,
}

impl Inside {
    /// Mounts the host's `source` as `/host/name`.
    #[must_use]
    pub fn mount(mut self, source: &Path, name: &str, access: Access) -> Self {
        self.binds.push((source.into(), name.into(), access));
        self
    }

    /// Sets a variable. Nothing of the caller's environment is inherited but proxies.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Starts in this folder of the root instead of `/`.
    #[must_use]
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        self.folder = folder.into();
        self
    }

    /// The command to run, in mount and process namespaces of its own: when it ends, so do all
    /// the processes that it started, and its mounts are gone.
    pub fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("unshare");
        command
            .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
            .args(["--", "sh", "-c", INSIDE, "sh"])
            .args([self.root.as_os_str(), self.access.word().as_ref(), self.folder.as_ref()]);
        for (source, name, access) in &self.binds {
            command.args([source.as_os_str(), name.as_ref(), access.word().as_ref()]);
        }
        command.arg("--").arg(program).args(arguments);
        command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .env("LC_ALL", "C.UTF-8")
            .envs(host::network_environment())
            .envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }
}

fn build(cache: &Cache, at: &Path) -> Result<()> {
    let step = Step::start(format!("building the Debian {SUITE} root"));
    let log = cache.log("root");
    let _ = fs::remove_file(&log);
    let mut bootstrap = Command::new("mmdebstrap");
    bootstrap.args(["--mode=root", "--variant=apt", "--architectures=amd64", SUITE]).arg(at);
    // Without one, mmdebstrap knows Debian's own.
    bootstrap.args(host::mirror());
    logged::run(bootstrap, "making a Debian root with mmdebstrap", &log, &step)?;

    let proxy = at.join("etc/apt/apt.conf.d/90host-proxy");
    fs::write(&proxy, host::apt_proxy()?).at("write", &proxy)?;
    for file in ["etc/resolv.conf", "etc/hosts"] {
        let from = Path::new("/").join(file);
        if from.exists() {
            fs::copy(&from, at.join(file)).at("copy", &from)?;
        }
    }
    let mut inside = Root { path: at.into() }.inside();
    inside.access = Access::ReadWrite;
    let (build, guest) = (BUILD_PACKAGES.join(" "), GUEST_PACKAGES.join(" "));
    let setup = inside.command("/bin/sh", &["-c", SETUP, "root-setup", SUITE, &build, &guest]);
    logged::run(setup, "installing packages in the Debian root", &log, &step)?;
    step.done();
    Ok(())
}
