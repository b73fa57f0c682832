// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a device of the host has to be able to do, so that its queue pairs stand behind those of guests.
//!
//! The engine knows no more of it than this: libibverbs is behind [`verbs`](super::verbs), and a device of tests is
//! behind the same traits.

use crate::engine::request::Op;
use crate::object::gid::Gid;
use std::fmt::Debug;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use vnic_abi::cqe::{WcOpcode, WcStatus};
use vnic_abi::ctrl::{AccessFlags, QpAttr, QpAttrMask, QpState};

/// What queue pairs of a device may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NicLimits {
    /// Gather or scatter entries of one request.
    pub max_sge: u32,
    /// Elements of one queue.
    pub max_depth: u32,
    /// READs and atomics outstanding, as requester and as responder.
    pub max_rd_atomic: u32,
    /// Inline bytes of one request.
    pub max_inline: u32,
    /// Active MTU as verbs number it.
    pub mtu: u8,
}

/// An RDMA device of the host.
pub trait Nic: Send + Sync + Debug {
    /// Its name.
    fn name(&self) -> &str;

    /// What its queue pairs may have.
    fn limits(&self) -> NicLimits;

    /// Index of the address by which a guest with address `gid` sends; `None` if the device does not have it.
    fn source(&self, gid: &Gid) -> Option<u8>;

    /// Gives the device an address of a guest, if addresses of guests are to be its own.
    ///
    /// # Errors
    ///
    /// Those of the operating system; also if the host has that address already.
    fn add_address(&self, gid: &Gid) -> io::Result<()>;

    /// Takes it away again.
    fn remove_address(&self, gid: &Gid);

    /// Makes a protection domain.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn pd(&self) -> io::Result<Arc<dyn NicPd>>;

    /// What becomes readable when an armed queue pair of `worker` has completions.
    fn event(&self, worker: usize) -> BorrowedFd<'_>;

    /// Takes what made it readable; `each` gets the numbers of the queue pairs that are not armed any more.
    fn take_events(&self, worker: usize, each: &mut dyn FnMut(u32));

    /// Why pages have to stay where they are for it; `None` if they need not.
    fn pins(&self) -> Option<&str>;

    /// Whether it was removed, or has failed for good.
    fn is_lost(&self) -> bool;
}

/// A protection domain of the host.
pub trait NicPd: Send + Sync + Debug {
    /// Registers `len` bytes at `addr` of this process, which peers know by the address `iova`. They are mapped until
    /// what it returns is dropped. If `on_demand`, pages may come when they are needed, and may go.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn register(
        &self,
        addr: *mut u8,
        len: u64,
        iova: u64,
        access: AccessFlags,
        on_demand: bool,
    ) -> io::Result<Box<dyn NicMr>>;

    /// Makes a reliably connected queue pair in the state RESET, with completion events for `worker`.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn qp(&self, worker: usize, sends: u32, receives: u32) -> io::Result<Arc<dyn NicQp>>;
}

/// A memory region of the host, until it is dropped.
pub trait NicMr: Send + Sync + Debug {
    /// For its own queue pairs.
    fn lkey(&self) -> u32;
    /// For peers.
    fn rkey(&self) -> u32;
}

/// A range of registered memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// Address as the region knows it.
    pub addr: u64,
    /// Bytes.
    pub len: u32,
    /// The host's key.
    pub lkey: u32,
}

/// The bytes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Here.
    Inline(&'a [u8]),
    /// In registered memory.
    Ranges(&'a [Range]),
}

/// A send request, which completes whatever becomes of it.
#[derive(Debug, Clone, Copy)]
pub struct Work<'a> {
    /// What its completion says.
    pub id: u64,
    /// What to do.
    pub op: Op,
    /// Immediate data.
    pub imm: Option<[u8; 4]>,
    /// The receiver's completion is a solicited one.
    pub solicited: bool,
    /// It begins when the READs and atomics before it are done.
    pub fenced: bool,
    /// Its bytes, or where they go.
    pub payload: Payload<'a>,
}

/// A completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Done {
    /// What the work was posted with.
    pub id: u64,
    /// How it ended.
    pub status: WcStatus,
    /// Of a receive that succeeded: what it was.
    pub opcode: WcOpcode,
    /// Of a receive that succeeded: bytes of the message.
    pub bytes: u32,
    /// Of a receive that succeeded: immediate data.
    pub imm: Option<[u8; 4]>,
}

/// Why work was not posted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotPosted {
    /// There is no room before something completes.
    Full,
    /// The device does not take it.
    Refused,
}

/// A queue pair of the host. Destroyed when it is dropped, from when on no memory is touched for it.
pub trait NicQp: Send + Sync + Debug {
    /// Its number (24 bits), by which peers know it.
    fn number(&self) -> u32;

    /// Changes its state to `to`, and the attributes that `mask` names. `source` is the index of the sender's address. May
    /// take as long as it takes to find the way to a peer.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn modify(&self, to: QpState, mask: QpAttrMask, attr: &QpAttr, source: u8) -> io::Result<()>;

    /// Posts a send request.
    ///
    /// # Errors
    ///
    /// [`NotPosted`].
    fn send(&self, work: &Work<'_>) -> Result<(), NotPosted>;

    /// Posts a receive.
    ///
    /// # Errors
    ///
    /// [`NotPosted`].
    fn receive(&self, id: u64, ranges: &[Range]) -> Result<(), NotPosted>;

    /// Takes completions, some at a time; `each` gets them in order. How many.
    ///
    /// # Errors
    ///
    /// Those of the device.
    fn poll(&self, each: &mut dyn FnMut(Done)) -> io::Result<usize>;

    /// Has the next completion make [`Nic::event`] readable.
    fn arm(&self);
}
