// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The SQD state: a queue pair that starts nothing new.

use vnic_abi::ctrl::QpState;
use vnic_testbed::process_guest::verbs::SendWr;

use crate::common::Pair;

#[test]
fn a_drained_queue_pair_waits_with_new_requests_and_still_answers_its_peer() {
    let pair = Pair::new();
    let (qa, qb) = pair.qps();
    let (here, here_mr) = pair.a.region(4096);
    let (there, there_mr) = pair.b.region(4096);
    qa.set_state(QpState::Sqd).expect("RTS to SQD");
    qa.post_send(&SendWr::write(&[], there.addr(), there_mr.rkey()).inline(b"later").id(1));
    // The peer's request passes through the same worker: when it is done, ours had its chance.
    qb.post_send(&SendWr::write(&[], here.addr(), here_mr.rkey()).inline(b"now").id(2));
    qb.send_cq.expect(2);
    assert_eq!(here.read(0, 3), b"now");
    assert!(qa.send_cq.poll().is_none());
    assert_eq!(there.read(0, 5), [0; 5]);
    qa.set_state(QpState::Rts).expect("SQD to RTS");
    qa.send_cq.expect(1);
    assert_eq!(there.read(0, 5), b"later");
    drop((qa, qb, here_mr, there_mr));
    pair.finish();
}
