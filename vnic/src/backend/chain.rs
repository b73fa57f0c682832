// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One descriptor chain: request copied out once, reply written back.

use std::ops::Deref;

use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemory, Permissions};
use vnic_abi::status::Status;

/// Descriptors of one chain that are looked at. Drivers use two or three.
const MAX_DESCRIPTORS: usize = 64;

/// What a chain holds, taken in one pass over its descriptors.
#[derive(Debug)]
pub struct Exchange<M> {
    memory: M,
    head: u16,
    request: Result<Vec<u8>, Status>,
    reply: Vec<(GuestAddress, usize)>,
}

impl<M> Exchange<M>
where
    M: Clone + Deref,
    M::Target: GuestMemory + Sized,
{
    /// Walks `chain` once and copies its device-readable bytes, `max_request` at most.
    ///
    /// Never fails: what is wrong with the request is the result of [`request`](Self::request), and
    /// room for a reply that is not in memory does not count.
    pub fn gather(chain: DescriptorChain<M>, max_request: usize, memory: M) -> Self {
        let head = chain.head_index();
        let mut request = Vec::new();
        let mut problem = None;
        let mut reply = Vec::new();
        let mut complete = false;
        for descriptor in chain.take(MAX_DESCRIPTORS) {
            // The iterator ends alike at the end of a chain and at a broken link or a loop. Only
            // the former leaves behind a descriptor without a link.
            complete = !descriptor.has_next();
            let (address, len) = (descriptor.addr(), descriptor.len() as usize);
            if descriptor.is_write_only() {
                if memory.check_range(address, len, Permissions::Write) {
                    reply.push((address, len));
                } else {
                    problem = problem.or(Some(Status::BadAddress));
                }
                continue;
            }
            if !reply.is_empty() || request.len() + len > max_request {
                problem = problem.or(Some(Status::Malformed));
                continue;
            }
            let start = request.len();
            request.resize(start + len, 0);
            if memory.read_slice(&mut request[start..], address).is_err() {
                problem = problem.or(Some(Status::BadAddress));
            }
        }
        if !complete {
            problem = problem.or(Some(Status::Malformed));
        }
        Self { memory, head, request: problem.map_or(Ok(request), Err), reply }
    }

    /// Index by which the chain is returned to the driver.
    pub fn head(&self) -> u16 {
        self.head
    }

    /// The bytes of the request, or why there are none: `MALFORMED` for one that is too long, for a
    /// broken or endless chain and for a readable part after a writable one; `BAD_ADDRESS` for a
    /// descriptor outside memory.
    pub fn request(&self) -> Result<&[u8], Status> {
        self.request.as_deref().map_err(|&status| status)
    }

    /// Bytes of room for the reply.
    pub fn room(&self) -> usize {
        self.reply.iter().map(|&(_, len)| len).sum()
    }

    /// Writes `bytes` to the room for the reply and tells how many were written: all of them, or
    /// none if they do not fit or memory went away meanwhile.
    pub fn write_reply(&self, bytes: &[u8]) -> u32 {
        if bytes.len() > self.room() {
            return 0;
        }
        let mut rest = bytes;
        for &(address, len) in &self.reply {
            let (now, later) = rest.split_at(len.min(rest.len()));
            if self.memory.write_slice(now, address).is_err() {
                return 0;
            }
            rest = later;
        }
        bytes.len() as u32
    }
}
