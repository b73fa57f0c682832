// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a responder remembers of its requester at another daemon: which request comes next, and what it owes.
//!
//! Requests of a queue pair arrive in order and are carried out in order. One that cannot be now is dropped with all
//! behind it, and the requester is told where to go on when the time has come: nothing is kept here for a queue pair
//! that waits, and nobody else waits for it. A requester may go back on its own, if answers were lost with a
//! link: what was carried out is then answered again and not done again.

use crate::engine::request::Remote;
use crate::engine::responder::Nak;
use crate::engine::stream::Stream;
use crate::engine::wait::Wait;
use crate::object::qp::Qp;
use crate::wire::frame::{Refusal, Request};
use crate::wire::link::Link;
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// READs and atomics that are answered at one time, at most: as many as `max_rd_atomic` may be.
pub const MOST_JOBS: usize = 128;
/// Results of atomics that are kept for a requester that asks again.
const FORMERS: usize = 16;

/// Something that is answered with more than an acknowledgement.
#[derive(Debug, Clone, Copy)]
pub enum Job {
    /// Bytes `at` to `total` are still to be sent.
    Read {
        /// Number of the request.
        seq: u32,
        /// From where.
        remote: Remote,
        /// Bytes in all.
        total: u64,
        /// Bytes sent, or not wanted.
        at: u64,
    },
    /// The word that was there before an atomic.
    Former {
        /// Number of the request.
        seq: u32,
        /// The word.
        word: u64,
    },
}

impl Job {
    /// Number of the request.
    pub const fn seq(&self) -> u32 {
        match *self {
            Self::Read { seq, .. } | Self::Former { seq, .. } => seq,
        }
    }
}

/// What the requester is to be told beside results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Say {
    /// It waits for a page.
    Paused,
    /// Go on from the next byte that is expected.
    Resume,
    /// No receive element.
    Rnr(Duration),
    /// Refused.
    Refused(Refusal),
}

/// Whether requests are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// As they come.
    Flowing,
    /// The requester was told where to go on, or will be: nothing counts before that comes.
    Asked,
    /// Not before a page has come.
    Waiting,
    /// Not before a receive element has come, or the requester tries again.
    NotReady,
    /// Never again: the queue pair refused one.
    Refused,
}

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admit {
    /// Carry it out.
    Now,
    /// It was carried out before: answer it.
    Again,
    /// It does not count.
    Drop,
}

/// How what arrives for a queue pair stands.
#[derive(Debug)]
pub struct Arrivals {
    /// By which link.
    pub link: Arc<Link>,
    /// By which lane of it.
    pub lane: usize,
    /// The requester.
    pub from_qpn: u32,
    /// Its connection.
    pub connection: u32,
    own_connection: u32,
    /// Number of the request that comes next.
    pub next: u32,
    /// Bytes of it that were carried out.
    pub offset: u64,
    /// Requests before this one were carried out.
    done: u32,
    /// Everything before this one was answered.
    pub answered: u32,
    /// Whether requests are carried out.
    pub state: State,
    /// What is answered with more than an acknowledgement, in order.
    pub jobs: VecDeque<Job>,
    formers: ArrayVec<(u32, u64), FORMERS>,
    /// What else to say.
    pub say: Option<Say>,
    /// A page that is waited for.
    pub wait: Wait,
    /// Page requests in a row without a byte of progress.
    pub page_tries: u32,
    /// Since when.
    pub page_since: Option<Instant>,
    /// Where requests walk.
    pub stream: Stream,
    /// Whether its lane has it in the line of those who owe something.
    pub listed: bool,
}

/// Whether `a` comes before `b`, modulo 2^32.
pub const fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

impl Arrivals {
    /// From a requester that nobody heard of before, whose first request is at hand.
    pub fn new(link: &Arc<Link>, lane: usize, qp: &Qp, request: &Request<'_>) -> Self {
        Self {
            link: link.clone(),
            lane,
            from_qpn: request.from_qpn,
            connection: request.connection,
            own_connection: qp.connection(),
            next: request.seq,
            offset: 0,
            done: request.seq,
            answered: request.seq,
            state: State::Flowing,
            jobs: VecDeque::new(),
            formers: ArrayVec::new(),
            say: None,
            wait: Wait::Nothing,
            page_tries: 0,
            page_since: None,
            stream: Stream::default(),
            listed: false,
        }
    }

    /// Whether a request is of the requester that these are about, and came the same way.
    pub fn is_of(&self, link: &Link, lane: usize, qp: &Qp, request: &Request<'_>) -> bool {
        (self.link.id, self.lane) == (link.id, lane)
            && (self.from_qpn, self.connection) == (request.from_qpn, request.connection)
            && self.own_connection == qp.connection()
    }

    /// The same requester comes by another link, since that of before was lost: what was carried out stays
    /// carried out.
    pub fn came_back(
        &mut self,
        link: &Arc<Link>,
        lane: usize,
        qp: &Qp,
        request: &Request<'_>,
    ) -> bool {
        let same = self.link.peer == link.peer
            && (self.from_qpn, self.connection) == (request.from_qpn, request.connection)
            && self.own_connection == qp.connection();
        if same {
            (self.link, self.lane, self.listed) = (link.clone(), lane, false);
        }
        same
    }

    /// What to do with a request that begins at `offset` of its message (0 for those that come in one piece).
    pub fn admit(&mut self, seq: u32, offset: u64) -> Admit {
        let waits = matches!(self.wait, Wait::Page(_)) && self.state == State::Waiting;
        if self.state == State::Refused || waits {
            return Admit::Drop;
        }
        if seq == self.next && offset <= self.offset {
            self.offset = offset;
        } else if before(seq, self.next) && offset == 0 && self.next.wrapping_sub(seq) <= 1 << 16 {
            // It goes back: its answers were lost.
            self.next = seq;
            self.offset = 0;
            self.answered = seq;
            self.jobs.retain(|job| before(job.seq(), seq));
        } else {
            if self.state == State::Flowing {
                self.state = State::Asked;
                self.say = Some(Say::Resume);
            }
            return Admit::Drop;
        }
        self.state = State::Flowing;
        self.say = None;
        if before(seq, self.done) { Admit::Again } else { Admit::Now }
    }

    /// The next request is carried out.
    pub fn finish(&mut self) {
        self.next = self.next.wrapping_add(1);
        self.offset = 0;
        if before(self.done, self.next) {
            self.done = self.next;
        }
        self.progress();
    }

    /// Something was moved.
    pub fn progress(&mut self) {
        self.page_tries = 0;
        self.page_since = None;
    }

    /// Takes the result of the next request, an atomic.
    pub fn keep_former(&mut self, word: u64) {
        if self.formers.is_full() {
            self.formers.remove(0);
        }
        self.formers.push((self.next, word));
    }

    /// The result of the next request, an atomic that was carried out before.
    pub fn former(&self) -> Option<u64> {
        self.formers.iter().find(|(seq, _)| *seq == self.next).map(|(_, word)| *word)
    }

    /// Everything before this one is done and has no job left.
    pub fn frontier(&self) -> u32 {
        self.jobs.front().map_or(self.next, Job::seq)
    }

    /// The request that comes next is refused, for now or for ever.
    pub fn nak(&mut self, nak: Nak) {
        (self.state, self.say) = match nak {
            Nak::Rnr(delay) => (State::NotReady, Some(Say::Rnr(delay))),
            Nak::InvalidRequest => Self::refused(Refusal::InvalidRequest),
            Nak::RemoteAccess => Self::refused(Refusal::RemoteAccess),
            Nak::RemoteOperation => Self::refused(Refusal::RemoteOperation),
        };
    }

    /// The same for a reason of the wire's own.
    pub fn refuse(&mut self, why: Refusal) {
        (self.state, self.say) = Self::refused(why);
    }

    const fn refused(why: Refusal) -> (State, Option<Say>) {
        (State::Refused, Some(Say::Refused(why)))
    }

    /// A receive element has come.
    pub fn go_on(&mut self) {
        if self.state == State::NotReady {
            (self.state, self.say) = (State::Asked, Some(Say::Resume));
        }
    }

    /// Whether there is anything to tell the requester.
    pub fn owes(&self) -> bool {
        self.say.is_some() || !self.jobs.is_empty() || self.answered != self.frontier()
    }
}
