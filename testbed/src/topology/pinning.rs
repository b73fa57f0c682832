// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Puts the busy threads of a pair on processors of their own.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::Pair;
use crate::{
    error::{Error, Result},
    host::{
        Plan, Processors,
        processors::{affinity, list_text, set_affinity},
        time::{Thread, threads},
    },
};

/// What the names of the daemon's workers begin with.
const WORKER: &str = "worker-";

/// When threads are pinned.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pin {
    /// Where each can have a core of its own, and one is left for everything else.
    Auto,
    /// Anywhere, even if threads have to share processors then.
    Always,
    /// Nowhere.
    #[default]
    Never,
}

impl FromStr for Pin {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err("threads are pinned auto, always or never".into()),
        }
    }
}

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

/// What has been pinned, or why not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pinning {
    /// Whether it has.
    pub done: bool,
    /// The plan, or the reason.
    pub text: String,
    /// Why figures are to be doubted all the same.
    pub warnings: Vec<String>,
}

impl fmt::Display for Pinning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.done { "" } else { "none: " })?;
        f.write_str(&self.text)
    }
}

impl Pair {
    /// Pins the virtual processors of both guests and the workers of the daemon, and keeps all their other
    /// threads away from them. What is pinned is asked for again, and has to be so.
    ///
    /// # Errors
    /// When QEMU does not tell its threads, or the kernel refuses.
    pub fn pin(&self, when: Pin) -> Result<Pinning> {
        self.pin_to(when, &Processors::look())
    }

    fn pin_to(&self, when: Pin, processors: &Processors) -> Result<Pinning> {
        let not = |text: String| Pinning { done: false, text, warnings: Vec::new() };
        if when == Pin::Never {
            return Ok(not("not asked for".into()));
        }
        let (busy, others) = self.threads()?;
        let names = busy.iter().map(|thread| thread.name.clone()).collect::<Vec<_>>();
        let plan = Plan::new(processors, &names);
        if when == Pin::Auto && !plan.compromises.is_empty() {
            return Ok(not(plan.compromises.join("; ")));
        }
        // Threads that are made from now on begin where the one that makes them is.
        for thread in &others {
            match put(thread, &plan.rest) {
                // Gone, unless it is there and refuses.
                Err(error) if affinity(thread.id).is_ok() => return Err(error),
                _ => {}
            }
        }
        for (thread, (_, processor)) in busy.iter().zip(&plan.threads) {
            put(thread, &[*processor])?;
        }
        let warnings = plan.compromises.iter().chain(&plan.remarks);
        let warnings = warnings.map(|warning| format!("pinning: {warning}")).collect();
        Ok(Pinning { done: true, text: plan.to_string(), warnings })
    }

    /// The threads that stay busy, named so that a person knows them, and all others of the guests' QEMUs
    /// and of the daemon.
    fn threads(&self) -> Result<(Vec<Thread>, Vec<Thread>)> {
        let (mut busy, mut others) = (Vec::new(), Vec::new());
        for vm in [&self.left, &self.right] {
            let processors = vm.processor_threads()?;
            for mut thread in threads(vm.pid())? {
                match processors.iter().position(|&id| id == thread.id) {
                    Some(number) => {
                        thread.name = format!("{} CPU {number}", vm.name());
                        busy.push(thread);
                    }
                    None => others.push(thread),
                }
            }
        }
        if let Some(daemon) = &self.daemon {
            for thread in threads(daemon.pid())? {
                if thread.name.starts_with(WORKER) { &mut busy } else { &mut others }.push(thread);
            }
        }
        Ok((busy, others))
    }
}

fn put(thread: &Thread, processors: &[usize]) -> Result<()> {
    set_affinity(thread.id, processors)?;
    let found = affinity(thread.id)?;
    if found == processors {
        return Ok(());
    }
    let what = format!(
        "{} was put on the processors {} and is on {}",
        thread.name,
        list_text(processors),
        list_text(&found)
    );
    Err(Error::unfit(
        what,
        "Something else moves threads here; leave it to that with `--pin never`.",
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_and_written() {
        for pin in [Pin::Auto, Pin::Always, Pin::Never] {
            assert_eq!(pin.to_string().parse(), Ok(pin));
        }
        assert!("sometimes".parse::<Pin>().is_err());
    }

    #[test]
    fn a_thread_that_does_not_stay_is_an_error() {
        let sleeper = std::process::Command::new("sleep").arg("60").spawn();
        let mut sleeper = sleeper.unwrap();
        let thread = threads(sleeper.id()).unwrap().remove(0);
        let last = *affinity(0).unwrap().last().unwrap();
        put(&thread, &[last]).unwrap();
        assert_eq!(affinity(thread.id).unwrap(), [last]);
        // Processors that do not exist are left out by the kernel, which is not what was asked for.
        let error = put(&thread, &[last, 1023]).map_err(|error| error.to_string());
        if last != 1023 {
            let error = error.unwrap_err();
            assert!(error.contains("1023") && error.contains("--pin never"), "{error}");
        }
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
    }
}
