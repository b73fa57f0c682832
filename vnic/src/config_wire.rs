// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The part of the configuration file that is about other daemons: `[wire]` and each `[[peer]]`.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use vnic::wire::acquaint::{PeerConfig, WireConfig};
use vnic::wire::carrier::CarrierConfig;
use vnic::wire::secure::{Key, MAX_NAME};

/// What carries messages if no device of the host does.
const TCP: &str = "tcp";

/// `[wire]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    name: Option<String>,
    device: Option<String>,
    gid_index: Option<u8>,
    slots: Option<u32>,
    slot_kib: Option<u32>,
    listen: Option<SocketAddr>,
}

/// A `[[peer]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerEntry {
    name: String,
    address: Option<String>,
    key: Option<String>,
    key_file: Option<PathBuf>,
    networks: Option<Vec<String>>,
}

/// What both say, checked. `device` takes the place of the file's.
///
/// # Errors
///
/// Something makes no sense; each message says what to change.
pub fn config(
    section: Option<Section>,
    peers: Vec<PeerEntry>,
    given: Option<&str>,
) -> anyhow::Result<Option<WireConfig>> {
    let Some(section) = section else {
        ensure!(peers.is_empty(), "there is a [[peer]] and no [wire]: add [wire] with a name");
        ensure!(
            given.is_none(),
            "--wire needs a file with [wire] and a [[peer]] for each other daemon: give --config FILE"
        );
        return Ok(None);
    };
    let Section { name, device, gid_index, slots, slot_kib, listen } = section;
    let device = given.map(str::to_owned).or(device).filter(|device| device != TCP);
    let carrier = CarrierConfig { device, gid_index, slots, slot_kib };
    let name = match name {
        Some(name) => name,
        None => host_name()?,
    };
    check_name(&name, "wire.name")?;
    let peers = peers.into_iter().map(peer).collect::<Result<_, _>>()?;
    Ok(Some(WireConfig { name, listen, peers, carrier }))
}

fn check_name(name: &str, what: &str) -> anyhow::Result<()> {
    let good =
        !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(|c| c.is_ascii_graphic());
    ensure!(
        good,
        "{what}: {name:?} is not a name for a daemon: 1 to {MAX_NAME} letters, digits and signs"
    );
    Ok(())
}

fn host_name() -> anyhow::Result<String> {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_str().context("the host's name is no text: set wire.name")?;
    Ok(name.to_owned())
}

fn peer(entry: PeerEntry) -> anyhow::Result<PeerConfig> {
    let PeerEntry { name, address, key, key_file, networks } = entry;
    check_name(&name, "peer.name")?;
    let text = match (key, key_file) {
        (Some(key), None) => key,
        (None, Some(file)) => std::fs::read_to_string(&file)
            .with_context(|| format!("peer {name}: cannot read key_file {}", file.display()))?,
        (None, None) => bail!("peer {name} has no key: add key_file = \"PATH\" or key = \"...\""),
        (Some(_), Some(_)) => bail!("peer {name} has a key and a key_file: leave one out"),
    };
    let key = Key::parse(&text).with_context(|| {
        format!("peer {name}: a key is 64 hexadecimal digits, the same at both ends (openssl rand -hex 32 makes one)")
    })?;
    let networks = networks.map(|list| list.into_iter().map(Into::into).collect());
    Ok(PeerConfig { name, address, key, networks })
}
