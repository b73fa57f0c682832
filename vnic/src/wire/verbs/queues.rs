// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair of the host with its completion queue, and the memory that it may reach.

use super::device::{Device, DeviceError};
use super::endpoint::Endpoint;
use super::staging::Staging;
use rdma_sys as ib;
use std::os::fd::BorrowedFd;
use std::ptr;
use std::sync::Arc;

/// Completions that are taken at one time.
pub const POLL: usize = 16;

/// Bytes of a SEND that the device is asked to take at once, so that it does not have to fetch them: a frame with a
/// small payload.
const INLINE: u32 = 128;

/// Local ACK time-out: 67 ms, of which a device may make up to four times as much (InfiniBand specification, 9.7.6.1.3).
/// A peer that is gone is noticed after seven of them, half a second to two.
const TIMEOUT: u8 = 14;
/// Not 7, which rxe takes for ever.
const RETRIES: u8 = 6;
/// For ever: credits see to it that there is a receive.
const RNR_RETRIES: u8 = 7;
/// RNR NAK timer field code: 0.01 ms.
const RNR_TIMER: u8 = 1;
/// Routers on the way, at most.
const HOPS: u8 = 64;

/// What a completion says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// The number that the work was posted with.
    pub id: u64,
    /// Bytes that came, for a receive.
    pub bytes: usize,
    /// What it was, or why it failed.
    pub what: What,
}

/// Which work is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A SEND.
    Sent,
    /// A receive.
    Received,
    /// Neither: the status of `ibv_wc`.
    Failed(u32),
}

/// A SEND of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Send {
    /// The slot.
    pub slot: usize,
    /// Bytes of it.
    pub len: usize,
    /// The number of its completion, if it is to have one.
    pub signal: Option<u64>,
}

/// The library's objects of a lane. Their order is that in which they are taken down.
#[derive(Debug)]
pub struct Queues {
    pub device: Arc<Device>,
    pd: *mut ib::ibv_pd,
    channel: *mut ib::ibv_comp_channel,
    cq: *mut ib::ibv_cq,
    mr: *mut ib::ibv_mr,
    qp: *mut ib::ibv_qp,
    /// Bytes of a SEND that are taken at once, at most.
    inline: usize,
    /// Events that were taken and not acknowledged.
    events: u32,
    pub staging: Staging,
}

#[allow(unsafe_code)] // reason: the library's own objects
// SAFETY: libibverbs lets any thread use them; this value is the only way to them.
unsafe impl std::marker::Send for Queues {}

impl Queues {
    /// A queue pair for so many SENDs and receives at a time, with `staging` for all of its work.
    pub fn new(
        device: &Arc<Device>,
        staging: Staging,
        sends: u32,
        receives: u32,
    ) -> Result<Self, DeviceError> {
        let mut queues = Self {
            device: device.clone(),
            pd: ptr::null_mut(),
            channel: ptr::null_mut(),
            cq: ptr::null_mut(),
            mr: ptr::null_mut(),
            qp: ptr::null_mut(),
            inline: 0,
            events: 0,
            staging,
        };
        let context = device.context();
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: each object is made of those before it, which are not null; what was made when one fails is
        // taken down by `drop`. The attributes are plain numbers and pointers, for which zero is a value.
        unsafe {
            let made =
                |is_null: bool, doing| if is_null { Err(device.error(doing, 0)) } else { Ok(()) };
            queues.pd = ib::ibv_alloc_pd(context);
            made(queues.pd.is_null(), "make a protection domain")?;
            queues.channel = ib::ibv_create_comp_channel(context);
            made(queues.channel.is_null(), "make a completion channel")?;
            let entries = (sends + receives) as i32;
            queues.cq = ib::ibv_create_cq(context, entries, ptr::null_mut(), queues.channel, 0);
            made(queues.cq.is_null(), "make a completion queue")?;
            let access = ib::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0 as i32;
            queues.mr =
                ib::ibv_reg_mr(queues.pd, queues.staging.address(), queues.staging.len(), access);
            if queues.mr.is_null() {
                return Err(device.not_registered(queues.staging.len()));
            }
            let mut attr: ib::ibv_qp_init_attr = std::mem::zeroed();
            attr.send_cq = queues.cq;
            attr.recv_cq = queues.cq;
            attr.qp_type = ib::ibv_qp_type::IBV_QPT_RC;
            attr.cap.max_send_wr = sends;
            attr.cap.max_recv_wr = receives;
            attr.cap.max_send_sge = 1;
            attr.cap.max_recv_sge = 1;
            attr.cap.max_inline_data = INLINE;
            queues.qp = ib::ibv_create_qp(queues.pd, &raw mut attr);
            if queues.qp.is_null() {
                // Not every device has that.
                attr.cap.max_inline_data = 0;
                queues.qp = ib::ibv_create_qp(queues.pd, &raw mut attr);
            }
            made(queues.qp.is_null(), "make a queue pair")?;
            // It may have more than it was asked for.
            queues.inline = attr.cap.max_inline_data.min(INLINE) as usize;
            let flags = rustix::fs::OFlags::NONBLOCK;
            rustix::fs::fcntl_setfl(queues.event(), flags).map_err(|error| {
                device.error("prepare its completion channel", error.raw_os_error())
            })?;
        }
        queues.to_init()?;
        Ok(queues)
    }

    /// Completions that there can be at most.
    pub fn most_completions(&self) -> usize {
        #[allow(unsafe_code)] // reason: a C structure
        // SAFETY: made in `new`.
        let entries = unsafe { (*self.cq).cqe };
        entries.unsigned_abs() as usize
    }

    /// Number of the queue pair.
    pub fn qpn(&self) -> u32 {
        #[allow(unsafe_code)] // reason: a C structure
        // SAFETY: made in `new`.
        unsafe {
            (*self.qp).qp_num
        }
    }

    fn modify(
        &self,
        doing: &'static str,
        mask: ib::ibv_qp_attr_mask,
        set: impl FnOnce(&mut ib::ibv_qp_attr),
    ) -> Result<(), DeviceError> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `new`; the attributes are plain numbers.
        let failed = unsafe {
            let mut attr: ib::ibv_qp_attr = std::mem::zeroed();
            set(&mut attr);
            ib::ibv_modify_qp(self.qp, &raw mut attr, mask.0 as i32)
        };
        if failed == 0 { Ok(()) } else { Err(self.device.error(doing, failed)) }
    }

    fn to_init(&self) -> Result<(), DeviceError> {
        type M = ib::ibv_qp_attr_mask;
        let mask = M::IBV_QP_STATE | M::IBV_QP_PKEY_INDEX | M::IBV_QP_PORT | M::IBV_QP_ACCESS_FLAGS;
        self.modify("prepare a queue pair", mask, |attr| {
            attr.qp_state = ib::ibv_qp_state::IBV_QPS_INIT;
            attr.port_num = self.device.port_number();
        })
    }

    /// Connects it to the peer's. Its own first packet has the number `psn`.
    pub fn connect(&self, psn: u32, peer: &Endpoint) -> Result<(), DeviceError> {
        type M = ib::ibv_qp_attr_mask;
        let mask = M::IBV_QP_STATE
            | M::IBV_QP_AV
            | M::IBV_QP_PATH_MTU
            | M::IBV_QP_DEST_QPN
            | M::IBV_QP_RQ_PSN
            | M::IBV_QP_MAX_DEST_RD_ATOMIC
            | M::IBV_QP_MIN_RNR_TIMER;
        self.modify("connect a queue pair", mask, |attr| {
            attr.qp_state = ib::ibv_qp_state::IBV_QPS_RTR;
            attr.path_mtu = self.device.mtu().min(peer.mtu);
            attr.dest_qp_num = peer.qpn;
            attr.rq_psn = peer.psn;
            attr.min_rnr_timer = RNR_TIMER;
            attr.ah_attr.is_global = 1;
            attr.ah_attr.port_num = self.device.port_number();
            attr.ah_attr.grh.dgid = ib::ibv_gid { raw: peer.gid };
            attr.ah_attr.grh.sgid_index = self.device.gid_index();
            attr.ah_attr.grh.hop_limit = HOPS;
        })?;
        let mask = M::IBV_QP_STATE
            | M::IBV_QP_TIMEOUT
            | M::IBV_QP_RETRY_CNT
            | M::IBV_QP_RNR_RETRY
            | M::IBV_QP_SQ_PSN
            | M::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify("start a queue pair", mask, |attr| {
            attr.qp_state = ib::ibv_qp_state::IBV_QPS_RTS;
            attr.sq_psn = psn;
            attr.timeout = TIMEOUT;
            attr.retry_cnt = RETRIES;
            attr.rnr_retry = RNR_RETRIES;
        })
    }

    /// Where slot `index` is, for the device.
    fn sge(&self, slot: usize, len: usize) -> ib::ibv_sge {
        #[allow(unsafe_code)] // reason: a C structure
        // SAFETY: made in `new`.
        let lkey = unsafe { (*self.mr).lkey };
        ib::ibv_sge { addr: self.staging.slot_address(slot), length: len as u32, lkey }
    }

    /// Gives slot `index` to the device, for a message that comes.
    pub fn receive_into(&mut self, slot: usize) -> Result<(), DeviceError> {
        let mut sge = self.sge(slot, self.staging.slot_bytes());
        let mut wr = ib::ibv_recv_wr {
            wr_id: slot as u64,
            next: ptr::null_mut(),
            sg_list: &raw mut sge,
            num_sge: 1,
        };
        let mut bad = ptr::null_mut();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the request and its list live until the return, after which the library has copied them; every
        // provider has this function.
        let failed = unsafe {
            let post = (*self.device.context()).ops.post_recv;
            post.map_or(libc_enosys(), |post| post(self.qp, &raw mut wr, &raw mut bad))
        };
        if failed == 0 { Ok(()) } else { Err(self.device.error("post a receive", failed)) }
    }

    /// Sends slots, in order, with one call.
    pub fn send(
        &mut self,
        sends: &[Send],
        room: &mut Vec<ib::ibv_send_wr>,
        sges: &mut Vec<ib::ibv_sge>,
    ) -> Result<(), DeviceError> {
        room.clear();
        sges.clear();
        sges.extend(sends.iter().map(|send| self.sge(send.slot, send.len)));
        for (send, sge) in sends.iter().zip(sges.iter_mut()) {
            #[allow(unsafe_code)] // reason: a C structure with unions
            // SAFETY: plain numbers and pointers, for which zero is a value.
            let mut wr: ib::ibv_send_wr = unsafe { std::mem::zeroed() };
            wr.wr_id = send.signal.unwrap_or_default();
            wr.sg_list = ptr::from_mut(sge);
            wr.num_sge = 1;
            wr.opcode = ib::ibv_wr_opcode::IBV_WR_SEND;
            if send.signal.is_some() {
                wr.send_flags |= ib::ibv_send_flags::IBV_SEND_SIGNALED.0;
            }
            if send.len <= self.inline {
                wr.send_flags |= ib::ibv_send_flags::IBV_SEND_INLINE.0;
            }
            room.push(wr);
        }
        let Some(first) = room.first_mut().map(ptr::from_mut) else { return Ok(()) };
        let base = room.as_mut_ptr();
        for index in 1..room.len() {
            room[index - 1].next = base.wrapping_add(index);
        }
        let mut bad = ptr::null_mut();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: as in `receive_into`.
        let failed = unsafe {
            let post = (*self.device.context()).ops.post_send;
            post.map_or(libc_enosys(), |post| post(self.qp, first, &raw mut bad))
        };
        if failed == 0 { Ok(()) } else { Err(self.device.error("post a SEND", failed)) }
    }

    /// Takes completions, some at a time; `each` gets them in order. How many.
    pub fn poll(&mut self, mut each: impl FnMut(Done)) -> Result<usize, DeviceError> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: there is room for as many completions as are asked for; they are plain numbers.
        let (count, wcs) = unsafe {
            let mut wcs: [ib::ibv_wc; POLL] = std::mem::zeroed();
            (ib::ibv_poll_cq(self.cq, POLL as i32, wcs.as_mut_ptr()), wcs)
        };
        let Ok(count) = usize::try_from(count) else {
            return Err(self.device.error("poll a completion queue", count));
        };
        for wc in wcs.iter().take(count) {
            let what = match wc.status {
                ib::ibv_wc_status::IBV_WC_SUCCESS
                    if wc.opcode == ib::ibv_wc_opcode::IBV_WC_RECV =>
                {
                    What::Received
                }
                ib::ibv_wc_status::IBV_WC_SUCCESS => What::Sent,
                status => What::Failed(status),
            };
            each(Done { id: wc.wr_id, bytes: wc.byte_len as usize, what });
        }
        Ok(count)
    }

    /// Has the next completion make [`Self::event`] readable.
    pub fn arm(&mut self) -> Result<(), DeviceError> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `new`.
        let failed = unsafe { ib::ibv_req_notify_cq(self.cq, 0) };
        if failed == 0 { Ok(()) } else { Err(self.device.error("arm a completion queue", failed)) }
    }

    /// The completion channel.
    pub fn event(&self) -> BorrowedFd<'_> {
        #[allow(unsafe_code)] // reason: a file that the library owns
        // SAFETY: made in `new`, and open until `drop`.
        unsafe {
            BorrowedFd::borrow_raw((*self.channel).fd)
        }
    }

    /// Takes what made it readable.
    pub fn take_events(&mut self) {
        let (mut cq, mut own) = (ptr::null_mut(), ptr::null_mut());
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `new`; the channel does not block.
        while unsafe { ib::ibv_get_cq_event(self.channel, &raw mut cq, &raw mut own) } == 0 {
            self.events += 1;
        }
        // Acknowledging takes a lock; a few at a time are enough.
        if self.events >= 64 {
            self.acknowledge();
        }
    }

    fn acknowledge(&mut self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: as many events of this queue were taken.
        unsafe {
            ib::ibv_ack_cq_events(self.cq, self.events);
        }
        self.events = 0;
    }
}

/// `ENOSYS`, for a provider that lacks what all have.
fn libc_enosys() -> i32 {
    rustix::io::Errno::NOSYS.raw_os_error()
}

impl Drop for Queues {
    fn drop(&mut self) {
        if !self.cq.is_null() {
            // A queue with events that nobody acknowledged is never destroyed.
            self.acknowledge();
        }
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: each was made in `new` or is null, is destroyed once, and after those that refer to it.
        unsafe {
            if !self.qp.is_null() {
                ib::ibv_destroy_qp(self.qp);
            }
            if !self.mr.is_null() {
                ib::ibv_dereg_mr(self.mr);
            }
            if !self.cq.is_null() {
                ib::ibv_destroy_cq(self.cq);
            }
            if !self.channel.is_null() {
                ib::ibv_destroy_comp_channel(self.channel);
            }
            if !self.pd.is_null() {
                ib::ibv_dealloc_pd(self.pd);
            }
        }
    }
}
