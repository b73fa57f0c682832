// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Atomics: one word at the responder, whose former value goes to the requester.

use crate::engine::request::{Atomic, Remote};
use crate::engine::responder::{Nak, Responder, fail};
use crate::engine::wait::Side;
use crate::fabric::bytes::{BadKey, Bytes, Piece};
use crate::fabric::local::{Advance, Stop, Transfer};
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::config::Features;
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::AccessFlags;
use vnic_abi::event::EventKind;
use vnic_iommu::walk::Access;

impl Transfer<'_, '_> {
    pub(super) fn atomic(
        &mut self,
        mut local: Bytes<'_>,
        remote: Remote,
        op: Atomic,
        peer: &Arc<Qp>,
        responder: &mut Responder,
    ) -> Advance {
        let negotiated = peer.session.features.contains(Features::ATOMIC);
        if !negotiated || !remote.addr.is_multiple_of(8) {
            return self.refuse_atomic(peer);
        }
        let right = AccessFlags::REMOTE_ATOMIC;
        let target = match responder.rdma_target(peer, remote, 8, right, self.later) {
            Ok(target) => target,
            Err(nak) => return Advance::Nak(nak),
        };
        // The result's place first: an atomic must not happen twice because its result had none.
        let place = match self.places(&mut local) {
            Ok(place) => place,
            Err(Stop::Page(missing)) => {
                let (from, to) = (Bytes::Range(target), local);
                let ends = [(to, Side::Local, Access::Write), (from, Side::Remote, Access::Write)];
                return Advance::Missing(self.look_ahead(missing, ends, 0, 8));
            }
            Err(Stop::Key(_)) => return Advance::Failed(WcStatus::LocProtErr),
        };
        let word =
            Piece::Mapped { space: target.space, va: target.start, len: 8, limit: target.end };
        let word = match self.map(&word, 8, Access::Write, Side::Remote) {
            Ok(Some(chunk)) => chunk.atomic_u64(),
            Ok(None) => None,
            Err(missing) => return Advance::Missing(missing),
        };
        let Some(word) = word else { return self.refuse_atomic(peer) };
        let old = op.apply(word);
        for (to, byte) in place.iter().zip(old.to_ne_bytes()) {
            #[allow(unsafe_code)] // reason: as above
            // SAFETY: one byte that was translated for writing in this burst.
            unsafe {
                to.write_volatile(byte);
            }
        }
        self.moved += 8;
        Advance::Done
    }

    /// Where each of the eight bytes of an atomic's result goes.
    fn places(&mut self, local: &mut Bytes<'_>) -> Result<[*mut u8; 8], Stop> {
        let mut place = [std::ptr::null_mut::<u8>(); 8];
        let mut done = 0;
        while done < place.len() {
            let piece = local.piece(done as u64).map_err(|BadKey| Stop::Key(Side::Local))?;
            let want = piece.len().min((place.len() - done) as u64);
            if let Piece::Room { start, .. } = piece {
                for (offset, byte) in place[done..].iter_mut().take(want as usize).enumerate() {
                    *byte = start.wrapping_add(offset);
                }
                done += want as usize;
                continue;
            }
            let chunk = self
                .map(&piece, want, Access::Write, Side::Local)
                .map_err(Stop::Page)?
                .ok_or(Stop::Key(Side::Local))?;
            let len = chunk.len().min(want as usize);
            for (offset, byte) in place[done..].iter_mut().take(len).enumerate() {
                *byte = chunk.as_ptr().wrapping_add(offset);
            }
            done += len;
        }
        Ok(place)
    }

    fn refuse_atomic(&mut self, peer: &Arc<Qp>) -> Advance {
        fail(peer, EventKind::QpRequestError, self.later);
        Advance::Nak(Nak::InvalidRequest)
    }
}
