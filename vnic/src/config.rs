// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What to serve: from a TOML file, from options, or from both.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use vnic::backend::PortSpec;
use vnic::device::DeviceConfig;
use vnic::fabric::direct::setup::DirectSettings;
use vnic::port::{Limits, PortConfig};
use vnic::wire::acquaint::WireConfig;

#[path = "config_direct.rs"]
mod direct;
#[path = "config_wire.rs"]
mod wire;

/// The file as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    workers: Option<usize>,
    spin_us: Option<u64>,
    chunk_kib: Option<u64>,
    past_caches_mib: Option<u64>,
    control: Option<PathBuf>,
    fault_batching: Option<bool>,
    #[serde(default)]
    limits: Limits,
    #[serde(default)]
    port: Vec<PortEntry>,
    direct: Option<direct::Section>,
    wire: Option<wire::Section>,
    #[serde(default)]
    peer: Vec<wire::PeerEntry>,
}

/// A port as it is written, in the file or as an option.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortEntry {
    /// Name; the file name of the socket if missing.
    pub name: Option<String>,
    /// Path of the vhost-user socket.
    pub socket: PathBuf,
    /// MAC address of the guest's network device.
    pub mac: Option<String>,
    /// Network, `default` if missing.
    pub network: Option<String>,
    /// Whether processes may register their whole address space at once; not unless said.
    #[serde(default)]
    pub implicit_mr: bool,
    /// Whether its queue pairs reach peers that no daemon knows, by a device of the host; not unless said.
    #[serde(default)]
    pub direct: bool,
}

/// Settings of the engine. What is not said is left at the default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::Args)]
pub struct Tuning {
    /// Worker threads, which move the data. One keeps a processor busy while there is traffic
    /// [default: one for every four processors].
    #[arg(long, value_name = "N")]
    pub workers: Option<usize>,
    /// How long a worker without work goes on looking for some before it sleeps. Longer answers more
    /// requests without a wake-up, and takes more of a processor.
    #[arg(long, value_name = "MICROSECONDS")]
    pub spin_us: Option<u64>,
    /// How much one queue pair moves before others have their turn. More is quicker for it, and slower for
    /// them and for invalidations in the guest.
    #[arg(long, value_name = "KIB")]
    pub chunk_kib: Option<u64>,
    /// Messages of this size and larger are written past the processor's caches.
    #[arg(long, value_name = "MIB")]
    pub past_caches_mib: Option<u64>,
    /// Whether to ask for many pages at once.
    #[arg(skip)]
    pub fault_batching: Option<bool>,
}

impl Tuning {
    /// These, and where they say nothing, `other`.
    pub fn or(self, other: Self) -> Self {
        Self {
            workers: self.workers.or(other.workers),
            spin_us: self.spin_us.or(other.spin_us),
            chunk_kib: self.chunk_kib.or(other.chunk_kib),
            past_caches_mib: self.past_caches_mib.or(other.past_caches_mib),
            fault_batching: self.fault_batching.or(other.fault_batching),
        }
    }

    /// Settings with these in place of the defaults.
    pub fn settings(self) -> DeviceConfig {
        let default = DeviceConfig::default();
        DeviceConfig {
            workers: self.workers.unwrap_or_else(default_workers),
            spin: self.spin_us.map_or(default.spin, Duration::from_micros),
            chunk: self.chunk_kib.map_or(default.chunk, |kib| kib.saturating_mul(1 << 10)),
            past_caches: self
                .past_caches_mib
                .map_or(default.past_caches, |mib| mib.saturating_mul(1 << 20)),
            fault_batching: self.fault_batching.unwrap_or(default.fault_batching),
        }
    }
}

/// One for every four processors that this process may use, since those of the guests want to run as well;
/// at least one, and no more than eight, which move more than the memory of most machines can.
fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).div_ceil(4).min(8)
}

/// What to serve, checked.
#[derive(Debug)]
pub struct Config {
    /// How the engine works, as far as that is said.
    pub tuning: Tuning,
    /// Path of the control socket, if said.
    pub control: Option<PathBuf>,
    /// The ports; at least one.
    pub ports: Vec<PortSpec>,
    /// The way to other daemons, if there is one.
    pub wire: Option<WireConfig>,
    /// The device of the host that the ports of these names go direct by.
    pub direct: Option<(DirectSettings, HashSet<String>)>,
}

impl Config {
    /// Reads `file`, adds `more` ports, puts `wire` in the place of its wire's device, and checks the whole.
    ///
    /// # Errors
    ///
    /// The file cannot be read or says something that makes no sense; each message says what to
    /// change.
    pub fn load(
        file: Option<&Path>,
        more: &[PortEntry],
        wire: Option<&str>,
    ) -> anyhow::Result<Self> {
        let file = match file {
            None => File::default(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                toml::from_str(&text).with_context(|| format!("in {}", path.display()))?
            }
        };
        check_limits(&file.limits)?;
        let entries = || file.port.iter().chain(more);
        let ports: Vec<PortSpec> =
            entries().map(|entry| port(entry, file.limits)).collect::<Result<_, _>>()?;
        let direct_ports: HashSet<String> = entries()
            .zip(&ports)
            .filter(|(entry, _)| entry.direct)
            .map(|(_, spec)| spec.config.name.clone())
            .collect();
        ensure!(
            !ports.is_empty(),
            "there is no port to serve: give --socket PATH, --port SPEC or a [[port]] in the file"
        );
        check_unique(&ports)?;
        let File { workers, spin_us, chunk_kib, past_caches_mib, control, fault_batching, .. } =
            file;
        let tuning = Tuning { workers, spin_us, chunk_kib, past_caches_mib, fault_batching };
        let wire = wire::config(file.wire, file.peer, wire)?;
        let device = wire.as_ref().and_then(|wire| wire.carrier.device.as_deref());
        let direct = direct::config(file.direct, device, !direct_ports.is_empty())?;
        let direct = direct.map(|settings| (settings, direct_ports));
        Ok(Self { tuning, control, ports, wire, direct })
    }
}

fn port(entry: &PortEntry, limits: Limits) -> anyhow::Result<PortSpec> {
    let name = match &entry.name {
        Some(name) => name.clone(),
        None => entry
            .socket
            .file_stem()
            .and_then(|stem| stem.to_str())
            .context("a port's socket has no file name")?
            .to_owned(),
    };
    ensure!(
        !name.is_empty() && name.len() <= 64 && name.chars().all(|c| !c.is_control()),
        "{name:?} is not a name for a port: 1 to 64 printable characters"
    );
    let mut config = PortConfig::new(&name);
    if let Some(mac) = &entry.mac {
        config.mac = parse_mac(mac).with_context(|| format!("port {name}"))?;
    }
    if let Some(network) = &entry.network {
        let good = (1..=256).contains(&network.len());
        ensure!(good, "port {name}: the name of a network has 1 to 256 bytes");
        config.network.clone_from(network);
    }
    config.limits = limits;
    config.implicit_mr = entry.implicit_mr;
    ensure!(
        !(entry.direct && entry.implicit_mr),
        "port {name}: no device of a host has regions of a whole address space: choose direct or implicit_mr"
    );
    Ok(PortSpec { socket: entry.socket.clone(), config })
}

/// A unicast MAC address in the usual notation.
pub fn parse_mac(text: &str) -> anyhow::Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text
        .split(':')
        .map(|part| {
            let two_digits = part.len() == 2 && part.chars().all(|c| c.is_ascii_hexdigit());
            two_digits.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        })
        .collect();
    let mac: [u8; 6] = bytes
        .and_then(|bytes| bytes.try_into().ok())
        .with_context(|| format!("{text:?} is not a MAC address such as 52:54:00:12:34:56"))?;
    ensure!(mac != [0; 6], "MAC address {text} is zero: leave it out if there is none");
    ensure!(
        mac[0] & 1 == 0,
        "MAC address {text} is a multicast address; a device has a unicast one"
    );
    Ok(mac)
}

fn check_limits(limits: &Limits) -> anyhow::Result<()> {
    for (name, depth) in [
        ("max_sq_depth", limits.max_sq_depth),
        ("max_rq_depth", limits.max_rq_depth),
        ("max_cq_depth", limits.max_cq_depth),
    ] {
        ensure!(depth.is_power_of_two(), "limits.{name} = {depth} is not a power of two");
    }
    ensure!(limits.max_mr_size != 0, "limits.max_mr_size = 0 leaves no room for any region");
    for (name, value, least) in [
        ("max_page_requests", limits.max_page_requests, 2),
        ("page_request_burst", limits.page_request_burst, 1),
        ("page_timeout_ms", limits.page_timeout_ms, 1),
    ] {
        ensure!(value >= least, "limits.{name} = {value} is too small: choose at least {least}");
    }
    Ok(())
}

fn check_unique(ports: &[PortSpec]) -> anyhow::Result<()> {
    let (mut names, mut sockets, mut macs) = (HashSet::new(), HashSet::new(), HashSet::new());
    for PortSpec { socket, config } in ports {
        if !names.insert(&config.name) {
            bail!("two ports are called {:?}: give each a name of its own", config.name);
        }
        if !sockets.insert(socket) {
            bail!("two ports have the socket {}: give each its own", socket.display());
        }
        if config.mac != [0; 6] && !macs.insert((&config.network, config.mac)) {
            bail!("port {:?} has the MAC address of another port of its network", config.name);
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
