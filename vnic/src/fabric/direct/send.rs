// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Send requests of a guest are posted to the host's queue pair.

use super::nic::{NotPosted, Payload, Range, Work};
use super::queue::{Sent, State};
use crate::engine::request::{LocalBytes, Op, SendRequest};
use crate::object::mr::KeyCache;
use crate::object::qp::Qp;
use crate::ring::rq::{MAX_SGE, SgeList};
use crate::ring::sq::Element;
use smallvec::SmallVec;
use std::sync::Arc;

/// The host's key for what a guest may not have, which it does not give to anybody.
const NO_KEY: u32 = 0;

/// The ranges of a list, with the host's keys. One whose key does not allow it gets a key that allows nothing: the host's
/// queue pair then fails in order.
pub(super) fn ranges(
    qp: &Qp,
    list: SgeList<'_>,
    keys: &mut KeyCache,
) -> SmallVec<[Range; MAX_SGE]> {
    let entries = list.entries().iter().filter(|sge| sge.length.get() != 0);
    let range = |sge: &vnic_abi::wqe::Sge| {
        let mr = keys.get(&qp.session.keys, sge.lkey.get());
        let own = mr.filter(|mr| Arc::ptr_eq(&mr.pd, &qp.pd));
        let lkey = own.and_then(|mr| mr.host_lkey()).unwrap_or(NO_KEY);
        Range { addr: sge.addr.get(), len: sge.length.get(), lkey }
    };
    entries.map(range).collect()
}

impl State {
    /// Posts `request`, which is in `element`; `count` elements were taken with it. It completes on the host even if the
    /// guest does not want to hear of it: whoever fails next has to know when all before it are done.
    ///
    /// # Errors
    ///
    /// [`NotPosted`].
    pub(crate) fn send(
        &mut self,
        qp: &Qp,
        request: &SendRequest,
        element: &Element,
        keys: &mut KeyCache,
        count: u32,
    ) -> Result<(), NotPosted> {
        let Some(host) = &self.host else { return Err(NotPosted::Refused) };
        let list;
        let payload = match request.local.of(element) {
            LocalBytes::Inline(bytes) => Payload::Inline(bytes),
            LocalBytes::List(entries) => {
                list = ranges(qp, entries, keys);
                Payload::Ranges(&list)
            }
        };
        let number = self.next_send;
        host.send(&Work {
            id: self.id(false, number),
            op: request.op,
            imm: request.imm,
            solicited: request.solicited && matches!(request.op, Op::Send | Op::Write(_)),
            fenced: request.fenced,
            payload,
        })?;
        self.next_send = number.wrapping_add(1);
        let signaled = request.signaled || qp.sq_sig_all;
        let &SendRequest { wr_id, total, .. } = request;
        let opcode = request.wc_opcode();
        self.sends.push_back(Sent { number, wr_id, opcode, total, signaled, count });
        Ok(())
    }
}
