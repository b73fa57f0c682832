// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a requester can wait for. A queue pair waits; a worker never does.

use parking_lot::Mutex;
use std::time::Instant;
use vnic_iommu::addr::Gva;
use vnic_iommu::walk::Access;

/// Page requests in a row for one request without a byte of progress, before its pages count as not
/// to be had: a guest that says yes and does nothing would go on for ever.
pub const MAX_PAGE_TRIES: u32 = 10_000;

/// Which end of a transfer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The requester's own memory.
    Local,
    /// The peer's memory.
    Remote,
}

/// What a waiting requester is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// It makes sense to try again.
    Resume,
    /// The guest has answered a page request.
    Pages {
        /// Which wait this is the answer to.
        wait: u64,
        /// First page and access of a request that the guest refused.
        denied: Option<(Gva, Access)>,
    },
}

/// Why a requester tries again later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The peer had no receive element.
    ReceiverNotReady,
    /// The peer did not answer.
    NoAnswer,
}

/// A wait for a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageWait {
    /// Number of this wait, which no other has.
    pub wait: u64,
    /// Whose page.
    pub side: Side,
    /// First byte of the page.
    pub page: Gva,
    /// What for.
    pub access: Access,
    /// When to give up.
    pub deadline: Instant,
    /// The guest was not asked yet, since its budget was used up.
    pub deferred: bool,
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
    Page(PageWait),
}

/// Why a page cannot be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The guest said so.
    Denied(Side),
    /// The guest did not provide it in time.
    Late(Side),
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
    Refused(Refusal),
}

impl Wait {
    /// Looks whether the wait is over, and ends it if so.
    pub fn over(&mut self, word: &Mutex<Option<Word>>, now: impl Fn() -> Instant) -> Over {
        let over = match *self {
            Self::Nothing => return Over::Yes,
            Self::Until { .. } if word.lock().take().is_some() => Over::Yes,
            Self::Until { time, reason } if now() >= time => Over::Expired(reason),
            Self::Until { .. } => Over::No,
            Self::Page(page) => page.over(word.lock().take(), now),
        };
        if over != Over::No {
            *self = Self::Nothing;
        }
        over
    }
}

impl PageWait {
    fn over(&self, word: Option<Word>, now: impl Fn() -> Instant) -> Over {
        match word {
            None if now() >= self.deadline => Over::Refused(Refusal::Late(self.side)),
            None => Over::No,
            Some(Word::Pages { wait, denied: Some((page, access)) })
                if wait == self.wait && page == self.page && access <= self.access =>
            {
                Over::Refused(Refusal::Denied(self.side))
            }
            // Also if another page of a merged request was refused, or more than is needed of this
            // one: then it is asked for by itself. And if the word is for an earlier wait: it may
            // have taken the place of the one for this.
            Some(_) => Over::Yes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn wait(deadline: Instant) -> Wait {
        let (side, page, access) = (Side::Remote, Gva(0x5000), Access::Read);
        Wait::Page(PageWait { wait: 7, side, page, access, deadline, deferred: false })
    }

    #[test]
    fn only_the_answer_about_this_page_and_access_in_this_wait_can_refuse_it() {
        let now = Instant::now();
        let over = |word| {
            let mut wait = wait(now + Duration::from_secs(1));
            (wait.over(&Mutex::new(word), || now), wait == Wait::Nothing)
        };
        let pages = |wait, denied| Some(Word::Pages { wait, denied });
        let here = (Gva(0x5000), Access::Read);
        assert_eq!(over(None), (Over::No, false));
        let refused = Over::Refused(Refusal::Denied(Side::Remote));
        assert_eq!(over(pages(7, Some(here))), (refused, true));
        assert_eq!(over(pages(7, None)), (Over::Yes, true));
        assert_eq!(over(pages(6, Some(here))), (Over::Yes, true), "an earlier wait");
        assert_eq!(over(pages(7, Some((Gva(0x4000), Access::Read)))), (Over::Yes, true));
        assert_eq!(over(pages(7, Some((Gva(0x5000), Access::Write)))), (Over::Yes, true));
        assert_eq!(over(Some(Word::Resume)), (Over::Yes, true));
    }

    #[test]
    fn a_page_that_does_not_come_is_given_up() {
        let now = Instant::now();
        let mut wait = wait(now);
        let over = wait.over(&Mutex::new(None), || now);
        assert_eq!(over, Over::Refused(Refusal::Late(Side::Remote)));
        // An answer that is there counts, however late.
        let mut wait = self::wait(now);
        let word = Mutex::new(Some(Word::Pages { wait: 7, denied: None }));
        assert_eq!(wait.over(&word, || now), Over::Yes);
    }
}
