// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A requester whose peer is reached by a queue pair of the host: that is given what there is to send, and does the rest.

use super::usual::Done;
use super::{Failed, Fetched, MAX_REQUESTS, Pause, Requester, complete};
use crate::engine::core::Core;
use crate::fabric::direct::nic::NotPosted;
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::QpState;

impl Requester {
    /// Posts what there is to send, as far as there is room. Who waits for room goes on when something completes.
    #[cold]
    pub(super) fn send_direct(&mut self, qp: &Arc<Qp>, core: &mut Core, done: &mut Done) -> Pause {
        let Some(direct) = qp.direct.as_deref() else { return Pause::Idle };
        loop {
            let mut state = direct.lock();
            if let Some((failed, count)) = state.failed {
                if state.sends.is_empty() {
                    state.failed = None;
                    drop(state);
                    let Failed { wr_id, opcode, status } = failed;
                    complete(qp, core, count, wr_id, opcode, status, 0);
                }
                return Pause::Idle;
            }
            if done.requests >= MAX_REQUESTS {
                return Pause::More;
            }
            if state.sends.len() as u32 >= self.ring.depth() || qp.state() != QpState::Rts {
                return Pause::Idle;
            }
            match self.fetch(qp) {
                Fetched::Nothing => return Pause::Idle,
                Fetched::Bad(failed) => state.failed = Some((failed, self.ring.consumed())),
                Fetched::Request(request) => {
                    let count = self.ring.consumed();
                    match state.send(qp, &request, &self.element, &mut self.keys, count) {
                        Ok(()) => {
                            done.requests += 1;
                            done.bytes += request.total;
                            core.direct.note(qp);
                        }
                        Err(NotPosted::Full) if !state.sends.is_empty() => {
                            self.ring.go_back(1);
                            return Pause::Idle;
                        }
                        Err(_) => {
                            let failed = Failed::of(&request, WcStatus::LocQpOpErr);
                            state.failed = Some((failed, count));
                        }
                    }
                }
            }
        }
    }
}
