// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A lane over TCP: the carrier for hosts without an RDMA device.
//!
//! Each message is sealed by the [ciphers](super::secure) of its connection. Nothing blocks: what the socket does not
//! take stays here, in bounds, and while it does there is no room for more.

use crate::wire::frame::HEADER;
use crate::wire::lane::{Lane, LaneError};
use crate::wire::secure::{Secure, TAG};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Bytes of a message, at most.
const MESSAGE: usize = HEADER + (32 << 10);
/// Bytes that wait for the socket, beyond which there is no room.
const BACKLOG: usize = 4 * MESSAGE;
/// Bytes of a length.
const LENGTH: usize = 2;

/// A lane over TCP.
pub struct TcpLane {
    secure: Secure,
    epoll: OwnedFd,
    /// The message that is being written.
    room: Box<[u8]>,
    /// Sealed messages that wait for the socket, from `sent` on.
    out: Vec<u8>,
    sent: usize,
    sealed: u64,
    /// What came from the socket, from `taken` on.
    input: Vec<u8>,
    taken: usize,
    opened: u64,
    /// The message that was opened last, until it is released.
    message: Box<[u8]>,
    len: Option<usize>,
    broken: Option<LaneError>,
}

impl TcpLane {
    /// Over a connection on which nothing was said, but `sealed` messages from here and `opened` from there.
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn new(secure: Secure, sealed: u64, opened: u64) -> io::Result<Self> {
        secure.stream.set_nonblocking(true)?;
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &secure.stream, EventData::new_u64(0), EventFlags::IN)?;
        Ok(Self {
            secure,
            epoll,
            room: vec![0; MESSAGE].into(),
            out: Vec::new(),
            sent: 0,
            sealed,
            input: Vec::new(),
            taken: 0,
            opened,
            message: vec![0; MESSAGE + TAG].into(),
            len: None,
            broken: None,
        })
    }

    fn breaks(&mut self, error: &io::Error) {
        let why = match error.kind() {
            ErrorKind::ConnectionReset | ErrorKind::BrokenPipe | ErrorKind::UnexpectedEof => {
                LaneError::Gone("it closed the connection".into())
            }
            _ => LaneError::Broken(error.to_string()),
        };
        self.broken.get_or_insert(why);
    }

    /// Opens the next message, if all of it is there.
    fn open(&mut self) -> Result<bool, LaneError> {
        let rest = &self.input[self.taken..];
        let Some((length, rest)) = rest.split_first_chunk::<LENGTH>() else { return Ok(false) };
        let length = usize::from(u16::from_le_bytes(*length));
        if length > MESSAGE + TAG {
            return Err(LaneError::Broken(format!("a message of {length} bytes")));
        }
        let Some(sealed) = rest.get(..length) else { return Ok(false) };
        let opened = self.secure.cipher.read_message(self.opened, sealed, &mut self.message);
        let opened = opened.map_err(|_| LaneError::Broken("a message was forged".into()))?;
        self.opened += 1;
        self.taken += LENGTH + length;
        self.len = Some(opened);
        Ok(true)
    }

    /// Reads what the socket has. `false` if that is nothing.
    fn read(&mut self) -> bool {
        self.input.drain(..std::mem::take(&mut self.taken));
        let before = self.input.len();
        self.input.resize(before + BACKLOG, 0);
        let read = self.secure.stream.read(&mut self.input[before..]);
        self.input.truncate(before + read.as_ref().copied().unwrap_or(0));
        match read {
            Ok(0) => self.breaks(&ErrorKind::UnexpectedEof.into()),
            Ok(_) => return true,
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => self.breaks(&error),
        }
        false
    }
}

impl Lane for TcpLane {
    fn max_message(&self) -> usize {
        MESSAGE
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        if self.out.len() - self.sent > BACKLOG {
            self.flush();
        }
        let full = self.out.len() - self.sent > BACKLOG;
        (!full && self.broken.is_none()).then_some(&mut self.room)
    }

    fn send(&mut self, len: usize) {
        let at = self.out.len();
        self.out.resize(at + LENGTH + len + TAG, 0);
        let room = &mut self.out[at + LENGTH..];
        match self.secure.cipher.write_message(self.sealed, &self.room[..len], room) {
            Ok(sealed) => {
                self.out.truncate(at + LENGTH + sealed);
                self.out[at..at + LENGTH].copy_from_slice(&(sealed as u16).to_le_bytes());
                self.sealed += 1;
            }
            Err(error) => {
                self.broken.get_or_insert(LaneError::Broken(error.to_string()));
            }
        }
    }

    fn flush(&mut self) {
        while self.sent < self.out.len() && self.broken.is_none() {
            match self.secure.stream.write(&self.out[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => self.breaks(&error),
            }
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.sent = 0;
        } else if self.sent > BACKLOG {
            self.out.drain(..std::mem::take(&mut self.sent));
        }
    }

    fn receive(&mut self) -> Result<Option<&[u8]>, LaneError> {
        while self.len.is_none() {
            match self.open() {
                Ok(true) => {}
                Ok(false) if self.broken.is_none() => {
                    if !self.read() && self.broken.is_none() {
                        return Ok(None);
                    }
                }
                Ok(false) => {
                    return Err(self.broken.clone().unwrap_or(LaneError::Gone(String::new())));
                }
                Err(why) => {
                    self.broken = Some(why.clone());
                    return Err(why);
                }
            }
        }
        Ok(self.len.map(|len| &self.message[..len]))
    }

    fn release(&mut self) {
        self.len = None;
    }

    fn arm(&mut self) {
        let mut what = EventFlags::IN;
        what.set(EventFlags::OUT, self.sent != self.out.len());
        let armed = epoll::modify(&self.epoll, &self.secure.stream, EventData::new_u64(0), what);
        if let Err(error) = armed {
            self.breaks(&error.into());
        }
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.epoll.as_fd()
    }

    fn acknowledge(&mut self) {
        let mut events = [const { std::mem::MaybeUninit::<Event>::uninit() }; 1];
        // Level-triggered: there is nothing to take note of but room.
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let _ = epoll::wait(&self.epoll, &mut events, Some(&now));
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::secure::testing::pair;
    use proptest::prelude::*;

    fn lanes() -> (TcpLane, TcpLane) {
        let (one, other) = pair();
        (TcpLane::new(one, 0, 0).unwrap(), TcpLane::new(other, 0, 0).unwrap())
    }

    fn send(lane: &mut TcpLane, message: &[u8]) -> bool {
        let Some(room) = lane.buffer() else { return false };
        room[..message.len()].copy_from_slice(message);
        lane.send(message.len());
        true
    }

    #[test]
    fn messages_arrive_whole_and_in_order_and_room_ends() {
        let (mut one, mut other) = lanes();
        let message = |n: usize| vec![n as u8; HEADER + n * 97 % (MESSAGE - HEADER)];
        let (mut sent, mut got) = (0, 0);
        let mut was_full = false;
        while got < 2000 {
            while sent < 2000 && send(&mut one, &message(sent)) {
                sent += 1;
            }
            was_full |= sent < 2000;
            one.flush();
            while let Some(found) = other.receive().unwrap() {
                assert_eq!(found, message(got));
                got += 1;
                other.release();
            }
        }
        assert!(was_full, "the sender was told to wait");
    }

    #[test]
    fn the_end_is_told_after_what_came_before_it() {
        let (mut one, mut other) = lanes();
        assert!(send(&mut one, b"last words"));
        one.flush();
        drop(one);
        assert_eq!(other.receive().unwrap(), Some(&b"last words"[..]));
        other.release();
        assert!(matches!(other.receive(), Err(LaneError::Gone(_))));
        assert!(matches!(other.receive(), Err(LaneError::Gone(_))), "and stays so");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn whatever_comes_in_place_of_messages_breaks_the_lane(bytes in prop::collection::vec(any::<u8>(), 20..200)) {
            let (one, mut other) = lanes();
            (&one.secure.stream).write_all(&bytes).unwrap();
            drop(one);
            let end = loop {
                match other.receive() {
                    Ok(Some(_)) => prop_assert!(false, "it was taken for a message"),
                    Ok(None) => {}
                    Err(end) => break end,
                }
            };
            prop_assert!(matches!(end, LaneError::Broken(_) | LaneError::Gone(_)));
        }
    }
}
