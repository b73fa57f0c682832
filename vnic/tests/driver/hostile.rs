// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A driver whose control commands are wrong in every way.

use std::time::Duration;

use vnic_abi::ctrl::{
    AccessFlags, CmdHeader, CmdOpcode, CqCreate, CtxCreate, GidSet, Handle, Init, MrCreate,
    MrModify, PageResponse, PasidBind, PdCreate, QpAttr, QpAttrMask, QpCreate, QpModify, QpState,
    QpType, ReplyHeader,
};
use vnic_abi::status::Status;
use vnic_testbed::process_guest::Driver;
use vnic_testbed::process_guest::driver::Lost;
use vnic_testbed::process_guest::memory::{FRAME, Layout};
use vnic_testbed::process_guest::verbs::{Context, Cq, Pd};
use vnic_testbed::process_guest::virtqueue::{
    DESC_INDIRECT, DESC_NEXT, DESC_WRITE, Desc, QUEUE_SIZE,
};
use zerocopy::{FromBytes, IntoBytes};

use crate::victim::Scene;

/// Bytes behind the header of each command.
fn body_len(opcode: CmdOpcode) -> usize {
    match opcode {
        CmdOpcode::Init => size_of::<Init>(),
        CmdOpcode::Nop | CmdOpcode::QueryCounters => 0,
        CmdOpcode::GidSet => size_of::<GidSet>(),
        CmdOpcode::PasidBind => size_of::<PasidBind>(),
        CmdOpcode::CtxCreate => size_of::<CtxCreate>(),
        CmdOpcode::PdCreate => size_of::<PdCreate>(),
        CmdOpcode::MrCreate => size_of::<MrCreate>(),
        CmdOpcode::MrModify => size_of::<MrModify>(),
        CmdOpcode::CqCreate => size_of::<CqCreate>(),
        CmdOpcode::QpCreate => size_of::<QpCreate>(),
        CmdOpcode::QpModify => size_of::<QpModify>(),
        CmdOpcode::PageResponse => size_of::<PageResponse>(),
        _ => size_of::<Handle>(),
    }
}

fn opcodes() -> impl Iterator<Item = CmdOpcode> {
    CmdOpcode::INFO.values.iter().map(|&(_, value)| CmdOpcode(value as u32))
}

fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
    let header = CmdHeader { opcode: opcode.into(), ..Default::default() };
    [header.as_bytes(), body].concat()
}

#[track_caller]
fn status_of(reply: Result<Vec<u8>, Lost>) -> Status {
    let reply = reply.expect("an answer");
    let header = ReplyHeader::read_from_prefix(&reply).expect("a whole reply header").0;
    assert_eq!(header.reserved.get(), 0);
    Status(header.status.get())
}

#[test]
fn truncated_commands() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        for opcode in opcodes() {
            let whole = request(opcode.0, &vec![0; body_len(opcode)]);
            for len in 1..whole.len() {
                let reply = hostile.driver.command(&whole[..len], 64);
                assert_eq!(status_of(reply), Status::Malformed, "{opcode:?}, {len} bytes");
            }
        }
        // Nothing but room for a reply.
        assert_eq!(status_of(hostile.driver.command(&[], 64)), Status::Malformed);
        crate::common::close(hostile);
    });
}

#[test]
fn oversized_commands() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        for len in [9, 100, 4096, 1 << 20] {
            let mut bytes = request(CmdOpcode::Nop.0, &[]);
            bytes.resize(len, 0);
            let status = status_of(hostile.driver.command(&bytes, 8));
            assert!([Status::Ok, Status::Malformed].contains(&status), "{len}: {status:?}");
            let handle = hostile.ctx.handle();
            let mut bytes = request(CmdOpcode::PdCreate.0, &handle.to_le_bytes());
            bytes.resize(len.max(17), 0xff);
            assert_ne!(status_of(hostile.driver.command(&bytes, 1 << 20)), Status::Ok);
        }
        crate::common::close(hostile);
    });
}

#[test]
fn unknown_commands() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let known: Vec<_> = opcodes().map(|opcode| opcode.0).collect();
        let unknown = (0..64).chain([255, 256, 0x100_0001, u32::MAX]);
        for opcode in unknown.filter(|opcode| !known.contains(opcode)) {
            for body in [0, 8, 64] {
                let reply = hostile.driver.command(&request(opcode, &vec![0; body]), 64);
                assert_eq!(status_of(reply), Status::UnknownCommand, "opcode {opcode}");
            }
        }
        crate::common::close(hostile);
    });
}

#[test]
fn reserved_fields_that_are_not_zero() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        for opcode in opcodes() {
            let mut bytes = request(opcode.0, &vec![0; body_len(opcode)]);
            bytes[5] = 1;
            let status = status_of(hostile.driver.command(&bytes, 64));
            assert_eq!(status, Status::Malformed, "{opcode:?}");
        }
        let body = Handle { handle: 1.into(), reserved: 1.into() };
        for opcode in [CmdOpcode::CtxDestroy, CmdOpcode::QpQuery, CmdOpcode::PasidUnbind] {
            let reply = hostile.driver.command(&request(opcode.0, body.as_bytes()), 64);
            assert_eq!(status_of(reply), Status::Malformed, "{opcode:?}");
        }
        crate::common::close(hostile);
    });
}

#[test]
fn replies_that_find_no_room() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let driver = &hostile.driver;
        for room in 0..size_of::<ReplyHeader>() {
            for opcode in [CmdOpcode::Nop, CmdOpcode::QueryCounters, CmdOpcode::CtxCreate] {
                let bytes = request(opcode.0, &vec![0; body_len(opcode)]);
                let reply = driver.command(&bytes, room).expect("an answer");
                assert!(reply.len() <= room);
            }
        }
        // Room for the header only. Nobody would know the object's name: it must not exist.
        let before = driver.counters();
        let body = PdCreate { ctx: hostile.ctx.handle().into(), ..Default::default() };
        for room in 8..16 {
            let bytes = request(CmdOpcode::PdCreate.0, body.as_bytes());
            assert_ne!(status_of(driver.command(&bytes, room)), Status::Ok);
        }
        assert_eq!(driver.counters().pds, before.pds);
        crate::common::close(hostile);
    });
}

/// Waits for an answer that may not come, since the queue itself is broken.
fn maybe(answer: Result<vnic_testbed::process_guest::driver::Pending, Lost>) {
    if let Ok(pending) = answer {
        let _ = pending.wait_for(Duration::from_millis(50));
    }
}

#[test]
fn chains_that_lead_nowhere() {
    Scene::new().attack(|scene| {
        let good = |driver: &Driver| {
            let pages = driver.ram().alloc(FRAME, Layout::Linear);
            pages.write(0, &request(CmdOpcode::Nop.0, &[]));
            (pages.gpa(0), pages)
        };
        type Chain = fn(&Driver, u64) -> Vec<(u64, u32, bool)>;
        let chains: [(&str, Chain); 9] = [
            ("in the hole", |driver, _| vec![(driver.ram().hole(), 8, false)]),
            ("past the end", |driver, _| vec![(driver.ram().end() - 4, 16, false)]),
            ("wraps", |_, _| vec![(u64::MAX - 3, 16, false)]),
            ("4 GiB long", |_, gpa| vec![(gpa, u32::MAX, false), (gpa + 64, 64, true)]),
            ("reply past the end", |driver, gpa| {
                vec![(gpa, 8, false), (driver.ram().end(), 8, true)]
            }),
            ("nothing to write", |_, gpa| vec![(gpa, 8, false)]),
            ("write before read", |_, gpa| vec![(gpa + 64, 64, true), (gpa, 8, false)]),
            ("empty parts", |_, gpa| vec![(gpa, 0, false), (gpa + 64, 0, true)]),
            ("one byte each", |_, gpa| {
                let read = (0..8).map(|i| (gpa + i, 1, false));
                read.chain((0..8).map(|i| (gpa + 64 + i, 1, true))).collect()
            }),
        ];
        for (what, chain) in chains {
            println!("{what}");
            let hostile = scene.hostile();
            let (gpa, _pages) = good(&hostile.driver);
            maybe(hostile.driver.submit(&chain(&hostile.driver, gpa)));
        }
        // Whatever happened to those guests, the port serves the next one.
        crate::common::close(scene.hostile());
    });
}

#[test]
fn rings_that_lie() {
    Scene::new().attack(|scene| {
        type Attack = fn(&Driver, u64);
        let attacks: [(&str, Attack); 8] = [
            ("a chain that loops", |driver, gpa| {
                driver.with_ctrl_queue(|queue| {
                    for (index, next) in [(100, 101), (101, 102), (102, 100)] {
                        queue.set_desc(index, Desc { addr: gpa, len: 8, flags: DESC_NEXT, next });
                    }
                    queue.offer(100);
                });
            }),
            ("a writable chain that loops", |driver, gpa| {
                driver.with_ctrl_queue(|queue| {
                    let flags = DESC_NEXT | DESC_WRITE;
                    queue.set_desc(100, Desc { addr: gpa, len: 8, flags, next: 100 });
                    queue.offer(100);
                });
            }),
            ("a next that is no descriptor", |driver, gpa| {
                driver.with_ctrl_queue(|queue| {
                    queue.set_desc(9, Desc { addr: gpa, len: 8, flags: DESC_NEXT, next: 60_000 });
                    queue.offer(9);
                });
            }),
            ("a head that is no descriptor", |driver, _| {
                driver.with_ctrl_queue(|queue| queue.offer(QUEUE_SIZE + 5));
            }),
            ("an indirect table", |driver, gpa| {
                driver.with_ctrl_queue(|queue| {
                    let flags = DESC_INDIRECT;
                    queue.set_desc(9, Desc { addr: gpa, len: 4096, flags, next: 0 });
                    queue.offer(9);
                });
            }),
            ("an index that jumps", |driver, _| {
                driver.with_ctrl_queue(|queue| queue.set_avail(queue.avail().wrapping_add(20_000)));
            }),
            ("an index that goes back", |driver, _| {
                driver.with_ctrl_queue(|queue| queue.set_avail(queue.avail().wrapping_sub(1)));
            }),
            ("buffers in the kick queue", |driver, _| {
                (0..100).for_each(|_| driver.kick_queue().notify());
            }),
        ];
        for (what, attack) in attacks {
            println!("{what}");
            let hostile = scene.hostile();
            let pages = hostile.driver.ram().alloc(FRAME, Layout::Linear);
            attack(&hostile.driver, pages.gpa(0));
            hostile.driver.with_ctrl_queue(|queue| queue.notify());
            // The control queue may be dead now. The end of the connection cleans up all the same.
            hostile.driver.power_off();
        }
        crate::common::close(scene.hostile());
    });
}

#[test]
fn handles_that_are_not_ones_own() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let driver = &hostile.driver;
        let bad = Err(Status::BadHandle);
        let theirs = &scene.b;
        let their_cq = theirs.cq(4);
        let (_, their_mr) = theirs.region(4096);
        let (pd, ctx, pasid) = (hostile.pd.handle(), hostile.ctx.handle(), hostile.ctx.pasid());
        let cq = hostile.cq(4);
        let (buffer, mr) = hostile.region(4096);

        // Numbers that are nobody's, and names that were valid once.
        let gone = driver.pd_create(ctx).expect("PD_CREATE");
        driver.pd_destroy(gone).expect("PD_DESTROY");
        for handle in [0, gone, 0xffff_ffff, 0x8000_0000, 0x00ff_ffff] {
            assert_eq!(driver.pd_destroy(handle), bad, "{handle:#x}");
            assert_eq!(driver.cq_destroy(handle), bad, "{handle:#x}");
            assert_eq!(driver.mr_destroy(handle), bad, "{handle:#x}");
            assert_eq!(driver.qp_destroy(handle), bad, "{handle:#x}");
            assert_eq!(driver.qp_query(handle).map(drop), bad, "{handle:#x}");
            assert_eq!(driver.ctx_destroy(handle), bad, "{handle:#x}");
            assert_eq!(driver.pasid_unbind(handle), bad, "{handle:#x}");
            assert_eq!(driver.pd_create(handle).map(drop), bad, "{handle:#x}");
            let mr = driver.mr_create(handle, buffer.addr(), 4096, AccessFlags::empty());
            assert_eq!(mr.map(drop), bad, "{handle:#x}");
            let doorbell = driver.ram().alloc(FRAME, Layout::Linear);
            // PASID 0 is the kernel's own address space.
            if handle != 0 {
                assert_eq!(driver.ctx_create(handle, doorbell.gpa(0)).map(drop), bad);
            }
        }

        // Names of the victims' objects. Where a number happens to be one of ours as well, it is ours.
        let own = [pd, ctx, pasid, cq.handle(), mr.handle()];
        for handle in
            [their_cq.handle(), their_mr.handle(), theirs.pd.handle(), theirs.ctx.handle()]
                .into_iter()
                .filter(|handle| !own.contains(handle))
        {
            assert_eq!(driver.cq_destroy(handle), bad);
            assert_eq!(driver.mr_destroy(handle), bad);
            assert_eq!(driver.pd_destroy(handle), bad);
            assert_eq!(driver.ctx_destroy(handle), bad);
        }

        // A queue pair out of parts of two contexts.
        let second = Context::open(driver);
        let second_cq = Cq::new(&second, 4);
        let second_pd = Pd::new(&second);

        // A region that moves to where it does not belong, or that is somebody else's.
        let before = driver.counters();
        let into = |mr: u32, pd: u32| {
            let change =
                MrModify { mr: mr.into(), mask: 2.into(), pd: pd.into(), ..Default::default() };
            driver.mr_modify(&change).map(drop)
        };
        for foreign in [second_pd.handle(), gone, 0, u32::MAX] {
            assert_eq!(into(mr.handle(), foreign), bad, "domain {foreign:#x}");
        }
        for handle in [0, gone, u32::MAX, their_mr.handle()] {
            if handle != mr.handle() {
                assert_eq!(into(handle, pd), bad, "region {handle:#x}");
            }
        }
        // What was refused left no trace: the foreign domain has no user.
        assert_eq!(driver.counters().mrs, before.mrs);
        let unused = driver.pd_create(second.handle()).expect("PD_CREATE");
        assert_eq!(into(mr.handle(), unused), bad);
        driver.pd_destroy(unused).expect("PD_DESTROY");
        into(mr.handle(), pd).expect("the domain that it is in");
        let pages = driver.ram().alloc(8 * FRAME, Layout::Linear);
        let list = driver.page_list(&pages.gpas()[..3]);
        let qp = |pd: u32, send: u32, recv: u32| QpCreate {
            pd: pd.into(),
            send_cq: send.into(),
            recv_cq: recv.into(),
            qp_type: QpType::Rc.0,
            sq_depth: 64.into(),
            sq_stride: 64.into(),
            rq_depth: 64.into(),
            rq_stride: 64.into(),
            pages: list.wire(),
            ..Default::default()
        };
        let (a, b) = (cq.handle(), second_cq.handle());
        for (pd, send, recv) in [(pd, b, b), (pd, a, b), (pd, b, a), (second_pd.handle(), a, a)] {
            assert_eq!(driver.qp_create(&qp(pd, send, recv)).map(drop), bad);
        }
        let made = driver.qp_create(&qp(pd, a, a)).expect("the same with its own parts");
        driver.qp_destroy(made.qpn.get()).expect("QP_DESTROY");

        // The victims' queue pair.
        let victim_qp = theirs.qp();
        let error = QpAttr { state: QpState::Err.0, ..Default::default() };
        assert_eq!(driver.qp_modify(victim_qp.qpn(), QpAttrMask::STATE, &error), bad);
        assert_eq!(driver.qp_destroy(victim_qp.qpn()), bad);
        assert_eq!(driver.qp_query(victim_qp.qpn()).map(drop), bad);
        assert_eq!(victim_qp.state(), QpState::Reset);

        drop((second_cq, second_pd, second, cq, mr));
        crate::common::close(hostile);
    });
}

#[test]
fn keys_and_numbers_cannot_be_guessed() {
    let scene = Scene::new();
    let keys: Vec<u32> = (0..64)
        .flat_map(|_| {
            let (_, mr) = scene.b.region(1);
            [mr.lkey(), mr.rkey()]
        })
        .collect();
    let numbers: Vec<u32> = (0..32).map(|_| scene.b.qp().qpn()).collect();
    scene.attack(|_| {
        for values in [keys, numbers] {
            let mut steps: Vec<_> =
                values.windows(2).map(|pair| pair[1].wrapping_sub(pair[0])).collect();
            steps.sort_unstable();
            let total = steps.len();
            steps.dedup();
            // Consecutive numbers would differ by the same few steps.
            assert!(steps.len() > total / 2, "{values:x?}");
        }
    });
}

#[test]
fn garbage_commands() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        for seed in 0..3000_u64 {
            let len = (seed * 7 % 160) as usize + 1;
            let mut bytes = crate::common::pattern(seed, len as u64);
            if len > 8 && seed % 4 != 0 {
                // A valid header in front, so that bodies are looked at.
                let opcode = (seed % 23) as u32;
                bytes[..8].copy_from_slice(&request(opcode, &[]));
                // Not INIT and SHUTDOWN: they would make the rest uninteresting.
                if opcode == 1 || opcode == 3 {
                    continue;
                }
                // Small numbers are handles.
                if seed % 3 == 0 {
                    bytes[8..].iter_mut().for_each(|byte| *byte &= u8::from(*byte & 0x11 == 0x11));
                }
            }
            hostile.driver.command(&bytes, (seed % 64) as usize).expect("an answer");
        }
        hostile.driver.shutdown().expect("SHUTDOWN");
    });
}
