// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests see is compared with what they have to see.

use super::super::guest::Guest;
use super::Pair;
use super::end::{Posted, READ, RECEIVED, SLOT, WRITTEN, source};
use vnic_abi::cqe::{Cqe, CqeFlags, WcOpcode, WcStatus};
use vnic_abi::event::EventKind;
use vnic_abi::wqe::Opcode;

impl Pair {
    /// Takes completions and events of both guests, and demands that they are those that have to come.
    pub(super) fn look(&mut self) {
        for index in 0..2 {
            while let Some(cqe) = self.0[index].guest.poll() {
                assert_eq!(cqe.status, WcStatus::Success.0, "{cqe:?}");
                if matches!(WcOpcode(cqe.opcode), WcOpcode::Recv | WcOpcode::RecvRdmaWithImm) {
                    self.received(index, &cqe);
                } else {
                    self.sent(index, &cqe);
                }
            }
            for event in self.0[index].guest.events() {
                let kind = EventKind(event.kind.get());
                let fine = matches!(kind, EventKind::Completion | EventKind::CommEstablished);
                assert!(fine, "{event:?}");
            }
        }
    }

    /// A request is done, and all before it that are not told of.
    fn sent(&mut self, index: usize, cqe: &Cqe) {
        loop {
            let posted = self.0[index].sending.pop_front().expect("a completion of nothing");
            self.done(index, &posted);
            if u64::from(posted.number) == cqe.wr_id.get() {
                assert!(posted.signaled, "nobody asked for {cqe:?}");
                return;
            }
            assert!(!posted.signaled, "{posted:?} has no completion");
        }
    }

    fn done(&mut self, index: usize, posted: &Posted) {
        let len = posted.len as usize;
        let wanted = |end: usize| {
            (0..posted.len).map(|at| source(end, posted.from + at)).collect::<Vec<_>>()
        };
        let (own, peer) = (&self.0[index].guest, &self.0[1 - index].guest);
        match posted.opcode {
            Opcode::RdmaWrite | Opcode::RdmaWriteWithImm => {
                let at = posted.slot(WRITTEN);
                assert!(peer.read(at, len) == wanted(index), "{posted:?}");
                peer.write(at, &vec![0; len]);
            }
            Opcode::RdmaRead => {
                let at = posted.slot(READ);
                assert!(own.read(at, len) == wanted(1 - index), "{posted:?}");
                own.write(at, &vec![0; len]);
            }
            Opcode::AtomicFetchAdd => {
                let at = posted.slot(READ);
                let former = own.read(at, 8);
                assert_eq!(former, self.0[index].counted.to_le_bytes(), "{posted:?}");
                own.write(at, &[0; 8]);
                self.0[index].counted += 1;
            }
            _ => {}
        }
    }

    fn received(&mut self, index: usize, cqe: &Cqe) {
        let end = &mut self.0[index];
        let expected = end.expected.pop_front().expect("a message that nobody sent");
        let slot = end.receiving.pop_front().expect("a receive that nobody posted");
        assert_eq!(cqe.wr_id.get(), u64::from(slot));
        assert_eq!(u64::from(cqe.byte_len.get()), expected.len, "{expected:?}");
        let flags = CqeFlags::from_bits_retain(cqe.flags);
        let imm = flags.contains(CqeFlags::WITH_IMM).then_some(cqe.imm);
        assert_eq!(imm, expected.imm, "{expected:?}");
        let at = RECEIVED + u64::from(slot) * SLOT;
        if !expected.in_slot {
            return blank(&end.guest, at, SLOT);
        }
        let len = expected.len as usize;
        let wanted = (0..expected.len).map(|at| source(1 - index, expected.from + at));
        assert!(end.guest.read(at, len) == wanted.collect::<Vec<_>>(), "{expected:?}");
        end.guest.write(at, &vec![0; len]);
        blank(&end.guest, at, SLOT);
    }
}

/// Nothing is where nobody has put anything.
#[track_caller]
pub(super) fn blank(guest: &Guest, at: u64, len: u64) {
    let bytes = guest.read(at, len as usize);
    let first = bytes.iter().position(|byte| *byte != 0);
    assert_eq!(first, None, "bytes behind {at:#x} that nobody put there");
}
