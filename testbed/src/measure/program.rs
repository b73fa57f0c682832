// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The programs that are run, and over what.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Over what a program moves its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// The device of this project.
    Vnic,
    /// The kernel's RDMA in software, over virtio-net.
    Rxe,
    /// Sockets over virtio-net.
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Vnic => "vNIC",
            Self::Rxe => "rxe",
            Self::Tcp => "TCP",
        })
    }
}

/// What a program measures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Nothing: it shows the device.
    Show,
    /// The mean time of a round trip, at one size, with contents checked where it can.
    PingPong,
    /// The distribution of the time of one message.
    Latency,
    /// How much is moved in a second.
    Bandwidth,
}

/// A program of the suite, in the order in which the suite runs them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Program {
    /// Shows the device with all its attributes.
    #[serde(rename = "ibv_devinfo")]
    Devinfo,
    /// SEND in turns: plain, with contents checked, and with completion events.
    #[serde(rename = "ibv_rc_pingpong")]
    RcPingpong,
    /// WRITE in turns.
    #[serde(rename = "ib_write_lat")]
    WriteLat,
    /// READ, one at a time.
    #[serde(rename = "ib_read_lat")]
    ReadLat,
    /// SEND in turns.
    #[serde(rename = "ib_send_lat")]
    SendLat,
    /// WRITE, many at a time.
    #[serde(rename = "ib_write_bw")]
    WriteBw,
    /// READ, many at a time.
    #[serde(rename = "ib_read_bw")]
    ReadBw,
    /// SEND, many at a time.
    #[serde(rename = "ib_send_bw")]
    SendBw,
}

impl Program {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Devinfo,
        Self::RcPingpong,
        Self::WriteLat,
        Self::ReadLat,
        Self::SendLat,
        Self::WriteBw,
        Self::ReadBw,
        Self::SendBw,
    ];

    /// The name of the executable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Devinfo => "ibv_devinfo",
            Self::RcPingpong => "ibv_rc_pingpong",
            Self::WriteLat => "ib_write_lat",
            Self::ReadLat => "ib_read_lat",
            Self::SendLat => "ib_send_lat",
            Self::WriteBw => "ib_write_bw",
            Self::ReadBw => "ib_read_bw",
            Self::SendBw => "ib_send_bw",
        }
    }

    /// What it measures.
    pub fn kind(self) -> Kind {
        match self {
            Self::Devinfo => Kind::Show,
            Self::RcPingpong => Kind::PingPong,
            Self::WriteLat | Self::ReadLat | Self::SendLat => Kind::Latency,
            Self::WriteBw | Self::ReadBw | Self::SendBw => Kind::Bandwidth,
        }
    }

    /// Whether a TCP ping-pong measures the same. It does not for READ, whose time is that of a
    /// whole round trip and not of half of one.
    pub fn compares_with_tcp(self) -> bool {
        !matches!(self, Self::Devinfo | Self::RcPingpong | Self::ReadLat)
    }
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Program {
    type Err = String;

    /// Takes the name of the executable, with or without the `ib_` or `ibv_` before it.
    fn from_str(text: &str) -> Result<Self, String> {
        let short = |name: &'static str| name.split_once('_').map_or(name, |(_, rest)| rest);
        let found = Self::ALL.into_iter().find(|p| p.name() == text || short(p.name()) == text);
        found.ok_or_else(|| {
            format!("no such program; there are {}", Self::ALL.map(|p| short(p.name())).join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_found_by_both_names() {
        for program in Program::ALL {
            assert_eq!(program.name().parse(), Ok(program));
            let json = serde_json::to_value(program).unwrap();
            assert_eq!(json, program.name(), "the report and the command line agree");
        }
        assert_eq!("write_lat".parse(), Ok(Program::WriteLat));
        assert!("atomic_lat".parse::<Program>().unwrap_err().contains("rc_pingpong"));
    }
}
