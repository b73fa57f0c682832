// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The program in the guests: how it is started, and what it says.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    case,
    machine::{GROUP, Machines},
};
use crate::{
    error::{Error, Result},
    guest::{Guest, Output, Running},
    topology::ADDRESSES,
    workload::{
        rdma::Device,
        server::{fresh_port, wait_until_listening},
    },
};

/// Its name in the guests.
const NAME: &str = "vnic-chaos";

/// Longest time for a program to begin to listen: with larger buffers it fills more memory first.
const LISTEN_LIMIT: Duration = Duration::from_secs(90);

/// The last line that a program prints.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Said {
    /// How long it had traffic.
    pub seconds: f64,
    /// Completed requests by their kind.
    pub operations: BTreeMap<String, u64>,
    /// Bytes that its requests moved.
    pub bytes_moved: u64,
    /// Bytes whose contents it compared with what they had to be.
    pub bytes_checked: u64,
    /// Those that were different.
    pub wrong_bytes: u64,
    /// Where the first of them was, and what was there.
    pub first_wrong: serde_json::Value,
    /// Completions that had to come.
    pub completions_expected: u64,
    /// Those that did not.
    pub completions_lost: u64,
    /// Completions that nobody had asked for.
    pub completions_spurious: u64,
    /// Completions with an error, by their status.
    pub completion_errors: Vec<serde_json::Value>,
    /// What the program did to its memory, and how often.
    pub mutations: BTreeMap<String, u64>,
    /// What it could not do.
    pub mutations_refused: BTreeMap<String, u64>,
    /// Other things that were not as they must be.
    pub faults: u64,
    /// The first of them.
    pub first_fault: String,
    /// The largest `VmPin` of the process, in kB.
    pub vm_pin_kb_max: u64,
    /// The program's own verdict.
    pub ok: bool,
}

impl Said {
    /// All completed requests.
    pub fn all_operations(&self) -> u64 {
        self.operations.values().sum()
    }
}

/// How one pair of programs runs.
pub(super) struct Plan<'a> {
    pub program: &'a case::Program,
    pub time: Duration,
    /// Of all choices that the programs make.
    pub seed: u64,
    /// Further words for the left and the right one.
    pub more: [&'static [&'static str]; 2],
}

/// Two programs, one in each guest, that speak to each other.
pub(super) struct Duo {
    pub running: [Running; 2],
}

impl Duo {
    /// Starts both; the left one listens.
    pub(super) fn start(machines: &Machines, plan: &Plan<'_>) -> Result<Self> {
        let ([left, right], devices) = (machines.guests(), machines.devices());
        let port = fresh_port();
        let server = spawn(left, &devices[0], plan, 0, &["--listen".into(), port.to_string()])?;
        let server = wait_until_listening(left, server, port, LISTEN_LIMIT)?;
        let to = format!("{}:{port}", ADDRESSES[0]);
        let client = spawn(right, &devices[1], plan, 1, &["--connect".into(), to])?;
        Ok(Self { running: [server, client] })
    }

    /// Waits for both to end, and returns what they said; `limit` is for both together.
    pub(super) fn wait(self, limit: Duration) -> [Result<(Output, Option<Said>)>; 2] {
        let until = std::time::Instant::now() + limit;
        self.running.map(|running| {
            let left = until.saturating_duration_since(std::time::Instant::now());
            let output = running.wait(left)?;
            let said = said(&output.stdout_text())?;
            Ok((output, said))
        })
    }
}

fn spawn(
    guest: &Guest,
    device: &Device,
    plan: &Plan<'_>,
    side: usize,
    way: &[String],
) -> Result<Running> {
    let program = plan.program;
    let mut words: Vec<String> = Vec::new();
    let mut option = |name: &str, value: String| words.extend([format!("--{name}"), value]);
    option("device", device.name.clone());
    option("gid-index", device.gid_index.to_string());
    option("qps", program.qps.to_string());
    option("buffer-mib", program.mib.to_string());
    option("seconds", plan.time.as_secs().max(1).to_string());
    option("seed", plan.seed.to_string());
    option("memory", program.memory.into());
    option("mutate", program.mutate.into());
    words.extend_from_slice(way);
    words.extend(plan.more[side].iter().map(|word| word.to_string()));
    if program.overcommit {
        words.push("--overcommit".into());
    }
    // In the control group before it has any memory.
    let join = format!("echo $$ >{GROUP}/cgroup.procs && exec {NAME} \"$@\"");
    let shell = ["/bin/sh".into(), "-c".into(), join, NAME.into()];
    guest.command(shell.into_iter().chain(words)).spawn()
}

/// What a program said at its end; `None` if it died before.
pub(super) fn said(output: &str) -> Result<Option<Said>> {
    for line in output.lines().rev() {
        if let Some(value) = event(line, "result") {
            let said = serde_json::from_value(value);
            return said.map(Some).map_err(|error| Error::Unread {
                program: NAME.into(),
                what: error.to_string(),
                output: output.into(),
            });
        }
    }
    Ok(None)
}

/// The last that a running program said of how far it is.
pub(super) fn progress(output: &str) -> Option<Said> {
    // The end may be half a line.
    let value = output.lines().rev().find_map(|line| event(line, "progress"))?;
    // Its mutations are one number there.
    let number = |name: &str| value.get(name).and_then(serde_json::Value::as_u64);
    Some(Said {
        seconds: value.get("seconds")?.as_f64()?,
        bytes_checked: number("bytes_checked")?,
        wrong_bytes: number("wrong_bytes")?,
        ..Said::default()
    })
}

fn event(line: &str, name: &str) -> Option<serde_json::Value> {
    let value: serde_json::Value = serde_json::from_str(line).ok()?;
    (value.get("event")? == name).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "{\"event\":\"ready\",\"memory\":\"anon\"}\n\
        {\"event\":\"progress\",\"seconds\":1.0,\"bytes_checked\":5,\"wrong_bytes\":0,\"mutations\":7}\n\
        {\"event\":\"result\",\"seconds\":2.5,\"operations\":{\"write\":3,\"read\":4},\
        \"bytes_checked\":10,\"wrong_bytes\":1,\"first_wrong\":{\"where\":\"sink\"},\
        \"completion_errors\":[],\"mutations\":{\"fork\":2},\"vm_pin_kb_max\":0,\"ok\":false}\n";

    #[test]
    fn the_result_is_the_last_line() {
        let said = said(OUTPUT).unwrap().unwrap();
        assert_eq!((said.all_operations(), said.bytes_checked, said.wrong_bytes), (7, 10, 1));
        assert_eq!(said.mutations["fork"], 2);
        assert!(!said.ok && said.first_wrong["where"] == "sink");
    }

    #[test]
    fn a_program_that_died_has_said_nothing() {
        assert_eq!(said("{\"event\":\"ready\"}\n{\"event\":\"resu").unwrap(), None);
        assert!(said("{\"event\":\"result\",\"seconds\":\"soon\"}").is_err());
    }

    #[test]
    fn progress_survives_half_a_line() {
        let cut = &OUTPUT[..OUTPUT.len() - 30];
        assert_eq!(progress(cut).unwrap().bytes_checked, 5);
        assert_eq!(progress(""), None);
    }
}
