// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Send work requests.

use vnic_abi::wqe::{Opcode, Sge, WqeFlags};

/// A send work request. Signalled unless told otherwise.
#[derive(Debug, Clone)]
pub struct SendWr {
    /// Operation.
    pub opcode: Opcode,
    /// Flags.
    pub flags: WqeFlags,
    /// Returned in the completion.
    pub wr_id: u64,
    /// Immediate data.
    pub imm: [u8; 4],
    /// Remote address and key.
    pub remote: (u64, u32),
    /// Operands of an atomic: what to add or compare with, and what to store.
    pub operands: Option<(u64, u64)>,
    /// Gather entries, if `inline` is `None`.
    pub sges: Vec<Sge>,
    /// Payload in the request itself.
    pub inline: Option<Vec<u8>>,
}

impl SendWr {
    /// A request of `opcode` with gather entries.
    pub fn new(opcode: Opcode, sges: &[Sge]) -> Self {
        Self {
            opcode,
            flags: WqeFlags::SIGNALED,
            wr_id: 0,
            imm: [0; 4],
            remote: (0, 0),
            operands: None,
            sges: sges.to_vec(),
            inline: None,
        }
    }

    /// SEND.
    pub fn send(sges: &[Sge]) -> Self {
        Self::new(Opcode::Send, sges)
    }

    /// RDMA WRITE to `addr` under `rkey`.
    pub fn write(sges: &[Sge], addr: u64, rkey: u32) -> Self {
        Self { remote: (addr, rkey), ..Self::new(Opcode::RdmaWrite, sges) }
    }

    /// RDMA READ from `addr` under `rkey`.
    pub fn read(sges: &[Sge], addr: u64, rkey: u32) -> Self {
        Self { remote: (addr, rkey), ..Self::new(Opcode::RdmaRead, sges) }
    }

    /// FETCH AND ADD of `add` to the 8 bytes at `addr` under `rkey`.
    pub fn fetch_add(sges: &[Sge], addr: u64, rkey: u32, add: u64) -> Self {
        let base = Self::new(Opcode::AtomicFetchAdd, sges);
        Self { remote: (addr, rkey), operands: Some((add, 0)), ..base }
    }

    /// COMPARE AND SWAP of the 8 bytes at `addr` under `rkey`.
    pub fn compare_swap(sges: &[Sge], addr: u64, rkey: u32, compare: u64, swap: u64) -> Self {
        let base = Self::new(Opcode::AtomicCmpSwap, sges);
        Self { remote: (addr, rkey), operands: Some((compare, swap)), ..base }
    }

    /// Adds immediate data: SEND and RDMA WRITE become those with immediate data.
    #[must_use]
    pub fn imm(mut self, imm: [u8; 4]) -> Self {
        self.imm = imm;
        self.opcode = match self.opcode {
            Opcode::Send => Opcode::SendWithImm,
            Opcode::RdmaWrite => Opcode::RdmaWriteWithImm,
            other => other,
        };
        self
    }

    /// Sets the id.
    #[must_use]
    pub fn id(mut self, wr_id: u64) -> Self {
        self.wr_id = wr_id;
        self
    }

    /// Takes the payload from the request itself.
    #[must_use]
    pub fn inline(mut self, bytes: &[u8]) -> Self {
        self.inline = Some(bytes.to_vec());
        self
    }

    /// Success does not complete.
    #[must_use]
    pub fn unsignaled(mut self) -> Self {
        self.flags -= WqeFlags::SIGNALED;
        self
    }

    /// The receiver's completion is a solicited one.
    #[must_use]
    pub fn solicited(mut self) -> Self {
        self.flags |= WqeFlags::SOLICITED;
        self
    }

    /// Waits for earlier READs.
    #[must_use]
    pub fn fenced(mut self) -> Self {
        self.flags |= WqeFlags::FENCE;
        self
    }
}
