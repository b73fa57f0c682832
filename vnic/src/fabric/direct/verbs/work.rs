// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Requests and completions of a queue pair of the host.

use super::pair::Pair;
use crate::engine::request::{Atomic, Op};
use crate::fabric::direct::nic::{Done, NotPosted, Payload, Range, Work};
use crate::ring::rq::MAX_SGE;
use rdma_sys as ib;
use rustix::io::Errno;
use smallvec::SmallVec;
use std::io;
use std::ptr::null_mut;
use vnic_abi::cqe::{WcOpcode, WcStatus};

/// Completions that are taken at one time.
const POLL: usize = 16;

fn list(ranges: &[Range]) -> SmallVec<[ib::ibv_sge; MAX_SGE]> {
    let sge = |range: &Range| ib::ibv_sge { addr: range.addr, length: range.len, lkey: range.lkey };
    ranges.iter().map(sge).collect()
}

fn posted(failed: i32) -> Result<(), NotPosted> {
    match failed.abs() {
        0 => Ok(()),
        number if number == Errno::NOMEM.raw_os_error() => Err(NotPosted::Full),
        _ => Err(NotPosted::Refused),
    }
}

impl Pair {
    /// As [`NicQp::send`](crate::fabric::direct::nic::NicQp::send).
    pub(super) fn post_send(&self, work: &Work<'_>) -> Result<(), NotPosted> {
        use ib::ibv_send_flags as F;
        use ib::ibv_wr_opcode as O;
        let mut flags = F::IBV_SEND_SIGNALED.0;
        for (flag, is_set) in [
            (F::IBV_SEND_SOLICITED, work.solicited),
            (F::IBV_SEND_FENCE, work.fenced),
            (F::IBV_SEND_INLINE, matches!(work.payload, Payload::Inline(_))),
        ] {
            if is_set {
                flags |= flag.0;
            }
        }
        let mut sges = match work.payload {
            Payload::Inline([]) => SmallVec::new(),
            Payload::Inline(bytes) => {
                // The library only reads them, before it returns.
                let addr = bytes.as_ptr().expose_provenance() as u64;
                SmallVec::from_slice(&[ib::ibv_sge { addr, length: bytes.len() as u32, lkey: 0 }])
            }
            Payload::Ranges(ranges) => list(ranges),
        };
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the request and its list live until the return, after which the library has copied them; plain numbers
        // and pointers, for which zero is a value. Each operation sets its own part of the unions.
        unsafe {
            let mut wr: ib::ibv_send_wr = std::mem::zeroed();
            wr.wr_id = work.id;
            wr.sg_list = sges.as_mut_ptr();
            wr.num_sge = sges.len() as i32;
            wr.send_flags = flags;
            if let Some(imm) = work.imm {
                wr.imm_data_invalidated_rkey_union.imm_data = u32::from_ne_bytes(imm);
            }
            let with_imm = work.imm.is_some();
            wr.opcode = match work.op {
                Op::Send if with_imm => O::IBV_WR_SEND_WITH_IMM,
                Op::Send => O::IBV_WR_SEND,
                Op::Write(_) if with_imm => O::IBV_WR_RDMA_WRITE_WITH_IMM,
                Op::Write(_) => O::IBV_WR_RDMA_WRITE,
                Op::Read(_) => O::IBV_WR_RDMA_READ,
                Op::Atomic(_, Atomic::CompareSwap { .. }) => O::IBV_WR_ATOMIC_CMP_AND_SWP,
                Op::Atomic(_, Atomic::FetchAdd(_)) => O::IBV_WR_ATOMIC_FETCH_AND_ADD,
            };
            match work.op {
                Op::Send => {}
                Op::Write(remote) | Op::Read(remote) => {
                    wr.wr.rdma = ib::rdma_t { remote_addr: remote.addr, rkey: remote.rkey };
                }
                Op::Atomic(remote, atomic) => {
                    let (compare_add, swap) = match atomic {
                        Atomic::CompareSwap { compare, swap } => (compare, swap),
                        Atomic::FetchAdd(add) => (add, 0),
                    };
                    let (remote_addr, rkey) = (remote.addr, remote.rkey);
                    wr.wr.atomic = ib::atomic_t { remote_addr, compare_add, swap, rkey };
                }
            }
            let mut bad = null_mut();
            posted(ib::ibv_post_send(self.qp, &raw mut wr, &raw mut bad))
        }
    }

    /// As [`NicQp::receive`](crate::fabric::direct::nic::NicQp::receive).
    pub(super) fn post_receive(&self, id: u64, ranges: &[Range]) -> Result<(), NotPosted> {
        let mut sges = list(ranges);
        let mut wr = ib::ibv_recv_wr {
            wr_id: id,
            next: null_mut(),
            sg_list: sges.as_mut_ptr(),
            num_sge: sges.len() as i32,
        };
        let mut bad = null_mut();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: as for a send request.
        posted(unsafe { ib::ibv_post_recv(self.qp, &raw mut wr, &raw mut bad) })
    }

    /// As [`NicQp::poll`](crate::fabric::direct::nic::NicQp::poll).
    pub(super) fn take(&self, each: &mut dyn FnMut(Done)) -> io::Result<usize> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: there is room for as many completions as are asked for; they are plain numbers.
        let (count, wcs) = unsafe {
            let mut wcs: [ib::ibv_wc; POLL] = std::mem::zeroed();
            (ib::ibv_poll_cq(self.cq, POLL as i32, wcs.as_mut_ptr()), wcs)
        };
        let count =
            usize::try_from(count).map_err(|_| io::Error::from_raw_os_error(count.abs()))?;
        for wc in wcs.iter().take(count) {
            let with_imm = wc.wc_flags & ib::ibv_wc_flags::IBV_WC_WITH_IMM.0 != 0;
            #[allow(unsafe_code)] // reason: a C union
            // SAFETY: the flag says that it is the immediate data; both parts are plain numbers.
            let imm = with_imm
                .then(|| unsafe { wc.imm_data_invalidated_rkey_union.imm_data.to_ne_bytes() });
            let by_write = wc.opcode == ib::ibv_wc_opcode::IBV_WC_RECV_RDMA_WITH_IMM;
            each(Done {
                id: wc.wr_id,
                // Numbered alike.
                status: WcStatus(wc.status as u8),
                opcode: if by_write { WcOpcode::RecvRdmaWithImm } else { WcOpcode::Recv },
                bytes: wc.byte_len,
                imm,
            });
        }
        Ok(count)
    }
}
