// SPDX-License-Identifier: Apache-2.0 OR MIT
//! `cargo xtask fuzz`: what guests, peers and strangers say, made up by a fuzzer that looks for new paths.

use crate::tools::{self, cargo};
use anyhow::{Context, Result};
use clap::builder::PossibleValuesParser;
use std::fs;
use std::process::Stdio;
use vnic_testbed::provision;

/// Targets, and bytes of an input at most.
const TARGETS: [(&str, u32); 7] = [
    ("command", 4096),
    ("element", 512),
    ("frame", 512),
    ("word", 4096),
    ("preamble", 256),
    ("peer", 4096),
    ("pair", 4096),
];

const ABOUT: &str = "\
Look for inputs that the device does not take as it should.

A fuzzer (libFuzzer) makes up what somebody else controls, keeps what leads to paths that it has not seen, and changes \
that further: commands and send elements of a guest; frames, words and preambles of peer daemons and strangers; all that \
a hostile peer daemon can say to a guest at work (`peer`); and whatever can happen between two honest daemons, of whose \
requests every byte is checked (`pair`).";

const EXAMPLES: &str = "\
Examples:
  cargo xtask fuzz                           every target for a minute
  cargo xtask fuzz pair peer --seconds 3600  two of them for an hour each
  cargo xtask fuzz pair --input vnic/fuzz/artifacts/pair/crash-...   what was found, once more

What leads to new paths stays in target/fuzz/corpus and is where the next run begins. An input that fails stays in \
vnic/fuzz/artifacts, and the command fails. `cargo xtask test` runs the same targets with bytes of chance. \
Installs cargo-fuzz where it is missing.";

/// What to run.
#[derive(clap::Args)]
#[command(about = "Look for inputs that the device does not take as it should", long_about = ABOUT,
    after_help = EXAMPLES)]
pub struct Args {
    /// Targets; all if none is given
    #[arg(value_name = "TARGET", value_parser = PossibleValuesParser::new(TARGETS.map(|(name, _)| name)))]
    targets: Vec<String>,
    /// How long each target runs
    #[arg(long, value_name = "SECONDS", default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    seconds: u64,
    /// Only this input, of the one target that is named
    #[arg(long, value_name = "FILE", requires = "targets")]
    input: Option<std::path::PathBuf>,
}

/// Runs the targets one after the other.
pub fn run(args: &Args) -> Result<()> {
    ensure_cargo_fuzz()?;
    let chosen = |name: &str| args.targets.is_empty() || args.targets.iter().any(|one| one == name);
    let targets = TARGETS.iter().filter(|(name, _)| chosen(name));
    if let Some(input) = &args.input {
        anyhow::ensure!(args.targets.len() == 1, "--input is for one target; name only that");
        let input = std::path::absolute(input).context("find the input")?;
        let mut again = fuzz("run", &args.targets[0]);
        again.arg(input);
        return tools::run(again);
    }
    for (name, most) in targets {
        let corpus = tools::root().join("target/fuzz/corpus").join(name);
        fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
        let mut command = fuzz("run", name);
        command.arg(corpus).arg("--").arg(format!("-max_total_time={}", args.seconds));
        command.args([&format!("-max_len={most}"), "-timeout=60", "-print_final_stats=1"]);
        tools::run(command).with_context(|| {
            format!("{name}: see above; the input is in vnic/fuzz/artifacts/{name}")
        })?;
    }
    Ok(())
}

/// No sanitizer: those need a compiler that is not the stable one, and unsafe code here is about memory of guests, of which
/// they know nothing.
fn fuzz(what: &str, target: &str) -> std::process::Command {
    let mut command = cargo(&["fuzz", what, "--fuzz-dir", "vnic/fuzz", "--sanitizer", "none"]);
    command.arg("--target-dir").arg(tools::root().join("target/fuzz")).arg(target);
    command
}

fn ensure_cargo_fuzz() -> Result<()> {
    // libFuzzer is C++.
    provision::install(&["g++"]).context("cannot install what the fuzzer is built with")?;
    let mut ask = cargo(&["fuzz", "--version"]);
    let found = ask.stdout(Stdio::null()).stderr(Stdio::null()).status();
    if found.is_ok_and(|status| status.success()) {
        return Ok(());
    }
    tools::run(cargo(&["install", "--locked", "cargo-fuzz"]))
        .context("cannot install cargo-fuzz; install it by hand and try again")
}
