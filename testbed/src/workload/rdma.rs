// SPDX-License-Identifier: Apache-2.0 OR MIT
//! RDMA devices as a guest sees them.

use std::{
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, Result},
    guest::Guest,
};

/// One port of an RDMA device in a guest, ready for a RoCE v2 connection over IPv4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its name, for `-d`.
    pub name: String,
    /// Index of the GID made from the guest's IPv4 address, for `-x`.
    pub gid_index: u32,
}

/// Waits until port 1 of `name` is active and has a RoCE v2 GID for the IPv4 `address`.
///
/// # Errors
/// When that has not come about within `limit`, with what `rdma link` says.
pub fn wait_until_ready(
    guest: &Guest,
    name: &str,
    address: &str,
    limit: Duration,
) -> Result<Device> {
    let until = Instant::now() + limit;
    loop {
        let found = guest.shell(script(name)).output()?;
        let text = found.stdout_text();
        if let Some(gid_index) = ready_gid(&text, address) {
            return Ok(Device { name: name.into(), gid_index });
        }
        if Instant::now() >= until {
            let links = guest.shell("rdma link; ip -br addr").output()?.all_text();
            return Err(Error::unfit(
                format!("{name} in guest {} is not ready after {limit:?}", guest.name()),
                format!("Its port and GIDs are:\n{text}\nThe links are:\n{links}"),
            ));
        }
        thread::sleep(Duration::from_millis(50));
    }
}

/// Prints the state of the port, then index, type and value of every GID that is in use. Without
/// a program for each: tables of a thousand are usual, most of it unused and refused to be read.
fn script(name: &str) -> String {
    format!(
        "cd /sys/class/infiniband/{name}/ports/1 && cat state && for i in gid_attrs/types/*; do \
         read -r type <$i && i=${{i##*/}} && read -r gid <gids/$i && echo \"$i|$type|$gid\"; \
         done 2>/dev/null"
    )
}

fn ready_gid(text: &str, address: &str) -> Option<u32> {
    let mut lines = text.lines();
    if !lines.next()?.ends_with("ACTIVE") {
        return None;
    }
    let address = address.parse::<std::net::Ipv4Addr>().ok()?.to_ipv6_mapped();
    lines.find_map(|line| match line.split('|').collect::<Vec<_>>()[..] {
        [index, "RoCE v2", gid] if gid.parse() == Ok(address) => index.parse().ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIDS: &str = "0|IB/RoCE v1|fe80:0000:0000:0000:5054:00ff:fe77:0001\n\
                        1|RoCE v2|fe80:0000:0000:0000:5054:00ff:fe77:0001\n\
                        2|IB/RoCE v1|0000:0000:0000:0000:0000:ffff:0a4d:0001\n\
                        3|RoCE v2|0000:0000:0000:0000:0000:ffff:0a4d:0001\n";

    #[test]
    fn the_gid_is_the_roce_v2_one_of_the_address() {
        let text = format!("4: ACTIVE\n{GIDS}");
        assert_eq!(ready_gid(&text, "10.77.0.1"), Some(3));
        assert_eq!(ready_gid(&text, "10.77.0.2"), None);
    }

    #[test]
    fn a_port_that_is_down_is_not_ready() {
        assert_eq!(ready_gid(&format!("1: DOWN\n{GIDS}"), "10.77.0.1"), None);
        assert_eq!(ready_gid("", "10.77.0.1"), None);
    }
}
