// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers go back to a requester at another daemon, as far as its lane has room for them.
//!
//! What is owed is remembered with the queue pair, not with the lane: so requests can always be taken from a lane, and
//! two daemons cannot wait for each other's room.

use crate::engine::core::Core;
use crate::engine::request::{Op, Remote};
use crate::engine::responder::Responder;
use crate::engine::wait::Wait;
use crate::fabric::local::Advance;
use crate::fabric::relay::arrivals::{Arrivals, Job, Say};
use crate::fabric::relay::responder::{placeholder, with_transfer};
use crate::fabric::relay::waiting;
use crate::object::qp::Qp;
use crate::wire::frame::{Answer, HEADER, What};
use crate::wire::lane::Lane;
use crate::wire::link::Link;
use std::sync::Arc;

/// What became of what a queue pair owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paid {
    /// It was told, or waits for something else.
    All,
    /// There is more, when others had their turn.
    More,
    /// The lane has no room now.
    NoRoom,
}

/// Tells the requester of `qp` what it is owed by this lane, which is number `index` of `link`.
pub fn pay(core: &mut Core, link: &Link, index: usize, lane: &mut dyn Lane, qp: &Arc<Qp>) -> Paid {
    let paid = {
        let mut responder = qp.responder.lock();
        let Some(mut arrivals) = responder.arrivals.take() else { return Paid::All };
        if (arrivals.link.id, arrivals.lane) != (link.id, index) {
            // It has come back by another way meanwhile, where it stands in line.
            responder.arrivals = Some(arrivals);
            return Paid::All;
        }
        waiting::look(core, qp, &mut responder, &mut arrivals);
        let mut teller = Teller { core, lane, qp };
        let paid = teller.tell(&mut responder, &mut arrivals);
        arrivals.listed = paid != Paid::All;
        responder.arrivals = Some(arrivals);
        paid
    };
    core.later.flush(&core.device);
    paid
}

struct Teller<'a> {
    core: &'a mut Core,
    lane: &'a mut dyn Lane,
    qp: &'a Arc<Qp>,
}

impl Teller<'_> {
    /// Results first, in order, then how far everything is, then why it does not go on.
    fn tell(&mut self, responder: &mut Responder, arrivals: &mut Arrivals) -> Paid {
        let mut budget = self.core.chunk;
        while let Some(&job) = arrivals.jobs.front() {
            if matches!(arrivals.wait, Wait::Page(_)) {
                break;
            }
            if budget == 0 {
                return Paid::More;
            }
            let moved = match job {
                Job::Former { seq, word } => {
                    arrivals.jobs.pop_front();
                    arrivals.answered = seq.wrapping_add(1);
                    if !self.send(arrivals, seq, What::Former(word)) {
                        arrivals.jobs.push_front(job);
                        arrivals.answered = seq;
                        return Paid::NoRoom;
                    }
                    8
                }
                Job::Read { seq, remote, total, at } => {
                    match self.data(responder, arrivals, seq, remote, total, at) {
                        Some(moved) => moved,
                        None => return Paid::NoRoom,
                    }
                }
            };
            budget = budget.saturating_sub(moved.max(64));
        }
        let frontier = arrivals.frontier();
        if arrivals.answered != frontier {
            if !self.send(arrivals, frontier.wrapping_sub(1), What::Ack) {
                return Paid::NoRoom;
            }
            arrivals.answered = frontier;
        }
        self.say(arrivals)
    }

    fn say(&mut self, arrivals: &mut Arrivals) -> Paid {
        let Some(say) = arrivals.say else { return Paid::All };
        let what = match say {
            Say::Paused => What::Paused,
            // The others also say that everything before is done.
            _ if !arrivals.jobs.is_empty() => return Paid::All,
            Say::Resume => What::Resume(arrivals.offset as u32),
            Say::Rnr(delay) => What::Rnr(delay.as_micros().try_into().unwrap_or(u32::MAX)),
            Say::Refused(why) => What::Refused(why),
        };
        let seq = if say == Say::Paused { arrivals.frontier() } else { arrivals.next };
        if !self.send(arrivals, seq, what) {
            return Paid::NoRoom;
        }
        arrivals.say = None;
        Paid::All
    }

    /// Sends one frame of a READ's bytes. How many; `None` if there is no room.
    fn data(
        &mut self,
        responder: &mut Responder,
        arrivals: &mut Arrivals,
        seq: u32,
        remote: Remote,
        total: u64,
        at: u64,
    ) -> Option<u64> {
        let answer = self.answer(arrivals, seq, What::Data { offset: at as u32, bytes: &[] });
        let most = self.lane.max_message();
        let room = self.lane.buffer()?;
        let len = (total - at).min((most - HEADER) as u64) as usize;
        let head = answer.write_head(room);
        let room = room.get_mut(head..head + len)?;
        let (qp, mut to) = (self.qp, at);
        let advance = if len == 0 {
            Some(Advance::Done)
        } else {
            with_transfer(self.core, qp, total, len as u64, |transfer| {
                match transfer.read_into(room, remote, total, &mut to, qp, responder) {
                    Advance::Missing(missing) if !missing.recoverable => {
                        transfer.refuse_page(&placeholder(Op::Read(remote), total), qp, responder)
                    }
                    other => other,
                }
            })
        };
        let moved = to - at;
        if moved != 0 || total == at {
            self.lane.send(head + moved as usize);
            arrivals.progress();
            if to == total {
                arrivals.jobs.pop_front();
                arrivals.answered = seq.wrapping_add(1);
            } else if let Some(job) = arrivals.jobs.front_mut() {
                *job = Job::Read { seq, remote, total, at: to };
            }
        }
        match advance {
            // What came behind it meanwhile is asked for again when the page is there.
            Some(Advance::Missing(missing)) => waiting::for_page(self.core, qp, arrivals, missing),
            Some(Advance::Nak(nak)) => {
                waiting::give_up_jobs(arrivals);
                arrivals.nak(nak);
            }
            _ => {}
        }
        Some(moved)
    }

    /// Sends a frame without bytes. `false` if there is no room.
    fn send(&mut self, arrivals: &Arrivals, seq: u32, what: What<'_>) -> bool {
        let answer = self.answer(arrivals, seq, what);
        let Some(room) = self.lane.buffer() else { return false };
        let len = answer.write_head(room);
        self.lane.send(len);
        true
    }

    fn answer<'w>(&self, arrivals: &Arrivals, seq: u32, what: What<'w>) -> Answer<'w> {
        Answer {
            to_qpn: arrivals.from_qpn,
            from_qpn: self.qp.qpn,
            connection: arrivals.connection,
            seq,
            what,
        }
    }
}
