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

/// Why a requester tries again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The peer had no receive element.
    ReceiverNotReady,
    /// The peer did not answer.
    NoAnswer,
    /// The guest has too many page requests open.
    Pages,
}

/// What the requester waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// For nothing.
    Nothing,
    /// For a time, or for an earlier word that trying again makes sense.
    Until {
        /// When it ends at the latest.
        time: Instant,
        /// What it is that did not come.
        reason: Reason,
    },
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
    /// Try again, since the time is up.
    Expired(Reason),
    /// The page cannot be had.
    Denied(Side),
}

impl Wait {
    /// Looks whether the wait is over, and ends it if so.
    pub fn over(&mut self, answer: &Mutex<Option<PageAnswer>>, now: impl Fn() -> Instant) -> Over {
        let over = match *self {
            Self::Nothing => return Over::Yes,
            Self::Until { .. } if answer.lock().take().is_some() => Over::Yes,
            Self::Until { time, reason } if now() >= time => Over::Expired(reason),
            Self::Until { .. } => Over::No,
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
