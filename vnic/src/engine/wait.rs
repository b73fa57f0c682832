// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a requester can wait for. A queue pair waits; a worker never does.

use parking_lot::Mutex;
use std::time::Instant;
use vnic_iommu::addr::Gva;

/// Which end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The requester's own memory.
    Local,
    /// The peer's memory.
    Remote,
}

/// Why a waiting requester may go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageAnswer {
    /// The first page of a request that the guest refused.
    pub denied: Option<Gva>,
}

/// What the requester waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For nothing.
    Nothing,
    /// For a time, or for an earlier word that trying again makes sense.
    Until(Instant),
    /// For a page.
    Page {
        /// Where.
        side: Side,
        /// First byte of the page.
        page: Gva,
    },
}

/// Whether the wait is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Over {
    /// Not yet.
    No,
    /// Try again.
    Yes,
    /// The page cannot be had.
    Denied(Side),
}

impl Wait {
    /// Looks whether the wait is over, and ends it if so.
    pub fn over(&mut self, answer: &Mutex<Option<PageAnswer>>, now: impl Fn() -> Instant) -> Over {
        let over = match *self {
            Self::Nothing => return Over::Yes,
            Self::Until(time) if answer.lock().take().is_some() || now() >= time => Over::Yes,
            Self::Until(_) => Over::No,
            Self::Page { side, page } => match answer.lock().take() {
                None => Over::No,
                Some(PageAnswer { denied: Some(denied) }) if denied == page => Over::Denied(side),
                // Another page of a merged request was refused: ask for this one by itself.
                Some(_) => Over::Yes,
            },
        };
        if over != Over::No {
            *self = Self::Nothing;
        }
        over
    }
}
