// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How far the suite is: a bar on a terminal; elsewhere a line for each program.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    group: Option<(String, Instant, u32)>,
}

impl Progress {
    pub(super) fn new(steps: u64) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(steps);
            let template = "{bar:30} {pos}/{len} [{elapsed}] {wide_msg}";
            let style = ProgressStyle::with_template(template);
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, group: None }
    }

    /// The steps that follow belong to this program.
    pub(super) fn group(&mut self, name: String) {
        self.end_group();
        self.group = Some((name, Instant::now(), 0));
    }

    pub(super) fn start(&mut self, step: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(step.to_string());
        }
    }

    pub(super) fn done(&mut self, well: bool) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        if let (Some((_, _, done)), true) = (&mut self.group, well) {
            *done += 1;
        }
    }

    fn end_group(&mut self) {
        let Some((name, since, done)) = self.group.take() else { return };
        if self.bar.is_none() && done > 0 {
            eprintln!("{name}: {done} done in {:.1} s", since.elapsed().as_secs_f32());
        }
    }

    pub(super) fn finish(mut self) {
        self.end_group();
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}
