// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From a command to the port, and from its answer to the reply.

use vnic_abi::ctrl::{HandleReply, MrCreateReply, QpCreateReply};
use vnic_abi::status::Status;
use zerocopy::{Immutable, IntoBytes};

use super::{Command, Reply};
use crate::port::{MrKeys, Port};

/// Executes `command` on `port`.
///
/// Takes the time that the port's method takes; those that destroy something wait for the workers
/// to let go of it, which is one bounded burst.
pub fn dispatch(port: &Port, command: Command) -> Reply {
    match command {
        Command::Init { version, features, epoch_page } => {
            port.init(version, features, epoch_page).into()
        }
        Command::Nop => Ok(()).into(),
        Command::Shutdown => {
            port.shutdown();
            Ok(()).into()
        }
        Command::GidSet { index, kind, gid } => port.gid_set(index, kind, gid).into(),
        Command::GidClear { index } => port.gid_clear(index).into(),
        Command::PasidBind { root, mode, invalidation_page } => {
            handle(port.pasid_bind(root, mode, invalidation_page))
        }
        Command::PasidUnbind { pasid } => port.pasid_unbind(pasid).into(),
        Command::CtxCreate { pasid, doorbell_page } => {
            handle(port.ctx_create(pasid, doorbell_page))
        }
        Command::CtxDestroy { ctx } => port.ctx_destroy(ctx).into(),
        Command::PdCreate { ctx } => handle(port.pd_create(ctx)),
        Command::PdDestroy { pd } => port.pd_destroy(pd).into(),
        Command::MrCreate(params) => region(port.mr_create(params)),
        Command::MrModify(change) => region(port.mr_modify(change)),
        Command::MrDestroy { mr } => port.mr_destroy(mr).into(),
        Command::CqCreate(params) => handle(port.cq_create(params)),
        Command::CqDestroy { cq } => port.cq_destroy(cq).into(),
        Command::QpCreate(params) => body(port.qp_create(params).map(|qp| QpCreateReply {
            qpn: qp.qpn.into(),
            doorbell_index: qp.doorbell_index.into(),
        })),
        Command::QpModify { qpn, mask, attr } => port.qp_modify(qpn, mask, &attr).into(),
        Command::QpQuery { qpn } => body(port.qp_query(qpn)),
        Command::QpDestroy { qpn } => port.qp_destroy(qpn).into(),
        Command::PageResponse { id, code } => port.page_response(id, code).into(),
        Command::QueryCounters => body(Ok(port.counters())),
    }
}

fn handle(result: Result<u32, Status>) -> Reply {
    body(result.map(|handle| HandleReply { handle: handle.into(), reserved: 0.into() }))
}

fn region(result: Result<MrKeys, Status>) -> Reply {
    body(result.map(|keys| MrCreateReply {
        handle: keys.handle.into(),
        lkey: keys.lkey.into(),
        rkey: keys.rkey.into(),
        reserved: 0.into(),
    }))
}

fn body<T: IntoBytes + Immutable>(result: Result<T, Status>) -> Reply {
    match result {
        Ok(body) => Reply::with(&body),
        Err(status) => Reply::status_only(status),
    }
}
