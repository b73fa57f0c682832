// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What two daemons tell each other beside messages of their guests.

use crate::object::gid::Gid;
use serde::{Deserialize, Serialize};

/// Ports of one [`Word::Ports`], so that it fits a message.
pub const PORTS: usize = 256;
/// Lanes between two daemons, at most: as many as one has workers.
pub const LANES: u16 = 64;

/// A port, by one of its addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Port {
    /// Its network.
    pub network: String,
    /// The address.
    pub gid: Gid,
    /// Its number.
    pub port: u32,
}

/// Names a meeting: lanes that are opened for it say it.
pub type Token = [u8; 16];

/// What daemons tell each other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Word {
    /// The first word of both.
    Hello {
        /// Worker threads, 1 to [`LANES`].
        workers: u16,
        /// What carries the lanes: `tcp` or `verbs`.
        carrier: String,
        /// Of the end that was called.
        token: Token,
    },
    /// The near ends of lanes that need to know each other, in order; what they are is the carrier's affair.
    Lanes(Vec<Vec<u8>>),
    /// The lanes of this end can be used.
    Ready,
    /// All ports of this end that the other may reach, if there is no `more` to come; then these and the next ones.
    Ports {
        /// Another one of this follows.
        more: bool,
        /// The ports.
        ports: Vec<Port>,
    },
    /// Nothing has changed.
    StillThere,
}

impl Word {
    /// As it travels.
    pub fn bytes(&self) -> Vec<u8> {
        // A word of this crate's own types; nothing of it can fail to be written.
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads one. `None` if it is none, or there is more than one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let (word, rest) = postcard::take_from_bytes(bytes).ok()?;
        rest.is_empty().then_some(word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::secure::TAG;
    use proptest::prelude::*;

    #[test]
    fn a_word_is_read_as_it_was_written() {
        let port = Port { network: "n".repeat(64), gid: [9; 16], port: u32::MAX };
        for word in [
            Word::Hello { workers: 64, carrier: "tcp".into(), token: [7; 16] },
            Word::Lanes(vec![vec![1, 2], vec![]]),
            Word::Ready,
            Word::Ports { more: true, ports: vec![port; PORTS] },
            Word::StillThere,
        ] {
            let bytes = word.bytes();
            assert!(bytes.len() + TAG <= 65535, "{}", bytes.len());
            assert_eq!(Word::read(&bytes), Some(word));
        }
    }

    proptest! {
        #[test]
        fn anything_may_come(bytes: Vec<u8>) {
            if let Some(word) = Word::read(&bytes) {
                prop_assert!(word.bytes().len() <= bytes.len());
            }
        }
    }
}
