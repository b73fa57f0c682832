// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the commands share.

use anyhow::{Context, Result};
use std::path::{Path, PathBuf};
use std::process::Command;
use vnic_testbed::provision::{self, workspace::Workspace};

/// The top of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// `cargo` as it runs this command, at the top of the workspace.
pub fn cargo(arguments: &[&str]) -> Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(program);
    command.current_dir(root()).args(arguments).stdin(std::process::Stdio::null());
    command
}

/// Runs a command with its output shown; a failure names it.
pub fn run(mut command: Command) -> Result<()> {
    let shown = show(&command);
    eprintln!("$ {shown}");
    let status = command.status().with_context(|| format!("cannot start `{shown}`"))?;
    anyhow::ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// Builds the daemon that users run, and returns where it is.
pub fn build_daemon(workspace: &Workspace) -> Result<PathBuf> {
    run(cargo(&["build", "--release", "--package", "vnic", "--bin", "vnic"]))?;
    let program = workspace.target().join("release/vnic");
    anyhow::ensure!(program.exists(), "cargo has left no {}", program.display());
    Ok(program)
}

/// Where that for hosts with RDMA devices is built, apart from the usual one: features are chosen for all packages that
/// are built together.
pub fn target_for_hosts() -> PathBuf {
    root().join("target/wire")
}

/// Builds the daemon for hosts with RDMA devices, and returns where it is.
pub fn build_daemon_for_hosts() -> Result<PathBuf> {
    install_for_verbs()?;
    let what = ["build", "--release", "--package", "vnic", "--features", "verbs", "--bin", "vnic"];
    let mut build = cargo(&what);
    build.env("CARGO_TARGET_DIR", target_for_hosts());
    run(build)?;
    Ok(target_for_hosts().join("release/vnic"))
}

/// Installs what the feature `verbs` of the daemon needs to be built, as far as it is missing.
pub fn install_for_verbs() -> Result<()> {
    const PACKAGES: &[&str] = &["libibverbs-dev", "librdmacm-dev", "libclang-dev", "pkg-config"];
    provision::install(PACKAGES).context("cannot install what the feature verbs needs")
}

/// The command that this is, as one would type it.
pub fn command_line() -> String {
    let words = std::env::args().skip(1).map(|word| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,=:%".contains(c);
        if word.chars().all(plain) { word } else { format!("'{}'", word.replace('\'', r"'\''")) }
    });
    std::iter::once("cargo xtask".to_string()).chain(words).collect::<Vec<_>>().join(" ")
}

fn show(command: &Command) -> String {
    let name = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|part| part.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
