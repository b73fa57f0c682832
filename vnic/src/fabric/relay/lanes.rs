// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker's lanes: what has come is handed out, those who owe something tell it, and those who wait for room are
//! told of it.

use crate::engine::core::Core;
use crate::engine::requester::answered;
use crate::fabric::relay::owed::{self, Paid};
use crate::fabric::relay::responder::arrived;
use crate::object::qp::Qp;
use crate::wire::frame::Frame;
use crate::wire::lane::Lane;
use crate::wire::link::Link;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Weak};

/// Frames that are taken from one lane before others have their turn.
const FRAMES: usize = 32;

/// A lane and those who use it.
pub struct Open {
    /// The peer.
    pub link: Arc<Link>,
    /// Which of the link's lanes; the requesters of worker `n` use lane `n`.
    pub index: usize,
    /// The lane.
    pub lane: Box<dyn Lane>,
    /// Queue pairs whose requesters are owed something.
    owing: VecDeque<Arc<Qp>>,
    /// Queue pairs that have something to send and had no room.
    waiting: VecDeque<Arc<Qp>>,
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open")
            .field("link", &self.link)
            .field("index", &self.index)
            .finish_non_exhaustive()
    }
}

impl Open {
    /// A lane that nobody used.
    pub fn new(link: Arc<Link>, index: usize, lane: Box<dyn Lane>) -> Self {
        Self { link, index, lane, owing: VecDeque::new(), waiting: VecDeque::new() }
    }

    /// `qp` goes on when there is room.
    pub fn wait_for_room(&mut self, qp: &Arc<Qp>) {
        if !self.waiting.iter().any(|held| Arc::ptr_eq(held, qp)) {
            self.waiting.push_back(qp.clone());
        }
    }

    /// Whether answers wait for room, which requests must not take from them.
    pub fn is_owing(&self) -> bool {
        !self.owing.is_empty()
    }
}

/// The lanes of a worker.
#[derive(Debug, Default)]
pub struct Lanes {
    open: Vec<Open>,
}

impl Lanes {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Takes one over.
    pub fn adopt(&mut self, open: Open) {
        self.open.push(open);
    }

    /// The lane of a link by number.
    pub fn of(&mut self, link: u64, index: usize) -> Option<&mut Open> {
        self.open.iter_mut().find(|open| (open.link.id, open.index) == (link, index))
    }

    /// Before a sleep: has every lane's file become readable when something comes. `true` if something has come already.
    pub fn arm(&mut self) -> bool {
        let mut ready = false;
        for open in &mut self.open {
            open.lane.arm();
            ready |= open.link.is_lost();
            ready |= !matches!(open.lane.receive(), Ok(None));
            ready |= !open.waiting.is_empty() && open.lane.buffer().is_some();
        }
        ready
    }

    /// After a sleep.
    pub fn acknowledge(&mut self) {
        for open in &mut self.open {
            open.lane.acknowledge();
        }
    }
}

/// Puts a queue pair whose responder owes something into the line of its lane.
pub fn owe(core: &mut Core, qp: &Arc<Qp>) {
    let lane = {
        let mut responder = qp.responder.lock();
        let Some(arrivals) = &mut responder.arrivals else { return };
        if std::mem::replace(&mut arrivals.listed, true) {
            return;
        }
        (arrivals.link.id, arrivals.lane)
    };
    match core.lanes.of(lane.0, lane.1) {
        Some(open) => open.owing.push_back(qp.clone()),
        // The link was lost. What is owed is told when the requester comes again.
        None => {
            if let Some(arrivals) = &mut qp.responder.lock().arrivals {
                arrivals.listed = false;
            }
        }
    }
}

/// Looks at every lane once. `each` is called with those that may go on. `true` if anything was done.
pub fn poll(core: &mut Core, mut each: impl FnMut(&Arc<Qp>)) -> bool {
    let mut lanes = std::mem::take(&mut core.lanes);
    let mut busy = false;
    let mut lost = false;
    lanes.open.retain_mut(|open| {
        match serve(core, open, &mut each) {
            Ok(did) => busy |= did,
            Err(why) => {
                lost = true;
                tracing::debug!(peer = %open.link.peer, lane = open.index, why, "a lane is gone");
                open.link.lose(&why);
            }
        }
        !open.link.is_lost()
    });
    lanes.open.append(&mut core.lanes.open);
    core.lanes = lanes;
    // Those who became indebted on the way.
    while let Some(qp) = core.indebted.pop() {
        busy = true;
        owe(core, &qp);
    }
    if lost {
        nudge(core, each);
        busy = true;
    }
    busy
}

/// Every queue pair of this worker looks for its peer anew.
fn nudge(core: &Core, mut each: impl FnMut(&Arc<Qp>)) {
    let qps: Vec<Arc<Qp>> = core.device.qpns().read().values().filter_map(Weak::upgrade).collect();
    qps.iter().filter(|qp| qp.worker == core.worker).for_each(&mut each);
}

/// One look at a lane: whether anything was done.
fn serve(core: &mut Core, open: &mut Open, mut each: impl FnMut(&Arc<Qp>)) -> Result<bool, String> {
    if open.link.is_lost() {
        return Err(open.link.why().unwrap_or("it was closed").to_owned());
    }
    let mut busy = false;
    let (mut frames, mut bytes) = (0, 0);
    while frames < FRAMES && bytes < core.chunk {
        let Some(frame) = open.lane.receive().map_err(|error| error.to_string())? else { break };
        frames += 1;
        bytes += frame.len() as u64;
        match Frame::parse(frame).map_err(|bad| bad.to_string())? {
            Frame::Request(request) => {
                if let Some(qp) = arrived(core, &open.link, open.index, &request) {
                    open.owing.push_back(qp);
                }
            }
            Frame::Answer(answer) => {
                if let Some(qp) = answered(core, &open.link, &answer) {
                    each(&qp);
                }
            }
        }
        open.lane.release();
        busy = true;
    }
    for _ in 0..open.owing.len() {
        let Some(qp) = open.owing.pop_front() else { break };
        match owed::pay(core, &open.link, open.index, &mut *open.lane, &qp) {
            Paid::All => busy = true,
            Paid::More => {
                busy = true;
                open.owing.push_back(qp);
            }
            Paid::NoRoom => {
                open.owing.push_front(qp);
                break;
            }
        }
    }
    if open.owing.is_empty() && !open.waiting.is_empty() && open.lane.buffer().is_some() {
        busy = true;
        open.waiting.drain(..).for_each(|qp| each(&qp));
    }
    open.lane.flush();
    Ok(busy)
}
