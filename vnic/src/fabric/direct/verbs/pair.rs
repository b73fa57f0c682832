// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A queue pair of the host with a completion queue of its own, so that no guest can fill another's.

use super::domain::Domain;
use crate::fabric::direct::nic::{Done, NicQp, NotPosted, Range, Work};
use crate::port::MAX_SGE;
use rdma_sys as ib;
use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU32, Ordering};
use vnic_abi::ctrl::{QpAttr, QpAttrMask, QpState};

/// The library's objects. Their order is that in which they are taken down.
#[derive(Debug)]
pub struct Pair {
    pub(super) qp: *mut ib::ibv_qp,
    pub(super) cq: *mut ib::ibv_cq,
    /// Number of the queue pair, which events of the completion queue carry.
    number: Box<AtomicU32>,
    pub(super) domain: Domain,
}

#[allow(unsafe_code)] // reason: the library's own objects
// SAFETY: libibverbs lets any thread use them, also several at a time.
unsafe impl Send for Pair {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as above.
unsafe impl Sync for Pair {}

impl Pair {
    /// In the state RESET.
    pub fn new(
        domain: &Domain,
        worker: usize,
        sends: u32,
        receives: u32,
        inline: u32,
    ) -> io::Result<Self> {
        let shared = domain.shared();
        let number = Box::new(AtomicU32::new(0));
        let mut pair = Self { qp: null_mut(), cq: null_mut(), number, domain: domain.clone() };
        let too_many = |_| io::Error::from(io::ErrorKind::InvalidInput);
        let entries = i32::try_from(sends + receives).map_err(too_many)?;
        let own = (&raw const *pair.number).cast_mut().cast::<c_void>();
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: each object is made of those before it, which are not null; what was made when one fails is taken
        // down by `drop`. The attributes are plain numbers and pointers, for which zero is a value. The number that
        // the completion queue carries lives as long as the queue, in a box.
        unsafe {
            let context = shared.device.context();
            pair.cq = ib::ibv_create_cq(context, entries, own, shared.channel(worker), 0);
            if pair.cq.is_null() {
                return Err(io::Error::last_os_error());
            }
            let mut attr: ib::ibv_qp_init_attr = std::mem::zeroed();
            attr.send_cq = pair.cq;
            attr.recv_cq = pair.cq;
            attr.qp_type = ib::ibv_qp_type::IBV_QPT_RC;
            attr.cap.max_send_wr = sends;
            attr.cap.max_recv_wr = receives;
            attr.cap.max_send_sge = MAX_SGE.min(shared.max_sge);
            attr.cap.max_recv_sge = MAX_SGE.min(shared.max_sge);
            attr.cap.max_inline_data = inline;
            pair.qp = ib::ibv_create_qp(domain.as_ptr(), &raw mut attr);
            if pair.qp.is_null() {
                return Err(io::Error::last_os_error());
            }
            // Relaxed: nobody has armed the queue.
            pair.number.store((*pair.qp).qp_num, Ordering::Relaxed);
        }
        Ok(pair)
    }
}

impl NicQp for Pair {
    fn number(&self) -> u32 {
        // Relaxed: set in `new`, once.
        self.number.load(Ordering::Relaxed)
    }

    fn modify(&self, to: QpState, mask: QpAttrMask, attr: &QpAttr, source: u8) -> io::Result<()> {
        self.change(to, mask, attr, source)
    }

    fn send(&self, work: &Work<'_>) -> Result<(), NotPosted> {
        self.post_send(work)
    }

    fn receive(&self, id: u64, ranges: &[Range]) -> Result<(), NotPosted> {
        self.post_receive(id, ranges)
    }

    fn poll(&self, each: &mut dyn FnMut(Done)) -> io::Result<usize> {
        self.take(each)
    }

    fn arm(&self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `new`.
        let failed = unsafe { ib::ibv_req_notify_cq(self.cq, 0) };
        if failed != 0 {
            tracing::debug!(failed, "cannot arm a completion queue of the host");
        }
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: each was made in `new` or is null, and is destroyed once, the queue pair before its queue.
        unsafe {
            if !self.qp.is_null() {
                ib::ibv_destroy_qp(self.qp);
            }
            if !self.cq.is_null() {
                ib::ibv_destroy_cq(self.cq);
            }
        }
    }
}
