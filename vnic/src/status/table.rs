// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report for people.

use super::{DirectReport, PeerReport, PortReport, Report};

const HEAD: [&str; 17] = [
    "PORT", "NETWORK", "GUEST", "DRIVER", "PASID", "CTX", "PD", "MR", "CQ", "QP", "FAULTS",
    "MERGED", "AHEAD", "DEFER", "SENDS", "BYTES", "SOCKET",
];

const PEERS: [&str; 3] = ["PEER", "LINK", "GIDS"];

/// One line per port below a line of headings. `FAULTS` is page requests outstanding / so far,
/// `MERGED` waits that another one's request served, `AHEAD` pages asked for before anybody needed
/// them, `DEFER` waits that the budget put off. Then one line per port that goes direct, and one per peer daemon, if
/// there are any.
pub fn table(report: &Report) -> String {
    let mut text = lined_up(HEAD, report.ports.iter().map(row));
    let direct = |port: &PortReport| port.direct.as_ref().map(|it| direct_line(&port.name, it));
    let lines: Vec<String> = report.ports.iter().filter_map(direct).collect();
    if !lines.is_empty() {
        text += &format!("\n{}", lines.concat());
    }
    if let Some(wire) = &report.wire {
        let listen =
            wire.listen.map_or_else(String::new, |address| format!(", listens on {address}"));
        let down = if wire.up { "" } else { " (which cannot be used now)" };
        text += &format!("\nwire: {} by {}{down}{listen}\n", wire.name, wire.carrier);
        text += &lined_up(PEERS, wire.peers.iter().map(peer));
    }
    text
}

/// Rows in columns as wide as they need to be.
fn lined_up<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let widths: Vec<usize> = (0..N)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0))
        .collect();
    let mut text = String::new();
    for row in &rows {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

fn direct_line(port: &str, direct: &DirectReport) -> String {
    let DirectReport { device, up, because, driver, qps, .. } = direct;
    let gone = if *up { "" } else { ", which cannot be used for now" };
    let pinned = because.as_ref().map_or("no".to_owned(), |why| format!("yes, because {why}"));
    let driver = if *driver { "" } else { ", with no driver that does what it takes" };
    format!("direct: {port} by {device}{gone}, {qps} queue pairs{driver}; pinned: {pinned}\n")
}

fn peer(peer: &PeerReport) -> [String; PEERS.len()] {
    let link = if peer.connected { "yes" } else { "-" }.to_owned();
    [peer.name.clone(), link, peer.addresses.to_string()]
}

fn row(port: &PortReport) -> [String; HEAD.len()] {
    let yes = |yes: bool| if yes { "yes" } else { "-" }.to_owned();
    let objects = &port.objects;
    [
        port.name.clone(),
        port.network.clone(),
        yes(port.connected),
        yes(port.driver),
        objects.pasids.to_string(),
        objects.contexts.to_string(),
        objects.pds.to_string(),
        objects.mrs.to_string(),
        objects.cqs.to_string(),
        objects.qps.to_string(),
        format!("{}/{}", objects.page_requests_outstanding, objects.page_requests),
        port.pages.merged.to_string(),
        port.pages.prefetched.to_string(),
        port.pages.deferred.to_string(),
        objects.send_requests.to_string(),
        objects.bytes.to_string(),
        port.socket.display().to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pages::PageCounters;
    use crate::status::{Objects, WireReport};

    #[test]
    fn columns_line_up() {
        let idle = PortReport {
            name: "vm0".to_owned(),
            network: "default".to_owned(),
            mac: None,
            socket: "/run/vnic/vm0.sock".into(),
            connected: false,
            connections: 0,
            driver: false,
            objects: Objects::default(),
            pages: PageCounters::default(),
            direct: None,
        };
        let busy = PortReport {
            name: "a-longer-name".to_owned(),
            connected: true,
            connections: 1,
            driver: true,
            objects: Objects { qps: 100, bytes: 1 << 40, page_requests: 12, ..Objects::default() },
            direct: Some(DirectReport {
                device: "rxe0".to_owned(),
                up: true,
                pinned: true,
                because: Some("the configuration says so".to_owned()),
                driver: true,
                qps: 3,
            }),
            ..idle.clone()
        };
        let peer = |name: &str, connected, addresses| PeerReport {
            name: name.to_owned(),
            connected,
            addresses,
        };
        let wire = WireReport {
            name: "host-a".to_owned(),
            carrier: "tcp".to_owned(),
            up: true,
            listen: Some(([10, 0, 0, 1], 18600).into()),
            peers: vec![peer("host-b", true, 12), peer("a-third-one", false, 0)],
        };
        let ports = vec![idle, busy];
        let report =
            Report { version: "0".to_owned(), pid: 1, workers: 1, ports, wire: Some(wire) };
        insta::assert_snapshot!(table(&report), @r"
        PORT           NETWORK  GUEST  DRIVER  PASID  CTX  PD  MR  CQ  QP   FAULTS  MERGED  AHEAD  DEFER  SENDS  BYTES          SOCKET
        vm0            default  -      -       0      0    0   0   0   0    0/0     0       0      0      0      0              /run/vnic/vm0.sock
        a-longer-name  default  yes    yes     0      0    0   0   0   100  0/12    0       0      0      0      1099511627776  /run/vnic/vm0.sock

        direct: a-longer-name by rxe0, 3 queue pairs; pinned: yes, because the configuration says so

        wire: host-a by tcp, listens on 10.0.0.1:18600
        PEER         LINK  GIDS
        host-b       yes   12
        a-third-one  -     0
        ");
    }
}
