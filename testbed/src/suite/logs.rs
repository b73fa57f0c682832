// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the guests and the daemon have logged: looked at in the end, and shown after a failure.

use std::{fmt, fs, path::Path, process::Command};

use crate::{
    complaint::kernel_is_content,
    daemon::CONTROL,
    error::{Doing, Error, Result, tail},
    topology::Pair,
};

/// Lines of a log that a failure shows; files hold all of them.
const SHOWN: usize = 60;

/// A failed step, and all that was logged until then.
#[derive(Debug)]
pub struct Failure {
    /// What failed: a program with its transport and size, or a step of the set-up.
    pub stage: String,
    /// How.
    pub error: Error,
    /// Names and contents of the logs.
    pub logs: Vec<(String, String)>,
}

impl Failure {
    pub(super) fn gather(stage: String, error: Error, mut pair: Pair, daemon: &Path) -> Self {
        let mut logs = Vec::new();
        let ended = pair.daemon.as_mut().and_then(|daemon| daemon.ended().ok().flatten());
        if let Some(status) = ended {
            logs.push(("end of the vNIC daemon".into(), format!("It ended by itself: {status}")));
        } else {
            // A daemon that hangs must not hang this too, so it gets no more than a moment.
            let mut status = Command::new("timeout");
            status.arg("5").arg(daemon).args(["status", "--json", "--socket"]);
            if let Ok(output) = status.arg(pair.run.path().join(CONTROL)).output() {
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8_lossy(&text).into_owned();
                logs.push(("status of the vNIC daemon".into(), text));
            }
        }
        for guest in pair.guests() {
            // A guest that is gone has a console all the same.
            if let Ok(text) = guest.dmesg() {
                logs.push((format!("dmesg of guest {}", guest.name()), text));
            }
        }
        logs.extend(pair.logs());
        Self { stage, error, logs }
    }

    /// What failed and why, without the logs.
    pub fn headline(&self) -> String {
        format!("{}: {}", self.stage, self.error)
    }

    /// Writes every log into `folder`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_logs(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).at("make", folder)?;
        for (name, text) in &self.logs {
            let path = folder.join(name.replace(' ', "-") + ".log");
            fs::write(&path, text).at("write", &path)?;
        }
        Ok(())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.headline())?;
        for (name, text) in &self.logs {
            let shown = tail(text, SHOWN);
            let cut = if shown.len() < text.trim_end().len() { ", its end" } else { "" };
            let shown = if shown.is_empty() { "(empty)" } else { &shown };
            writeln!(f, "\n--- {name}{cut}:\n{shown}")?;
        }
        Ok(())
    }
}

/// Looks for complaints in the logs of both kernels.
pub(super) fn check(pair: &Pair) -> Result<()> {
    pair.guests().into_iter().try_for_each(kernel_is_content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_the_stage_and_shows_the_end_of_every_log() {
        let error = Error::unfit("it broke", "Mend it.");
        let long = (0..100).map(|n| format!("line {n}\n")).collect::<String>();
        let logs = vec![("daemon".into(), long), ("console of left".into(), String::new())];
        let failure = Failure { stage: "ib_write_lat over vNIC, 2 B".into(), error, logs };
        let text = failure.to_string();
        assert!(text.starts_with("ib_write_lat over vNIC, 2 B: it broke"));
        assert!(
            text.contains("line 99") && !text.contains("line 39\n") && text.contains("(empty)")
        );

        let folder = tempfile::tempdir().unwrap();
        failure.write_logs(folder.path()).unwrap();
        let daemon = fs::read_to_string(folder.path().join("daemon.log")).unwrap();
        assert!(daemon.starts_with("line 0\n"));
        assert!(folder.path().join("console-of-left.log").exists());
    }
}
