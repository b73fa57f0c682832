// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The part of the configuration file that is about peers that know nothing of daemons: `[direct]`.

use std::net::IpAddr;

use anyhow::{Context, ensure};
use ipnet::IpNet;
use serde::Deserialize;
use vnic::fabric::direct::Mapped;
use vnic::fabric::direct::setup::{Addresses, DirectSettings, Odp};

/// `[direct]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Section {
    device: Option<String>,
    gid_index: Option<u8>,
    #[serde(default)]
    addresses: Addresses,
    #[serde(default)]
    allow: Vec<IpNet>,
    #[serde(default)]
    odp: Odp,
    #[serde(default)]
    map: Vec<Entry>,
}

/// A `[[direct.map]]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    network: Option<String>,
    guest: IpAddr,
    host: IpAddr,
}

fn gid(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}

/// What it says, checked, if any of the ports goes direct. The device of the wire is the default.
///
/// # Errors
///
/// Something makes no sense; each message says what to change.
pub fn config(
    section: Option<Section>,
    wire: Option<&str>,
    is_used: bool,
) -> anyhow::Result<Option<DirectSettings>> {
    if !is_used {
        ensure!(
            section.is_none(),
            "there is [direct], and no port goes direct: add direct = true to a [[port]], or leave [direct] out"
        );
        return Ok(None);
    }
    let Section { device, gid_index, addresses, allow, odp, map } = section.unwrap_or_default();
    let device = device.or(wire.map(str::to_owned)).context(
        "a port goes direct, and nothing says by which device: set direct.device to an RDMA device of this host",
    )?;
    ensure!(
        addresses == Addresses::Mapped || !allow.is_empty(),
        "guests have addresses of their own on this host's network, and nothing says which they may have: set direct.allow to prefixes (allow = [\"10.0.0.0/24\"]) of which nobody else has any, or direct.addresses = \"mapped\""
    );
    let entry = |Entry { network, guest, host }: Entry| {
        (
            network.unwrap_or_else(|| "default".to_owned()),
            Mapped { guest: gid(guest), host: gid(host) },
        )
    };
    let map = map.into_iter().map(entry).collect();
    Ok(Some(DirectSettings { device, gid_index, addresses, allow, odp, map }))
}
