// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Driver-side data path of the Tongtu vNIC: post, poll, doorbell.
//!
//! The rdma-core provider and the process guests of the tests share this code, so that what is
//! tested without a kernel is what runs in a guest. It works on memory that the caller mapped
//! ([`vnic_abi`] says what lies where), allocates nothing and makes no system call; only a
//! [`Kick`] may, if its owner's does.
//!
//! - [`SendQueue`] and [`RecvQueue`] write work queue elements in place. They take `&mut self`: a
//!   caller with several threads puts a lock of its choice around each.
//! - [`Doorbell`] tells the device that a queue pair has new elements. It is shared freely.
//! - [`CompletionQueue`] takes completions. What they say about finished elements
//!   ([`Completion::wqe_count`]) goes to [`SendQueue::advance`] or [`RecvQueue::advance`], which
//!   make room for new ones.
//!
//! ```no_run
//! # use core::ptr::NonNull;
//! # use vnic_abi::wqe::{Opcode, WqeFlags};
//! # use vnic_verbs::*;
//! # fn post(sq: &mut SendQueue, bell: &Doorbell<MmioKick>, index: DoorbellIndex,
//! #         cq: &mut CompletionQueue) -> Result<(), PostError> {
//! let mut wqe = sq.begin(Opcode::RdmaWrite, WqeFlags::SIGNALED, 7)?;
//! wqe.remote(0x7f00_0000_1000, 0x1234);
//! wqe.inline(b"hello")?;
//! wqe.post();
//! bell.ring(index);
//! if let Some(done) = cq.take() {
//!     sq.advance(done.wqe_count);
//! }
//! cq.publish();
//! # Ok(()) }
//! ```
#![no_std]

#[cfg(test)]
extern crate std;

mod cq;
mod doorbell;
mod error;
mod fence;
mod ring;
mod rq;
mod sq;

pub use cq::{Completion, CompletionQueue};
pub use doorbell::{Doorbell, DoorbellIndex, Kick, MmioKick};
pub use error::{LayoutError, PostError};
pub use rq::RecvQueue;
pub use sq::{SendLimits, SendQueue, SendWriter};

// Wire integers are little-endian, and the words that both sides change atomically are used as they
// are; the device shares the processor's page tables, so it shares its byte order as well.
const _: () = assert!(cfg!(target_endian = "little"), "the data path needs a little-endian CPU");
