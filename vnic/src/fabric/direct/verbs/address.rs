// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Addresses of guests on the host's network interface: from there they come into the GID table of the device.
//!
//! `ip` (iproute2) does it, which every host with RDMA over Ethernet has.

use crate::object::gid::Gid;
use std::io;
use std::net::Ipv6Addr;
use std::process::{Command, Stdio};

/// `ip` prints this if an address is there already.
const THERE: &str = "File exists";

/// An address as `ip` wants it, with the length of a prefix that no route is made of.
fn prefix(gid: &Gid) -> String {
    let address = Ipv6Addr::from(*gid);
    match address.to_ipv4_mapped() {
        Some(address) => format!("{address}/32"),
        None => format!("{address}/128"),
    }
}

fn ip(words: &[&str]) -> io::Result<String> {
    let mut command = Command::new("ip");
    command.args(words).stdin(Stdio::null()).env("LC_ALL", "C");
    let output = command.output().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot run ip, of the package iproute2: {error}"))
    })?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    let kind =
        if said.contains(THERE) { io::ErrorKind::AlreadyExists } else { io::ErrorKind::Other };
    Err(io::Error::new(kind, format!("ip {}: {}", words.join(" "), said.trim())))
}

/// Gives the address to the interface.
///
/// # Errors
///
/// `ip` does not run or refuses; [`io::ErrorKind::AlreadyExists`] if any interface has it, under whatever prefix: it is not
/// for a guest to be the host.
pub fn add(interface: &str, gid: &Gid) -> io::Result<()> {
    if !ip(&["-oneline", "addr", "show", "to", &prefix(gid)])?.trim().is_empty() {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the host has this address"));
    }
    // IPv6 would look for another one with the same address before it is used.
    let own = ["addr", "add", &prefix(gid), "dev", interface];
    if Ipv6Addr::from(*gid).to_ipv4_mapped().is_some() {
        ip(&own).map(drop)
    } else {
        ip(&[&own[..], &["nodad"]].concat()).map(drop)
    }
}

/// Takes it away.
///
/// # Errors
///
/// `ip` does not run or refuses.
pub fn remove(interface: &str, gid: &Gid) -> io::Result<()> {
    ip(&["addr", "del", &prefix(gid), "dev", interface]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_ip_wants_them() {
        let four = "::ffff:10.7.0.9".parse::<Ipv6Addr>().unwrap().octets();
        let six = "fe80::5054:ff:fe00:1".parse::<Ipv6Addr>().unwrap().octets();
        assert_eq!(prefix(&four), "10.7.0.9/32");
        assert_eq!(prefix(&six), "fe80::5054:ff:fe00:1/128");
    }

    #[test]
    fn what_ip_says_is_passed_on() {
        let error = ip(&["addr", "add", "nonsense", "dev", "lo"]).unwrap_err();
        assert!(error.to_string().contains("nonsense") || error.to_string().contains("iproute2"));
    }
}
