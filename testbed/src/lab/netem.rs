// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a bad cable does to packets, by the kernel's netem (see tc-netem(8)).

use std::{fmt, time::Duration};

use crate::{
    error::{Error, Result},
    guest::Place,
};

const LIMIT: Duration = Duration::from_secs(30);

/// What happens to the packets that an interface sends. The default is nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Netem {
    /// How long each is held back, in whole microseconds.
    pub delay: Duration,
    /// By how much that differs from packet to packet, at most [`delay`](Self::delay).
    pub jitter: Duration,
    /// Percent that are lost.
    pub loss: f64,
    /// Percent that come twice.
    pub duplicate: f64,
    /// Percent that are not held back and overtake those that are; needs a [`delay`](Self::delay).
    pub reorder: f64,
}

impl Netem {
    /// Lets `netdev` at `place` do this from now on, instead of what it did.
    ///
    /// # Errors
    /// When a number is out of range, or there is no such interface.
    pub fn apply(&self, place: &Place, netdev: &str) -> Result<()> {
        self.check()?;
        place.guest().run(["modprobe", "sch_netem"], LIMIT)?;
        let line = format!("exec tc qdisc replace dev {netdev} root netem {self}");
        place.shell(line).limit(LIMIT).run().map(drop)
    }

    /// Lets `netdev` at `place` do what it does by itself.
    ///
    /// # Errors
    /// When it does already, or there is no such interface.
    pub fn remove(place: &Place, netdev: &str) -> Result<()> {
        place.run(["tc", "qdisc", "delete", "dev", netdev, "root"], LIMIT).map(drop)
    }

    fn check(&self) -> Result<()> {
        let percents = [self.loss, self.duplicate, self.reorder];
        if percents.iter().any(|percent| !(0.0..=100.0).contains(percent)) {
            return Err(Error::unfit(format!("`{self}` has odd percents"), "Keep to 0 to 100."));
        }
        if self.reorder > 0.0 && self.delay.as_micros() == 0 {
            let what = "packets cannot overtake others that are not held back";
            return Err(Error::unfit(what, "Give a delay of at least a microsecond."));
        }
        if self.jitter > self.delay {
            let what = format!("`{self}` would hold packets back by less than nothing");
            return Err(Error::unfit(what, "Let the delay be at least the jitter."));
        }
        Ok(())
    }
}

impl fmt::Display for Netem {
    /// As tc(8) takes it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "delay {}us {}us", self.delay.as_micros(), self.jitter.as_micros())?;
        write!(f, " loss {}% duplicate {}%", self.loss, self.duplicate)?;
        // Refused without a delay, even if it is none.
        if self.reorder > 0.0 {
            write!(f, " reorder {}%", self.reorder)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_written_as_tc_takes_it() {
        assert_eq!(Netem::default().to_string(), "delay 0us 0us loss 0% duplicate 0%");
        let (delay, jitter) = (Duration::from_millis(2), Duration::from_micros(10));
        let all = Netem { delay, jitter, loss: 0.5, duplicate: 1.0, reorder: 25.0 };
        assert_eq!(all.to_string(), "delay 2000us 10us loss 0.5% duplicate 1% reorder 25%");
        all.check().unwrap();
    }

    #[test]
    fn what_tc_would_refuse_or_misread_is_an_error() {
        let delay = Duration::from_micros(1);
        for odd in [
            Netem { loss: -1.0, ..Netem::default() },
            Netem { duplicate: 101.0, ..Netem::default() },
            Netem { loss: f64::NAN, ..Netem::default() },
            Netem { reorder: 1.0, ..Netem::default() },
            Netem { delay, jitter: 2 * delay, ..Netem::default() },
        ] {
            assert!(odd.check().is_err(), "{odd}");
        }
    }
}
