// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The usual requests: RDMA WRITE and READ of one range on each side, all of it there, and no longer than a
//! burst.
//!
//! They are carried out from the element where it lies, each word of which is looked at once. What is not
//! as usual, whatever it is, is left in the ring for the general way. So nothing here says what is wrong
//! with a request, and nothing has happened when it turns out to be another one.

use super::{Requester, complete};
use crate::engine::copy::{End, Reach, forward};
use crate::engine::core::Core;
use crate::engine::request::{KNOWN_FLAGS, Remote};
use crate::engine::responder::Responder;
use crate::fabric::spans;
use crate::object::qp::Qp;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::{AccessFlags, QpState};
use vnic_abi::wqe::{Opcode, SEND_WQE_PAYLOAD, SendWqe, Sge, WqeFlags};
use vnic_iommu::addr::{Gva, PAGE_SIZE};
use vnic_iommu::quiesce::Burst;
use vnic_iommu::walk::Access;

/// Words of the fixed part of an element.
const HEAD: usize = SEND_WQE_PAYLOAD as usize / 8;

/// Where the requester's bytes are.
enum Local<'m> {
    Inline(&'m [AtomicU64]),
    Range(Sge),
}

/// A request that may turn out to be a usual one.
struct Usual<'m> {
    wr_id: u64,
    writes: bool,
    signaled: bool,
    remote: Remote,
    local: Local<'m>,
    len: u64,
}

impl<'m> Usual<'m> {
    /// Looks at an element whose first word is known. `most` is what may be moved.
    #[inline]
    fn parse(first: u64, words: &'m [AtomicU64], most: u64) -> Option<Self> {
        // Relaxed: ordered by the Acquire of the first word.
        let word = |index: usize| words[index].load(Ordering::Relaxed);
        let payload = words.get(HEAD..)?;
        let head: SendWqe = zerocopy::transmute!([first, word(1), word(2), word(HEAD - 1)]);
        let flags = WqeFlags::from_bits_retain(head.flags);
        let inline = flags.contains(WqeFlags::INLINE);
        let writes = match Opcode(head.opcode) {
            Opcode::RdmaWrite => true,
            Opcode::RdmaRead if !inline => false,
            _ => return None,
        };
        if !KNOWN_FLAGS.contains(flags) || head.reserved != 0 {
            return None;
        }
        let length = head.length.get();
        let (local, len) = if inline {
            if head.num_sge != 0 || length as usize > size_of_val(payload) {
                return None;
            }
            (Local::Inline(payload), length)
        } else {
            if head.num_sge != 1 || length != 0 {
                return None;
            }
            let sge: Sge = zerocopy::transmute!([word(HEAD), word(HEAD + 1)]);
            let length = sge.length.get();
            (Local::Range(sge), length)
        };
        (len != 0 && u64::from(len) <= most).then(|| Self {
            wr_id: head.wr_id.get(),
            writes,
            signaled: flags.contains(WqeFlags::SIGNALED),
            remote: Remote { addr: head.remote_addr.get(), rkey: head.rkey.get() },
            local,
            len: len.into(),
        })
    }
}

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

impl Requester {
    /// Carries usual requests out until there is none, or `most` are done or as many bytes as a burst may move. `true` if
    /// that is because the ring is empty.
    #[inline]
    #[allow(clippy::too_many_arguments)] // reason: both ends, and what is done of the turn
    pub(super) fn usual(
        &mut self,
        qp: &Arc<Qp>,
        peer: &Qp,
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
            let Some(request) = Usual::parse(first, words, done.limit - done.bytes) else { break };
            if self.try_usual(qp, peer, responder, core, burst, &request).is_none() {
                break;
            }
            self.ring.skip(&qp.memory);
            done.requests += 1;
            done.bytes += request.len;
            if request.signaled || qp.sq_sig_all {
                let opcode = if request.writes { WcOpcode::RdmaWrite } else { WcOpcode::RdmaRead };
                let count = self.ring.consumed();
                complete(qp, core, count, request.wr_id, opcode, WcStatus::Success, request.len);
            }
        }
        if done.requests != before {
            self.progress();
        }
        empty
    }

    /// Checks both keys, translates both sides and copies. `None` if anything was not as usual, and then
    /// nothing was copied.
    #[inline]
    fn try_usual(
        &mut self,
        qp: &Arc<Qp>,
        peer: &Qp,
        responder: &mut Responder,
        core: &mut Core,
        burst: &Burst<'_>,
        request: &Usual<'_>,
    ) -> Option<()> {
        let &Usual { writes, remote, len, .. } = request;
        let (right, remote_access, local_access) = if writes {
            (AccessFlags::REMOTE_WRITE, Access::Write, Access::Read)
        } else {
            (AccessFlags::REMOTE_READ, Access::Read, Access::Write)
        };
        let there = responder.allowed(peer, remote, len, right)?;
        let here = match &request.local {
            Local::Inline(_) => None,
            Local::Range(sge) => {
                let right = if writes { AccessFlags::empty() } else { AccessFlags::LOCAL_WRITE };
                let mr = self.keys.get(&qp.session.keys, sge.lkey.get())?;
                if !Arc::ptr_eq(&mr.pd, &qp.pd) {
                    return None;
                }
                Some(mr.check(sge.addr.get(), len, right)?)
            }
        };
        if len > PAGE_SIZE {
            let (here, there) = ((&**qp, here?), (peer, there));
            let (from, to) = if writes { (here, there) } else { (there, here) };
            return copy_pages(core, burst, from, to, len);
        }
        let want = len as usize;
        let mut whole = |qp: &Qp, va, access| {
            let table = &qp.pd.ctx.space.table;
            let chunk = core.translator.translate(burst, table, va, want, access).ok()?;
            (chunk.len() == want).then(|| chunk.as_ptr())
        };
        let there = whole(peer, there, remote_access)?;
        let here = match (&request.local, here) {
            // The words are read as they are copied; a driver that changes them now changes what it sends.
            (Local::Inline(words), _) => words.as_ptr().cast::<u8>().cast_mut(),
            (Local::Range(_), here) => whole(qp, here?, local_access)?,
        };
        let (from, to) = if writes { (here, there) } else { (there, here) };
        #[allow(unsafe_code)] // reason: guest memory is only reachable by address
        // SAFETY: both are valid for `want` bytes: translated for this access in this burst, or the
        // payload of an element in the queue pair's memory, which has room for as many. Only a WRITE has
        // its bytes in an element, and there they are the source.
        unsafe {
            forward(from, to, want);
        }
        Some(())
    }
}

/// Copies `len` bytes between ranges that both keys allow. `None` if a page is missing, or there are too many
/// pieces, and then nothing was copied.
fn copy_pages(
    core: &mut Core,
    burst: &Burst<'_>,
    (from, source): (&Qp, Gva),
    (to, target): (&Qp, Gva),
    len: u64,
) -> Option<()> {
    let want = usize::try_from(len).ok()?;
    let Core { translator, scratch, .. } = core;
    let (source_table, target_table) = (&from.pd.ctx.space.table, &to.pd.ctx.space.table);
    scratch.to.translate(translator, burst, target_table, target, want, Access::Write).ok()?;
    scratch.from.translate(translator, burst, source_table, source, want, Access::Read).ok()?;
    if scratch.to.total() < want || scratch.from.total() < want {
        return None;
    }
    let end = End { of_message: true, reach: Reach::of(len, core.past_caches) };
    #[allow(unsafe_code)] // reason: guest memory is only reachable by address
    // SAFETY: both were filled above, in this burst and for these accesses, with as many bytes.
    unsafe {
        spans::copy(&core.scratch.from, &core.scratch.to, want, end);
    }
    Some(())
}
