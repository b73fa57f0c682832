// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A lane: what a carrier offers, and all that the relay asks of one.

use std::os::fd::BorrowedFd;
use thiserror::Error;

/// Why a lane carries nothing any more.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LaneError {
    /// The other end closed it, or is gone.
    #[error("the peer is gone: {0}")]
    Gone(String),
    /// The device or the peer did something that a lane does not do.
    #[error("the lane broke: {0}")]
    Broken(String),
}

/// A channel of messages between a worker here and one of a peer daemon.
///
/// Messages arrive whole, once, and in order, or the lane breaks. They are written into and read from the lane's
/// own staging rings, the only memory that a device of the host has to know. Nothing here blocks.
pub trait Lane: Send {
    /// Most bytes of a message.
    fn max_message(&self) -> usize;

    /// Room for the next message, if the peer has room for it too: [`Self::max_message`] bytes, with whatever was
    /// in them before. `None` for now if it has not, or for ever if the lane broke.
    fn buffer(&mut self) -> Option<&mut [u8]>;

    /// Sends the first `len` bytes of the room, which is taken then. Before [`Self::flush`] it may not leave.
    fn send(&mut self, len: usize);

    /// Lets everything leave that was sent.
    fn flush(&mut self);

    /// The oldest message that arrived and was not [released](Self::release), without waiting for one. The peer's
    /// bytes are not trusted, but do not change any more.
    ///
    /// # Errors
    ///
    /// [`LaneError`] once the lane has broken and everything that arrived before was released.
    fn receive(&mut self) -> Result<Option<&[u8]>, LaneError>;

    /// Done with the oldest message; its room is the peer's again.
    fn release(&mut self);

    /// Asks for the file of [`Self::event`] to become readable when something happens after this: a message arrives, there
    /// is room again, or the lane breaks. What happened before may not count: look once more before going to sleep.
    fn arm(&mut self);

    /// Becomes readable after [`Self::arm`]; only for waiting.
    fn event(&self) -> BorrowedFd<'_>;

    /// Takes note that [`Self::event`] was readable.
    fn acknowledge(&mut self);
}
