// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A peer daemon that says anything at all: nothing panics, nothing grows, and nobody else is touched.

use super::arrivals::{MOST_JOBS, State};
use super::lanes::{Open, poll};
use super::owed::pay;
use super::responder::arrived;
use crate::engine::core::Core;
use crate::engine::request::{Atomic, Op, Remote};
use crate::engine::requester;
use crate::object::mr::{MrParams, Window};
use crate::object::qp::Qp;
use crate::session::testing::{qp, session_with};
use crate::wire::frame::{Answer, Frame, Refusal, Request, What};
use crate::wire::lane::testing::{Far, MemoryLane};
use crate::wire::link::{Link, RemotePort};
use proptest::prelude::*;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use vnic_abi::config::Features;
use vnic_abi::ctrl::{AccessFlags, AddressVector, QpAttr, QpAttrMask as M, QpState};
use vnic_abi::wqe::WqeFlags;

/// The peer's address and queue pair, as the guest has connected to them.
const GID: [u8; 16] = [7; 16];
const THEIR_QPN: u32 = 77;

struct Scene {
    core: Core,
    link: Arc<Link>,
    qp: Arc<Qp>,
    rkey: u32,
    far: Far,
}

/// A queue pair that is connected to one of a peer daemon, whose end of the lane is the test's.
fn scene() -> Scene {
    let (session, pd) = session_with(Features::ATOMIC);
    let device = session.device.clone();
    let qp = qp(&session, pd);
    let access = AccessFlags::LOCAL_WRITE
        | AccessFlags::REMOTE_WRITE
        | AccessFlags::REMOTE_READ
        | AccessFlags::REMOTE_ATOMIC;
    let window = Window { start: 0x10_0000, length: 0x10_0000, iova: 0x10_0000 };
    let rkey = session.mr_create(MrParams { pd, access, window }).unwrap().rkey;
    let gid = [9; 16];
    session.gid_set(0, vnic_abi::ctrl::GidType::RoceV2, gid).unwrap();
    let remote = access.difference(AccessFlags::LOCAL_WRITE);
    let attr = QpAttr {
        port: 1,
        path_mtu: 5,
        timeout: 14,
        retry_cnt: 7,
        rnr_retry: 3,
        max_rd_atomic: 4,
        max_dest_rd_atomic: 4,
        access: remote.bits().into(),
        dest_qpn: THEIR_QPN.into(),
        av: AddressVector { dgid: GID, ..AddressVector::default() },
        ..QpAttr::default()
    };
    let steps = [
        (QpState::Init, M::PKEY_INDEX | M::PORT | M::ACCESS_FLAGS),
        (
            QpState::Rtr,
            M::AV
                | M::PATH_MTU
                | M::DEST_QPN
                | M::RQ_PSN
                | M::MAX_DEST_RD_ATOMIC
                | M::MIN_RNR_TIMER,
        ),
        (QpState::Rts, M::SQ_PSN | M::TIMEOUT | M::RETRY_CNT | M::RNR_RETRY | M::MAX_QP_RD_ATOMIC),
    ];
    for (state, mask) in steps {
        let attr = QpAttr { state: state.0, ..attr };
        session.qp_modify(qp.qpn, mask | M::STATE, &attr).unwrap();
    }
    let link = Link::new("peer", None);
    link.set_ports([RemotePort { network: "default".into(), gid: GID, port: 1 }]);
    device.links().add(&link);
    let (lane, far) = MemoryLane::new(8);
    let mut core = Core::new(device, 0);
    core.lanes.adopt(Open::new(link.clone(), 0, Box::new(lane)));
    Scene { core, link, qp, rkey, far }
}

fn op(rkey: u32) -> impl Strategy<Value = Op> {
    let key = prop_oneof![4 => Just(rkey), 1 => any::<u32>()];
    let addr = prop_oneof![4 => 0x10_0000u64..0x20_0000, 1 => any::<u64>()];
    let remote = (addr, key).prop_map(|(addr, rkey)| Remote { addr: addr & !7, rkey });
    prop_oneof![
        Just(Op::Send),
        remote.clone().prop_map(Op::Write),
        remote.clone().prop_map(Op::Read),
        (remote, any::<u64>()).prop_map(|(remote, add)| Op::Atomic(remote, Atomic::FetchAdd(add))),
    ]
}

/// One thing that a peer may say to a responder: connection, number, place, length, whether it is meant for it.
type Said = (u32, u32, u32, u32, Op, bool, bool);

fn said(rkey: u32) -> impl Strategy<Value = Said> {
    (0u32..2, 0u32..6, 0u32..3, 0u32..64, op(rkey), prop::bool::weighted(0.9), any::<bool>())
}

fn what() -> impl Strategy<Value = What<'static>> {
    static BYTES: [u8; 64] = [3; 64];
    prop_oneof![
        6 => Just(What::Ack),
        1 => Just(What::Paused),
        2 => (0u32..200).prop_map(What::Resume),
        1 => (0u32..2).prop_map(What::Rnr),
        1 => Just(What::Refused(Refusal::RemoteAccess)),
        3 => (0u32..64, 0usize..64).prop_map(|(offset, len)| What::Data { offset, bytes: &BYTES[..len] }),
        3 => any::<u64>().prop_map(What::Former),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_a_requester_says_the_responder_stays_in_bounds(
        said in prop::collection::vec(said(1), 1..60), room in 0usize..4,
    ) {
        let mut scene = scene();
        let port = scene.qp.session.port_number();
        let mut answers = 0;
        for (connection, seq, offset, len, op, ours, drain) in said {
            // The key is random, and not known before the scene is.
            let with_key = |remote: Remote| match remote.rkey {
                1 => Remote { rkey: scene.rkey, ..remote },
                _ => remote,
            };
            let op = match op {
                Op::Send => Op::Send,
                Op::Write(remote) => Op::Write(with_key(remote)),
                Op::Read(remote) => Op::Read(with_key(remote)),
                Op::Atomic(remote, what) => Op::Atomic(with_key(remote), what),
            };
            let bytes = vec![5u8; len as usize];
            let sends = matches!(op, Op::Send | Op::Write(_));
            let (offset, total) = match op {
                Op::Atomic(..) => (0, 8),
                Op::Read(_) => (offset, offset + 300_000),
                _ => (offset, offset + len),
            };
            let request = Request {
                to_port: port,
                to_qpn: scene.qp.qpn,
                from_qpn: if ours { THEIR_QPN } else { THEIR_QPN + 1 },
                connection,
                seq,
                offset,
                total,
                op,
                imm: None,
                solicited: false,
                bytes: if sends { &bytes } else { &[] },
            };
            let owes = arrived(&mut scene.core, &scene.link, 0, &request);
            prop_assert!(ours || owes.is_none(), "a stranger is answered");
            if drain {
                scene.far.give_room(room);
            }
            let mut lanes = std::mem::take(&mut scene.core.lanes);
            let open = lanes.of(scene.link.id, 0).unwrap();
            pay(&mut scene.core, &scene.link, 0, &mut *open.lane, &scene.qp);
            scene.core.lanes = lanes;
            let responder = scene.qp.responder.lock();
            if let Some(arrivals) = &responder.arrivals {
                prop_assert!(arrivals.jobs.len() <= MOST_JOBS);
                prop_assert!(arrivals.state != State::Flowing || arrivals.say.is_none());
            }
            drop(responder);
            for frame in scene.far.take() {
                answers += 1;
                let parsed = Frame::parse(&frame);
                let fits = matches!(parsed, Ok(Frame::Answer(Answer { to_qpn: THEIR_QPN, .. })));
                prop_assert!(fits, "{parsed:?}");
            }
        }
        prop_assert!(answers < 10_000);
    }

    #[test]
    fn whatever_a_responder_says_each_request_ends_once(
        whats in prop::collection::vec((what(), 0u32..6, any::<bool>()), 1..60), kinds in prop::collection::vec(0u8..9, 4),
    ) {
        let mut scene = scene();
        // Four elements, without lists and of any kind.
        for (index, kind) in kinds.iter().enumerate() {
            let flags = (WqeFlags::PHASE | WqeFlags::SIGNALED).bits();
            let element = u64::from_le_bytes([*kind, flags, 0, 0, 0, 0, 0, 0]);
            scene.qp.memory.word(4096 + index * 64).store(element, Ordering::Relaxed);
        }
        scene.far.give_room(100);
        requester::run(&mut scene.core, &scene.qp);
        let connection = scene.far.take().iter().find_map(|frame| match Frame::parse(frame) {
            Ok(Frame::Request(request)) => Some(request.connection),
            _ => None,
        });
        for (what, seq, other) in whats {
            let answer = Answer {
                to_qpn: scene.qp.qpn,
                from_qpn: THEIR_QPN,
                connection: connection.unwrap_or(0).wrapping_add(u32::from(other && seq == 5)),
                seq,
                what,
            };
            requester::answered(&mut scene.core, &scene.link, &answer);
            requester::run(&mut scene.core, &scene.qp);
            scene.far.take();
        }
        let completed = scene.qp.send_cq.published();
        prop_assert!(completed <= kinds.len() as u64, "{completed} completions for {} elements", kinds.len());
    }

    #[test]
    fn bytes_that_are_no_frame_end_the_link(bytes in prop::collection::vec(any::<u8>(), 0..100)) {
        let mut scene = scene();
        let good = Frame::parse(&bytes).is_ok();
        scene.far.say(&bytes);
        poll(&mut scene.core, |_| {});
        prop_assert_eq!(scene.link.is_lost(), !good);
        prop_assert_eq!(scene.core.lanes.is_empty(), !good);
    }
}

#[test]
fn a_request_reaches_only_the_port_that_it_names() {
    let mut scene = scene();
    let request = |to_port, to_qpn| Request {
        to_port,
        to_qpn,
        from_qpn: THEIR_QPN,
        connection: 1,
        seq: 0,
        offset: 0,
        total: 0,
        op: Op::Write(Remote { addr: 0, rkey: 0 }),
        imm: None,
        solicited: false,
        bytes: &[],
    };
    let (port, qpn) = (scene.qp.session.port_number(), scene.qp.qpn);
    for (port, qpn, taken) in [(port + 1, qpn, false), (port, qpn + 1, false), (port, qpn, true)] {
        let owes = arrived(&mut scene.core, &scene.link, 0, &request(port, qpn));
        assert_eq!(owes.is_some(), taken, "{port} {qpn}");
    }
    // Another daemon has the same numbers, and not the address.
    let other = Link::new("other", None);
    assert!(arrived(&mut scene.core, &other, 0, &request(port, qpn)).is_none());
}
