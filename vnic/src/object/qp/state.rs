// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Transitions of a queue pair, as a table; everything else is refused.
//!
//! InfiniBand Architecture Specification volume 1, section 11.2.5.2, for reliable connections.

use vnic_abi::ctrl::{QpAttrMask as M, QpState};
use vnic_abi::status::Status;

struct Transition {
    from: QpState,
    to: QpState,
    required: M,
    optional: M,
}

const fn row(from: QpState, to: QpState, required: M, optional: M) -> Transition {
    Transition { from, to, required, optional }
}

const TO_INIT: M = M::PKEY_INDEX.union(M::PORT).union(M::ACCESS_FLAGS);
const TO_RTR: M = M::AV
    .union(M::PATH_MTU)
    .union(M::DEST_QPN)
    .union(M::RQ_PSN)
    .union(M::MAX_DEST_RD_ATOMIC)
    .union(M::MIN_RNR_TIMER);
const TO_RTS: M =
    M::SQ_PSN.union(M::TIMEOUT).union(M::RETRY_CNT).union(M::RNR_RETRY).union(M::MAX_QP_RD_ATOMIC);
const NONE: M = M::empty();
const LIVE: M = M::ACCESS_FLAGS.union(M::MIN_RNR_TIMER).union(M::CUR_STATE);
const DRAINED: M = M::AV
    .union(M::TIMEOUT)
    .union(M::RETRY_CNT)
    .union(M::RNR_RETRY)
    .union(M::MAX_QP_RD_ATOMIC)
    .union(M::MAX_DEST_RD_ATOMIC)
    .union(M::ACCESS_FLAGS)
    .union(M::PKEY_INDEX)
    .union(M::MIN_RNR_TIMER)
    .union(M::CUR_STATE);

/// Transitions of a reliable connection. To RESET and to ERR lead from everywhere, see [`check`].
const RC: &[Transition] = &[
    row(QpState::Reset, QpState::Init, TO_INIT, NONE),
    row(QpState::Init, QpState::Init, NONE, TO_INIT),
    row(QpState::Init, QpState::Rtr, TO_RTR, M::PKEY_INDEX.union(M::ACCESS_FLAGS)),
    row(QpState::Rtr, QpState::Rts, TO_RTS, LIVE),
    row(QpState::Rts, QpState::Rts, NONE, LIVE),
    row(QpState::Rts, QpState::Sqd, NONE, NONE),
    row(QpState::Sqd, QpState::Sqd, NONE, DRAINED),
    row(QpState::Sqd, QpState::Rts, NONE, LIVE),
];

/// Whether a queue pair in state `from` may go to state `to` with the attributes in `mask`.
///
/// # Errors
///
/// `BadState` if there is no such transition, `BadAttribute` if an attribute is missing or too many.
pub fn check(from: QpState, to: QpState, mask: M) -> Result<(), Status> {
    let mask = mask.difference(M::STATE);
    if to == QpState::Reset || to == QpState::Err {
        let fits = M::CUR_STATE.contains(mask);
        return if fits { Ok(()) } else { Err(Status::BadAttribute) };
    }
    let row = RC.iter().find(|t| t.from == from && t.to == to).ok_or(Status::BadState)?;
    let fits = mask.contains(row.required) && row.required.union(row.optional).contains(mask);
    if fits { Ok(()) } else { Err(Status::BadAttribute) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> impl Iterator<Item = QpState> {
        QpState::INFO.values.iter().map(|(_, value)| QpState(*value as u8))
    }

    /// Every pair of states, with the attributes that the table asks for.
    #[test]
    fn exactly_the_tabled_transitions_exist() {
        let mut found = Vec::new();
        for from in states() {
            for to in states() {
                let required =
                    RC.iter().find(|t| t.from == from && t.to == to).map_or(NONE, |t| t.required);
                if check(from, to, required | M::STATE).is_ok() {
                    found.push(format!("{from:?} -> {to:?}"));
                }
            }
        }
        insta::assert_snapshot!(found.join("\n"), @r"
        Reset -> Reset
        Reset -> Init
        Reset -> Err
        Init -> Reset
        Init -> Init
        Init -> Rtr
        Init -> Err
        Rtr -> Reset
        Rtr -> Rts
        Rtr -> Err
        Rts -> Reset
        Rts -> Rts
        Rts -> Sqd
        Rts -> Err
        Sqd -> Reset
        Sqd -> Rts
        Sqd -> Sqd
        Sqd -> Err
        Sqe -> Reset
        Sqe -> Err
        Err -> Reset
        Err -> Err
        ");
    }

    #[test]
    fn each_required_attribute_is_required_and_no_other_is_taken() {
        for t in RC {
            for bit in M::all().difference(M::STATE).iter() {
                let mask = t.required.symmetric_difference(bit);
                let allowed = !t.required.contains(bit) && t.optional.contains(bit);
                assert_eq!(
                    check(t.from, t.to, mask).is_ok(),
                    allowed,
                    "{:?} {bit:?}",
                    (t.from, t.to)
                );
            }
        }
    }
}
