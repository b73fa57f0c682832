// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Serves the control queue.

use vnic_abi::ctrl::ReplyHeader;
use vnic_abi::event::EventKind;
use vnic_abi::status::Status;

use super::chain::Exchange;
use super::upcall::Upcalls;
use crate::ctrl::{self, Command, Reply};
use crate::port::Port;

/// Executes the request of one chain and makes its reply.
///
/// A chain without room for the reply is not executed: its driver would not learn what happened.
pub fn answer<M>(exchange: &Exchange<M>, port: &Port, upcalls: &Upcalls) -> Option<Reply>
where
    M: Clone + std::ops::Deref,
    M::Target: vm_memory::GuestMemory + Sized,
{
    if exchange.room() < size_of::<ReplyHeader>() {
        return None;
    }
    let command = match exchange.request().and_then(|bytes| ctrl::parse(bytes, &port.ram())) {
        Ok(command) => command,
        Err(status) => return Some(Reply::status_only(status)),
    };
    if exchange.room() < command.reply_len() {
        return Some(Reply::status_only(Status::Malformed));
    }
    let ends = Ends::of(&command);
    let starts = matches!(command, Command::Init { .. });
    let reply = ctrl::dispatch(port, command);
    if reply.status() == Status::Ok {
        ends.forget(upcalls);
        if starts {
            port.greet();
        }
    }
    Some(reply)
}

/// What ceases to exist by a command. Nothing that waits to be told about it is told any more: the
/// next object, or the next driver, would take it for its own.
enum Ends {
    Nothing,
    Everything,
    CompletionQueue(u32),
    QueuePair(u32),
    Context(u32),
}

impl Ends {
    fn of(command: &Command) -> Self {
        match *command {
            Command::Init { .. } | Command::Shutdown => Self::Everything,
            Command::CqDestroy { cq } => Self::CompletionQueue(cq),
            Command::QpDestroy { qpn } => Self::QueuePair(qpn),
            Command::CtxDestroy { ctx } => Self::Context(ctx),
            _ => Self::Nothing,
        }
    }

    fn forget(self, upcalls: &Upcalls) {
        match self {
            Self::Nothing => {}
            Self::Everything => upcalls.clear(),
            Self::CompletionQueue(cq) => upcalls
                .forget(cq, |kind| matches!(kind, EventKind::Completion | EventKind::CqError)),
            Self::QueuePair(qpn) => upcalls.forget(qpn, |kind| {
                matches!(
                    kind,
                    EventKind::QpFatal
                        | EventKind::QpRequestError
                        | EventKind::QpAccessError
                        | EventKind::CommEstablished
                        | EventKind::LastWqeReached
                )
            }),
            Self::Context(ctx) => {
                upcalls.forget(ctx, |kind| matches!(kind, EventKind::ContextFatal));
            }
        }
    }
}
