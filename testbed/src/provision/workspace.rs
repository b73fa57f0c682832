// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Builds crates of this workspace for the guests: the host's Rust toolchain, run inside the
//! Debian root, against its headers and libraries.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    cache::{Cache, Key},
    logged,
    progress::Step,
    root::{Access, Root},
};
use crate::error::{Doing, Error, Result};

/// The sources and where cargo builds.
#[derive(Debug, Clone)]
pub struct Workspace {
    root: PathBuf,
    target: PathBuf,
}

impl Workspace {
    /// The workspace that this crate was compiled from. The guests' builds go below
    /// `CARGO_TARGET_DIR` if it is set, else below `target`.
    pub fn here() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self::at(root.parent().unwrap_or(root))
    }

    /// A workspace in another folder.
    pub fn at(root: &Path) -> Self {
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        Self { root: root.into(), target: root.join(target) }
    }

    /// Its folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The folder that cargo builds in.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Starts a key of what decides how `folders` of the workspace compile.
    pub(super) fn key(
        &self,
        kind: &str,
        version: u32,
        root: &Root,
        folders: &[&str],
    ) -> Result<Key> {
        let mut key = Key::new(kind, version).text(&root.key()).text(&self.ask_rustc("-vV")?);
        for path in ["Cargo.toml", "Cargo.lock"].iter().chain(folders) {
            key = key.path(&self.root.join(path))?;
        }
        Ok(key)
    }

    /// Runs `cargo build` for `package` inside `root`; returns the folder of what it built.
    pub(super) fn build(
        &self,
        cache: &Cache,
        root: &Root,
        package: &str,
        environment: &[(&str, &str)],
        step: &Step,
    ) -> Result<PathBuf> {
        let log = cache.log(package);
        self.cargo(root, &["build", "-p", package], &[], environment, &log, step)?;
        Ok(self.guest_target().join("release"))
    }

    /// Where cargo builds for the guests: objects made for the host are of no use in the root, and
    /// the other way round.
    fn guest_target(&self) -> PathBuf {
        self.target.join("guest")
    }

    /// Runs cargo inside `root` in release mode, with everything fetched before; `last` goes to the
    /// end of its command line.
    pub(super) fn cargo(
        &self,
        root: &Root,
        arguments: &[&str],
        last: &[&str],
        environment: &[(&str, &str)],
        log: &Path,
        step: &Step,
    ) -> Result<()> {
        let mut fetch = Command::new("cargo");
        fetch.current_dir(&self.root).args(["fetch", "--target", "x86_64-unknown-linux-gnu"]);
        logged::run(fetch, "fetching crates with cargo", log, step)?;

        let toolchain = PathBuf::from(self.ask_rustc("--print=sysroot")?.trim_end());
        let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cargo"));
        let home = env::var_os("CARGO_HOME")
            .map(PathBuf::from)
            .or_else(home)
            .ok_or_else(|| Error::unfit("neither CARGO_HOME nor HOME is set", "Set HOME."))?;
        let target = self.guest_target();
        std::fs::create_dir_all(&target).at("make", &target)?;
        let mut inside = root
            .inside()
            .mount(&toolchain, "toolchain", Access::ReadOnly)
            .mount(&home, "cargo", Access::ReadWrite)
            .mount(&self.root, "workspace", Access::ReadOnly)
            .mount(&target, "target", Access::ReadWrite)
            .folder("/host/workspace")
            .env("CARGO_HOME", "/host/cargo")
            .env("CARGO_TARGET_DIR", "/host/target")
            .env("PATH", "/host/toolchain/bin:/usr/sbin:/usr/bin");
        for (name, value) in environment {
            inside = inside.env(name, *value);
        }
        // Cargo would take rustup's stand-in for clippy out of its own home, and rustup is not here.
        let program = if arguments.first() == Some(&"clippy") { "cargo-clippy" } else { "cargo" };
        let arguments = [arguments, &["--release", "--offline", "--locked"], last].concat();
        let command = inside.command(program, &arguments);
        logged::run(command, &format!("cargo {}", arguments.join(" ")), log, step)
    }

    fn ask_rustc(&self, argument: &str) -> Result<String> {
        let output = Command::new("rustc").current_dir(&self.root).arg(argument).output();
        let output = output.doing(|| "run rustc".into())?;
        if !output.status.success() {
            let what = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(Error::unfit(what, "Install Rust with rustup."));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
