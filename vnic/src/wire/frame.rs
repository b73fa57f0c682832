// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames: what the engines of two daemons say to each other. A header of 48 bytes, then bytes of a message.
//!
//! `docs/wire.md` is the specification. A peer daemon is trusted with no more than its tenants are: every frame is
//! parsed once, here, and what a frame may do is decided by the objects that it names.

use crate::engine::request::{Atomic, Op, Remote};
use crate::port::MAX_MESSAGE;
use thiserror::Error;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a header.
pub const HEADER: usize = size_of::<Header>();

/// As it travels.
#[derive(Debug, Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Header {
    kind: u8,
    code: u8,
    flags: u8,
    reserved: u8,
    to_port: U32,
    to_qpn: U32,
    from_qpn: U32,
    connection: U32,
    seq: U32,
    offset: U32,
    total: U32,
    addr: U64,
    rkey: U32,
    imm: [u8; 4],
}

const REQUEST: u8 = 1;
const ANSWER: u8 = 2;

const SEND: u8 = 1;
const WRITE: u8 = 2;
const READ: u8 = 3;
const COMPARE_SWAP: u8 = 4;
const FETCH_ADD: u8 = 5;

const WITH_IMM: u8 = 1 << 0;
const SOLICITED: u8 = 1 << 1;

const ACK: u8 = 1;
const PAUSED: u8 = 2;
const RESUME: u8 = 3;
const RNR: u8 = 4;
const NAK: u8 = 5;
const DATA: u8 = 6;
const FORMER: u8 = 7;

/// Operands of an atomic, in place of bytes.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Operands {
    compare_add: U64,
    swap: U64,
}

/// Why a responder does not carry a request out, now or ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The queue pair does not take such a request.
    InvalidRequest,
    /// The key does not allow it.
    RemoteAccess,
    /// The responder failed for a reason of its own.
    RemoteOperation,
    /// The responder's guest did not provide a page in time.
    Late,
}

impl Refusal {
    const ALL: [Self; 4] =
        [Self::InvalidRequest, Self::RemoteAccess, Self::RemoteOperation, Self::Late];

    fn code(self) -> u32 {
        Self::ALL.iter().position(|known| *known == self).map_or(0, |index| index as u32 + 1)
    }

    fn from_code(code: u32) -> Option<Self> {
        Self::ALL.get((code as usize).checked_sub(1)?).copied()
    }
}

/// Part of a request, or all of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Port of the responder, by the number that its daemon announced.
    pub to_port: u32,
    /// Queue pair of the responder.
    pub to_qpn: u32,
    /// Queue pair of the requester.
    pub from_qpn: u32,
    /// Number of the requester's connection: another one has another.
    pub connection: u32,
    /// Number of the request in its connection, modulo 2^32.
    pub seq: u32,
    /// Where in the message `bytes` begin; of a READ: from where on it is wanted.
    pub offset: u32,
    /// Bytes of the whole message.
    pub total: u32,
    /// What to do.
    pub op: Op,
    /// Immediate data.
    pub imm: Option<[u8; 4]>,
    /// The receiver's completion is a solicited one.
    pub solicited: bool,
    /// Bytes of the message, for SEND and WRITE.
    pub bytes: &'a [u8],
}

/// What a responder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What<'a> {
    /// Everything up to and with this request is done.
    Ack,
    /// The request waits for a page; it and all behind it were dropped, and will be asked for again.
    Paused,
    /// Send this request again from this byte on, and all that follow; everything before it is done.
    Resume(u32),
    /// There is no receive element for the request: the same again after so many microseconds, or at a
    /// [`Self::Resume`].
    Rnr(u32),
    /// The request is refused; everything before it is done.
    Refused(Refusal),
    /// Bytes that a READ asked for; with the last of them everything up to it is done.
    Data {
        /// Where in the message they belong.
        offset: u32,
        /// The bytes.
        bytes: &'a [u8],
    },
    /// What was there before an atomic; everything up to it is done.
    Former(u64),
}

/// An answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Queue pair of the requester.
    pub to_qpn: u32,
    /// Queue pair of the responder.
    pub from_qpn: u32,
    /// Connection as in the request.
    pub connection: u32,
    /// Number of the request.
    pub seq: u32,
    /// The answer.
    pub what: What<'a>,
}

/// A frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Of a requester.
    Request(Request<'a>),
    /// Of a responder.
    Answer(Answer<'a>),
}

/// A frame that no daemon of this version sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the peer sent a frame of {len} bytes that means nothing (kind {kind}, code {code})")]
pub struct BadFrame {
    len: usize,
    kind: u8,
    code: u8,
}

impl<'a> Frame<'a> {
    /// Parses a frame.
    ///
    /// # Errors
    ///
    /// [`BadFrame`] if it is too short, or a field has a value that means nothing.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, BadFrame> {
        let bad = BadFrame { len: bytes.len(), kind: 0, code: 0 };
        let (head, rest) = Header::ref_from_prefix(bytes).map_err(|_| bad)?;
        let bad = BadFrame { kind: head.kind, code: head.code, ..bad };
        if head.reserved != 0 {
            return Err(bad);
        }
        match head.kind {
            REQUEST => request(head, rest).map(Frame::Request),
            ANSWER => answer(head, rest).map(Frame::Answer),
            _ => None,
        }
        .ok_or(bad)
    }
}

fn request<'a>(head: &Header, rest: &'a [u8]) -> Option<Request<'a>> {
    let remote = Remote { addr: head.addr.get(), rkey: head.rkey.get() };
    let (offset, total) = (head.offset.get(), head.total.get());
    if head.flags & !(WITH_IMM | SOLICITED) != 0 || total > MAX_MESSAGE || offset > total {
        return None;
    }
    let with_imm = head.flags & WITH_IMM != 0;
    let (op, bytes) = match head.code {
        SEND => (Op::Send, rest),
        WRITE => (Op::Write(remote), rest),
        READ => (Op::Read(remote), rest),
        COMPARE_SWAP | FETCH_ADD => {
            let operands = Operands::ref_from_bytes(rest).ok()?;
            let operand = operands.compare_add.get();
            let what = if head.code == COMPARE_SWAP {
                Atomic::CompareSwap { compare: operand, swap: operands.swap.get() }
            } else {
                Atomic::FetchAdd(operand)
            };
            (Op::Atomic(remote, what), &[][..])
        }
        _ => return None,
    };
    let len = bytes.len() as u64;
    let sends = matches!(op, Op::Send | Op::Write(_));
    let fits = match op {
        // Something of it, or nothing where it ends: all of nothing, or what waits for a receive element behind its bytes.
        Op::Send | Op::Write(_) => {
            u64::from(offset) + len <= total.into() && (len != 0 || offset == total)
        }
        Op::Read(_) => len == 0,
        Op::Atomic(..) => total == 8 && offset == 0,
    };
    if !fits || (with_imm && !sends) {
        return None;
    }
    Some(Request {
        to_port: head.to_port.get(),
        to_qpn: head.to_qpn.get(),
        from_qpn: head.from_qpn.get(),
        connection: head.connection.get(),
        seq: head.seq.get(),
        offset,
        total,
        op,
        imm: with_imm.then_some(head.imm),
        solicited: head.flags & SOLICITED != 0,
        bytes,
    })
}

fn answer<'a>(head: &Header, rest: &'a [u8]) -> Option<Answer<'a>> {
    let empty = |what| rest.is_empty().then_some(what);
    let what = match head.code {
        ACK => empty(What::Ack),
        PAUSED => empty(What::Paused),
        RESUME => empty(What::Resume(head.offset.get())),
        RNR => empty(What::Rnr(head.total.get())),
        NAK => empty(What::Refused(Refusal::from_code(head.total.get())?)),
        DATA => Some(What::Data { offset: head.offset.get(), bytes: rest }),
        FORMER => Some(What::Former(U64::ref_from_bytes(rest).ok()?.get())),
        _ => None,
    }?;
    Some(Answer {
        to_qpn: head.to_qpn.get(),
        from_qpn: head.from_qpn.get(),
        connection: head.connection.get(),
        seq: head.seq.get(),
        what,
    })
}

impl Request<'_> {
    /// Writes all but the bytes to the front of `room`, which has [`HEADER`] bytes and 16 more. Returns how many bytes
    /// that are: what comes behind them is the message's.
    pub fn write_head(&self, room: &mut [u8]) -> usize {
        let (code, remote, operands) = match self.op {
            Op::Send => (SEND, None, None),
            Op::Write(remote) => (WRITE, Some(remote), None),
            Op::Read(remote) => (READ, Some(remote), None),
            Op::Atomic(remote, Atomic::CompareSwap { compare, swap }) => {
                (COMPARE_SWAP, Some(remote), Some((compare, swap)))
            }
            Op::Atomic(remote, Atomic::FetchAdd(add)) => (FETCH_ADD, Some(remote), Some((add, 0))),
        };
        let imm_flag = if self.imm.is_some() { WITH_IMM } else { 0 };
        let head = Header {
            kind: REQUEST,
            code,
            flags: imm_flag | if self.solicited { SOLICITED } else { 0 },
            reserved: 0,
            to_port: self.to_port.into(),
            to_qpn: self.to_qpn.into(),
            from_qpn: self.from_qpn.into(),
            connection: self.connection.into(),
            seq: self.seq.into(),
            offset: self.offset.into(),
            total: self.total.into(),
            addr: remote.map_or(0, |remote| remote.addr).into(),
            rkey: remote.map_or(0, |remote| remote.rkey).into(),
            imm: self.imm.unwrap_or_default(),
        };
        let mut len = put(room, 0, head.as_bytes());
        if let Some((compare_add, swap)) = operands {
            let operands = Operands { compare_add: compare_add.into(), swap: swap.into() };
            len = put(room, len, operands.as_bytes());
        }
        len
    }
}

impl Answer<'_> {
    /// Writes all but the bytes of [`What::Data`] to the front of `room`. Returns how many bytes that are.
    pub fn write_head(&self, room: &mut [u8]) -> usize {
        let (code, offset, total) = match self.what {
            What::Ack => (ACK, 0, 0),
            What::Paused => (PAUSED, 0, 0),
            What::Resume(offset) => (RESUME, offset, 0),
            What::Rnr(delay) => (RNR, 0, delay),
            What::Refused(why) => (NAK, 0, why.code()),
            What::Data { offset, .. } => (DATA, offset, 0),
            What::Former(_) => (FORMER, 0, 0),
        };
        let head = Header {
            kind: ANSWER,
            code,
            to_qpn: self.to_qpn.into(),
            from_qpn: self.from_qpn.into(),
            connection: self.connection.into(),
            seq: self.seq.into(),
            offset: offset.into(),
            total: total.into(),
            ..Header::default()
        };
        let len = put(room, 0, head.as_bytes());
        match self.what {
            What::Former(word) => put(room, len, U64::new(word).as_bytes()),
            _ => len,
        }
    }
}

/// Puts `bytes` at `at`; returns where they end.
fn put(room: &mut [u8], at: usize, bytes: &[u8]) -> usize {
    room[at..at + bytes.len()].copy_from_slice(bytes);
    at + bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn write(frame: &Frame<'_>) -> Vec<u8> {
        let mut room = vec![0; 256];
        let (len, bytes) = match frame {
            Frame::Request(request) => (request.write_head(&mut room), request.bytes),
            Frame::Answer(answer) => {
                let bytes = if let What::Data { bytes, .. } = answer.what { bytes } else { &[] };
                (answer.write_head(&mut room), bytes)
            }
        };
        room.truncate(len);
        room.extend(bytes);
        room
    }

    fn op() -> impl Strategy<Value = Op> {
        let remote = (any::<u64>(), any::<u32>()).prop_map(|(addr, rkey)| Remote { addr, rkey });
        prop_oneof![
            Just(Op::Send),
            remote.clone().prop_map(Op::Write),
            remote.clone().prop_map(Op::Read),
            (remote.clone(), any::<u64>(), any::<u64>()).prop_map(|(remote, compare, swap)| {
                Op::Atomic(remote, Atomic::CompareSwap { compare, swap })
            }),
            (remote, any::<u64>())
                .prop_map(|(remote, add)| Op::Atomic(remote, Atomic::FetchAdd(add))),
        ]
    }

    proptest! {
        #[test]
        fn a_request_is_read_as_it_was_written(
            op in op(), numbers: [u32; 5], before in 0u32..1000, behind in 0u32..1000, imm: Option<[u8; 4]>,
            solicited: bool, bytes in prop::collection::vec(any::<u8>(), 1..100),
        ) {
            let [to_port, to_qpn, from_qpn, connection, seq] = numbers;
            let sends = matches!(op, Op::Send | Op::Write(_));
            let bytes = if sends { &bytes[..] } else { &[] };
            let (offset, total) = match op {
                Op::Atomic(..) => (0, 8),
                _ => (before, before + behind + bytes.len() as u32),
            };
            let imm = imm.filter(|_| sends);
            let request = Frame::Request(Request {
                to_port, to_qpn, from_qpn, connection, seq, offset, total, op, imm, solicited, bytes,
            });
            let written = write(&request);
            prop_assert_eq!(Frame::parse(&written), Ok(request));
        }

        #[test]
        fn an_answer_is_read_as_it_was_written(numbers: [u32; 5], which in 0usize..10, word: u64, bytes: Vec<u8>) {
            let [to_qpn, from_qpn, connection, seq, number] = numbers;
            let what = match which {
                0 => What::Ack,
                1 => What::Paused,
                2 => What::Resume(number),
                3 => What::Rnr(number),
                4 => What::Data { offset: number, bytes: &bytes },
                5 => What::Former(word),
                other => What::Refused(Refusal::ALL[other - 6]),
            };
            let answer = Frame::Answer(Answer { to_qpn, from_qpn, connection, seq, what });
            let written = write(&answer);
            prop_assert_eq!(Frame::parse(&written), Ok(answer));
        }

        #[test]
        fn whatever_is_read_stays_in_the_bounds_of_its_message(
            bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0u8..4, code in 0u8..9, flags in 0u8..5,
            offset in 0u32..64, total in 0u32..64, clean: bool,
        ) {
            let mut bytes = bytes;
            if clean && bytes.len() >= HEADER {
                bytes[..4].copy_from_slice(&[kind, code, flags, 0]);
                bytes[24..28].copy_from_slice(&offset.to_le_bytes());
                bytes[28..32].copy_from_slice(&total.to_le_bytes());
            }
            if let Ok(Frame::Request(request)) = Frame::parse(&bytes) {
                prop_assert!(request.total <= MAX_MESSAGE);
                prop_assert!(request.offset as usize + request.bytes.len() <= request.total as usize);
            }
        }
    }
}
