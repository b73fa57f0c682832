// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The usual requests: SEND, RDMA WRITE and READ of one range on each side, all of it there and no longer than
//! a burst, and atomics.
//!
//! They are carried out from the element where it lies, each word of which is looked at once. What is not
//! as usual, whatever it is, is left in the ring for the general way. So nothing here says what is wrong
//! with a request, and nothing has happened when it turns out to be another one, but that bytes may have been
//! copied that will be copied again.

use super::glance::{Glance, Local, Range};
use super::{Requester, complete};
use crate::engine::copy::{End, forward};
use crate::engine::core::Core;
use crate::engine::responder::Responder;
use crate::fabric::{pages, spans};
use crate::object::qp::Qp;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use vnic_abi::config::Features;
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::{AccessFlags, QpState};
use vnic_abi::wqe::Opcode;
use vnic_iommu::addr::{Gva, PAGE_SIZE};
use vnic_iommu::quiesce::Burst;
use vnic_iommu::walk::Access;

/// What is done of a turn.
#[derive(Debug, Clone, Copy)]
pub(super) struct Done {
    pub requests: u32,
    pub bytes: u64,
    /// Bytes at which the burst ends.
    pub limit: u64,
    /// Bursts beyond the first.
    pub bursts: u32,
}

impl Done {
    /// Nothing yet, with bursts of `chunk` bytes.
    pub const fn of(chunk: u64) -> Self {
        Self { requests: 0, bytes: 0, limit: chunk, bursts: 0 }
    }
}

/// Both ends of a request, in the burst that covers them.
struct Ends<'a, 'b> {
    qp: &'a Arc<Qp>,
    peer: &'a Arc<Qp>,
    responder: &'a mut Responder,
    core: &'a mut Core,
    burst: &'a Burst<'b>,
    /// Bytes that the burst may still move.
    most: u64,
}

/// How a request ended.
struct Ended {
    opcode: WcOpcode,
    len: u64,
    status: WcStatus,
}

impl Ended {
    #[inline(always)]
    const fn well(opcode: WcOpcode, len: u64) -> Self {
        Self { opcode, len, status: WcStatus::Success }
    }
}

impl Requester {
    /// Carries usual requests out until there is none, or `most` are done or as many bytes as a burst may move. `true` if
    /// that is because the ring is empty.
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // reason: both ends, and what is done of the turn
    pub(super) fn usual(
        &mut self,
        qp: &Arc<Qp>,
        peer: &Arc<Qp>,
        responder: &mut Responder,
        core: &mut Core,
        burst: &Burst<'_>,
        done: &mut Done,
        most: u32,
    ) -> bool {
        let before = done.requests;
        // Address spaces that are unbound from here on stay until this pass is over.
        if !qp.pd.ctx.space.is_bound() || !peer.pd.ctx.space.is_bound() {
            return false;
        }
        let mut empty = false;
        while done.requests < most && done.bytes < done.limit && qp.state() == QpState::Rts {
            let Some((first, words)) = self.ring.peek(&qp.memory) else {
                empty = true;
                break;
            };
            let Some(glance) = Glance::of(first, words) else { break };
            let mut ends = Ends { qp, peer, responder, core, burst, most: done.limit - done.bytes };
            let ended = match glance.opcode() {
                Opcode::RdmaWrite => self.write(&mut ends, &glance),
                Opcode::Send => self.send(&mut ends, &glance),
                Opcode::RdmaRead => self.read(&mut ends, &glance),
                Opcode::AtomicFetchAdd => self.atomic(&mut ends, &glance, WcOpcode::FetchAdd),
                Opcode::AtomicCmpSwap => self.atomic(&mut ends, &glance, WcOpcode::CompSwap),
                _ => None,
            };
            let Some(Ended { opcode, len, status }) = ended else { break };
            let wr_id = glance.wr_id();
            self.ring.skip(&qp.memory);
            done.requests += 1;
            done.bytes += len;
            if glance.signaled() || qp.sq_sig_all || status != WcStatus::Success {
                complete(qp, core, self.ring.consumed(), wr_id, opcode, status, len);
            }
        }
        if done.requests != before {
            self.progress();
        }
        empty
    }

    #[inline(always)]
    fn write(&mut self, ends: &mut Ends<'_, '_>, glance: &Glance<'_>) -> Option<Ended> {
        let (local, len) = glance.source()?;
        let right = AccessFlags::REMOTE_WRITE;
        let there = ends.responder.allowed(ends.peer, glance.remote(), len, right)?;
        let from = self.source(ends, local, len)?;
        ends.carry(from, there, len)?;
        Some(Ended::well(WcOpcode::RdmaWrite, len))
    }

    #[inline(always)]
    fn send(&mut self, ends: &mut Ends<'_, '_>, glance: &Glance<'_>) -> Option<Ended> {
        let (local, len) = glance.source()?;
        let (there, wr_id) = ends.responder.expect_receive(ends.peer, len)?;
        let from = self.source(ends, local, len)?;
        ends.carry(from, there, len)?;
        let Ends { peer, responder, core, .. } = ends;
        let received =
            responder.receive_usual(peer, wr_id, len, glance.solicited(), &mut core.later);
        let ended = Ended::well(WcOpcode::Send, len);
        Some(match received {
            Ok(()) => ended,
            Err(nak) => Ended { status: nak.status(), ..ended },
        })
    }

    #[inline(always)]
    fn read(&mut self, ends: &mut Ends<'_, '_>, glance: &Glance<'_>) -> Option<Ended> {
        let (local, len) = glance.sink()?;
        let right = AccessFlags::REMOTE_READ;
        let there = ends.responder.allowed(ends.peer, glance.remote(), len, right)?;
        let here = self.range(ends.qp, local, len, AccessFlags::LOCAL_WRITE)?;
        ends.fetch(here, there, len)?;
        Some(Ended::well(WcOpcode::RdmaRead, len))
    }

    #[inline(always)]
    fn atomic(
        &mut self,
        ends: &mut Ends<'_, '_>,
        glance: &Glance<'_>,
        opcode: WcOpcode,
    ) -> Option<Ended> {
        let Ends { qp, peer, burst, .. } = *ends;
        let negotiated = |qp: &Qp| qp.session.features.contains(Features::ATOMIC);
        if !negotiated(qp) || !negotiated(peer) {
            return None;
        }
        let local = glance.result()?;
        let right = AccessFlags::REMOTE_ATOMIC;
        let there = ends.responder.allowed(peer, glance.remote(), 8, right)?;
        let here = self.range(qp, local, 8, AccessFlags::LOCAL_WRITE)?;
        // The result's place first: an atomic must not happen twice because its result had none.
        let here = ends.whole(qp, here, 8, Access::Write)?;
        let table = &peer.pd.ctx.space.table;
        let word = ends.core.translator.translate(burst, table, there, 8, Access::Write).ok()?;
        let old = glance.atomic().apply(word.atomic_u64()?).to_ne_bytes();
        copy(old.as_ptr(), here, 8);
        Some(Ended::well(opcode, 8))
    }

    /// Where bytes come from.
    #[inline(always)]
    fn source<'m>(
        &mut self,
        ends: &Ends<'_, '_>,
        local: Local<'m>,
        len: u64,
    ) -> Option<Source<'m>> {
        match local {
            Local::Inline(words) => Some(Source::Element(words)),
            Local::Range(range) => {
                self.range(ends.qp, range, len, AccessFlags::empty()).map(Source::Range)
            }
        }
    }

    /// The address behind a range of the requester's, if its key allows it.
    #[inline(always)]
    fn range(&mut self, qp: &Qp, range: Range, len: u64, right: AccessFlags) -> Option<Gva> {
        let mr = self.keys.get(&qp.session.keys, range.lkey)?;
        if !Arc::ptr_eq(&mr.pd, &qp.pd) {
            return None;
        }
        mr.check(range.addr, len, right)
    }
}

/// Where bytes come from.
#[derive(Clone, Copy)]
enum Source<'m> {
    Element(&'m [AtomicU64]),
    Range(Gva),
}

impl Ends<'_, '_> {
    /// Copies from the requester. `None` if a page is missing or that is more than may be moved; what was
    /// copied then is copied again.
    #[inline(always)]
    fn carry(&mut self, from: Source<'_>, there: Gva, len: u64) -> Option<()> {
        if len > PAGE_SIZE
            && let Source::Range(here) = from
        {
            return self.copy_pages((self.qp, here), (self.peer, there), len);
        }
        let to = self.whole(self.peer, there, len, Access::Write)?;
        let from = match from {
            Source::Range(here) => self.whole(self.qp, here, len, Access::Read)?.cast_const(),
            // The words are read as they are copied; a driver that changes them now changes what it
            // sends.
            Source::Element(words) => words.as_ptr().cast(),
        };
        copy(from, to, len);
        Some(())
    }

    /// Copies to the requester; `None` as above.
    #[inline(always)]
    fn fetch(&mut self, here: Gva, there: Gva, len: u64) -> Option<()> {
        if len > PAGE_SIZE {
            return self.copy_pages((self.peer, there), (self.qp, here), len);
        }
        let from = self.whole(self.peer, there, len, Access::Read)?;
        let to = self.whole(self.qp, here, len, Access::Write)?;
        copy(from, to, len);
        Some(())
    }

    /// Host memory of a range that lies in one page.
    #[inline(always)]
    fn whole(&mut self, qp: &Qp, va: Gva, len: u64, access: Access) -> Option<*mut u8> {
        let table = &qp.pd.ctx.space.table;
        let want = len as usize;
        let chunk = self.core.translator.translate(self.burst, table, va, want, access).ok()?;
        (chunk.len() == want).then(|| chunk.as_ptr())
    }

    /// Copies `len` bytes between ranges that both keys allow. `None` if a page is missing, or there are too
    /// many pieces or bytes; what was copied then is copied again.
    #[inline(never)]
    fn copy_pages(
        &mut self,
        (from, source): (&Qp, Gva),
        (to, target): (&Qp, Gva),
        len: u64,
    ) -> Option<()> {
        if len > self.most {
            return None;
        }
        let (core, burst) = (&mut *self.core, self.burst);
        let want = usize::try_from(len).ok()?;
        let end = End { of_message: true, reach: core.reaches.of(len) };
        let Core { translator, scratch, .. } = core;
        let (source_table, target_table) = (&from.pd.ctx.space.table, &to.pd.ctx.space.table);
        let (from, to) = ((source_table, source), (target_table, target));
        // Should a page be missing behind it, then the general way copies all of it again.
        let done = pages::copy_cached(translator, burst, from, to, want, end);
        if done == want {
            return Some(());
        }
        let (source, target) = (Gva(source.0 + done as u64), Gva(target.0 + done as u64));
        let want = want - done;
        scratch.to.translate(translator, burst, target_table, target, want, Access::Write).ok()?;
        scratch.from.translate(translator, burst, source_table, source, want, Access::Read).ok()?;
        if scratch.to.total() < want || scratch.from.total() < want {
            return None;
        }
        #[allow(unsafe_code)] // reason: guest memory is only reachable by address
        // SAFETY: both were filled above, in this burst and for these accesses, with as many bytes.
        unsafe {
            spans::copy(&core.scratch.from, &core.scratch.to, want, end);
        }
        Some(())
    }
}

/// Copies the whole of a message that lies in one page on either side, or in an element.
#[inline(always)]
fn copy(from: *const u8, to: *mut u8, len: u64) {
    #[allow(unsafe_code)] // reason: guest memory is only reachable by address
    // SAFETY: both callers have translated `to` for writing in the burst that lasts, and `from` for
    // reading, each with `len` bytes; or `from` is the payload of an element in the queue pair's memory, whose
    // room for as many was checked.
    unsafe {
        forward(from, to, len as usize);
    }
}
