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

/// Help for unit tests of this crate.
#[cfg(any(test, fuzzing))]
pub mod testing {
    use super::*;
    use std::collections::VecDeque;
    use std::os::fd::{AsFd, OwnedFd};
    use std::sync::Arc;

    use parking_lot::Mutex;

    #[derive(Default)]
    struct Ends {
        sent: VecDeque<Vec<u8>>,
        said: VecDeque<Vec<u8>>,
        room: usize,
    }

    /// A lane whose other end is the test's.
    pub struct MemoryLane {
        ends: Arc<Mutex<Ends>>,
        room: Vec<u8>,
        message: Option<Vec<u8>>,
        event: OwnedFd,
    }

    /// The other end of a [`MemoryLane`].
    pub struct Far(Arc<Mutex<Ends>>);

    impl MemoryLane {
        /// A lane with room for so many messages, and its other end.
        pub fn new(room: usize) -> (Self, Far) {
            let ends = Arc::new(Mutex::new(Ends { room, ..Ends::default() }));
            let event = rustix::event::eventfd(0, rustix::event::EventfdFlags::empty()).unwrap();
            (Self { ends: ends.clone(), room: vec![0; 4096], message: None, event }, Far(ends))
        }
    }

    impl Far {
        /// Takes what was sent.
        pub fn take(&self) -> Vec<Vec<u8>> {
            self.0.lock().sent.drain(..).collect()
        }

        /// Gives room for so many messages more.
        pub fn give_room(&self, messages: usize) {
            self.0.lock().room += messages;
        }

        /// Sends a message.
        pub fn say(&self, message: &[u8]) {
            self.0.lock().said.push_back(message.to_vec());
        }
    }

    impl Lane for MemoryLane {
        fn max_message(&self) -> usize {
            self.room.len()
        }

        fn buffer(&mut self) -> Option<&mut [u8]> {
            (self.ends.lock().room > 0).then_some(&mut self.room)
        }

        fn send(&mut self, len: usize) {
            let mut ends = self.ends.lock();
            ends.room -= 1;
            ends.sent.push_back(self.room[..len].to_vec());
        }

        fn flush(&mut self) {}

        fn receive(&mut self) -> Result<Option<&[u8]>, LaneError> {
            if self.message.is_none() {
                self.message = self.ends.lock().said.pop_front();
            }
            Ok(self.message.as_deref())
        }

        fn release(&mut self) {
            self.message = None;
        }

        fn arm(&mut self) {}

        fn event(&self) -> BorrowedFd<'_> {
            self.event.as_fd()
        }

        fn acknowledge(&mut self) {}
    }
}
