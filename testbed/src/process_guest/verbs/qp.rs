// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs.

use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vnic_abi::ctrl::{
    AccessFlags, AddressVector, CmdOpcode, QpAttr, QpAttrMask, QpCreate, QpState, QpType,
};
use vnic_abi::doorbell::QP_SQ_OFFSET;
use vnic_abi::status::Status;
use vnic_abi::wqe::{RECV_WQE_PAYLOAD, SEND_WQE_PAYLOAD, Sge, WQE_STRIDE_MIN};
use vnic_verbs::{Completion, DoorbellIndex, PostError, RecvQueue, SendLimits, SendQueue};

use super::{ALL_ACCESS, Cq, Doorbell, Pd, SendWr, destroy};
use crate::process_guest::memory::{FRAME, Layout, Pages};

/// Sizes of a queue pair.
#[derive(Debug, Clone, Copy)]
pub struct QpOptions {
    /// Elements of the send queue, a power of two.
    pub sq_depth: u32,
    /// Elements of the receive queue, a power of two.
    pub rq_depth: u32,
    /// Gather entries of a request.
    pub max_send_sge: u32,
    /// Scatter entries of a request.
    pub max_recv_sge: u32,
    /// Inline bytes of a request.
    pub max_inline: u32,
    /// Every request completes.
    pub sig_all: bool,
}

impl Default for QpOptions {
    fn default() -> Self {
        Self {
            sq_depth: 64,
            rq_depth: 64,
            max_send_sge: 4,
            max_recv_sge: 4,
            max_inline: 128,
            sig_all: false,
        }
    }
}

/// Where things lie in a queue pair's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QpLayout {
    /// Bytes from one send element to the next.
    pub sq_stride: u32,
    /// Bytes from one receive element to the next.
    pub rq_stride: u32,
    /// Offset of the receive queue.
    pub rq_offset: u64,
    /// Bytes in all.
    pub len: u64,
}

impl QpOptions {
    /// The layout of a queue pair of these sizes.
    pub fn layout(&self) -> QpLayout {
        let stride = |bytes: u32| bytes.next_power_of_two().max(WQE_STRIDE_MIN);
        let sq_stride = stride(SEND_WQE_PAYLOAD + (self.max_send_sge * 16).max(self.max_inline));
        let rq_stride = stride(RECV_WQE_PAYLOAD + self.max_recv_sge * 16);
        let sq_len = (u64::from(self.sq_depth) * u64::from(sq_stride)).next_multiple_of(FRAME);
        let rq_offset = u64::from(QP_SQ_OFFSET) + sq_len;
        let len = rq_offset + u64::from(self.rq_depth) * u64::from(rq_stride);
        QpLayout { sq_stride, rq_stride, rq_offset, len }
    }

    /// Pages of a queue pair of these sizes.
    pub fn pages(&self) -> usize {
        self.layout().len.div_ceil(FRAME) as usize
    }
}

/// What two queue pairs agree on when they connect.
#[derive(Debug, Clone, Copy)]
pub struct ConnectOptions {
    /// What the peer may do.
    pub access: AccessFlags,
    /// Local ACK time-out code.
    pub timeout: u8,
    /// Retries after a time-out.
    pub retry_cnt: u8,
    /// Retries after RNR; 7 = for ever.
    pub rnr_retry: u8,
    /// RNR NAK timer code.
    pub min_rnr_timer: u8,
    /// READs outstanding, both ways.
    pub max_rd_atomic: u8,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            access: ALL_ACCESS,
            timeout: 14,
            retry_cnt: 7,
            rnr_retry: 7,
            min_rnr_timer: 1,
            max_rd_atomic: 1,
        }
    }
}

/// Both queues of a queue pair, shared with its completion queues.
pub struct Rings {
    sq: Mutex<SendQueue>,
    rq: Mutex<RecvQueue>,
    /// After the queues, which point into it.
    pages: Arc<Pages>,
}

impl Rings {
    pub(super) fn advance(&self, done: &Completion) {
        if done.is_recv() {
            self.rq().advance(done.wqe_count);
        } else {
            self.sq().advance(done.wqe_count);
        }
    }

    pub(super) fn sq(&self) -> MutexGuard<'_, SendQueue> {
        self.sq.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn rq(&self) -> MutexGuard<'_, RecvQueue> {
        self.rq.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A reliable connected queue pair.
pub struct Qp {
    pd: Arc<Pd>,
    /// Completions of sends.
    pub send_cq: Arc<Cq>,
    /// Completions of receives.
    pub recv_cq: Arc<Cq>,
    pub(super) rings: Arc<Rings>,
    pub(super) doorbell: Doorbell,
    pub(super) index: DoorbellIndex,
    qpn: u32,
    cookie: u64,
    gid: [u8; 16],
    layout: QpLayout,
}

impl Qp {
    /// Creates a queue pair of a guest whose address is `gid`.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn new(
        pd: &Arc<Pd>,
        send_cq: &Arc<Cq>,
        recv_cq: &Arc<Cq>,
        gid: [u8; 16],
        options: QpOptions,
    ) -> Self {
        Self::try_new(pd, send_cq, recv_cq, gid, options).expect("QP_CREATE")
    }

    /// As [`new`](Self::new).
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn try_new(
        pd: &Arc<Pd>,
        send_cq: &Arc<Cq>,
        recv_cq: &Arc<Cq>,
        gid: [u8; 16],
        options: QpOptions,
    ) -> Result<Self, Status> {
        let pages = pd.ctx().driver().ram().alloc(options.layout().len, Layout::Scattered);
        Self::try_new_in(pd, (send_cq, recv_cq), gid, options, (&Arc::new(pages), 0))
    }

    /// As [`new`](Self::new), with its memory in pages that it shares with others: from the page
    /// with this number on. They are zero, and [`QpOptions::pages`] of them its own.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn try_new_in(
        pd: &Arc<Pd>,
        (send_cq, recv_cq): (&Arc<Cq>, &Arc<Cq>),
        gid: [u8; 16],
        options: QpOptions,
        (pages, first): (&Arc<Pages>, usize),
    ) -> Result<Self, Status> {
        let driver = pd.ctx().driver();
        let layout = options.layout();
        let list = driver.page_list(&pages.gpas_of(first, options.pages()));
        let cookie = driver.new_cookie();
        let created = driver.qp_create(&QpCreate {
            pd: pd.handle().into(),
            send_cq: send_cq.handle().into(),
            recv_cq: recv_cq.handle().into(),
            qp_type: QpType::Rc.0,
            sq_sig_all: options.sig_all.into(),
            sq_depth: options.sq_depth.into(),
            sq_stride: layout.sq_stride.into(),
            rq_depth: options.rq_depth.into(),
            rq_stride: layout.rq_stride.into(),
            cookie: cookie.into(),
            pages: list.wire(),
            ..Default::default()
        })?;
        let qpn = created.qpn.get();
        let at = |offset: u64| {
            let offset = first * FRAME as usize + offset as usize;
            NonNull::new(pages.as_ptr().wrapping_add(offset)).expect("mapped pages")
        };
        let limits = SendLimits { max_sge: options.max_send_sge, max_inline: options.max_inline };
        #[allow(unsafe_code, reason = "the data path works on memory that the caller mapped")]
        // SAFETY: the layout puts both rings and the control page into the zeroed pages, which are
        // kept alive beside the queues; the rings overlap nothing.
        let (sq, rq) = unsafe {
            (
                SendQueue::new(at(QP_SQ_OFFSET.into()), options.sq_depth, layout.sq_stride, limits),
                RecvQueue::new(
                    at(0),
                    at(layout.rq_offset),
                    options.rq_depth,
                    layout.rq_stride,
                    options.max_recv_sge,
                ),
            )
        };
        let rings = Arc::new(Rings {
            sq: Mutex::new(sq.expect("a layout that the device took")),
            rq: Mutex::new(rq.expect("a layout that the device took")),
            pages: Arc::clone(pages),
        });
        send_cq.attach(qpn, &rings);
        recv_cq.attach(qpn, &rings);
        Ok(Self {
            pd: Arc::clone(pd),
            send_cq: Arc::clone(send_cq),
            recv_cq: Arc::clone(recv_cq),
            rings,
            doorbell: pd.ctx().doorbell(),
            index: DoorbellIndex::new(created.doorbell_index.get()).expect("index in the page"),
            qpn,
            cookie,
            gid,
            layout,
        })
    }

    /// Queue pair number.
    pub fn qpn(&self) -> u32 {
        self.qpn
    }

    /// The number under which events come.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// The protection domain.
    pub fn pd(&self) -> &Arc<Pd> {
        &self.pd
    }

    /// The queue pair's memory, for whoever wants to spoil it.
    pub fn pages(&self) -> &Pages {
        &self.rings.pages
    }

    /// Where things lie in that memory.
    pub fn layout(&self) -> QpLayout {
        self.layout
    }

    /// The address that peers use.
    pub fn gid(&self) -> [u8; 16] {
        self.gid
    }

    /// Its bit in the doorbell page.
    pub fn doorbell_index(&self) -> DoorbellIndex {
        self.index
    }

    /// Posts a send request and rings the doorbell.
    ///
    /// # Errors
    ///
    /// If the queue is full or the request does not fit an element.
    pub fn try_post_send(&self, wr: &SendWr) -> Result<(), PostError> {
        let mut sq = self.rings.sq();
        let mut wqe = sq.begin(wr.opcode, wr.flags, wr.wr_id)?;
        wqe.imm(wr.imm);
        wqe.remote(wr.remote.0, wr.remote.1);
        if let Some((operand, swap)) = wr.operands {
            wqe.operands(operand, swap);
        }
        match &wr.inline {
            Some(bytes) => wqe.inline(bytes)?,
            None => {
                for sge in &wr.sges {
                    wqe.sge(sge.addr.get(), sge.length.get(), sge.lkey.get())?;
                }
            }
        }
        wqe.post();
        drop(sq);
        self.ring();
        Ok(())
    }

    /// Posts a send request and rings the doorbell.
    ///
    /// # Panics
    ///
    /// If the queue is full or the request does not fit an element.
    #[track_caller]
    pub fn post_send(&self, wr: &SendWr) {
        self.try_post_send(wr).expect("post a send request");
    }

    /// Posts a receive request.
    ///
    /// # Panics
    ///
    /// If the queue is full or the request does not fit an element.
    #[track_caller]
    pub fn post_recv(&self, wr_id: u64, sges: &[Sge]) {
        let wants = {
            let mut rq = self.rings.rq();
            rq.post(wr_id, sges.iter().copied()).expect("post a receive request");
            rq.wants_doorbell()
        };
        if wants {
            self.ring();
        }
    }

    /// Send elements that can be posted.
    pub fn send_room(&self) -> u32 {
        self.rings.sq().free()
    }

    /// Receive elements that can be posted.
    pub fn recv_room(&self) -> u32 {
        self.rings.rq().free()
    }

    /// Rings the doorbell, whether or not anything was posted.
    pub fn ring(&self) {
        self.doorbell.ring(self.index);
    }

    /// `QP_MODIFY`.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn modify(&self, mask: QpAttrMask, attr: &QpAttr) -> Result<(), Status> {
        self.pd.ctx().driver().qp_modify(self.qpn, mask, attr)
    }

    /// Only changes the state.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn set_state(&self, state: QpState) -> Result<(), Status> {
        self.modify(QpAttrMask::STATE, &QpAttr { state: state.0, ..Default::default() })
    }

    /// RESET, and both rings as new.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn reset(&self) -> Result<(), Status> {
        self.set_state(QpState::Reset)?;
        self.send_cq.detach(self.qpn);
        self.recv_cq.detach(self.qpn);
        self.rings.sq().reset();
        self.rings.rq().reset();
        self.send_cq.attach(self.qpn, &self.rings);
        self.recv_cq.attach(self.qpn, &self.rings);
        Ok(())
    }

    /// `QP_QUERY`.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn query(&self) -> Result<QpAttr, Status> {
        self.pd.ctx().driver().qp_query(self.qpn)
    }

    /// The state that the device tells.
    ///
    /// # Panics
    ///
    /// If the device refuses to tell.
    pub fn state(&self) -> QpState {
        QpState(self.query().expect("QP_QUERY").state)
    }

    /// RESET to INIT.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn to_init(&self, access: AccessFlags) -> Result<(), Status> {
        let mask = QpAttrMask::STATE
            | QpAttrMask::PKEY_INDEX
            | QpAttrMask::PORT
            | QpAttrMask::ACCESS_FLAGS;
        let attr = QpAttr {
            state: QpState::Init.0,
            port: 1,
            access: access.bits().into(),
            ..Default::default()
        };
        self.modify(mask, &attr)
    }

    /// INIT to RTR, towards queue pair `dest_qpn` at `dgid`.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn to_rtr(
        &self,
        dest_qpn: u32,
        dgid: [u8; 16],
        options: &ConnectOptions,
    ) -> Result<(), Status> {
        let mask = QpAttrMask::STATE
            | QpAttrMask::AV
            | QpAttrMask::PATH_MTU
            | QpAttrMask::DEST_QPN
            | QpAttrMask::RQ_PSN
            | QpAttrMask::MAX_DEST_RD_ATOMIC
            | QpAttrMask::MIN_RNR_TIMER;
        let attr = QpAttr {
            state: QpState::Rtr.0,
            path_mtu: self.pd.ctx().driver().config().active_mtu,
            dest_qpn: dest_qpn.into(),
            rq_psn: dest_qpn.into(),
            max_dest_rd_atomic: options.max_rd_atomic,
            min_rnr_timer: options.min_rnr_timer,
            av: AddressVector { dgid, hop_limit: 64, ..Default::default() },
            ..Default::default()
        };
        self.modify(mask, &attr)
    }

    /// RTR to RTS.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn to_rts(&self, options: &ConnectOptions) -> Result<(), Status> {
        let mask = QpAttrMask::STATE
            | QpAttrMask::TIMEOUT
            | QpAttrMask::RETRY_CNT
            | QpAttrMask::RNR_RETRY
            | QpAttrMask::SQ_PSN
            | QpAttrMask::MAX_QP_RD_ATOMIC;
        let attr = QpAttr {
            state: QpState::Rts.0,
            timeout: options.timeout,
            retry_cnt: options.retry_cnt,
            rnr_retry: options.rnr_retry,
            max_rd_atomic: options.max_rd_atomic,
            sq_psn: self.qpn.into(),
            ..Default::default()
        };
        self.modify(mask, &attr)
    }
}

impl Drop for Qp {
    fn drop(&mut self) {
        destroy(self.pd.ctx().driver(), CmdOpcode::QpDestroy, self.qpn);
        self.send_cq.detach(self.qpn);
        self.recv_cq.detach(self.qpn);
    }
}

/// Connects two queue pairs, which may be the same one.
///
/// # Panics
///
/// If the device refuses it.
pub fn connect(a: &Qp, b: &Qp) {
    connect_with(a, b, &ConnectOptions::default());
}

/// As [`connect`].
///
/// # Panics
///
/// If the device refuses it.
pub fn connect_with(a: &Qp, b: &Qp, options: &ConnectOptions) {
    let ends = if std::ptr::eq(a, b) { vec![(a, a)] } else { vec![(a, b), (b, a)] };
    for &(here, _) in &ends {
        here.to_init(options.access).expect("INIT");
    }
    for &(here, there) in &ends {
        here.to_rtr(there.qpn, there.gid, options).expect("RTR");
    }
    for &(here, _) in &ends {
        here.to_rts(options).expect("RTS");
    }
}
