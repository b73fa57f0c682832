// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host's own device, by libibverbs: what a program has without any virtualisation.

use std::ffi::c_void;
use std::io;
use std::ptr;
use std::rc::Rc;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use rdma_sys as ib;
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};
use vnic::wire::verbs::device::Device as Opened;
use vnic_testbed::bench::wire::said::Operation;

use super::device::{self, Address, DEPTH, Device, Memory, Pair, Place};

/// Retries after a time-out; 7 is for ever with rxe.
const RETRIES: u8 = 6;
/// For ever.
const RNR_RETRIES: u8 = 7;

/// The device, with a protection domain.
pub struct Host {
    inner: Rc<Domain>,
}

/// Kept alive by all that was made of it.
struct Domain {
    device: Arc<Opened>,
    pd: *mut ib::ibv_pd,
}

impl Host {
    /// Opens it.
    pub fn open(name: &str) -> Result<Self> {
        let device = Opened::open(name, None)?;
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the context is open for as long as the device lives.
        let pd = unsafe { ib::ibv_alloc_pd(device.context()) };
        ensure!(!pd.is_null(), "no protection domain: {}", io::Error::last_os_error());
        Ok(Self { inner: Rc::new(Domain { device, pd }) })
    }
}

impl Drop for Domain {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `open`; whatever was made of it held it, and is gone.
        unsafe {
            ib::ibv_dealloc_pd(self.pd);
        }
    }
}

/// Pages of this process.
pub struct Pages {
    start: *mut u8,
    len: usize,
}

impl Pages {
    fn new(len: usize) -> Result<Self> {
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        #[allow(unsafe_code)] // reason: memory that a device reaches has no Rust owner
        // SAFETY: a mapping of its own, where the kernel likes.
        let start = unsafe { mmap_anonymous(ptr::null_mut(), len, protection, MapFlags::PRIVATE) }?;
        Ok(Self { start: start.cast(), len })
    }
}

impl Memory for Pages {
    fn fill(&self, offset: u64, len: u64, byte: u8) {
        assert!(offset + len <= self.len as u64, "within the pages");
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: within the mapping by the assertion; no reference to it exists.
        unsafe {
            ptr::write_bytes(self.start.add(offset as usize), byte, len as usize);
        }
    }

    fn byte(&self, offset: u64) -> u8 {
        assert!(offset < self.len as u64, "within the pages");
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: as above; the device writes it at any time.
        unsafe {
            ptr::read_volatile(self.start.add(offset as usize))
        }
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: mapped in `new`; regions of it are dropped before.
        let unmapped = unsafe { munmap(self.start.cast(), self.len) };
        debug_assert!(unmapped.is_ok());
    }
}

/// A region.
pub struct Region {
    mr: *mut ib::ibv_mr,
    _domain: Rc<Domain>,
}

impl Drop for Region {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: registered once, in `register`.
        unsafe {
            ib::ibv_dereg_mr(self.mr);
        }
    }
}

impl Device for Host {
    type Memory = Pages;
    type Region = Region;
    type Pair = HostPair;

    fn memory(&self, len: u64, touched: bool) -> Result<Pages> {
        let pages = Pages::new(usize::try_from(len)?).context("no memory")?;
        if touched {
            pages.fill(0, len, 1);
        }
        Ok(pages)
    }

    fn register(&self, memory: &Pages) -> Result<Region> {
        let access = ib::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE
            | ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            | ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ;
        let start: *mut c_void = memory.start.cast();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: a mapping that lives longer than the region.
        let mr = unsafe { ib::ibv_reg_mr(self.inner.pd, start, memory.len, access.0 as i32) };
        let error = io::Error::last_os_error();
        ensure!(!mr.is_null(), "cannot register {} bytes (ulimit -l): {error}", memory.len);
        Ok(Region { mr, _domain: Rc::clone(&self.inner) })
    }

    fn place(region: &Region) -> Place {
        #[allow(unsafe_code)] // reason: a C structure
        // SAFETY: registered.
        let mr = unsafe { &*region.mr };
        Place { addr: mr.addr.expose_provenance() as u64, lkey: mr.lkey, rkey: mr.rkey }
    }

    fn pair(&self) -> Result<HostPair> {
        let domain = Rc::clone(&self.inner);
        let null = ptr::null_mut();
        let mut pair = HostPair { domain, sends: null, receives: null, qp: ptr::null_mut() };
        let context = pair.domain.device.context();
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: each is made of those before it, which are not null; what was made when one fails is taken down by
        // `drop`. The attributes are plain numbers and pointers, for which zero is a value.
        unsafe {
            for queue in [&mut pair.sends, &mut pair.receives] {
                *queue =
                    ib::ibv_create_cq(context, DEPTH as i32, ptr::null_mut(), ptr::null_mut(), 0);
                ensure!(!queue.is_null(), "completion queue: {}", io::Error::last_os_error());
            }
            let mut attr: ib::ibv_qp_init_attr = std::mem::zeroed();
            attr.send_cq = pair.sends;
            attr.recv_cq = pair.receives;
            attr.qp_type = ib::ibv_qp_type::IBV_QPT_RC;
            attr.cap.max_send_wr = DEPTH;
            attr.cap.max_recv_wr = DEPTH;
            attr.cap.max_send_sge = 1;
            attr.cap.max_recv_sge = 1;
            pair.qp = ib::ibv_create_qp(pair.domain.pd, &raw mut attr);
        }
        ensure!(!pair.qp.is_null(), "queue pair: {}", io::Error::last_os_error());
        Ok(pair)
    }
}

/// A queue pair of the device.
pub struct HostPair {
    domain: Rc<Domain>,
    sends: *mut ib::ibv_cq,
    receives: *mut ib::ibv_cq,
    qp: *mut ib::ibv_qp,
}

impl HostPair {
    fn modify(
        &self,
        mask: ib::ibv_qp_attr_mask,
        set: impl FnOnce(&mut ib::ibv_qp_attr),
    ) -> Result<()> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `pair`; the attributes are plain numbers.
        let failed = unsafe {
            let mut attr: ib::ibv_qp_attr = std::mem::zeroed();
            set(&mut attr);
            ib::ibv_modify_qp(self.qp, &raw mut attr, mask.0 as i32)
        };
        ensure!(failed == 0, "the device refuses: {}", io::Error::from_raw_os_error(failed.abs()));
        Ok(())
    }

    /// Takes a completion of a queue.
    #[inline]
    fn take(queue: *mut ib::ibv_cq) -> Result<bool> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `pair`; there is room for one completion, which is plain numbers.
        let (count, done) = unsafe {
            let mut done: ib::ibv_wc = std::mem::zeroed();
            (ib::ibv_poll_cq(queue, 1, &raw mut done), done)
        };
        ensure!(count >= 0, "cannot poll a completion queue: {count}");
        let good = count == 0 || done.status == ib::ibv_wc_status::IBV_WC_SUCCESS;
        ensure!(good, "work completed with status {} of ibv_wc", done.status);
        Ok(count > 0)
    }
}

impl Pair for HostPair {
    fn address(&self) -> Address {
        #[allow(unsafe_code)] // reason: a C structure
        // SAFETY: made in `pair`.
        let qpn = unsafe { (*self.qp).qp_num };
        let device = &self.domain.device;
        Address { qpn, gid: device.gid(), mtu: device.mtu() }
    }

    fn connect(&mut self, peer: &Address) -> Result<()> {
        type M = ib::ibv_qp_attr_mask;
        let own = self.address().qpn;
        let device = Arc::clone(&self.domain.device);
        let access = ib::ibv_access_flags::IBV_ACCESS_REMOTE_WRITE
            | ib::ibv_access_flags::IBV_ACCESS_REMOTE_READ;
        let mask = M::IBV_QP_STATE | M::IBV_QP_PKEY_INDEX | M::IBV_QP_PORT | M::IBV_QP_ACCESS_FLAGS;
        self.modify(mask, |attr| {
            attr.qp_state = ib::ibv_qp_state::IBV_QPS_INIT;
            attr.port_num = device.port_number();
            attr.qp_access_flags = access.0;
        })?;
        let mask = M::IBV_QP_STATE
            | M::IBV_QP_AV
            | M::IBV_QP_PATH_MTU
            | M::IBV_QP_DEST_QPN
            | M::IBV_QP_RQ_PSN
            | M::IBV_QP_MAX_DEST_RD_ATOMIC
            | M::IBV_QP_MIN_RNR_TIMER;
        self.modify(mask, |attr| {
            attr.qp_state = ib::ibv_qp_state::IBV_QPS_RTR;
            attr.path_mtu = device.mtu().min(peer.mtu);
            attr.dest_qp_num = peer.qpn;
            // As the guest's driver has it: packets are numbered from the number of their sender.
            attr.rq_psn = peer.qpn;
            attr.max_dest_rd_atomic = device::READS;
            attr.min_rnr_timer = device::RNR_TIMER;
            attr.ah_attr.is_global = 1;
            attr.ah_attr.port_num = device.port_number();
            attr.ah_attr.grh.dgid = ib::ibv_gid { raw: peer.gid };
            attr.ah_attr.grh.sgid_index = device.gid_index();
            attr.ah_attr.grh.hop_limit = 64;
        })?;
        let mask = M::IBV_QP_STATE
            | M::IBV_QP_TIMEOUT
            | M::IBV_QP_RETRY_CNT
            | M::IBV_QP_RNR_RETRY
            | M::IBV_QP_SQ_PSN
            | M::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(mask, |attr| {
            attr.qp_state = ib::ibv_qp_state::IBV_QPS_RTS;
            attr.sq_psn = own;
            attr.timeout = device::TIMEOUT;
            attr.retry_cnt = RETRIES;
            attr.rnr_retry = RNR_RETRIES;
            attr.max_rd_atomic = device::READS;
        })
    }

    #[inline]
    fn post(
        &mut self,
        operation: Operation,
        bytes: u64,
        local: Place,
        remote: Place,
    ) -> Result<()> {
        let mut sge = ib::ibv_sge { addr: local.addr, length: bytes as u32, lkey: local.lkey };
        let mut bad = ptr::null_mut();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the request is plain numbers and pointers, for which zero is a value; it and its list live until the
        // return, after which the library has copied them.
        let failed = unsafe {
            let mut wr: ib::ibv_send_wr = std::mem::zeroed();
            wr.sg_list = &raw mut sge;
            wr.num_sge = 1;
            wr.opcode = match operation {
                Operation::Write => ib::ibv_wr_opcode::IBV_WR_RDMA_WRITE,
                Operation::Read => ib::ibv_wr_opcode::IBV_WR_RDMA_READ,
                Operation::Send => ib::ibv_wr_opcode::IBV_WR_SEND,
            };
            wr.send_flags = ib::ibv_send_flags::IBV_SEND_SIGNALED.0;
            wr.wr.rdma = ib::rdma_t { remote_addr: remote.addr, rkey: remote.rkey };
            ib::ibv_post_send(self.qp, &raw mut wr, &raw mut bad)
        };
        ensure!(failed == 0, "cannot post: {}", io::Error::from_raw_os_error(failed.abs()));
        Ok(())
    }

    fn receive(&mut self, bytes: u64, local: Place) -> Result<()> {
        let mut sge = ib::ibv_sge { addr: local.addr, length: bytes as u32, lkey: local.lkey };
        let (next, sg_list) = (ptr::null_mut(), &raw mut sge);
        let mut wr = ib::ibv_recv_wr { wr_id: 0, next, sg_list, num_sge: 1 };
        let mut bad = ptr::null_mut();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: as in `post`.
        let failed = unsafe { ib::ibv_post_recv(self.qp, &raw mut wr, &raw mut bad) };
        ensure!(failed == 0, "cannot receive: {}", io::Error::from_raw_os_error(failed.abs()));
        Ok(())
    }

    #[inline]
    fn sent(&mut self) -> Result<bool> {
        Self::take(self.sends)
    }

    #[inline]
    fn received(&mut self) -> Result<bool> {
        Self::take(self.receives)
    }
}

impl Drop for HostPair {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: C functions
        // SAFETY: each was made in `pair` or is null, and is destroyed once, after what refers to it.
        unsafe {
            if !self.qp.is_null() {
                ib::ibv_destroy_qp(self.qp);
            }
            for queue in [self.sends, self.receives] {
                if !queue.is_null() {
                    ib::ibv_destroy_cq(queue);
                }
            }
        }
    }
}

/// The address of a device.
///
/// # Errors
///
/// There is no such device.
pub fn gid(name: &str) -> Result<[u8; 16]> {
    Ok(Opened::open(name, None)?.gid())
}
