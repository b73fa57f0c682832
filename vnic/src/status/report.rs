// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The state of the daemon, as it is told.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::backend::PortServer;
use crate::device::Device;
use crate::pages::PageCounters;
use crate::wire::acquaint::Wire;
use crate::wire::reach::Way;
use vnic_abi::ctrl::Counters;

/// The whole daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Version of the daemon.
    pub version: String,
    /// Process id of the daemon.
    pub pid: u32,
    /// Worker threads.
    pub workers: usize,
    /// Ports in the order of the configuration.
    pub ports: Vec<PortReport>,
    /// What other daemons there are, if this one looks for any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wire: Option<WireReport>,
}

/// The wire to other daemons.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WireReport {
    /// What the other daemons call this one.
    pub name: String,
    /// What carries messages.
    pub carrier: String,
    /// Whether that can be used: an RDMA device may be gone, or its port down. TCP always can.
    #[serde(default = "always")]
    pub up: bool,
    /// Where this daemon listens, if it does.
    pub listen: Option<SocketAddr>,
    /// The other daemons, in the order of the configuration.
    pub peers: Vec<PeerReport>,
}

/// What daemons that did not tell were.
fn always() -> bool {
    true
}

/// Another daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerReport {
    /// Its name.
    pub name: String,
    /// Whether there is a link to it.
    pub connected: bool,
    /// Addresses of its guests that are known.
    pub addresses: usize,
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// Name.
    pub name: String,
    /// Ports reach only ports of the same network.
    pub network: String,
    /// MAC address of the guest's network device, if configured.
    pub mac: Option<String>,
    /// The vhost-user socket.
    pub socket: PathBuf,
    /// Whether a front end (a VM) is connected.
    pub connected: bool,
    /// Front ends since the start of the daemon, this one included.
    pub connections: u64,
    /// Whether a driver in the guest has started the device.
    pub driver: bool,
    /// What the guest holds and did. All zero without a driver.
    pub objects: Objects,
    /// What became of page requests. All zero without a driver.
    #[serde(default)]
    pub pages: PageCounters,
    /// The device of the host by which it reaches peers that no daemon knows, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub direct: Option<DirectReport>,
}

/// How a port goes direct.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectReport {
    /// The device of the host.
    pub device: String,
    /// It is there, and its port is active.
    #[serde(default = "always")]
    pub up: bool,
    /// Whether guests keep the pages of regions where they are.
    pub pinned: bool,
    /// Why, if they do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<String>,
    /// The driver does what it takes. One that does not, or none, goes without.
    pub driver: bool,
    /// Queue pairs that go this way now.
    pub qps: u32,
}

/// What a guest holds now, and what it did since its driver started the device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objects {
    /// Bound address spaces.
    pub pasids: u32,
    /// Contexts.
    pub contexts: u32,
    /// Protection domains.
    pub pds: u32,
    /// Memory regions.
    pub mrs: u32,
    /// Completion queues.
    pub cqs: u32,
    /// Queue pairs.
    pub qps: u32,
    /// Page requests that wait for an answer.
    pub page_requests_outstanding: u32,
    /// Page requests sent.
    pub page_requests: u64,
    /// Send requests completed.
    pub send_requests: u64,
    /// Payload bytes copied.
    pub bytes: u64,
}

impl Report {
    /// The state of `device`, the servers of its ports, and its wire.
    pub fn take(device: &Device, servers: &[PortServer], wire: Option<&Wire>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            workers: device.config().workers,
            ports: servers.iter().map(PortReport::take).collect(),
            wire: wire.map(Wire::report),
        }
    }
}

impl PortReport {
    /// The state of one port.
    pub fn take(server: &PortServer) -> Self {
        let config = server.config();
        let port = server.port();
        Self {
            name: config.name.clone(),
            network: config.network.clone(),
            mac: (config.mac != [0; 6]).then(|| config.mac.map(|b| format!("{b:02x}")).join(":")),
            socket: server.socket().to_owned(),
            connected: server.connected(),
            connections: server.connections(),
            driver: port.as_ref().is_some_and(|port| port.has_driver()),
            pages: port.as_ref().map(|port| port.page_counters()).unwrap_or_default(),
            direct: config.direct.as_ref().map(|direct| {
                let because = direct.seat.pins().map(str::to_owned);
                let qps = port.as_ref().and_then(|port| port.direct_qps());
                DirectReport {
                    device: direct.seat.name().to_owned(),
                    up: server.device().reach().is_up(Way::Direct),
                    pinned: because.is_some(),
                    because,
                    driver: qps.is_some(),
                    qps: qps.unwrap_or_default(),
                }
            }),
            objects: port.map(|port| Objects::from(port.counters())).unwrap_or_default(),
        }
    }
}

impl From<Counters> for Objects {
    fn from(counters: Counters) -> Self {
        Self {
            pasids: counters.pasids.get(),
            contexts: counters.contexts.get(),
            pds: counters.pds.get(),
            mrs: counters.mrs.get(),
            cqs: counters.cqs.get(),
            qps: counters.qps.get(),
            page_requests_outstanding: counters.page_requests_outstanding.get(),
            page_requests: counters.page_requests.get(),
            send_requests: counters.send_requests.get(),
            bytes: counters.bytes.get(),
        }
    }
}
