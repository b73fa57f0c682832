// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests of every kind, each with places of its own.

use super::super::Script;
use super::super::guest::DEPTH;
use super::Pair;
use super::end::{
    BEFORE, COUNTER, Expected, Posted, READ, SLOT, SLOTS, SOURCE, SOURCE_LEN, WRITTEN,
};
use super::look::blank;
use vnic_abi::wqe::{AtomicWqe, Opcode, SendWqe, WqeFlags};
use zerocopy::IntoBytes;

impl Pair {
    /// Posts a request as the script says, if there is room for one.
    pub(super) fn post(&mut self, index: usize, script: &mut Script<'_>) {
        let [one, other] = &mut self.0;
        let (end, peer) = if index == 0 { (one, other) } else { (other, one) };
        if end.sending.len() as u32 >= DEPTH {
            return;
        }
        let opcode = match script.or_zero() % 8 {
            0 => Opcode::Send,
            1 => Opcode::SendWithImm,
            2 | 3 => Opcode::RdmaWrite,
            4 => Opcode::RdmaWriteWithImm,
            5 | 6 => Opcode::RdmaRead,
            _ => Opcode::AtomicFetchAdd,
        };
        let how = script.or_zero();
        let mut posted = Posted {
            opcode,
            number: end.number,
            from: script.below(SOURCE_LEN - SLOT),
            before: u64::from(how) % BEFORE,
            len: script.below(if how & 0x80 == 0 { 200 } else { SLOT - BEFORE + 1 }),
            // A driver has no other way to learn of room.
            signaled: how & 0x40 == 0 || end.sending.len() as u32 == DEPTH - 1,
        };
        let imm = posted.number.to_le_bytes();
        let written = posted.slot(WRITTEN);
        let (local, remote) = match opcode {
            Opcode::RdmaRead => (posted.slot(READ), SOURCE + posted.from),
            Opcode::AtomicFetchAdd => {
                (posted.before, posted.len) = (0, 8);
                (posted.slot(READ), COUNTER)
            }
            _ => (SOURCE + posted.from, written),
        };
        if matches!(opcode, Opcode::RdmaWrite | Opcode::RdmaWriteWithImm) {
            blank(&peer.guest, WRITTEN + u64::from(posted.number % SLOTS) * SLOT, SLOT);
        }
        let rkey = if matches!(opcode, Opcode::Send | Opcode::SendWithImm) {
            (0, 0)
        } else {
            (peer.guest.key, remote)
        };
        let mut flags = WqeFlags::empty();
        flags.set(WqeFlags::SIGNALED, posted.signaled);
        flags.set(WqeFlags::FENCE, how & 0x20 != 0);
        let with_imm = matches!(opcode, Opcode::SendWithImm | Opcode::RdmaWriteWithImm);
        let head = SendWqe {
            opcode: opcode.0,
            flags: flags.bits(),
            num_sge: 1,
            wr_id: u64::from(posted.number).into(),
            imm: if with_imm { imm } else { [0; 4] },
            rkey: rkey.0.into(),
            remote_addr: rkey.1.into(),
            ..SendWqe::default()
        };
        let sge = end.sge(local, posted.len);
        let element = if opcode == Opcode::AtomicFetchAdd {
            let head = AtomicWqe { base: head, compare_add: 1.into(), swap: 0.into() };
            [head.as_bytes(), sge.as_bytes()].concat()
        } else {
            [head.as_bytes(), sge.as_bytes()].concat()
        };
        let in_slot = matches!(opcode, Opcode::Send | Opcode::SendWithImm);
        if in_slot || with_imm {
            let imm = with_imm.then_some(imm);
            let Posted { from, len, .. } = posted;
            peer.expected.push_back(Expected { from, len, in_slot, imm });
        }
        end.guest.post_send(&element);
        end.number += 1;
        end.sending.push_back(posted);
    }
}
