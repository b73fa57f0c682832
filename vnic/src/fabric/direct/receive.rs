// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Receives of a guest are posted to the host's queue pair, as they come.

use super::queue::Posted;
use super::send::ranges;
use crate::engine::core::Later;
use crate::engine::responder::{Responder, fail};
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::event::EventKind;

/// Posts the receives that the guest has posted since, up to as many as its queue has elements. Call with the responder's
/// lock.
pub fn post(qp: &Arc<Qp>, responder: &mut Responder, later: &mut Later) {
    let Some(direct) = &qp.direct else { return };
    let mut state = direct.lock();
    // The guest rings for each from now on.
    responder.ask_for_doorbells(&qp.memory);
    while !state.stopped && (state.receives.len() as u32) < responder.depth() {
        let Some(request) = responder.take(&qp.memory) else { return };
        let number = state.next_receive;
        let id = state.id(true, number);
        // An element that makes no sense has no room for anything.
        let (list, keys) = responder.scatter_of(request.num_sge.unwrap_or_default());
        let ranges = ranges(qp, list, keys);
        let Some(host) = &state.host else { return };
        if host.receive(id, &ranges).is_err() {
            // It is flushed like those that were never looked at.
            responder.give_back();
            return fail(qp, EventKind::QpFatal, later);
        }
        state.next_receive = number.wrapping_add(1);
        let count = responder.consumed();
        state.receives.push_back(Posted { number, wr_id: request.wr_id, count });
    }
}
