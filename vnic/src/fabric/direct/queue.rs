// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's queue pair as one of the host, and what is under way in it.

use super::Direct;
use super::nic::{Nic, NicQp};
use crate::engine::requester::Failed;
use crate::object::pd::HostPd;
use parking_lot::Mutex;
use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vnic_abi::cqe::WcOpcode;
use vnic_abi::ctrl::{QpAttr, QpAttrMask, QpState};

/// More room than there is ever work for: rxe of Linux up to 7.3 may stand still for ever after a loss if its send queue
/// is full to the last element.
const SPARE: u32 = 8;

/// A send request that was posted to the host.
#[derive(Debug, Clone, Copy)]
pub struct Sent {
    /// Its number here.
    pub number: u32,
    /// From the driver.
    pub wr_id: u64,
    /// What its completion calls it.
    pub opcode: WcOpcode,
    /// Bytes of the message.
    pub total: u64,
    /// It has a completion in the guest even if it succeeds.
    pub signaled: bool,
    /// Elements taken, up to and with it.
    pub count: u32,
}

/// A receive that was posted to the host.
#[derive(Debug, Clone, Copy)]
pub struct Posted {
    /// Its number here.
    pub number: u32,
    /// From the driver.
    pub wr_id: u64,
    /// Elements taken, up to and with it.
    pub count: u32,
}

/// Which half work belongs to, and which work it is. Numbers of work from before a reset are never those of later work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WorkId {
    /// A receive, or a send request.
    pub receive: bool,
    /// Resets before it, modulo 2^31.
    pub life: u32,
    /// Its number.
    pub number: u32,
}

impl WorkId {
    const LIFE: u32 = u32::MAX >> 1;

    /// As a number of the host.
    pub fn bits(self) -> u64 {
        u64::from(self.receive) << 63
            | u64::from(self.life & Self::LIFE) << 32
            | u64::from(self.number)
    }

    /// What a number of the host means.
    pub fn of_bits(bits: u64) -> Self {
        let life = (bits >> 32) as u32 & Self::LIFE;
        Self { receive: bits >> 63 != 0, life, number: bits as u32 }
    }
}

/// What is under way.
#[derive(Debug, Default)]
pub struct State {
    /// `None` once the queue pair is destroyed.
    pub host: Option<Arc<dyn NicQp>>,
    /// Resets so far, modulo 2^31.
    pub life: u32,
    /// Number of the next send request.
    pub next_send: u32,
    /// Number of the next receive.
    pub next_receive: u32,
    /// Send requests, the oldest first.
    pub sends: VecDeque<Sent>,
    /// Receives, the oldest first.
    pub receives: VecDeque<Posted>,
    /// A request that fails when all before it are done, with the number of elements taken.
    pub failed: Option<(Failed, u32)>,
    /// The host's queue pair is connected, or was meant to be.
    connected: bool,
    /// The host's queue pair was put into error, so that what is under way is flushed.
    pub stopped: bool,
    /// The next completion makes an event, or has made one that nobody has taken yet.
    pub armed: bool,
}

impl State {
    /// Whether anything is under way.
    pub fn is_busy(&self) -> bool {
        !(self.sends.is_empty() && self.receives.is_empty())
    }

    /// Name of work.
    pub fn id(&self, receive: bool, number: u32) -> u64 {
        WorkId { receive, life: self.life, number }.bits()
    }

    fn forget(&mut self) {
        self.life = self.life.wrapping_add(1) & WorkId::LIFE;
        self.sends.clear();
        self.receives.clear();
        (self.failed, self.stopped) = (None, false);
    }
}

/// What stands behind a queue pair.
#[derive(Debug)]
pub struct DirectQp {
    /// Whether its peer is reached this way.
    chosen: AtomicBool,
    /// Only for whom nobody waits: a worker takes it for moments, and so do others.
    state: Mutex<State>,
    number: u32,
    nic: Arc<dyn Nic>,
}

impl DirectQp {
    /// In the state RESET.
    ///
    /// # Errors
    ///
    /// Those of the host's device.
    pub fn new(pd: &HostPd, worker: usize, sends: u32, receives: u32) -> io::Result<Self> {
        let host = pd.pd.qp(worker, sends + SPARE, receives + SPARE)?;
        let number = host.number();
        let state = State { host: Some(host), ..State::default() };
        let (chosen, nic) = (AtomicBool::new(false), pd.nic.clone());
        Ok(Self { chosen, state: Mutex::new(state), number, nic })
    }

    /// The device of the host's queue pair, which may be another one than that of queue pairs made now.
    pub fn nic(&self) -> &Arc<dyn Nic> {
        &self.nic
    }

    /// The number of the host's queue pair.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Whether the peer is reached this way.
    #[inline]
    pub fn is_chosen(&self) -> bool {
        // Acquire: pairs with the Release in `choose`, after the host's queue pair was connected.
        self.chosen.load(Ordering::Acquire)
    }

    /// Says whether the peer is reached this way.
    pub fn choose(&self, this: bool) {
        // Release: pairs with the Acquire in `is_chosen`.
        self.chosen.store(this, Ordering::Release);
    }

    /// What is under way. Taken behind the locks of the halves, and for moments.
    pub fn lock(&self) -> parking_lot::MutexGuard<'_, State> {
        self.state.lock()
    }

    /// The host's queue pair; it stays until the last who has it lets go.
    pub fn host(&self) -> Option<Arc<dyn NicQp>> {
        self.lock().host.clone()
    }

    /// Destroys the host's queue pair. Workers use it with the lock alone, so that nobody else has it then.
    pub fn destroy(&self) {
        let mut state = self.lock();
        state.forget();
        let host = state.host.take();
        // Not with the lock: it may take long.
        drop(state);
        drop(host);
    }

    /// Back to the state RESET: what was under way is forgotten.
    ///
    /// # Errors
    ///
    /// Those of the host's device.
    pub fn reset(&self) -> io::Result<()> {
        self.choose(false);
        let host = {
            let mut state = self.lock();
            state.forget();
            let connected = std::mem::take(&mut state.connected);
            state.host.clone().filter(|_| connected)
        };
        match host {
            Some(host) => host.modify(QpState::Reset, QpAttrMask::STATE, &QpAttr::default(), 0),
            None => Ok(()),
        }
    }

    /// Connects the host's queue pair. May wait for the network.
    ///
    /// # Errors
    ///
    /// Those of the host's device.
    pub fn connect(&self, direct: &Direct, attr: &QpAttr, source: u8) -> io::Result<()> {
        let host = {
            let mut state = self.lock();
            state.connected = true;
            state.host.clone()
        };
        let Some(host) = host else { return Ok(()) };
        let init = QpAttrMask::STATE
            | QpAttrMask::PKEY_INDEX
            | QpAttrMask::PORT
            | QpAttrMask::ACCESS_FLAGS;
        host.modify(QpState::Reset, QpAttrMask::STATE, attr, source)?;
        host.modify(QpState::Init, init, attr, source)?;
        let mut there = *attr;
        there.av.dgid = direct.peer(&attr.av.dgid);
        let rtr = QpAttrMask::STATE
            | QpAttrMask::AV
            | QpAttrMask::PATH_MTU
            | QpAttrMask::DEST_QPN
            | QpAttrMask::RQ_PSN
            | QpAttrMask::MAX_DEST_RD_ATOMIC
            | QpAttrMask::MIN_RNR_TIMER;
        host.modify(QpState::Rtr, rtr, &there, source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn names_of_work_are_told_apart(receive: bool, life in 0..=WorkId::LIFE, number: u32) {
            let id = WorkId { receive, life, number };
            prop_assert_eq!(WorkId::of_bits(id.bits()), id);
        }
    }
}
