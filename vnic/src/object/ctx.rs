// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Contexts: one opened device, its doorbell page and its address space.

use crate::object::qp::Qp;
use crate::object::space::Space;
use crate::session::Session;
use parking_lot::Mutex;
use std::mem::ManuallyDrop;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use vnic_abi::doorbell::{DOORBELL_BITMAP, DOORBELL_BITS, DOORBELL_NEED_KICK};
use vnic_abi::status::Status;
use vnic_iommu::addr::Gpa;
use vnic_iommu::quiesce::{GuestPage, SharedWords, full_fence_after_swap};

/// Words of the bitmap in a cache line. A line is one worker's, so that no two look at the same.
const LINE_WORDS: usize = 8;
/// Queue pairs that have their bit in one line.
const LINE_BITS: usize = LINE_WORDS * 64;
/// Lines of the bitmap, and so workers that can share out one context.
pub const LINES: usize = DOORBELL_BITS as usize / LINE_BITS;

/// A queue pair, by its bit. Null, or from [`Arc::into_raw`].
type Slot = AtomicPtr<Qp>;

/// What a line of the bitmap stands for.
#[derive(Debug, Default)]
struct Line {
    /// Made when the line is first used.
    slots: OnceLock<Box<[Slot]>>,
    /// Words that any queue pair has used: what has to be looked at.
    words: AtomicU8,
}

/// Which bits of a line are taken.
#[derive(Debug, Default)]
struct Taken {
    /// Bits from here on were never used.
    next: usize,
    free: Vec<usize>,
}

/// A context.
#[derive(Debug)]
pub struct Ctx {
    /// Handle.
    pub handle: u32,
    /// Address space of everything in it.
    pub space: Arc<Space>,
    page: GuestPage,
    lines: [Line; LINES],
    taken: Mutex<[Taken; LINES]>,
    /// The worker of the first line, and the number of workers.
    first_worker: usize,
    workers: usize,
    next_share: AtomicU32,
}

/// A bit that was taken for a queue pair. Given back if it is dropped before there is one.
#[derive(Debug)]
pub struct Reserved<'c> {
    ctx: &'c Ctx,
    line: usize,
    bit: usize,
    /// The worker that looks at it.
    pub worker: usize,
    bound: bool,
}

impl Reserved<'_> {
    /// Index of the bit.
    pub fn index(&self) -> u32 {
        (self.line * LINE_BITS + self.bit) as u32
    }

    /// Has the bit stand for `qp`. `true` if it is in a line that nobody used before.
    pub fn bind(mut self, qp: &Arc<Qp>) -> bool {
        self.bound = true;
        let slots = &self.ctx.lines[self.line].slots;
        let first = slots.get().is_none();
        let slots = slots.get_or_init(|| (0..LINE_BITS).map(|_| Slot::default()).collect());
        // Release: pairs with the Acquire in `take_doorbells`, so that the queue pair is whole.
        slots[self.bit].store(Arc::into_raw(qp.clone()).cast_mut(), Ordering::Release);
        first
    }
}

impl Drop for Reserved<'_> {
    fn drop(&mut self) {
        if !self.bound {
            self.ctx.taken.lock()[self.line].free.push(self.bit);
        }
    }
}

impl Ctx {
    /// Workers among which its queue pairs are shared out.
    fn shares(&self) -> usize {
        self.workers.min(LINES)
    }

    /// The worker that looks at a line.
    pub fn worker_of_line(&self, line: usize) -> usize {
        (self.first_worker + line % self.shares()) % self.workers
    }

    /// Takes a bit for a queue pair that will be made, and says which worker it will have: the next in turn.
    pub fn reserve_doorbell(&self) -> Result<Reserved<'_>, Status> {
        let mut taken = self.taken.lock();
        let shares = self.shares();
        // Relaxed: any order will do.
        let turn = self.next_share.fetch_add(1, Ordering::Relaxed) as usize;
        let mut lines = (0..shares)
            .flat_map(|share| ((turn + share) % shares..LINES).step_by(shares))
            .map(|line| (line, taken[line].free.is_empty(), taken[line].next));
        let (line, fresh, next) =
            lines.find(|(_, full, next)| !full || *next < LINE_BITS).ok_or(Status::Limit)?;
        let bit = if fresh { next } else { taken[line].free.pop().ok_or(Status::Limit)? };
        if fresh {
            taken[line].next += 1;
        }
        // Relaxed: a look that misses the new word is followed by another one before any sleep.
        self.lines[line].words.store(taken[line].next.div_ceil(64) as u8, Ordering::Relaxed);
        Ok(Reserved { ctx: self, line, bit, worker: self.worker_of_line(line), bound: false })
    }

    /// Takes the doorbell index back. After the return no worker finds the queue pair by it, or still
    /// uses what it found.
    pub fn release_doorbell(&self, index: u32, grace: impl FnOnce()) {
        let (line, bit) = (index as usize / LINE_BITS, index as usize % LINE_BITS);
        let Some(slot) = self.lines.get(line).and_then(|line| line.slots.get()?.get(bit)) else {
            return;
        };
        // Release, as Acquire: the pointer is that of `Reserved::bind`. To workers, null says nothing.
        let held = slot.swap(null_mut(), Ordering::AcqRel);
        if held.is_null() {
            return;
        }
        grace();
        #[allow(unsafe_code)] // reason: ends what `into_raw` began
        // SAFETY: from `into_raw`, and taken out of the slot by this call alone; after the grace period
        // no worker has a reference to it that it does not count.
        drop(unsafe { Arc::from_raw(held) });
        self.taken.lock()[line].free.push(bit);
    }

    const fn word(line: usize, word: usize) -> usize {
        DOORBELL_BITMAP as usize / 8 + line * LINE_WORDS + word
    }

    fn words(&self, line: usize) -> std::ops::Range<usize> {
        // Relaxed: see `reserve_doorbell`.
        0..usize::from(self.lines[line].words.load(Ordering::Relaxed)).min(LINE_WORDS)
    }

    /// Whether the line has ever been used.
    pub fn uses_line(&self, line: usize) -> bool {
        self.lines[line].slots.get().is_some()
    }

    /// Takes every doorbell bit of a line that is set, and hands out the queue pairs. `true` if any was
    /// set.
    ///
    /// # Safety
    ///
    /// The caller is a worker, in a pass (see [`Grace`](vnic_iommu::quiesce::Grace)).
    #[inline]
    #[allow(unsafe_code)] // reason: passes are the worker's to vouch for
    pub unsafe fn take_doorbells(&self, line: usize, mut each: impl FnMut(&Arc<Qp>)) -> bool {
        let mut any = false;
        for index in self.words(line) {
            let word = self.page.word(Self::word(line, index));
            // Relaxed: only a hint that the exchange below is worth it.
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            any = true;
            // AcqRel: pairs with the driver's OR after it published the element, so that the element
            // is seen by whoever saw the bit.
            let mut bits = word.swap(0, Ordering::AcqRel);
            // Full: between the bit and the look at `sender_waits`, see `wake_sender`.
            full_fence_after_swap();
            let Some(slots) = self.lines[line].slots.get() else { continue };
            while bits != 0 {
                let bit = bits.trailing_zeros() as usize;
                bits &= bits - 1;
                let Some(slot) = slots.get(index * 64 + bit) else { continue };
                // Acquire: pairs with the Release in `Reserved::bind`.
                let held = slot.load(Ordering::Acquire).cast_const();
                if !held.is_null() {
                    // SAFETY: from `into_raw`; `release_doorbell` gives it up only after a grace
                    // period, and this pass is not over. Not dropped, since the slot keeps its count.
                    let qp = ManuallyDrop::new(unsafe { Arc::from_raw(held) });
                    each(&qp);
                }
            }
        }
        any
    }

    /// Whether any doorbell bit of a line is set.
    pub fn has_doorbell(&self, line: usize) -> bool {
        // Acquire: the fence that orders this load against `set_need_kick` is the caller's.
        self.words(line).any(|word| self.page.load(Self::word(line, word), Ordering::Acquire) != 0)
    }

    /// Tells the driver whether it must kick after a doorbell, for the sake of one of the workers.
    pub fn set_need_kick(&self, worker: usize, need: bool) {
        // One bit for each worker that looks at this page: the others may sleep or not.
        let bit = 1u64 << ((worker + self.workers - self.first_worker) % self.workers % 32);
        let word = self.page.word(DOORBELL_NEED_KICK as usize / 8);
        // Release: to sleep, the worker follows with a full fence, which pairs with the driver's
        // sequentially consistent OR; on waking nothing depends on the order. What the driver itself
        // writes there harms its own doorbells only.
        if need {
            word.fetch_or(bit, Ordering::Release);
        } else {
            word.fetch_and(!bit, Ordering::Release);
        }
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
                page,
                lines: Default::default(),
                taken: Mutex::default(),
                first_worker: self.device.next_worker(),
                workers: self.device.config().workers,
                next_share: AtomicU32::new(0),
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
        let of_ctx = |owner: &Arc<Ctx>| Arc::ptr_eq(owner, ctx);
        let qps: Vec<u32> =
            self.qps.lock().values().filter(|qp| of_ctx(&qp.pd.ctx)).map(|qp| qp.qpn).collect();
        for qp in qps {
            // The table is only read by handle, so a queue pair that is gone by now is no error.
            let _ = self.qp_destroy(qp);
        }
        let regions: Vec<u32> =
            self.mrs.lock().iter().filter(|mr| of_ctx(&mr.pd.ctx)).map(|mr| mr.handle).collect();
        self.mrs_remove(&regions);
        let cqs: Vec<u32> =
            self.cqs.lock().iter().filter(|cq| of_ctx(&cq.ctx)).map(|cq| cq.handle).collect();
        for cq in cqs {
            let _ = self.cq_remove(cq);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Device, DeviceConfig};
    use crate::engine::doorbells::Doorbells;
    use crate::session::testing::{qp, session_on};
    use vnic_abi::config::Features;

    fn ring(session: &Session, index: u32) {
        let page = GuestPage::new(&session.ram.current(), Gpa(0x3000)).unwrap();
        let word = DOORBELL_BITMAP as usize / 8 + index as usize / 64;
        page.word(word).fetch_or(1 << (index % 64), Ordering::SeqCst);
    }

    /// What worker `worker` finds in `passes` passes.
    fn found(session: &Session, worker: usize, passes: usize) -> Vec<u32> {
        let mut doorbells = Doorbells::default();
        doorbells.renew(&session.device.contexts(), worker);
        let mut found = Vec::new();
        for _ in 0..passes {
            #[allow(unsafe_code)] // reason: this thread plays the worker
            // SAFETY: the workers do not run, and this thread destroys nothing meanwhile.
            unsafe {
                doorbells.poll(|qp| found.push(qp.qpn));
            }
        }
        found
    }

    #[test]
    fn queue_pairs_are_shared_out_and_each_is_found_by_its_worker_alone() {
        let device = Device::new(DeviceConfig { workers: 3, ..DeviceConfig::default() });
        let (session, pd) = session_on(device, Features::empty());
        let qps: Vec<_> = (0..9).map(|_| qp(&session, pd)).collect();
        let mut counts = [0; 3];
        for qp in &qps {
            counts[qp.worker] += 1;
            ring(&session, qp.doorbell_index);
        }
        assert_eq!(counts, [3; 3]);
        for worker in 0..3 {
            let mut own: Vec<_> =
                qps.iter().filter(|qp| qp.worker == worker).map(|qp| qp.qpn).collect();
            let mut found = found(&session, worker, 1);
            own.sort_unstable();
            found.sort_unstable();
            assert_eq!(found, own);
        }
        assert_eq!(found(&session, 0, 1), [0; 0]);
    }

    #[test]
    fn a_bit_is_given_again_and_finds_the_new_queue_pair() {
        let device = Device::new(DeviceConfig::default());
        let (session, pd) = session_on(device, Features::empty());
        let old = qp(&session, pd);
        let (index, number) = (old.doorbell_index, old.qpn);
        session.qp_destroy(number).unwrap();
        // The slot's count is gone, and with it the last but ours.
        assert_eq!(Arc::strong_count(&old), 1);
        ring(&session, index);
        assert_eq!(found(&session, 0, 1), [0; 0]);
        let new = qp(&session, pd);
        assert_eq!(new.doorbell_index, index);
        ring(&session, index);
        assert_eq!(found(&session, 0, 1), [new.qpn]);
    }

    #[test]
    fn stray_bits_find_nobody() {
        let device = Device::new(DeviceConfig::default());
        let (session, pd) = session_on(device, Features::empty());
        let qp = qp(&session, pd);
        for index in (0..DOORBELL_BITS).filter(|index| *index != qp.doorbell_index) {
            ring(&session, index);
        }
        assert_eq!(found(&session, 0, 64), [0; 0]);
    }

    #[test]
    fn more_contexts_than_a_pass_looks_at_are_all_found_in_turn() {
        let device = Device::new(DeviceConfig::default());
        let sessions: Vec<_> =
            (0..40).map(|_| session_on(device.clone(), Features::empty())).collect();
        let qps: Vec<_> = sessions.iter().map(|(session, pd)| qp(session, *pd)).collect();
        for ((session, _), qp) in sessions.iter().zip(&qps) {
            ring(session, qp.doorbell_index);
        }
        let mut all: Vec<_> = qps.iter().map(|qp| qp.qpn).collect();
        let mut found = found(&sessions[0].0, 0, 12);
        all.sort_unstable();
        found.sort_unstable();
        assert_eq!(found, all);
    }

    #[test]
    fn a_worker_that_wakes_leaves_the_wish_of_one_that_sleeps() {
        let device = Device::new(DeviceConfig { workers: 3, ..DeviceConfig::default() });
        let (session, pd) = session_on(device, Features::empty());
        let ctx = session.pds.lock().get(pd).unwrap().ctx.clone();
        let wish = || ctx.page.load(DOORBELL_NEED_KICK as usize / 8, Ordering::SeqCst);
        for worker in 0..3 {
            ctx.set_need_kick(worker, true);
        }
        ctx.set_need_kick(1, false);
        assert_ne!(wish() as u32, 0);
        ctx.set_need_kick(0, false);
        ctx.set_need_kick(2, false);
        assert_eq!(wish(), 0);
    }
}
