// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Says what is going on: a spinner with the last line of output on a terminal, plain lines elsewhere.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

/// One step that takes a while.
#[derive(Debug)]
pub struct Step {
    what: String,
    since: Instant,
    bar: Option<ProgressBar>,
}

impl Step {
    /// Announces a step, named by what it does: "building the Debian root".
    pub fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style =
                ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(what.clone());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            eprintln!("{what} ...");
        }
        Self { what, since: Instant::now(), bar }
    }

    /// As [`Self::start`], for a step of so many equal parts: a bar on a terminal, which moves with
    /// [`Self::advance`] and never by itself, so that it disturbs nothing that is measured meanwhile.
    pub fn counted(what: impl Into<String>, parts: usize) -> Self {
        let what = what.into();
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(parts as u64);
            let template = "{prefix} {bar:30} {pos}/{len} [{elapsed}] {wide_msg:.dim}";
            let style = ProgressStyle::with_template(template);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.set_prefix(what.clone());
            bar
        });
        if bar.is_none() {
            eprintln!("{what} ...");
        }
        Self { what, since: Instant::now(), bar }
    }

    /// A part of a counted step is done.
    pub fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// Shows a line of detail; on a terminal only, where it replaces the one before.
    pub fn detail(&self, line: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(line.chars().filter(|c| !c.is_control()).collect::<String>());
        }
    }

    /// The step succeeded. A step that is dropped without this has failed.
    pub fn done(mut self) {
        let line = format!("{}: done in {:.1} s", self.what, self.since.elapsed().as_secs_f32());
        match self.bar.take() {
            Some(bar) => {
                bar.finish_and_clear();
                eprintln!("{line}");
            }
            None => eprintln!("{line}"),
        }
        self.what.clear();
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        if !self.what.is_empty() {
            eprintln!("{}: failed after {:.1} s", self.what, self.since.elapsed().as_secs_f32());
        }
    }
}
