// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Contexts: one opened device, its doorbell page and its address space.

use crate::object::qp::Qp;
use crate::object::space::Space;
use crate::session::Session;
use parking_lot::RwLock;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use vnic_abi::doorbell::{DOORBELL_BITMAP, DOORBELL_BITS, DOORBELL_NEED_KICK};
use vnic_abi::status::Status;
use vnic_iommu::addr::Gpa;
use vnic_iommu::quiesce::{GuestPage, SharedWords};

/// Queue pairs by doorbell index.
#[derive(Debug, Default)]
struct Doorbells {
    qps: Vec<Option<Arc<Qp>>>,
    free: Vec<u32>,
}

/// A context.
#[derive(Debug)]
pub struct Ctx {
    /// Handle.
    pub handle: u32,
    /// Address space of everything in it.
    pub space: Arc<Space>,
    /// Index of the worker that polls it.
    pub worker: usize,
    page: GuestPage,
    doorbells: RwLock<Doorbells>,
    /// Words of the bitmap that any queue pair uses: what a scan has to look at.
    words: AtomicU32,
}

impl Ctx {
    /// Gives `qp` the lowest free doorbell index.
    pub fn bind_doorbell(&self, make: impl FnOnce(u32) -> Arc<Qp>) -> Result<Arc<Qp>, Status> {
        let mut doorbells = self.doorbells.write();
        let index = match doorbells.free.pop() {
            Some(index) => index,
            None if doorbells.qps.len() < DOORBELL_BITS as usize => {
                doorbells.qps.push(None);
                doorbells.qps.len() as u32 - 1
            }
            None => return Err(Status::Limit),
        };
        let qp = make(index);
        doorbells.qps[index as usize] = Some(qp.clone());
        let words = (doorbells.qps.len() as u32).div_ceil(64);
        // Relaxed: a scan that misses the new word is followed by another one before sleep.
        self.words.store(words, Ordering::Relaxed);
        Ok(qp)
    }

    /// Takes the doorbell index back.
    pub fn release_doorbell(&self, index: u32) {
        let mut doorbells = self.doorbells.write();
        if let Some(slot) = doorbells.qps.get_mut(index as usize)
            && slot.take().is_some()
        {
            doorbells.free.push(index);
        }
    }

    fn word(index: usize) -> usize {
        DOORBELL_BITMAP as usize / 8 + index
    }

    /// Takes every doorbell bit that is set, and hands out the queue pairs. `true` if any was set.
    #[inline]
    pub fn take_doorbells(&self, mut each: impl FnMut(&Arc<Qp>)) -> bool {
        let mut any = false;
        // Relaxed: see `bind_doorbell`.
        for index in 0..self.words.load(Ordering::Relaxed) as usize {
            // Relaxed: only a hint that the exchange below is worth it.
            if self.page.load(Self::word(index), Ordering::Relaxed) == 0 {
                continue;
            }
            any = true;
            // AcqRel: pairs with the driver's OR after it published the element, so that the
            // element is seen by whoever saw the bit.
            let mut bits = self.page_word(index).swap(0, Ordering::AcqRel);
            let doorbells = self.doorbells.read();
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                if let Some(Some(qp)) = doorbells.qps.get(index * 64 + bit) {
                    each(qp);
                }
            }
        }
        any
    }

    /// Whether any doorbell bit is set.
    pub fn has_doorbell(&self) -> bool {
        // Acquire: the fence that orders this load against `set_need_kick` is the caller's.
        (0..self.words.load(Ordering::Acquire) as usize)
            .any(|index| self.page.load(Self::word(index), Ordering::Acquire) != 0)
    }

    fn page_word(&self, index: usize) -> &AtomicU64 {
        self.page.word(Self::word(index))
    }

    /// Tells the driver whether it must kick after a doorbell.
    pub fn set_need_kick(&self, need: bool) {
        // Release: to sleep, the worker follows with a full fence, which pairs with the driver's
        // sequentially consistent OR; on waking nothing depends on the order.
        self.page.store(DOORBELL_NEED_KICK as usize / 8, u64::from(need), Ordering::Release);
    }

    /// Every queue pair.
    pub fn qps(&self) -> Vec<Arc<Qp>> {
        self.doorbells.read().qps.iter().flatten().cloned().collect()
    }
}

impl Session {
    /// Opens a context.
    ///
    /// # Errors
    ///
    /// `BadHandle` for the PASID, `BadAddress`, `Limit`.
    pub fn ctx_create(&self, pasid: u32, doorbell_page: Gpa) -> Result<u32, Status> {
        let space = self.spaces.lock().get(pasid)?.clone();
        let page = GuestPage::new(&self.ram.current(), doorbell_page).ok_or(Status::BadAddress)?;
        let ctx = self.ctxs.lock().insert_with(|handle| {
            Ok(Ctx {
                handle,
                space,
                worker: self.device.next_worker(),
                page,
                doorbells: RwLock::default(),
                words: AtomicU32::new(0),
            })
        })?;
        self.device.add_context(&ctx);
        Ok(ctx.handle)
    }

    /// Closes a context and everything that it holds.
    ///
    /// # Errors
    ///
    /// `BadHandle`.
    pub fn ctx_destroy(&self, handle: u32) -> Result<(), Status> {
        let ctx = self.ctxs.lock().remove(handle)?;
        self.end_ctx(&ctx);
        Ok(())
    }

    /// Destroys what `ctx`, already out of its table, holds. After the return no worker touches its
    /// rings, its doorbell page or its regions.
    pub(crate) fn end_ctx(&self, ctx: &Arc<Ctx>) {
        self.device.remove_context(ctx);
        for qp in ctx.qps() {
            // The table is only read by handle, so a queue pair that is gone by now is no error.
            let _ = self.qp_destroy(qp.qpn);
        }
        let of_ctx = |owner: &Arc<Ctx>| Arc::ptr_eq(owner, ctx);
        let regions: Vec<u32> =
            self.mrs.lock().iter().filter(|mr| of_ctx(&mr.pd.ctx)).map(|mr| mr.handle).collect();
        self.mrs_remove(&regions);
        let cqs: Vec<u32> =
            self.cqs.lock().iter().filter(|cq| of_ctx(&cq.ctx)).map(|cq| cq.handle).collect();
        for cq in cqs {
            let _ = self.cq_destroy(cq);
        }
        let pds: Vec<u32> =
            self.pds.lock().iter().filter(|pd| of_ctx(&pd.ctx)).map(|pd| pd.handle).collect();
        let mut table = self.pds.lock();
        for pd in pds {
            let _ = table.remove(pd);
        }
        drop(table);
        self.device.grace().synchronize();
    }
}
