// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attributes of a queue pair of the host: what a guest asked for, as far as the host is to know.

use super::pair::Pair;
use rdma_sys as ib;
use std::io;
use vnic_abi::ctrl::{QpAttr, QpAttrMask as M, QpState};

/// What rxe is told in place of 7, which it takes for ever.
const RXE_RETRIES: u8 = 6;
/// Routers on the way, if the guest names none.
const HOPS: u8 = 64;

/// What a host's queue pair may be told in these states.
fn allowed(to: QpState) -> M {
    match to {
        QpState::Init => M::PKEY_INDEX | M::PORT | M::ACCESS_FLAGS,
        QpState::Rtr => {
            M::AV | M::PATH_MTU | M::DEST_QPN | M::RQ_PSN | M::MAX_DEST_RD_ATOMIC | M::MIN_RNR_TIMER
        }
        QpState::Rts | QpState::Sqd => {
            M::TIMEOUT
                | M::RETRY_CNT
                | M::RNR_RETRY
                | M::SQ_PSN
                | M::MAX_QP_RD_ATOMIC
                | M::MIN_RNR_TIMER
                | M::ACCESS_FLAGS
        }
        _ => M::empty(),
    }
}

impl Pair {
    /// As [`NicQp::modify`](crate::fabric::direct::nic::NicQp::modify).
    pub(super) fn change(&self, to: QpState, mask: M, attr: &QpAttr, source: u8) -> io::Result<()> {
        let shared = self.domain.shared();
        let retries = if shared.is_rxe { attr.retry_cnt.min(RXE_RETRIES) } else { attr.retry_cnt };
        let port = shared.device.port_number();
        // Numbered alike, states and bits of the mask both.
        let bits = (mask & allowed(to) | M::STATE).bits();
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the queue pair is there; the attributes are plain numbers, for which zero is a value.
        let failed = unsafe {
            let mut there: ib::ibv_qp_attr = std::mem::zeroed();
            there.qp_state = state(to);
            there.port_num = port;
            there.qp_access_flags = attr.access.get();
            there.path_mtu = attr.path_mtu.into();
            there.dest_qp_num = attr.dest_qpn.get();
            there.rq_psn = attr.rq_psn.get();
            there.sq_psn = attr.sq_psn.get();
            there.max_rd_atomic = attr.max_rd_atomic;
            there.max_dest_rd_atomic = attr.max_dest_rd_atomic;
            there.min_rnr_timer = attr.min_rnr_timer;
            there.timeout = attr.timeout;
            there.retry_cnt = retries;
            there.rnr_retry = attr.rnr_retry;
            there.ah_attr.is_global = 1;
            there.ah_attr.port_num = port;
            there.ah_attr.sl = attr.av.sl;
            there.ah_attr.grh.dgid = ib::ibv_gid { raw: attr.av.dgid };
            there.ah_attr.grh.sgid_index = source;
            there.ah_attr.grh.flow_label = attr.av.flow_label.get();
            there.ah_attr.grh.traffic_class = attr.av.traffic_class;
            there.ah_attr.grh.hop_limit =
                if attr.av.hop_limit == 0 { HOPS } else { attr.av.hop_limit };
            ib::ibv_modify_qp(self.qp, &raw mut there, bits as i32)
        };
        match failed {
            0 => Ok(()),
            number => Err(io::Error::from_raw_os_error(number.abs())),
        }
    }
}

fn state(state: QpState) -> ib::ibv_qp_state::Type {
    use ib::ibv_qp_state as S;
    match state {
        QpState::Init => S::IBV_QPS_INIT,
        QpState::Rtr => S::IBV_QPS_RTR,
        QpState::Rts => S::IBV_QPS_RTS,
        QpState::Sqd => S::IBV_QPS_SQD,
        QpState::Err => S::IBV_QPS_ERR,
        _ => S::IBV_QPS_RESET,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_of_masks_are_numbered_as_the_library_does() {
        type I = ib::ibv_qp_attr_mask;
        for (own, library) in [
            (M::STATE, I::IBV_QP_STATE),
            (M::ACCESS_FLAGS, I::IBV_QP_ACCESS_FLAGS),
            (M::PKEY_INDEX, I::IBV_QP_PKEY_INDEX),
            (M::PORT, I::IBV_QP_PORT),
            (M::AV, I::IBV_QP_AV),
            (M::PATH_MTU, I::IBV_QP_PATH_MTU),
            (M::TIMEOUT, I::IBV_QP_TIMEOUT),
            (M::RETRY_CNT, I::IBV_QP_RETRY_CNT),
            (M::RNR_RETRY, I::IBV_QP_RNR_RETRY),
            (M::RQ_PSN, I::IBV_QP_RQ_PSN),
            (M::MAX_QP_RD_ATOMIC, I::IBV_QP_MAX_QP_RD_ATOMIC),
            (M::MIN_RNR_TIMER, I::IBV_QP_MIN_RNR_TIMER),
            (M::SQ_PSN, I::IBV_QP_SQ_PSN),
            (M::MAX_DEST_RD_ATOMIC, I::IBV_QP_MAX_DEST_RD_ATOMIC),
            (M::DEST_QPN, I::IBV_QP_DEST_QPN),
        ] {
            assert_eq!(own.bits(), library.0, "{own:?}");
        }
    }
}
