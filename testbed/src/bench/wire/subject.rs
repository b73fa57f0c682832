// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What is compared: who is at either end of the wire.

use std::fmt;

/// A pair of ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Two programs of the hosts, on the hosts' own devices: what everything else is measured against.
    Bare,
    /// Two guests, each on a daemon of its host, which pass messages on.
    Relay,
    /// A guest and a program of the other host.
    Direct,
}

impl Subject {
    /// All, in the order of tables. The first is what others are compared with.
    pub const ALL: [Self; 3] = [Self::Bare, Self::Relay, Self::Direct];

    /// Its name as a device of a report.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bare => "bare verbs",
            Self::Relay => "relay",
            Self::Direct => "direct",
        }
    }

    /// Who is at the ends, in words.
    pub const fn ends(self) -> &'static str {
        match self {
            Self::Bare => "a program of one host and one of the other, on the hosts' own devices",
            Self::Relay => "a guest of one host and one of the other, by the daemons of both",
            Self::Direct => "a guest of one host and a program of the other",
        }
    }

    /// Why it cannot be measured; `None` if it can.
    pub const fn not_run(self) -> Option<&'static str> {
        match self {
            Self::Bare | Self::Relay | Self::Direct => None,
        }
    }

    /// Whether the end on this side (0 leads, 1 follows) is a guest.
    pub const fn is_guest(self, side: usize) -> bool {
        match self {
            Self::Bare => false,
            Self::Relay => true,
            Self::Direct => side == 0,
        }
    }

    /// Those that can be measured.
    pub fn measured() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().filter(|subject| subject.not_run().is_none())
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
