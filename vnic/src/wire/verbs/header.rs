// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The header before each message of a lane: what it gives back, and whether there is a message at all.

use thiserror::Error;

/// Its bytes: two words, little-endian.
pub const HEAD: usize = 8;

const MESSAGE: u32 = 1;
const CREDITS: u32 = 2;

/// What follows a header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A message, of any length.
    Message,
    /// Nothing: it is sent for what it gives back.
    Credits,
}

/// A header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Messages whose room is the other end's again.
    pub given: u32,
    /// What follows.
    pub kind: Kind,
}

/// The peer sent what no lane sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadHeader {
    /// There is not even a header.
    #[error("the peer sent {0} bytes, too few for a header")]
    Short(usize),
    /// Of a kind that does not exist.
    #[error("the peer sent a message of kind {0}, which does not exist")]
    Kind(u32),
    /// One that is sent for credits only has something behind it, or none of them. The latter would cost its sender
    /// nothing, and so could come for ever.
    #[error("the peer sent {bytes} bytes to give back {given} messages")]
    Pointless {
        /// Bytes in all.
        bytes: usize,
        /// What it gives.
        given: u32,
    },
}

impl Header {
    /// As it travels.
    pub fn bytes(self) -> [u8; HEAD] {
        let kind = match self.kind {
            Kind::Message => MESSAGE,
            Kind::Credits => CREDITS,
        };
        let mut bytes = [0; HEAD];
        bytes[..4].copy_from_slice(&self.given.to_le_bytes());
        bytes[4..].copy_from_slice(&kind.to_le_bytes());
        bytes
    }

    /// Reads the header of what came, all of which is `bytes`.
    ///
    /// # Errors
    ///
    /// [`BadHeader`].
    pub fn read(bytes: &[u8]) -> Result<Self, BadHeader> {
        let short = BadHeader::Short(bytes.len());
        let (given, rest) = bytes.split_first_chunk::<4>().ok_or(short)?;
        let (kind, rest) = rest.split_first_chunk::<4>().ok_or(short)?;
        let given = u32::from_le_bytes(*given);
        let kind = match u32::from_le_bytes(*kind) {
            MESSAGE => Kind::Message,
            CREDITS if rest.is_empty() && given > 0 => Kind::Credits,
            CREDITS => return Err(BadHeader::Pointless { bytes: bytes.len(), given }),
            kind => return Err(BadHeader::Kind(kind)),
        };
        Ok(Self { given, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_no_lane_sends_is_refused() {
        let credits = Header { given: 3, kind: Kind::Credits }.bytes();
        assert_eq!(Header::read(&credits[..7]), Err(BadHeader::Short(7)));
        assert_eq!(Header::read(&[]), Err(BadHeader::Short(0)));
        assert_eq!(Header::read(&[0, 0, 0, 0, 3, 0, 0, 0]), Err(BadHeader::Kind(3)));
        let long = [&credits[..], &[0]].concat();
        assert_eq!(Header::read(&long), Err(BadHeader::Pointless { bytes: 9, given: 3 }));
        let none = Header { given: 0, kind: Kind::Credits }.bytes();
        assert_eq!(Header::read(&none), Err(BadHeader::Pointless { bytes: 8, given: 0 }));
    }

    proptest! {
        #[test]
        fn it_arrives_as_it_left(given: u32, content: Vec<u8>) {
            let header = Header { given, kind: Kind::Message };
            prop_assert_eq!(Header::read(&[&header.bytes()[..], &content].concat()), Ok(header));
        }

        /// What is taken for a header is one that this end might have sent itself.
        #[test]
        fn anything_may_come(bytes in prop::collection::vec(prop_oneof![0u8..4, any::<u8>()], 0..12)) {
            if let Ok(header) = Header::read(&bytes) {
                prop_assert_eq!(&header.bytes()[..], &bytes[..HEAD]);
                prop_assert!(header.kind == Kind::Message || header.given > 0);
            }
        }
    }
}
