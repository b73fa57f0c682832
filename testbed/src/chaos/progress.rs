// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How far a run is: a bar on a terminal, elsewhere a line for each case.

use std::{
    io::{IsTerminal, stderr},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressStyle};

use super::{
    program::Said,
    result::{CaseResult, Verdict},
};

pub(super) struct Progress {
    bar: Option<ProgressBar>,
    now: String,
    since: Instant,
}

impl Progress {
    pub(super) fn new(cases: usize) -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(cases as u64);
            let style = ProgressStyle::with_template("{bar:20} {pos}/{len} [{elapsed}] {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar, now: String::new(), since: Instant::now() }
    }

    /// The next case, or what has to be done before.
    pub(super) fn start(&mut self, what: String) {
        self.message(&what);
        self.now = what;
        self.since = Instant::now();
    }

    /// What running programs have said.
    pub(super) fn seen(&self, said: &Said, of: Duration) {
        let mib = said.bytes_checked >> 20;
        self.message(&format!(
            "{}: {:.0} of {} s, {mib} MiB checked, {} bytes wrong",
            self.now,
            said.seconds,
            of.as_secs(),
            said.wrong_bytes
        ));
    }

    fn message(&self, text: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(text.to_string());
        }
    }

    /// The case has ended.
    pub(super) fn done(&self, result: &CaseResult) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
        let line = format!("{}: {}", self.now, told(result, self.since.elapsed()));
        match &self.bar {
            Some(bar) if result.verdict == Verdict::Passed => bar.set_message(line),
            Some(bar) => bar.println(line),
            None => eprintln!("{line}"),
        }
    }

    pub(super) fn finish(self) {
        if let Some(bar) = self.bar {
            bar.finish_and_clear();
        }
    }
}

fn told(result: &CaseResult, time: Duration) -> String {
    let seconds = time.as_secs_f32();
    match result.verdict {
        Verdict::Passed => {
            let mib = result.bytes_checked >> 20;
            format!(
                "{} operations, {mib} MiB checked, all well ({seconds:.0} s)",
                result.operations
            )
        }
        Verdict::Failed => format!("failed: {} ({seconds:.0} s)", result.reasons.join("; ")),
        Verdict::NotPossible => format!("not possible: {}", result.reasons.join("; ")),
    }
}
