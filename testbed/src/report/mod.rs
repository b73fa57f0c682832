// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a run of the suite found, for people and for programs.
//!
//! - [`Report`] is the whole of it, and `report.json` is its serialised form.
//! - [`environment`]: the machine and the versions that the numbers belong to.
//! - [`table`]: the comparison, the same on a terminal and in `report.md`.
//! - [`cpu`]: the processor time of operations, as another.
//! - [`markdown`] writes `report.md`.

pub mod cpu;
pub mod environment;
pub mod markdown;
pub mod table;

use std::{fmt, fs, path::Path};

use serde::{Deserialize, Serialize};

pub use self::environment::Environment;
use crate::{
    bench::Verdict,
    error::{Doing, Result},
    host::Over,
    measure::{Measurement, Program, Sizes, Transport},
};

/// Version of the shape of [`Report`]. Raised when a reader of the old shape would fail.
pub const SCHEMA: u32 = 1;

/// Everything that a run of the suite found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`] of the writer.
    pub schema: u32,
    /// Where the numbers come from.
    pub environment: Environment,
    /// What was asked for.
    pub settings: Settings,
    /// Programs that show or check something, and did.
    pub checks: Vec<Check>,
    /// All numbers.
    pub measurements: Vec<Measurement>,
    /// Goals, met or missed.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub verdicts: Vec<Verdict>,
    /// Why numbers are missing, and what else a reader has to know.
    pub notes: Vec<String>,
    /// Why numbers are to be doubted.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub warnings: Vec<String>,
    /// What others did on the machine meanwhile.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub over: Option<Over>,
    /// What ended the run early, if something did.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<String>,
    /// Seconds from the first line of the command to the last number.
    pub seconds: f64,
    /// The command that ran it.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub command: Option<String>,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// The programs.
    pub programs: Vec<Program>,
    /// Over what they ran.
    pub transports: Vec<Transport>,
    /// The sizes.
    pub sizes: Sizes,
    /// Iterations, if they were fixed; else each measurement chose its own.
    pub iterations: Option<u64>,
    /// How often what goals are about was measured.
    #[serde(default = "once")]
    pub rounds: usize,
    /// Whether everything else was measured as often, too.
    #[serde(default)]
    pub repeat_all: bool,
}

fn once() -> usize {
    1
}

/// A program that returned success, and what it said.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// The program.
    pub program: Program,
    /// Over what it ran.
    pub transport: Transport,
    /// The options that make the difference.
    pub options: String,
    /// Whether it compared the bytes that arrived with those that were sent.
    pub contents_checked: bool,
    /// What it said, in a line.
    pub result: String,
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program)?;
        if !self.options.is_empty() {
            write!(f, " {}", self.options)?;
        }
        write!(f, " over {}: {}", self.transport, self.result)?;
        f.write_str(if self.contents_checked { ", contents checked" } else { "" })
    }
}

impl Report {
    /// An empty report.
    pub fn new(environment: Environment, settings: Settings) -> Self {
        Self {
            schema: SCHEMA,
            environment,
            settings,
            checks: Vec::new(),
            measurements: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
            warnings: Vec::new(),
            over: None,
            failure: None,
            seconds: 0.0,
            command: None,
        }
    }

    /// The measurement of a program with messages of `bytes`.
    pub fn find(&self, program: Program, transport: Transport, bytes: u64) -> Option<&Measurement> {
        self.measurements.iter().find(|measurement| {
            measurement.program == Some(program)
                && measurement.transport == transport
                && measurement.bytes == bytes
        })
    }

    /// Goals that were missed.
    pub fn missed(&self) -> impl Iterator<Item = &Verdict> {
        self.verdicts.iter().filter(|verdict| !verdict.met)
    }

    /// The serialised form, for programs.
    ///
    /// # Errors
    /// None in practice: every part of a report can be serialised.
    pub fn json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self);
        Ok(json.doing(|| "serialise the report".into())? + "\n")
    }

    /// Writes `report.json` and `report.md` into `folder`.
    ///
    /// # Errors
    /// When they cannot be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).at("make", folder)?;
        for (name, text) in [("report.json", self.json()?), ("report.md", markdown::render(self))] {
            let path = folder.join(name);
            fs::write(&path, text).at("write", &path)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
