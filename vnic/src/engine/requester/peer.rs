// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Who a queue pair sends to: found once, and looked at again whenever either side may have changed.

use super::Requester;
use crate::engine::core::Core;
use crate::object::qp::Qp;
use std::sync::{Arc, Weak};
use vnic_abi::ctrl::{QpAttr, QpState};

/// How the peer is reached.
pub(super) enum Way {
    /// It is a queue pair of this device.
    Local(Arc<Qp>),
    /// By a daemon that knows it.
    Wire,
    /// Not now.
    Nobody,
}

impl Requester {
    /// The way to the peer, as far as it is there, ready, and connected to us.
    #[inline]
    pub(super) fn way(&mut self, qp: &Qp, core: &Core) -> Way {
        if self.peer_known
            && let Some(peer) = self.peer.upgrade()
            && peer.connection() == self.peer_connection
        {
            return if receives(&peer) { Way::Local(peer) } else { Way::Nobody };
        }
        self.look_for_way(qp, core)
    }

    #[cold]
    fn look_for_way(&mut self, qp: &Qp, core: &Core) -> Way {
        if let Some(wire) = &self.wire {
            if self.peer_known && !wire.link.is_lost() {
                return Way::Wire;
            }
            // Whoever is found now has perhaps not seen what is under way.
            self.go_back(0);
            self.peer_known = false;
        }
        if let Some(peer) = self.look_for_peer(qp) {
            self.wire = None;
            return Way::Local(peer);
        }
        // What this device has is not looked for elsewhere.
        let here = qp.session.device.gids().find(&qp.session.network, &qp.attr().av.dgid);
        if here.is_none() && self.look_over_the_wire(qp, core) {
            return Way::Wire;
        }
        Way::Nobody
    }

    #[cold]
    fn look_for_peer(&mut self, qp: &Qp) -> Option<Arc<Qp>> {
        let peer = find_peer(qp, &qp.attr())?;
        // Before its attributes are looked at: a change afterwards is seen by the next message.
        let connection = peer.connection();
        let theirs = peer.attr();
        let ours = theirs.dest_qpn.get() == qp.qpn && qp.session.holds_gid(&theirs.av.dgid);
        if !ours || !receives(&peer) {
            return None;
        }
        let found = Arc::downgrade(&peer);
        if !Weak::ptr_eq(&found, &self.peer) || connection != self.peer_connection {
            // Somebody who has not seen the beginning of the message.
            if let Some(current) = &mut self.current {
                current.done = 0;
            }
        }
        self.peer = found;
        self.peer_connection = connection;
        self.peer_known = true;
        Some(peer)
    }

    /// Whether `peer`, whose responder is locked, still is what [`Self::way`] found.
    pub(super) fn is_peer(&self, peer: &Qp) -> bool {
        peer.connection() == self.peer_connection && receives(peer)
    }
}

/// Whether messages reach a queue pair in its state.
fn receives(peer: &Qp) -> bool {
    matches!(peer.state(), QpState::Rtr | QpState::Rts | QpState::Sqd)
}

fn find_peer(qp: &Qp, attr: &QpAttr) -> Option<Arc<Qp>> {
    let device = &qp.session.device;
    let session = device.gids().find(&qp.session.network, &attr.av.dgid)?;
    let peer = device.qpns().read().get(&attr.dest_qpn.get())?.upgrade()?;
    (peer.session.uid == session.uid).then_some(peer)
}
