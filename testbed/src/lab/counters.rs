// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What an RDMA device has counted, as its driver tells in `hw_counters`.

use std::{collections::BTreeMap, fmt, time::Duration};

use crate::{
    error::{Error, Result},
    guest::Guest,
};

const LIMIT: Duration = Duration::from_secs(30);

/// The requester went back and sent again, after a timeout or a complaint of the responder.
const RETRIES: &str = "completer_retry_err";

/// The responder has got a request that is not the next one.
const GAPS: &str = "out_of_seq_request";

/// Names and numbers, counted since the device was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counters(BTreeMap<String, u64>);

impl Counters {
    /// Reads those of port 1 of `device`. Devices are seen in every network namespace of a machine.
    ///
    /// # Errors
    /// When there is no such device, or it counts nothing.
    pub fn read(guest: &Guest, device: &str) -> Result<Self> {
        let folder = format!("/sys/class/infiniband/{device}/ports/1/hw_counters");
        let line = format!("cd {folder} && exec grep -H . *");
        let text = guest.shell(line).limit(LIMIT).run()?.stdout_text();
        parse(&text).ok_or_else(|| Error::Unread {
            program: folder,
            what: "a counter is a name and a number".into(),
            output: text,
        })
    }

    /// One of them; `None` if the driver has none of that name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.0.get(name).copied()
    }

    /// How much each has grown since `before`.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let grown = |(name, now): (&String, &u64)| {
            (name.clone(), now.saturating_sub(before.get(name).unwrap_or(0)))
        };
        Self(self.0.iter().map(grown).collect())
    }

    /// How often an rxe device has sent requests again. On a busy machine it may do so without need, when an answer
    /// takes its time.
    ///
    /// # Errors
    /// When it is not an rxe device.
    pub fn retries(&self) -> Result<u64> {
        self.of_rxe(RETRIES)
    }

    /// How often an rxe device has seen that a request was lost on its way, or overtaken.
    ///
    /// # Errors
    /// When it is not an rxe device.
    pub fn gaps(&self) -> Result<u64> {
        self.of_rxe(GAPS)
    }

    fn of_rxe(&self, name: &str) -> Result<u64> {
        self.get(name).ok_or_else(|| {
            Error::unfit(format!("the device does not count {name}: {self}"), "Take an rxe device.")
        })
    }
}

impl fmt::Display for Counters {
    /// Those that are not zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.0.iter().filter(|(_, number)| **number != 0);
        let words = counted.map(|(name, number)| format!("{name} {number}")).collect::<Vec<_>>();
        f.write_str(&words.join(", "))
    }
}

fn parse(text: &str) -> Option<Counters> {
    let pair = |line: &str| {
        let (name, number) = line.split_once(':')?;
        Some((name.to_string(), number.trim().parse().ok()?))
    };
    let counters = text.lines().map(pair).collect::<Option<BTreeMap<_, _>>>()?;
    (!counters.is_empty()).then_some(Counters(counters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growth_is_told() {
        let before = parse("completer_retry_err:2\nsent_pkts:10\n").unwrap();
        let after = parse("completer_retry_err:2\nsent_pkts:17\nduplicate_request:1\n").unwrap();
        let grown = after.since(&before);
        assert_eq!(grown.to_string(), "duplicate_request 1, sent_pkts 7");
        assert_eq!(grown.retries().unwrap(), 0);
        assert!(grown.gaps().is_err());
    }

    #[test]
    fn what_is_no_counter_is_an_error() {
        assert_eq!(parse(""), None);
        assert_eq!(parse("sent_pkts:many\n"), None);
        assert!(parse("tx_packets:1\n").unwrap().retries().is_err());
    }
}
