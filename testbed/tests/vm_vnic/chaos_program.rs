// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program of the chaos suite tells right from wrong: a little of everything passes, and what
//! is broken on purpose, at one end, is reported by whoever has to notice it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vnic_testbed::{
    guest::Output, provision::kernel::Series, topology::ADDRESSES, workload::rdma::Device,
};

use crate::{
    bed::{Bed, LIMIT, with_pair},
    counters::nothing_is_held,
};

const PROGRAM: &str = "/usr/bin/vnic-chaos";

/// What one end printed last, and how it ended.
struct End {
    output: Output,
    result: Value,
}

impl End {
    fn is_content(&self) -> bool {
        self.result["ok"] == true && self.output.exit.is_some_and(|exit| exit.success())
    }

    fn number(&self, name: &str) -> Result<u64> {
        let number = self.result[name].as_u64();
        number.with_context(|| format!("no {name} in\n{}", self.output.all_text()))
    }
}

/// Runs the program in both guests, `common` for both and then words for each.
fn run(bed: &Bed, devices: &[Device; 2], common: &str, each: [&str; 2]) -> Result<[End; 2]> {
    let start = |side: usize, way: &str| {
        let (name, gid) = (&devices[side].name, devices[side].gid_index);
        let words = format!("--device {name} --gid-index {gid} {way} {common} {}", each[side]);
        let words = words.split_whitespace().map(String::from);
        bed.pair.guests()[side].command([PROGRAM.into()].into_iter().chain(words)).spawn()
    };
    let left = start(0, "--listen 7471")?;
    left.wait_for_output("\"listening\"", LIMIT)?;
    let right = start(1, &format!("--connect {}:7471", ADDRESSES[0]))?;
    let end = |output: Output| {
        let text = output.stdout_text();
        let result = text.lines().rev().find_map(|line| {
            let value: Value = serde_json::from_str(line).ok()?;
            (value["event"] == "result").then_some(value)
        });
        End { output, result: result.unwrap_or_default() }
    };
    Ok([end(left.wait(2 * LIMIT)?), end(right.wait(2 * LIMIT)?)])
}

fn passes(bed: &Bed, devices: &[Device; 2], common: &str) -> Result<()> {
    for end in run(bed, devices, common, [""; 2])? {
        let text = end.output.all_text();
        ensure!(end.is_content(), "{common}: {text}");
        ensure!(end.number("vm_pin_kb_max")? == 0, "{common}: {text}");
    }
    Ok(())
}

/// What the right end breaks is reported somewhere, by a count that is not zero.
fn is_noticed(bed: &Bed, devices: &[Device; 2], what: &str, count: &str) -> Result<()> {
    let common = "--seconds 2 --qps 2 --buffer-mib 24 --mutate fork";
    let ends = run(bed, devices, common, ["", &format!("--corrupt {what}")])?;
    let counts = [ends[0].number(count)?, ends[1].number(count)?];
    let text = ends[1].output.all_text();
    ensure!(counts != [0, 0], "{what} was broken and nobody noticed: {text}");
    ensure!(!ends.iter().all(End::is_content), "{what} was broken and all were content: {text}");
    Ok(())
}

/// The one that survives has all its completions, with errors that tell of a peer that is gone.
fn a_death_is_survived(bed: &Bed, devices: &[Device; 2], way: &str) -> Result<()> {
    let die = format!("--die {way}");
    let [survivor, _] = run(bed, devices, "--seconds 1 --mutate all", ["--expect-death", &die])?;
    ensure!(survivor.is_content(), "{}", survivor.output.all_text());
    ensure!(survivor.result["peer_died"] == true, "{}", survivor.output.all_text());
    Ok(())
}

pub fn tells_right_from_wrong(series: Series) -> Result<()> {
    with_pair(series, "page_poison=1", |bed| {
        let devices = bed.load()?;
        passes(bed, &devices, "--seconds 3 --mutate all")?;
        passes(bed, &devices, "--seconds 2 --mutate all --memory shm --access-on-demand")?;
        passes(bed, &devices, "--overcommit --buffer-mib 64")?;
        for (what, count) in [
            ("source:10", "wrong_bytes"),
            ("bystander:10", "wrong_bytes"),
            ("snapshot:1", "wrong_bytes"),
            ("completion:10", "completions_lost"),
        ] {
            is_noticed(bed, &devices, what, count)?;
        }
        a_death_is_survived(bed, &devices, "kill")?;
        a_death_is_survived(bed, &devices, "exit")?;
        nothing_is_held(bed, 0)?;
        nothing_is_held(bed, 1)
    })
}
