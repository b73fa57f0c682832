// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs: creation, transitions, destruction. What they do is the engine's business.

pub mod attr;
pub mod state;

use crate::engine::lock::Lock;
use crate::engine::requester::Requester;
use crate::engine::responder::Responder;
use crate::engine::wait::Word;
use crate::fabric::direct::path;
use crate::fabric::direct::queue::DirectQp;
use crate::fabric::relay::waiting;
use crate::object::cq::Cq;
use crate::object::key;
use crate::object::pd::Pd;
use crate::ring::memory::RingMemory;
use crate::ring::sq::Next;
use crate::session::Session;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use vnic_abi::PAGE_SIZE;
use vnic_abi::ctrl::{QpAttr, QpAttrMask, QpState, QpType};
use vnic_abi::doorbell::QP_SQ_OFFSET;
use vnic_abi::event::{Event, EventKind};
use vnic_abi::status::Status;
use vnic_abi::wqe::{WQE_STRIDE_MAX, WQE_STRIDE_MIN};
use vnic_iommu::addr::Gpa;

/// Numbers of the host that are tried for a queue pair before giving up.
const NUMBERS: usize = 16;

/// What a driver asks for when it creates a queue pair.
#[derive(Debug, Clone)]
pub struct QpParams {
    /// Protection domain.
    pub pd: u32,
    /// Completion queue of the send queue.
    pub send_cq: u32,
    /// Completion queue of the receive queue.
    pub recv_cq: u32,
    /// Transport service.
    pub qp_type: QpType,
    /// Every send request completes.
    pub sq_sig_all: bool,
    /// Elements of the send queue.
    pub sq_depth: u32,
    /// Stride of the send queue in bytes.
    pub sq_stride: u32,
    /// Elements of the receive queue.
    pub rq_depth: u32,
    /// Stride of the receive queue in bytes.
    pub rq_stride: u32,
    /// Returned in events.
    pub cookie: u64,
    /// The queue pair's memory.
    pub pages: Vec<Gpa>,
}

/// A new queue pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpCreated {
    /// Its number, unique in the whole device.
    pub qpn: u32,
    /// Its bit in the doorbell page.
    pub doorbell_index: u32,
}

/// A queue pair. Locks are taken in the order requester, then responder (of this or of the peer).
#[derive(Debug)]
pub struct Qp {
    /// Number, unique in the device.
    pub qpn: u32,
    /// Bit in the doorbell page.
    pub doorbell_index: u32,
    /// The worker that looks at that bit and gives the queue pair its turns.
    pub worker: usize,
    /// The session that it lives in.
    pub session: Arc<Session>,
    /// Protection domain, which names the context too.
    pub pd: Arc<Pd>,
    /// Completion queue of the send queue.
    pub send_cq: Arc<Cq>,
    /// Completion queue of the receive queue.
    pub recv_cq: Arc<Cq>,
    /// Every send request completes.
    pub sq_sig_all: bool,
    /// Control page and rings.
    pub memory: RingMemory,
    /// The sending half.
    pub requester: Lock<Requester>,
    /// The receiving half.
    pub responder: Lock<Responder>,
    /// Whether the receiving half may know a sender that waits for a receive element. Changed with its
    /// lock held; read without, since the lock is held by the peer's worker for whole bursts.
    pub sender_waits: AtomicBool,
    /// What the requester was told about what it waits for.
    pub word: Mutex<Option<Word>>,
    /// Whether the worker has it in its schedule. Only the owning worker touches it.
    pub scheduled: AtomicBool,
    /// Where its next send element will appear, while it waits for nothing else; see [`Self::idle`].
    next: AtomicUsize,
    /// Timers that were set for each half. Only the worker that sets them touches it.
    pub timer: [AtomicU64; 2],
    /// What the responder was told about a page that it waits for on behalf of another daemon.
    pub arrival_word: Mutex<Option<Word>>,
    /// The worker that has the lane by which messages of another daemon arrive.
    pub arrives_at: AtomicUsize,
    /// The host's queue pair behind it, on a port that goes direct.
    pub direct: Option<Box<DirectQp>>,
    cookie: u64,
    attr: Mutex<QpAttr>,
    state: AtomicU8,
    connection: AtomicU32,
    destroyed: AtomicBool,
}

impl Qp {
    /// Current state.
    #[inline]
    pub fn state(&self) -> QpState {
        // Acquire: pairs with the Release in `set_state`; attributes of the state are visible.
        QpState(self.state.load(Ordering::Acquire))
    }

    /// Changes the state. Call with the lock of a half that it concerns.
    pub fn set_state(&self, state: QpState) {
        // Release: pairs with the Acquire in `state`.
        self.state.store(state.0, Ordering::Release);
    }

    /// Whether it is gone. Ask with the lock of a half: then its rings stay for as long as the lock.
    #[inline]
    pub fn is_destroyed(&self) -> bool {
        // Acquire: pairs with the Release in `qp_destroy`; the locks do the rest.
        self.destroyed.load(Ordering::Acquire)
    }

    /// Counts connections: a peer that remembers an older number has lost this queue pair.
    #[inline]
    pub fn connection(&self) -> u32 {
        // Acquire: pairs with the Release in `connect`.
        self.connection.load(Ordering::Acquire)
    }

    /// Says that there is nothing to do before an element appears there, or takes that back. Call with the
    /// requester's lock.
    #[inline]
    pub fn set_next(&self, next: Next) {
        // Relaxed: whoever believes it looks at the element itself, and with the lock.
        self.next.store(next.bits(), Ordering::Relaxed);
    }

    /// Whether a doorbell, if there was one, means nothing: no element has appeared, no sender waits, and no receive is
    /// wanted before there is one.
    /// A full fence lies between taking the doorbell and this.
    #[inline]
    pub fn is_idle(&self) -> bool {
        // Relaxed: ordered by the fence, see `wake_sender`.
        self.is_posted() == Some(false)
            && !self.sender_waits.load(Ordering::Relaxed)
            && !self.is_direct()
    }

    /// Whether the next send element is there; `None` if that is not all there is to know.
    #[inline]
    pub fn is_posted(&self) -> Option<bool> {
        if self.is_destroyed() {
            return None;
        }
        // Relaxed: see `set_next`.
        let next = Next::from_bits(self.next.load(Ordering::Relaxed));
        #[allow(unsafe_code)] // reason: the memory's owner is known here
        // SAFETY: set for this queue pair's ring alone, whose memory lives as long as the queue pair.
        unsafe {
            next.is_posted()
        }
    }

    /// Whether its peer is reached by the host's queue pair.
    #[inline]
    pub fn is_direct(&self) -> bool {
        self.direct.as_deref().is_some_and(DirectQp::is_chosen)
    }

    /// Attributes as they were set.
    pub fn attr(&self) -> QpAttr {
        *self.attr.lock()
    }

    /// Tells the guest about this queue pair.
    pub fn event(&self, kind: EventKind) {
        self.session.up.event(Event {
            kind: kind.0.into(),
            object: self.qpn.into(),
            cookie: self.cookie.into(),
        });
    }

    fn forget_connection(&self) {
        // Release: pairs with the Acquire in `connection`.
        self.connection.fetch_add(1, Ordering::Release);
    }
}

fn stride_is_valid(stride: u32) -> bool {
    stride.is_power_of_two() && (WQE_STRIDE_MIN..=WQE_STRIDE_MAX).contains(&stride)
}

impl Session {
    /// Creates a queue pair.
    ///
    /// # Errors
    ///
    /// `BadHandle`, `Unsupported` type, `BadSize`, `BadAddress`, `Limit`.
    pub fn qp_create(self: &Arc<Self>, params: &QpParams) -> Result<QpCreated, Status> {
        if params.qp_type != QpType::Rc {
            return Err(Status::Unsupported);
        }
        let limits = &self.limits;
        let depth_is_valid = |depth: u32, max: u32| depth.is_power_of_two() && depth <= max;
        if !depth_is_valid(params.sq_depth, limits.max_sq_depth)
            || !depth_is_valid(params.rq_depth, limits.max_rq_depth)
            || !stride_is_valid(params.sq_stride)
            || !stride_is_valid(params.rq_stride)
        {
            return Err(Status::BadSize);
        }
        let sq_bytes = u64::from(params.sq_depth) * u64::from(params.sq_stride);
        let rq_bytes = u64::from(params.rq_depth) * u64::from(params.rq_stride);
        let rq_offset = u64::from(QP_SQ_OFFSET) + sq_bytes.next_multiple_of(PAGE_SIZE);
        let memory = RingMemory::new(
            &self.ram.current(),
            &self.ring_pages,
            &params.pages,
            rq_offset + rq_bytes,
        )?;

        let pd = self.pd_acquire(params.pd)?;
        let made = (|| {
            let send_cq = self.cq_acquire(params.send_cq, &pd.ctx)?;
            let recv_cq = match self.cq_acquire(params.recv_cq, &pd.ctx) {
                Ok(cq) => cq,
                Err(error) => {
                    send_cq.release();
                    return Err(error);
                }
            };
            let (send, recv) = (send_cq.clone(), recv_cq.clone());
            let made = self.qp_insert(params, memory, rq_offset as usize, &pd, send_cq, recv_cq);
            if made.is_err() {
                send.release();
                recv.release();
            }
            made
        })();
        if made.is_err() {
            pd.release();
        }
        made
    }

    fn qp_insert(
        self: &Arc<Self>,
        params: &QpParams,
        memory: RingMemory,
        rq_offset: usize,
        pd: &Arc<Pd>,
        send_cq: Arc<Cq>,
        recv_cq: Arc<Cq>,
    ) -> Result<QpCreated, Status> {
        let doorbell = pd.ctx.reserve_doorbell()?;
        let direct = self.direct_qp(params, pd, doorbell.worker)?;
        let mut own = self.qps.lock();
        if own.len() >= self.limits.max_qp as usize {
            return Err(Status::Limit);
        }
        let mut numbers = self.device.qpns().write();
        let qpn = match &direct {
            // The host's, which peers name; nobody had it a moment ago.
            Some(direct) if numbers.contains_key(&direct.number()) => return Err(Status::Limit),
            Some(direct) => direct.number(),
            // 0 and 1 name the special queue pairs of InfiniBand management.
            None => key::fresh(&numbers, 24, 2)?,
        };
        let (doorbell_index, worker) = (doorbell.index(), doorbell.worker);
        let qp = Arc::new(Qp {
            qpn,
            doorbell_index,
            worker,
            session: self.clone(),
            pd: pd.clone(),
            send_cq,
            recv_cq,
            sq_sig_all: params.sq_sig_all,
            memory,
            requester: Lock::new(Requester::new(params.sq_depth, params.sq_stride)),
            responder: Lock::new(Responder::new(rq_offset, params.rq_depth, params.rq_stride)),
            sender_waits: AtomicBool::new(false),
            word: Mutex::new(None),
            scheduled: AtomicBool::new(false),
            next: AtomicUsize::new(Next::UNKNOWN.bits()),
            timer: Default::default(),
            arrival_word: Mutex::new(None),
            arrives_at: AtomicUsize::new(worker),
            direct,
            cookie: params.cookie,
            attr: Mutex::new(QpAttr::default()),
            state: AtomicU8::new(QpState::Reset.0),
            connection: AtomicU32::new(0),
            destroyed: AtomicBool::new(false),
        });
        let fresh_line = doorbell.bind(&qp);
        numbers.insert(qpn, Arc::downgrade(&qp));
        own.insert(qpn, qp.clone());
        if fresh_line {
            // The worker does not look there yet; and the page did not ask for kicks.
            self.device.handle(qp.worker).refresh();
        }
        Ok(QpCreated { qpn, doorbell_index: qp.doorbell_index })
    }

    /// The host's queue pair that stands behind a new one, if this port goes direct.
    fn direct_qp(
        &self,
        params: &QpParams,
        pd: &Pd,
        worker: usize,
    ) -> Result<Option<Box<DirectQp>>, Status> {
        let Some(host) = &pd.host else { return Ok(None) };
        // Kept until the end, so that the host does not give their numbers again.
        let mut taken = Vec::new();
        while taken.len() < NUMBERS {
            let made = DirectQp::new(host, worker, params.sq_depth, params.rq_depth);
            let made = made.map_err(|error| {
                tracing::warn!(%error, "the host's device does not make a queue pair");
                Status::Limit
            })?;
            // A port that does not go direct has chosen it by itself, or a device had given it that is lost.
            if !self.device.qpns().read().contains_key(&made.number()) {
                return Ok(Some(Box::new(made)));
            }
            taken.push(made);
        }
        Err(Status::Limit)
    }

    pub(crate) fn qp(&self, qpn: u32) -> Result<Arc<Qp>, Status> {
        self.qps.lock().get(&qpn).cloned().ok_or(Status::BadHandle)
    }

    /// Changes attributes and state.
    ///
    /// # Errors
    ///
    /// `BadHandle`, `BadState`, `BadAttribute`; the queue pair is then as before.
    pub fn qp_modify(&self, qpn: u32, mask: QpAttrMask, new: &QpAttr) -> Result<(), Status> {
        if !QpAttrMask::all().contains(mask) {
            return Err(Status::BadAttribute);
        }
        let qp = self.qp(qpn)?;
        // The host's may take long, so that nobody waits for it but who asked.
        let direct = if qp.direct.is_some() {
            let (from, to, attr) = self.judge_change(&qp, mask, new)?;
            path::prepare(&qp, from, to, mask, &attr)?
        } else {
            false
        };
        let mut requester = qp.requester.lock();
        let mut responder = qp.responder.lock();
        if qp.is_destroyed() {
            return Err(Status::BadHandle);
        }
        let (from, to, changed) = self.judge_change(&qp, mask, new)?;
        let mut attr = qp.attr.lock();
        *attr = changed;
        if to == QpState::Reset {
            *attr = QpAttr::default();
            path::reset(&qp);
            requester.reset(qpn);
            waiting::stop(&mut responder, &qp);
            responder.reset(&qp.memory);
            *qp.word.lock() = None;
        }
        if matches!(to, QpState::Reset | QpState::Rtr) {
            qp.forget_connection();
        }
        requester.configure(&attr);
        responder.configure(&attr);
        qp.set_next(Next::UNKNOWN);
        qp.set_state(to);
        if from == QpState::Init && to == QpState::Rtr {
            path::choose(&qp, direct);
        }
        drop((attr, responder, requester));
        // There may be requests from before, and in the error state there is everything to flush.
        if from != to {
            self.device.schedule(&qp);
        }
        Ok(())
    }

    /// What a change would lead to, from where, and the attributes there.
    fn judge_change(
        &self,
        qp: &Qp,
        mask: QpAttrMask,
        new: &QpAttr,
    ) -> Result<(QpState, QpState, QpAttr), Status> {
        let from = qp.state();
        let to = if mask.contains(QpAttrMask::STATE) { QpState(new.state) } else { from };
        if mask.contains(QpAttrMask::CUR_STATE) && QpState(new.cur_state) != from {
            return Err(Status::BadState);
        }
        state::check(from, to, mask)?;
        let mut attr = qp.attr();
        attr::apply(&mut attr, new, mask, self.limits.max_rd_atomic, self.gids.lock().len())?;
        Ok((from, to, attr))
    }

    /// Attributes and state.
    ///
    /// # Errors
    ///
    /// `BadHandle`.
    pub fn qp_query(&self, qpn: u32) -> Result<QpAttr, Status> {
        let qp = self.qp(qpn)?;
        let state = qp.state().0;
        Ok(QpAttr { state, cur_state: state, ..qp.attr() })
    }

    /// Destroys a queue pair. After the return its rings are not touched.
    ///
    /// # Errors
    ///
    /// `BadHandle`.
    pub fn qp_destroy(&self, qpn: u32) -> Result<(), Status> {
        let qp = self.qps.lock().remove(&qpn).ok_or(Status::BadHandle)?;
        self.device.qpns().write().remove(&qpn);
        {
            // Whoever holds a half may be in the rings; nobody who takes it later will.
            let mut requester = qp.requester.lock();
            let mut responder = qp.responder.lock();
            // Release: pairs with the Acquire in `is_destroyed`.
            qp.destroyed.store(true, Ordering::Release);
            qp.forget_connection();
            qp.set_next(Next::UNKNOWN);
            requester.reset(qpn);
            waiting::stop(&mut responder, &qp);
            responder.forget();
        }
        if let Some(direct) = &qp.direct {
            direct.destroy();
        }
        qp.pd.ctx.release_doorbell(qp.doorbell_index, || self.device.grace().synchronize());
        qp.send_cq.release();
        qp.recv_cq.release();
        qp.pd.release();
        Ok(())
    }
}
