// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A process whose queues hold nonsense: all that it can reach without the kernel's help.

use std::sync::Arc;

use vnic_abi::cqe::{CQ_CONSUMER_OFFSET, WcStatus};
use vnic_abi::ctrl::QpState;
use vnic_abi::doorbell::{DOORBELL_BITMAP, QP_SQ_OFFSET};
use vnic_abi::wqe::{Opcode, SendWqe, WqeFlags};
use vnic_testbed::process_guest::Pages;
use vnic_testbed::process_guest::verbs::{
    ConnectOptions, Endpoint, Qp, QpOptions, SendWr, connect, connect_with,
};
use zerocopy::IntoBytes;

use crate::common::{close, pattern};
use crate::victim::Scene;

/// Time-outs that keep a test short when a peer is in error.
fn impatient() -> ConnectOptions {
    ConnectOptions { timeout: 6, retry_cnt: 1, rnr_retry: 1, ..ConnectOptions::default() }
}

/// Connected queue pairs of a hostile guest with itself and with a victim.
fn qps(scene: &Scene, hostile: &Endpoint) -> (Qp, Qp) {
    let (qa, qb) = (hostile.qp(), scene.b.qp());
    connect_with(&qa, &qb, &impatient());
    (qa, qb)
}

/// Writes an element as it is and makes it valid for the first lap.
fn put(qp: &Qp, index: u64, wqe: &[u8]) {
    let stride = u64::from(qp.layout().sq_stride);
    let at = u64::from(QP_SQ_OFFSET) + index * stride;
    let mut wqe = wqe.to_vec();
    wqe[1] |= WqeFlags::PHASE.bits();
    qp.pages().write(at + 8, &wqe[8..]);
    let first = u64::from_le_bytes(wqe[..8].try_into().expect("eight bytes"));
    qp.pages().store64(at, first);
}

fn wqe(change: impl FnOnce(&mut SendWqe)) -> SendWqe {
    let mut wqe = SendWqe {
        opcode: Opcode::RdmaWrite.0,
        flags: WqeFlags::SIGNALED.bits(),
        wr_id: 1.into(),
        ..SendWqe::default()
    };
    change(&mut wqe);
    wqe
}

#[test]
fn elements_that_are_wrong() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let (target, target_mr) = scene.b.region(4096);
        let (to, rkey) = (target.addr(), target_mr.rkey());
        let remote = |wqe: &mut SendWqe| {
            wqe.remote_addr = to.into();
            wqe.rkey = rkey.into();
        };
        let inline = WqeFlags::INLINE.bits();
        let bad = [
            (
                "255 entries",
                wqe(|w| {
                    remote(w);
                    w.num_sge = 255
                }),
            ),
            (
                "more entries than the stride holds",
                wqe(|w| {
                    remote(w);
                    w.num_sge = 15
                }),
            ),
            (
                "inline past the element",
                wqe(|w| {
                    remote(w);
                    w.flags |= inline;
                    w.length = 225.into()
                }),
            ),
            (
                "inline of 4 GiB",
                wqe(|w| {
                    remote(w);
                    w.flags |= inline;
                    w.length = u32::MAX.into()
                }),
            ),
            (
                "inline and entries",
                wqe(|w| {
                    remote(w);
                    w.flags |= inline;
                    w.length = 8.into();
                    w.num_sge = 1;
                }),
            ),
            (
                "inline READ",
                wqe(|w| {
                    remote(w);
                    w.opcode = Opcode::RdmaRead.0;
                    w.flags |= inline;
                    w.length = 8.into();
                }),
            ),
            (
                "length without inline",
                wqe(|w| {
                    remote(w);
                    w.length = 8.into()
                }),
            ),
            (
                "reserved byte",
                wqe(|w| {
                    remote(w);
                    w.reserved = 1
                }),
            ),
            (
                "unknown flags",
                wqe(|w| {
                    remote(w);
                    w.flags |= 0x70
                }),
            ),
            ("operation 0", wqe(|w| w.opcode = 0)),
            ("operation 255", wqe(|w| w.opcode = 255)),
        ];
        for (what, wqe) in bad {
            println!("{what}");
            let (qa, _qb) = qps(scene, &hostile);
            put(&qa, 0, wqe.as_bytes());
            qa.ring();
            let done = qa.send_cq.wait();
            assert_eq!((done.wr_id, done.status), (1, WcStatus::LocQpOpErr), "{what}");
            assert_eq!(qa.state(), QpState::Err);
            assert_eq!(target.read(0, 4096), [0; 4096], "{what}");
        }
        drop(target_mr);
        close(hostile);
    });
}

#[test]
fn overlapping_entries_are_the_senders_own_business() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let (qa, qb) = qps(scene, &hostile);
        let (here, here_mr) = hostile.region(4096);
        let (there, there_mr) = scene.b.region(4096);
        let data = pattern(1, 3000);
        there.write(0, &data);
        let sges = [here_mr.sge(here.addr(), 1000); 3];
        qa.post_send(&SendWr::read(&sges, there.addr(), there_mr.rkey()));
        qa.send_cq.expect(0);
        assert_eq!(here.read(1000, 3096), [0; 3096]);
        here.write(0, &data[..1000]);
        qa.post_send(&SendWr::write(&sges, there.addr() + 1000, there_mr.rkey()));
        qa.send_cq.expect(0);
        assert_eq!(there.read(1000, 3000), [&data[..1000]; 3].concat());
        drop((qa, qb, here_mr, there_mr));
        close(hostile);
    });
}

#[test]
fn receive_elements_that_are_wrong() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        for (what, at, byte) in [
            ("255 entries", 2, 255_u8),
            ("reserved byte", 0, 1),
            ("reserved byte", 5, 1),
            ("flags", 1, 0xff),
        ] {
            println!("{what}");
            let (qa, qb) = qps(scene, &hostile);
            let mut wqe = [0; 64];
            wqe[at] = byte;
            wqe[1] |= WqeFlags::PHASE.bits();
            let offset = qa.layout().rq_offset;
            qa.pages().write(offset + 8, &wqe[8..]);
            let first = u64::from_le_bytes(wqe[..8].try_into().expect("eight bytes"));
            qa.pages().store64(offset, first);
            qb.post_send(&SendWr::send(&[]).inline(b"hello").id(2));
            assert_ne!(qb.send_cq.wait().status, WcStatus::Success, "{what}");
            assert_ne!(qa.recv_cq.wait().status, WcStatus::Success, "{what}");
        }
        close(hostile);
    });
}

#[test]
fn a_ring_that_is_full_for_ever() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let (target, target_mr) = scene.b.region(4096);
        let (qa, qb) = qps(scene, &hostile);
        // Every element valid, and as the device goes round, always valid for the next lap too: a
        // driver that runs past the ring. Completions overrun their queue before long.
        let good = wqe(|w| {
            w.remote_addr = target.addr().into();
            w.rkey = target_mr.rkey().into();
            w.flags |= WqeFlags::INLINE.bits();
            w.length = 8.into();
        });
        let stride = u64::from(qa.layout().sq_stride);
        let mut flags = good.flags | WqeFlags::PHASE.bits();
        for lap in 0..50 {
            for index in 0..64 {
                let mut wqe = good;
                wqe.flags = flags;
                let at = u64::from(QP_SQ_OFFSET) + index * stride;
                qa.pages().write(at + 8, &wqe.as_bytes()[8..]);
                let first = u64::from_le_bytes(wqe.as_bytes()[..8].try_into().expect("eight"));
                qa.pages().store64(at, first);
            }
            flags ^= WqeFlags::PHASE.bits();
            qa.ring();
            if lap == 25 {
                qa.pages().store32(0, u32::MAX);
            }
        }
        drop((qa, qb, target_mr));
        close(hostile);
    });
}

#[test]
fn consumer_indices_that_jump_and_go_back() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let (target, target_mr) = scene.b.region(4096);
        for consumer in [1, 5, 1000, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let cq = hostile.cq(4);
            let qa = Qp::new(&hostile.pd, &cq, &cq, hostile.gid, QpOptions::default());
            let qb = scene.b.qp();
            connect_with(&qa, &qb, &impatient());
            for round in 0..8_u32 {
                let index = if round % 2 == 0 { consumer } else { 0 };
                cq.pages().store32(CQ_CONSUMER_OFFSET.into(), index);
                for _ in 0..3 {
                    let wr = SendWr::write(&[], target.addr(), target_mr.rkey()).inline(b"x");
                    if qa.try_post_send(&wr).is_err() {
                        break;
                    }
                }
            }
            drop((qa, qb, cq));
        }
        drop(target_mr);
        close(hostile);
    });
}

#[test]
fn doorbells_of_others() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let (qa, qb) = qps(scene, &hostile);
        let page = hostile.ctx.doorbell_page();
        let kick = hostile.driver.kick();
        for round in 0..200_u64 {
            for word in 0..256 {
                page.store64(u64::from(DOORBELL_BITMAP) + word * 8, !0);
            }
            // The rest of the page as well, the device's own words included.
            page.write(0, &pattern(round, 64));
            page.write(64 + 2048, &pattern(round, 4096 - 2112));
            vnic_verbs::Kick::kick(&kick);
        }
        // Its own queue pair still works once it behaves.
        page.write(0, &[0; 4096]);
        vnic_verbs::Kick::kick(&kick);
        let (target, target_mr) = scene.b.region(64);
        qa.post_send(&SendWr::write(&[], target.addr(), target_mr.rkey()).inline(b"behaved"));
        // A sleeping device that set need_kick before the page was cleared has to be woken by hand.
        vnic_verbs::Kick::kick(&kick);
        qa.send_cq.expect(0);
        drop((qa, qb, target_mr));
        close(hostile);
    });
}

/// Writes noise over `pages` until the flag falls.
fn scribble(pages: &Pages, seed: u64) {
    let noise = pattern(seed, 8);
    let at = u64::from_le_bytes(noise.try_into().expect("eight bytes"));
    let word = at % (pages.len() / 8) * 8;
    pages.store64(word, at.rotate_left(17));
}

#[test]
fn memory_that_changes_while_the_device_looks() {
    Scene::new().attack(|scene| {
        for seed in 0..6_u64 {
            let hostile = scene.hostile();
            let (here, here_mr) = hostile.region(8192);
            let (there, there_mr) = scene.b.region(8192);
            let mut pairs: Vec<(Qp, Qp)> = (0..4).map(|_| qps(scene, &hostile)).collect();
            let own = (hostile.qp(), hostile.qp());
            connect(&own.0, &own.1);
            pairs.push(own);
            let epoch = Arc::clone(hostile.driver.epoch_page());
            for step in 0..4000_u64 {
                let (qp, _) = &pairs[(step % 5) as usize];
                if step % 7 == 0 {
                    let sge = here_mr.sge(here.addr(), 4096);
                    let wr = match step % 3 {
                        0 => SendWr::write(&[sge], there.addr(), there_mr.rkey()),
                        1 => SendWr::read(&[sge], there.addr(), there_mr.rkey()),
                        _ => SendWr::send(&[sge]),
                    };
                    let _ = qp.try_post_send(&wr);
                }
                let noise = seed << 32 | step;
                scribble(qp.pages(), noise);
                match step % 16 {
                    0 => scribble(qp.send_cq.pages(), noise),
                    5 => scribble(hostile.ctx.doorbell_page(), noise),
                    9 => scribble(hostile.space().invalidation_page(), noise),
                    11 => scribble(&epoch, noise),
                    _ => {}
                }
                qp.ring();
            }
            // The epoch page is noise: an honest wait for the device would not end.
            epoch.write(0, &[0; 4096]);
            hostile.driver.power_off();
        }
        close(scene.hostile());
    });
}
