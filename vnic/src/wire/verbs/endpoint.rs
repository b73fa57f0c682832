// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the ends of a lane have to know of each other. It comes from the peer, and is checked.

use super::gid::Gid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Receives that an end may have, at least and at most.
pub const SLOTS: std::ops::RangeInclusive<u32> = 8..=4096;
/// Bytes of one, at least and at most.
pub const SLOT_BYTES: std::ops::RangeInclusive<u32> = 1024..=1 << 20;

/// How much memory each lane of an end has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Messages that can be under way in each direction.
    pub slots: u32,
    /// Bytes of one, header included.
    pub slot_bytes: u32,
}

impl Default for Settings {
    /// 2 MiB in each direction.
    fn default() -> Self {
        Self { slots: 64, slot_bytes: 32 << 10 }
    }
}

/// A lane that cannot be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("a lane with {what} = {value} cannot be: choose {least} to {most}")]
pub struct BadSettings {
    what: &'static str,
    value: u32,
    least: u32,
    most: u32,
}

impl Settings {
    /// Checks that a lane can be like this.
    ///
    /// # Errors
    ///
    /// [`BadSettings`].
    pub fn check(self) -> Result<(), BadSettings> {
        for (what, value, range) in
            [("slots", self.slots, SLOTS), ("slot_bytes", self.slot_bytes, SLOT_BYTES)]
        {
            if !range.contains(&value) {
                let (least, most) = (*range.start(), *range.end());
                return Err(BadSettings { what, value, least, most });
            }
        }
        Ok(())
    }
}

/// An end of a lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// Queue pair.
    pub qpn: u32,
    /// Address of its port.
    pub gid: Gid,
    /// Number of the first packet that it sends.
    pub psn: u32,
    /// Messages that it has room for.
    pub slots: u32,
    /// Bytes of each.
    pub slot_bytes: u32,
    /// Path MTU that its port can do, as verbs number it.
    pub mtu: u32,
}

/// The peer's end is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the peer's end of a lane makes no sense ({what} = {value})")]
pub struct BadEndpoint {
    what: &'static str,
    value: u32,
}

impl Endpoint {
    /// Reads what [`Self::bytes`] wrote, and checks it.
    ///
    /// # Errors
    ///
    /// [`BadEndpoint`] for a number that no end has.
    pub fn read(bytes: &[u8]) -> Result<Self, BadEndpoint> {
        let bad = |_| BadEndpoint { what: "length", value: bytes.len() as u32 };
        let end: Self = postcard::from_bytes(bytes).map_err(bad)?;
        end.check()?;
        Ok(end)
    }

    /// Checks that an end can have these numbers. Whether there is one that has, only the connection shows.
    ///
    /// # Errors
    ///
    /// As [`Self::read`].
    pub fn check(&self) -> Result<(), BadEndpoint> {
        let first = self.gid[0];
        for (what, value, good) in [
            ("qpn", self.qpn, (1..1 << 24).contains(&self.qpn)),
            // Nobody, or a group.
            ("gid[0]", first.into(), self.gid != [0; 16] && first != 0xff),
            ("psn", self.psn, self.psn < 1 << 24),
            ("slots", self.slots, SLOTS.contains(&self.slots)),
            ("slot_bytes", self.slot_bytes, SLOT_BYTES.contains(&self.slot_bytes)),
            ("mtu", self.mtu, (1..=5).contains(&self.mtu)),
        ] {
            if !good {
                return Err(BadEndpoint { what, value });
            }
        }
        Ok(())
    }

    /// As it travels.
    pub fn bytes(&self) -> Vec<u8> {
        // Numbers only; nothing of it can fail to be written.
        postcard::to_stdvec(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: Endpoint =
        Endpoint { qpn: 17, gid: [1; 16], psn: 5, slots: 64, slot_bytes: 4096, mtu: 3 };

    #[test]
    fn numbers_that_no_end_has_are_refused() {
        assert_eq!(Endpoint::read(&GOOD.bytes()), Ok(GOOD));
        for bad in [
            Endpoint { qpn: 0, ..GOOD },
            Endpoint { qpn: 1 << 24, ..GOOD },
            Endpoint { gid: [0; 16], ..GOOD },
            Endpoint { gid: [0xff; 16], ..GOOD },
            Endpoint { psn: 1 << 24, ..GOOD },
            Endpoint { slots: 0, ..GOOD },
            Endpoint { slots: u32::MAX, ..GOOD },
            Endpoint { slot_bytes: 8, ..GOOD },
            Endpoint { slot_bytes: u32::MAX, ..GOOD },
            Endpoint { mtu: 6, ..GOOD },
        ] {
            assert!(Endpoint::read(&bad.bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn lanes_that_cannot_be_are_refused() {
        let good = Settings::default();
        assert_eq!(good.check(), Ok(()));
        for bad in [
            Settings { slots: 7, ..good },
            Settings { slots: u32::MAX, ..good },
            Settings { slot_bytes: 0, ..good },
            Settings { slot_bytes: u32::MAX, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes: Vec<u8>) {
            if let Ok(end) = Endpoint::read(&bytes) {
                prop_assert_eq!(end.check(), Ok(()));
            }
        }

        /// Whatever an end says of itself: it is taken only if a lane can be like that.
        #[test]
        fn any_numbers_may_come(qpn: u32, gid: [u8; 16], psn: u32, slots: u32, slot_bytes: u32, mtu in 0u32..8) {
            let end = Endpoint { qpn, gid, psn, slots, slot_bytes, mtu };
            let possible = Settings { slots, slot_bytes }.check().is_ok();
            prop_assert_eq!(Endpoint::read(&end.bytes()).is_ok(), end.check().is_ok());
            prop_assert!(possible || end.check().is_err());
        }
    }
}
