// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The `vnic` daemon.

mod cli;
mod config;
mod log;

use std::collections::HashSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;
use parking_lot::RwLock;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use vnic::backend::{PortServer, PortSpec};
use vnic::device::Device;
use vnic::fabric::direct::DirectConfig;
use vnic::fabric::direct::setup::DirectSettings;
use vnic::status::{ControlServer, Report};
use vnic::wire::acquaint::{Wire, WireConfig};

use cli::{Cli, Command};
use config::Config;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(run) => serve(&run),
        Command::Status(status) => show_status(&status),
        Command::ConfigCheck { file } => check(&file),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vnic: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(run: &cli::Run) -> anyhow::Result<()> {
    log::start(run.log_format, run.verbose)?;
    if let Some(step) = vnic_iommu::quiesce::sabotage() {
        tracing::error!(
            step,
            "this build corrupts the memory of guests on purpose, to test a test"
        );
    }
    let config = Config::load(run.config.as_deref(), &run.ports(), run.wire.as_deref())?;
    // Before the first socket, so that a signal never leaves one behind.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot catch signals")?;
    raise_descriptor_limit();

    let control = control_path(run.control.clone().or(config.control))?;
    let settings = run.tuning.or(config.tuning).settings();
    let device = Device::start(settings).context("cannot start the device")?;
    let ports = with_direct(&device, config.ports, config.direct.as_ref())?;
    let served = listen(&device, ports, config.wire, &control).and_then(|listening| {
        if run.ready {
            // The parent may not care any more; that is no reason to stop.
            let _ = writeln!(std::io::stdout(), "ready");
        }
        tracing::info!(control = %control.display(), "ready");
        let signal = signals.forever().next();
        tracing::info!(signal, "stopping");
        end_at_once_on_next_signal()?;
        drop(listening);
        Ok(())
    });
    device.shutdown();
    served
}

/// Gives the ports that go direct the device to do it by.
fn with_direct(
    device: &Arc<Device>,
    mut ports: Vec<PortSpec>,
    direct: Option<&(DirectSettings, HashSet<String>)>,
) -> anyhow::Result<Vec<PortSpec>> {
    let Some((settings, names)) = direct else { return Ok(ports) };
    let seat = settings.open(device).context("direct")?;
    for PortSpec { config, .. } in ports.iter_mut().filter(|spec| names.contains(&spec.config.name))
    {
        let map = settings.map_of(&config.network);
        let allowed = settings.allowed();
        config.direct = Some(DirectConfig { seat: seat.clone(), map, allowed });
    }
    Ok(ports)
}

/// Everything that listens.
struct Listening {
    _control: ControlServer,
    ports: Arc<RwLock<Vec<PortServer>>>,
    wire: Arc<RwLock<Option<Wire>>>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        // Whoever asks for the state right now shares the ports; wait for that, so that they go
        // here and not when the process has ended.
        self.ports.write().clear();
        self.wire.write().take();
    }
}

fn listen(
    device: &Arc<Device>,
    ports: Vec<PortSpec>,
    wire: Option<WireConfig>,
    control: &Path,
) -> anyhow::Result<Listening> {
    let ports: Vec<PortServer> = ports
        .into_iter()
        .map(|spec| {
            let name = spec.config.name.clone();
            PortServer::start(device.clone(), spec).with_context(|| format!("port {name}"))
        })
        .collect::<Result<_, _>>()?;
    let ports = Arc::new(RwLock::new(ports));
    let wire = wire.map(|config| Wire::start(device, config)).transpose().context("wire")?;
    let wire = Arc::new(RwLock::new(wire));
    let source = {
        let (device, ports, wire) = (device.clone(), ports.clone(), wire.clone());
        move || Report::take(&device, &ports.read(), wire.read().as_ref())
    };
    let server = ControlServer::start(control, source)
        .context("control socket (another can be chosen with --control PATH)")?;
    Ok(Listening { _control: server, ports, wire })
}

/// The control socket's path; the directory of the default one is made.
fn control_path(given: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    if let Some(path) = given {
        return Ok(path);
    }
    let path = default_control_path()?;
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)
            .with_context(|| format!("cannot make {} for the control socket", parent.display()))?;
    }
    Ok(path)
}

fn default_control_path() -> anyhow::Result<PathBuf> {
    let base = if rustix::process::geteuid().is_root() {
        PathBuf::from("/run")
    } else {
        std::env::var_os("XDG_RUNTIME_DIR")
            .map(PathBuf::from)
            .context("XDG_RUNTIME_DIR is not set: name the control socket with --control PATH")?
    };
    Ok(base.join("vnic/control.sock"))
}

fn show_status(status: &cli::Status) -> anyhow::Result<()> {
    let path = match &status.socket {
        Some(path) => path.clone(),
        None => default_control_path()?,
    };
    let report = vnic::status::query(&path)?;
    let text = if status.json {
        serde_json::to_string_pretty(&report)? + "\n"
    } else {
        vnic::status::table(&report)
    };
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the status")
}

fn check(file: &Path) -> anyhow::Result<()> {
    let config = Config::load(Some(file), &[], None)?;
    let mut text = String::new();
    for PortSpec { socket, config } in &config.ports {
        text += &format!(
            "port {} in network {} on {}{}\n",
            config.name,
            config.network,
            socket.display(),
            if config.implicit_mr { ", implicit regions allowed" } else { "" }
        );
    }
    std::io::stdout().write_all(text.as_bytes()).context("cannot write the result")
}

/// A guest's memory, rings and queues are many descriptors; the usual soft limit is meant for
/// `select` and too low.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) =
        setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
    {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

/// Whoever sends a second signal does not want to wait.
fn end_at_once_on_next_signal() -> anyhow::Result<()> {
    for signal in [SIGTERM, SIGINT] {
        let now = Arc::new(std::sync::atomic::AtomicBool::new(true));
        signal_hook::flag::register_conditional_shutdown(signal, 1, now)
            .context("cannot catch signals")?;
    }
    Ok(())
}
