// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which queue pairs go direct: those whose peer, when they connect, is neither at this daemon nor at another one.

use super::Direct;
use super::queue::DirectQp;
use crate::object::qp::Qp;
use std::sync::Arc;
use vnic_abi::ctrl::{QpAttr, QpAttrMask, QpState};
use vnic_abi::status::Status;

/// What a queue pair of a port that goes direct has to do it with.
fn parts(qp: &Qp) -> Option<(&Direct, &DirectQp)> {
    Some((qp.session.direct.as_ref()?, qp.direct.as_deref()?))
}

/// Whether the peer of a queue pair with these attributes is one that no daemon knows.
fn is_stranger(qp: &Qp, attr: &QpAttr) -> bool {
    let device = &qp.session.device;
    let (network, gid) = (&qp.session.network, &attr.av.dgid);
    device.gids().find(network, gid).is_none() && device.links().find(network, gid).is_none()
}

/// Takes the host's queue pair along when the guest's goes from one state to another with `attr`. Before the guest's has
/// gone; call without its locks, since it may take long to find the way to a peer. Whether the peer is reached this way.
///
/// # Errors
///
/// `BadAttribute` if the host's device does not take it.
pub fn prepare(
    qp: &Qp,
    from: QpState,
    to: QpState,
    mask: QpAttrMask,
    attr: &QpAttr,
) -> Result<bool, Status> {
    let Some((direct, queue)) = parts(qp) else { return Ok(false) };
    let gid = || qp.session.gids.lock().get(usize::from(attr.av.sgid_index)).copied().flatten();
    let source = || gid().and_then(|gid| direct.source(&gid));
    let done = match (from, to) {
        (QpState::Init, QpState::Rtr) if is_stranger(qp, attr) => {
            let Some(source) = source() else {
                tracing::warn!(device = direct.device(), qpn = qp.qpn, gid = ?gid(),
                    "the host's device does not have the guest's address: choose other addresses, or map them ([direct] addresses)");
                return Err(Status::BadAttribute);
            };
            queue.connect(direct, attr, source)
        }
        (QpState::Rtr | QpState::Rts | QpState::Sqd, QpState::Rts | QpState::Sqd)
            if queue.is_chosen() =>
        {
            let Some(host) = queue.host() else { return Ok(true) };
            host.modify(to, mask, attr, 0)
        }
        (QpState::Init, QpState::Rtr) => return Ok(false),
        _ => return Ok(queue.is_chosen()),
    };
    done.map(|()| true).map_err(|error| {
        tracing::warn!(%error, device = direct.device(), qpn = qp.qpn, from = ?from, to = ?to,
            "the host's device does not change its queue pair");
        Status::BadAttribute
    })
}

/// The guest's queue pair goes to RTR, and reaches its peer this way if `chosen`. Call with its locks.
pub fn choose(qp: &Arc<Qp>, chosen: bool) {
    let Some((_, queue)) = parts(qp) else { return };
    queue.choose(chosen);
    if chosen {
        qp.session.device.watch_direct(qp);
    }
}

/// The guest's queue pair goes to RESET. Call with its locks.
pub fn reset(qp: &Qp) {
    let Some((direct, queue)) = parts(qp) else { return };
    if let Err(error) = queue.reset() {
        tracing::warn!(%error, device = direct.device(), qpn = qp.qpn, "cannot reset a queue pair of the host");
    }
}
