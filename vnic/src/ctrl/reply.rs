// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The bytes that answer a command.

use vnic_abi::ctrl::{Counters, QpAttr, ReplyHeader};
use vnic_abi::status::Status;
use zerocopy::{Immutable, IntoBytes};

const HEADER: usize = size_of::<ReplyHeader>();
const CAPACITY: usize = HEADER + 64;
const _: () = assert!(size_of::<QpAttr>() <= CAPACITY - HEADER);
const _: () = assert!(size_of::<Counters>() <= CAPACITY - HEADER);

/// A reply: a header with the status and, if that is `OK`, the structure of the opcode.
#[derive(Debug, Clone)]
pub struct Reply {
    bytes: [u8; CAPACITY],
    len: usize,
    status: Status,
}

impl Reply {
    /// A reply that tells a status and nothing else.
    pub fn status_only(status: Status) -> Self {
        let mut reply = Self { bytes: [0; CAPACITY], len: HEADER, status };
        let header = ReplyHeader { status: status.0.into(), reserved: 0.into() };
        reply.bytes[..HEADER].copy_from_slice(header.as_bytes());
        reply
    }

    /// Success, with the structure of the opcode.
    pub fn with<T: IntoBytes + Immutable>(body: &T) -> Self {
        let mut reply = Self::status_only(Status::Ok);
        let body = body.as_bytes();
        reply.bytes[HEADER..HEADER + body.len()].copy_from_slice(body);
        reply.len = HEADER + body.len();
        reply
    }

    /// What goes to the driver.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// How the command ended.
    pub fn status(&self) -> Status {
        self.status
    }
}

impl From<Result<(), Status>> for Reply {
    fn from(result: Result<(), Status>) -> Self {
        Self::status_only(result.err().unwrap_or(Status::Ok))
    }
}
