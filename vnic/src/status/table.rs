// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The report for people.

use super::{PortReport, Report};

const HEAD: [&str; 17] = [
    "PORT", "NETWORK", "GUEST", "DRIVER", "PASID", "CTX", "PD", "MR", "CQ", "QP", "FAULTS",
    "MERGED", "AHEAD", "DEFER", "SENDS", "BYTES", "SOCKET",
];

/// One line per port below a line of headings. `FAULTS` is page requests outstanding / so far,
/// `MERGED` waits that another one's request served, `AHEAD` pages asked for before anybody needed
/// them, `DEFER` waits that the budget put off.
pub fn table(report: &Report) -> String {
    let mut rows = vec![HEAD.map(str::to_owned)];
    rows.extend(report.ports.iter().map(row));
    let widths: Vec<usize> = (0..HEAD.len())
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
    use crate::status::Objects;

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
        };
        let busy = PortReport {
            name: "a-longer-name".to_owned(),
            connected: true,
            connections: 1,
            driver: true,
            objects: Objects { qps: 100, bytes: 1 << 40, page_requests: 12, ..Objects::default() },
            ..idle.clone()
        };
        let report =
            Report { version: "0".to_owned(), pid: 1, workers: 1, ports: vec![idle, busy] };
        insta::assert_snapshot!(table(&report), @r"
        PORT           NETWORK  GUEST  DRIVER  PASID  CTX  PD  MR  CQ  QP   FAULTS  MERGED  AHEAD  DEFER  SENDS  BYTES          SOCKET
        vm0            default  -      -       0      0    0   0   0   0    0/0     0       0      0      0      0              /run/vnic/vm0.sock
        a-longer-name  default  yes    yes     0      0    0   0   0   100  0/12    0       0      0      0      1099511627776  /run/vnic/vm0.sock
        ");
    }
}
