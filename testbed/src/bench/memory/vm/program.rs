// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What `vnic-memory-bench` prints.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The program in the guests.
pub const PROGRAM: &str = "vnic-memory-bench";

/// What one call of it found.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    samples: BTreeMap<String, Vec<f64>>,
    counts: BTreeMap<String, f64>,
    missing: BTreeMap<String, String>,
}

impl Answer {
    /// Reads all that it printed.
    ///
    /// # Errors
    /// When a line is none of its own, or the last line is missing.
    pub fn read(text: &str) -> Result<Self> {
        let unread =
            |what: String| Error::Unread { program: PROGRAM.into(), what, output: text.into() };
        let mut answer = Self::default();
        for line in text.lines() {
            let (key, rest) = line.split_once(' ').unwrap_or((line, ""));
            let key = key.to_string();
            if let Some(why) = rest.strip_prefix("none ") {
                answer.missing.insert(key, why.into());
            } else if let Some(count) = rest.strip_prefix("count ") {
                let count = count.parse().map_err(|_| unread(format!("no count in `{line}`")))?;
                answer.counts.insert(key, count);
            } else if !rest.is_empty() {
                let values = rest.split(' ').map(str::parse).collect::<std::result::Result<_, _>>();
                let values = values.map_err(|_| unread(format!("no times in `{line}`")))?;
                answer.samples.insert(key, values);
            }
        }
        if text.lines().last() == Some("end") { Ok(answer) } else { Err(unread("no end".into())) }
    }

    /// The times under a key, in nanoseconds; none if it has no times.
    pub fn take(&mut self, key: &str) -> Vec<f64> {
        self.samples.remove(key).unwrap_or_default()
    }

    /// A number.
    pub fn count(&self, key: &str) -> Option<f64> {
        self.counts.get(key).copied()
    }

    /// Why a key has no times.
    pub fn missing(&self, key: &str) -> Option<&str> {
        self.missing.get(key).map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_line_is_read() {
        let text = "ready\nregister/4096 10 20 30\nregister/9 none Cannot allocate memory\n\
                    touch/in count 5\nend\n";
        let mut answer = Answer::read(text).unwrap();
        assert_eq!(answer.take("register/4096"), [10.0, 20.0, 30.0]);
        assert_eq!(answer.take("register/9"), [0.0; 0]);
        assert_eq!(answer.missing("register/9"), Some("Cannot allocate memory"));
        assert_eq!(answer.count("touch/in"), Some(5.0));
    }

    #[test]
    fn half_an_answer_is_none() {
        for text in ["", "a 1 2", "a 1 x\nend", "a count x\nend"] {
            assert!(Answer::read(text).is_err(), "{text:?}");
        }
    }
}
