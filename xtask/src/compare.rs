// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the commands share that compare a run with an earlier one.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use vnic_testbed::compare::entry::{self, Entry, Kept, Run};
use vnic_testbed::compare::{Comparison, gate, table};

/// With what to compare, and when to fail.
#[derive(clap::Args)]
pub struct Against {
    /// Say what changed, beyond noise, since the run that left this JSON, or several runs
    #[arg(long, value_name = "OLD.json", value_delimiter = ',')]
    compare: Vec<PathBuf>,
    /// Fail if a figure is worse by more than this, beyond noise
    #[arg(long, value_name = "PERCENT", requires = "compare", value_parser = percent)]
    fail_above: Option<f64>,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.trim_end_matches('%').trim_end().parse::<f64>().ok();
    number
        .filter(|number| number.is_finite() && *number >= 0.0)
        .ok_or_else(|| "not a percentage".into())
}

impl Against {
    /// Reads the earlier runs: before anything is measured, which may take long and replace the files.
    pub fn old(&self) -> Result<Option<Old>> {
        let fail_above = self.fail_above;
        Ok(read(&self.compare)?.map(|run| Old { run, fail_above }))
    }
}

/// Reads runs of one bench, to be taken together.
fn read(files: &[PathBuf]) -> Result<Option<(Run, Vec<Entry>)>> {
    let mut runs = Vec::<(Run, Vec<Entry>)>::new();
    for file in files {
        let run = Kept::read(file)?.entries();
        if let Some((first, _)) = runs.first() {
            first.check(&run.0.bench)?;
        }
        runs.push(run);
    }
    Ok(entry::together(runs))
}

/// A run to compare with.
pub struct Old {
    run: (Run, Vec<Entry>),
    fail_above: Option<f64>,
}

impl Old {
    /// Fails if this is a run of another bench than `bench`.
    pub fn check(&self, bench: &str) -> Result<()> {
        Ok(self.run.0.check(bench)?)
    }

    /// Compares a new run with it.
    pub fn with(&self, new: (Run, Vec<Entry>)) -> Comparison {
        Comparison::new(self.run.clone(), new)
    }

    /// Fails if too much is worse.
    pub fn judge(&self, comparison: &Comparison) -> Result<()> {
        match self.fail_above {
            Some(percent) => Ok(gate::check(comparison, percent)?),
            None => Ok(()),
        }
    }
}

const EXAMPLES: &str = "\
Examples:
  cargo xtask bench compare before.json after.json
  cargo xtask bench compare a1.json,a2.json,a3.json b1.json,b2.json,b3.json --fail-above 10
  cargo xtask bench compare before.json after.json --json | jq '.changes[] | select(.finding == \"worse\")'

The files are those of `cargo xtask bench --json FILE`, `cargo xtask bench memory --json FILE`, or of
`cargo xtask testbed --json`; runs leave them in target/testbed as well. A figure has changed if the 95 %
confidence interval over its rounds leaves out 0, if that stands among all figures, from 2 % on, and if
it is more than runs of one side differ by. So give each side several runs, if you can; docs/report.md
says why.";

/// Two runs that are there already.
#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Two {
    /// The earlier run, or several with commas between them
    #[arg(value_name = "OLD.json", required = true, num_args = 1, value_delimiter = ',')]
    old: Vec<PathBuf>,
    /// The later one, or several
    #[arg(value_name = "NEW.json", required = true, num_args = 1, value_delimiter = ',')]
    new: Vec<PathBuf>,
    /// Fail if a figure is worse by more than this, beyond noise
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_above: Option<f64>,
    /// Print the comparison as JSON in place of the table
    #[arg(long)]
    json: bool,
}

/// Compares two runs without measuring.
///
/// # Errors
/// When a file is no report, they are of different benches, or too much is worse.
pub fn run(two: &Two) -> Result<()> {
    let some = |runs: Option<_>| runs.context("name a run on each side");
    let old = Old { run: some(read(&two.old)?)?, fail_above: two.fail_above };
    let new = some(read(&two.new)?)?;
    old.check(&new.0.bench)?;
    let comparison = old.with(new);
    let text = if two.json { comparison.json()? } else { table::render(&comparison) };
    std::io::stdout().write_all(text.as_bytes()).context("cannot print the comparison")?;
    old.judge(&comparison)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Command {
        #[command(flatten)]
        args: Against,
    }

    #[test]
    fn a_threshold_is_of_a_comparison() {
        let args = |words: &[&str]| {
            Command::try_parse_from(["bench"].iter().chain(words)).map(|command| command.args)
        };
        assert!(args(&["--fail-above", "10"]).is_err());
        for (text, percent) in [("10", Some(10.0)), ("7.5%", Some(7.5)), ("0 %", Some(0.0))] {
            let parsed = args(&["--compare", "old.json", "--fail-above", text]).unwrap();
            assert_eq!(parsed.fail_above, percent, "{text}");
        }
        for text in ["ten", "-1", "NaN", "inf"] {
            let words = ["--compare", "old.json", &format!("--fail-above={text}")];
            assert!(args(&words).is_err(), "{text}");
        }
        assert!(args(&[]).unwrap().old().unwrap().is_none());
        let two = args(&["--compare", "a.json,b.json"]).unwrap();
        assert_eq!(two.compare, [PathBuf::from("a.json"), PathBuf::from("b.json")]);
        let error = args(&["--compare", "/no/such/file"]).unwrap().old().err().unwrap();
        assert!(format!("{error:#}").contains("/no/such/file"), "{error:#}");
    }
}
