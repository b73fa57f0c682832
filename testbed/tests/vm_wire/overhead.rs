// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What virtualisation costs: that it can be measured at all. Figures are not judged, as emulation is what is timed.

use anyhow::{Result, ensure};
use vnic_testbed::{
    bench::wire::{
        self, Effort,
        hosts::{Hosts, Machines},
        overhead,
        subject::Subject,
    },
    provision::{Provision, workspace::Workspace},
};

#[test]
fn guests_are_measured_against_bare_verbs() -> Result<()> {
    let workspace = Workspace::here();
    let provision = Provision::prepare(Workspace::here())?;
    let hosts = Machines::boot(&provision, &workspace)?;
    ensure!(hosts.lane().contains("rxe between two hosts"), "{}", hosts.lane());
    let effort = Effort::smoke();
    let findings = wire::run(&hosts, &effort)?;
    let rows = &findings.rows;
    for subject in Subject::measured() {
        let device = rows.iter().filter(|row| row.device == subject.name());
        let with_figures = device.clone().filter(|row| row.figure.is_some()).count();
        ensure!(with_figures > 0 && with_figures == device.count(), "{subject}: {rows:?}");
    }
    // A latency and a bandwidth of 4 KiB, and a latency of 8 B, of each operation.
    let lines = overhead::lines(rows);
    let guests = Subject::measured().count() - 1;
    ensure!(lines.len() == guests * 3 * 3, "{lines:?}");
    let told = |note: &String| note.starts_with("direct: pinned: yes, because");
    ensure!(findings.notes.iter().any(told), "{:?}", findings.notes);
    eprintln!("{}", overhead::render(rows));
    Ok(())
}
