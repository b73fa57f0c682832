// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Protection domains and memory regions of the host.

use super::open::Shared;
use super::pair::Pair;
use crate::fabric::direct::nic::{NicMr, NicPd, NicQp};
use rdma_sys as ib;
use std::io;
use std::sync::Arc;
use vnic_abi::ctrl::AccessFlags;

/// A protection domain.
#[derive(Debug)]
struct Pd {
    shared: Arc<Shared>,
    pd: *mut ib::ibv_pd,
}

#[allow(unsafe_code)] // reason: the library's own object
// SAFETY: libibverbs lets any thread use a domain.
unsafe impl Send for Pd {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as above.
unsafe impl Sync for Pd {}

impl Drop for Pd {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: made in `Domain::new` and freed once; what is in it holds this and is gone.
        let failed = unsafe { ib::ibv_dealloc_pd(self.pd) };
        if failed != 0 {
            tracing::debug!(failed, "the device keeps a protection domain");
        }
    }
}

/// A protection domain, and what queue pairs in it have.
#[derive(Debug, Clone)]
pub struct Domain {
    pd: Arc<Pd>,
    inline: u32,
}

impl Domain {
    /// One whose queue pairs take no inline data.
    pub fn new(shared: &Arc<Shared>) -> io::Result<Self> {
        Self::with_inline(shared, 0)
    }

    /// One whose queue pairs take so much inline data.
    pub fn with_inline(shared: &Arc<Shared>, inline: u32) -> io::Result<Self> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the context is open.
        let pd = unsafe { ib::ibv_alloc_pd(shared.device.context()) };
        if pd.is_null() {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { pd: Arc::new(Pd { shared: shared.clone(), pd }), inline })
    }

    /// The device that it is of.
    pub fn shared(&self) -> &Arc<Shared> {
        &self.pd.shared
    }

    /// The library's own.
    pub fn as_ptr(&self) -> *mut ib::ibv_pd {
        self.pd.pd
    }
}

/// A memory region.
#[derive(Debug)]
struct Mr {
    mr: *mut ib::ibv_mr,
    lkey: u32,
    rkey: u32,
    _pd: Arc<Pd>,
}

#[allow(unsafe_code)] // reason: the library's own object
// SAFETY: as for `Pd`.
unsafe impl Send for Mr {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as above.
unsafe impl Sync for Mr {}

impl NicMr for Mr {
    fn lkey(&self) -> u32 {
        self.lkey
    }

    fn rkey(&self) -> u32 {
        self.rkey
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: registered in `register`, deregistered once.
        let failed = unsafe { ib::ibv_dereg_mr(self.mr) };
        if failed != 0 {
            tracing::warn!(failed, "the device keeps a region; its pages stay where they are");
        }
    }
}

impl NicPd for Domain {
    fn register(
        &self,
        addr: *mut u8,
        len: u64,
        iova: u64,
        access: AccessFlags,
        on_demand: bool,
    ) -> io::Result<Box<dyn NicMr>> {
        let mut access = access;
        access.set(AccessFlags::ON_DEMAND, on_demand);
        // Numbered alike.
        let access = access.bits();
        let len = usize::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the caller keeps the memory mapped; the guest owns what is in it.
        let mr = unsafe { ib::ibv_reg_mr_iova2(self.as_ptr(), addr.cast(), len, iova, access) };
        if mr.is_null() {
            return Err(io::Error::last_os_error());
        }
        #[allow(unsafe_code)] // reason: a C structure
        // SAFETY: just made.
        let (lkey, rkey) = unsafe { ((*mr).lkey, (*mr).rkey) };
        Ok(Box::new(Mr { mr, lkey, rkey, _pd: self.pd.clone() }))
    }

    fn qp(&self, worker: usize, sends: u32, receives: u32) -> io::Result<Arc<dyn NicQp>> {
        Ok(Arc::new(Pair::new(self, worker, sends, receives, self.inline)?))
    }
}
