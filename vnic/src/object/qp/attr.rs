// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Attributes of a queue pair: checked when they are set, ready for use afterwards.

use std::time::Duration;
use vnic_abi::ctrl::{AccessFlags, AddressVector, QpAttr, QpAttrMask as M};
use vnic_abi::status::Status;

/// Largest 24-bit number.
const MAX_24: u32 = (1 << 24) - 1;

/// What this device takes for the rights of a queue pair.
const QP_ACCESS: AccessFlags = AccessFlags::REMOTE_WRITE
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC)
    .union(AccessFlags::LOCAL_WRITE);

/// Applies the attributes of `new` named in `mask` to `held`.
///
/// # Errors
///
/// `BadAttribute` if a value is out of range; `held` is then as before.
pub fn apply(
    held: &mut QpAttr,
    new: &QpAttr,
    mask: M,
    max_rd_atomic: u32,
    gids: usize,
) -> Result<(), Status> {
    let mut next = *held;
    let ensure = |good: bool| if good { Ok(()) } else { Err(Status::BadAttribute) };
    if mask.contains(M::ACCESS_FLAGS) {
        let access = AccessFlags::from_bits_retain(new.access.get());
        ensure(QP_ACCESS.contains(access))?;
        next.access = new.access;
    }
    if mask.contains(M::PKEY_INDEX) {
        ensure(new.pkey_index.get() == 0)?;
    }
    if mask.contains(M::PORT) {
        ensure(new.port == 1)?;
        next.port = 1;
    }
    if mask.contains(M::QKEY) {
        next.qkey = new.qkey;
    }
    if mask.contains(M::AV) {
        next.av = checked_av(&new.av, gids)?;
    }
    if mask.contains(M::PATH_MTU) {
        ensure((1..=5).contains(&new.path_mtu))?;
        next.path_mtu = new.path_mtu;
    }
    if mask.contains(M::TIMEOUT) {
        ensure(new.timeout < 32)?;
        next.timeout = new.timeout;
    }
    if mask.contains(M::RETRY_CNT) {
        ensure(new.retry_cnt < 8)?;
        next.retry_cnt = new.retry_cnt;
    }
    if mask.contains(M::RNR_RETRY) {
        ensure(new.rnr_retry < 8)?;
        next.rnr_retry = new.rnr_retry;
    }
    if mask.contains(M::MIN_RNR_TIMER) {
        ensure(new.min_rnr_timer < 32)?;
        next.min_rnr_timer = new.min_rnr_timer;
    }
    if mask.contains(M::RQ_PSN) {
        ensure(new.rq_psn.get() <= MAX_24)?;
        next.rq_psn = new.rq_psn;
    }
    if mask.contains(M::SQ_PSN) {
        ensure(new.sq_psn.get() <= MAX_24)?;
        next.sq_psn = new.sq_psn;
    }
    if mask.contains(M::DEST_QPN) {
        ensure(new.dest_qpn.get() <= MAX_24)?;
        next.dest_qpn = new.dest_qpn;
    }
    if mask.contains(M::MAX_QP_RD_ATOMIC) {
        ensure(u32::from(new.max_rd_atomic) <= max_rd_atomic)?;
        next.max_rd_atomic = new.max_rd_atomic;
    }
    if mask.contains(M::MAX_DEST_RD_ATOMIC) {
        ensure(u32::from(new.max_dest_rd_atomic) <= max_rd_atomic)?;
        next.max_dest_rd_atomic = new.max_dest_rd_atomic;
    }
    *held = next;
    Ok(())
}

fn checked_av(av: &AddressVector, gids: usize) -> Result<AddressVector, Status> {
    let good = usize::from(av.sgid_index) < gids
        && av.flow_label.get() < 1 << 20
        && av.sl < 16
        && av.dgid != [0; 16]
        && av.reserved.get() == 0;
    if good { Ok(*av) } else { Err(Status::BadAttribute) }
}

/// Time that a requester waits for an acknowledgement; `None` is for ever.
///
/// InfiniBand Architecture Specification volume 1, section 9.7.6.1.3: 4.096 us * 2^code.
pub fn ack_timeout(code: u8) -> Option<Duration> {
    (code != 0).then(|| Duration::from_nanos(4096u64 << (code & 31)))
}

/// Time that a requester waits after RNR; InfiniBand Architecture Specification volume 1, table 45.
pub fn rnr_delay(code: u8) -> Duration {
    // In units of 10 us.
    const TABLE: [u64; 32] = [
        65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024,
        1536, 2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
    ];
    Duration::from_micros(10 * TABLE[usize::from(code & 31)])
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use zerocopy::FromBytes;

    proptest! {
        #[test]
        fn hostile_attributes_are_refused_whole_or_taken_in_range(
            bytes in prop::collection::vec(any::<u8>(), size_of::<QpAttr>()), mask in any::<u32>(),
        ) {
            let new = QpAttr::read_from_bytes(&bytes).unwrap();
            let mask = M::from_bits_truncate(mask);
            let mut held = QpAttr::default();
            if apply(&mut held, &new, mask, 16, 32).is_err() {
                prop_assert_eq!(held, QpAttr::default());
            }
            prop_assert!(held.timeout < 32 && held.rnr_retry < 8 && held.retry_cnt < 8);
            prop_assert!(held.dest_qpn.get() < 1 << 24 && held.max_rd_atomic <= 16);
            prop_assert!(usize::from(held.av.sgid_index) < 32 && held.port <= 1);
        }
    }

    #[test]
    fn times_are_those_of_the_specification() {
        assert_eq!(ack_timeout(0), None);
        assert_eq!(ack_timeout(14), Some(Duration::from_nanos(67_108_864)));
        assert_eq!(rnr_delay(0), Duration::from_micros(655_360));
        assert_eq!(rnr_delay(1), Duration::from_micros(10));
        assert_eq!(rnr_delay(31), Duration::from_micros(491_520));
    }
}
