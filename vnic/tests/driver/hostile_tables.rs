// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page tables that loop, lead out of memory, or change while they are walked.

use std::sync::atomic::{AtomicBool, Ordering};

use vnic_abi::cqe::WcStatus;
use vnic_abi::event::PageResponseCode;
use vnic_testbed::process_guest::page_table::{
    ADDRESS, LARGE, PRESENT, USER, WRITABLE, entry_address,
};
use vnic_testbed::process_guest::verbs::{ALL_ACCESS, Endpoint, Mr, SendWr, connect};
use vnic_testbed::process_guest::{FaultAnswer, GuestOptions, Paging};

use crate::common::{close, pattern};
use crate::victim::Scene;

const ALL: u64 = PRESENT | WRITABLE | USER;

/// Where the attacks happen: addresses that nothing else uses, in a table of their own.
const VA: u64 = 0x1234_5678_9000;

/// Overwrites the entry for [`VA`] at `level` with `value`; the tables above exist afterwards.
fn set_entry(end: &Endpoint, level: u32, value: u64) {
    let entry = end.space().table().make_entry(VA, level);
    end.driver.ram().word(entry, |word| word.store(value, Ordering::Release));
    end.space().invalidate(0, u64::MAX).expect("device quiesces");
}

/// Does a WRITE from the victim to `addr` of the hostile guest, and one the other way round.
fn poke(scene: &Scene, hostile: &Endpoint, addr: u64, mr: &Mr) -> [WcStatus; 2] {
    let (victim, victim_mr) = scene.b.region(4096);
    let data = pattern(1, 64);
    victim.write(0, &data);
    let into = {
        let (qa, qb) = (hostile.qp(), scene.b.qp());
        connect(&qa, &qb);
        qb.post_send(&SendWr::write(&[victim_mr.sge(victim.addr(), 64)], addr, mr.rkey()));
        qb.send_cq.wait().status
    };
    let from = {
        let (qa, qb) = (hostile.qp(), scene.b.qp());
        connect(&qa, &qb);
        let wr = SendWr::write(&[mr.sge(addr, 64)], victim.addr() + 64, victim_mr.rkey());
        qa.post_send(&wr);
        qa.send_cq.wait().status
    };
    if from != WcStatus::Success {
        assert_eq!(victim.read(64, 64), [0; 64]);
    }
    assert_eq!(victim.read(0, 64), data);
    drop(victim_mr);
    [into, from]
}

const REFUSED: [WcStatus; 2] = [WcStatus::RemAccessErr, WcStatus::LocProtErr];

#[test]
fn entries_that_lead_out_of_memory() {
    Scene::new().attack(|scene| {
        for paging in [Paging::Level4, Paging::Level5] {
            let options = GuestOptions { paging, ..GuestOptions::default() };
            let hostile = Endpoint::boot_with(&scene.daemon.socket("a"), 1, options);
            let invalid = |_: &_| FaultAnswer::Answer(PageResponseCode::Invalid);
            hostile.driver.set_fault_policy(invalid);
            let mr = Mr::new(&hostile.pd, VA, 1 << 30, ALL_ACCESS).expect("MR_CREATE");
            let ram = hostile.driver.ram();
            let targets = [ram.hole(), ram.end(), ADDRESS, ADDRESS & !0x1000, 1 << 51, 1 << 40];
            for level in 1..=paging.levels() {
                for target in targets {
                    set_entry(&hostile, level, target | ALL);
                    let found = poke(scene, &hostile, VA, &mr);
                    assert_eq!(found, REFUSED, "level {level} leads to {target:#x}");
                    set_entry(&hostile, level, 0);
                }
            }
            // Large leaves: outside RAM, over its end, misaligned, and at levels that have none.
            let bad = [
                (2, ram.hole() | LARGE),
                (2, ram.end() | LARGE),
                (2, 0x2000 | LARGE),
                (3, ram.end().next_multiple_of(1 << 30) | LARGE),
                (3, 0x20_0000 | LARGE),
                (4, LARGE),
            ];
            for (level, entry) in bad {
                set_entry(&hostile, level, entry | ALL);
                let found = poke(scene, &hostile, VA, &mr);
                assert_eq!(found, REFUSED, "level {level} holds {entry:#x}");
                set_entry(&hostile, level, 0);
            }
            drop(mr);
            close(hostile);
        }
    });
}

#[test]
fn supervisor_pages_are_out_of_reach() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        hostile.driver.set_fault_policy(|_| FaultAnswer::Answer(PageResponseCode::Invalid));
        let (page, _page_mr) = hostile.region(4096);
        let mr = Mr::new(&hostile.pd, VA, 4096, ALL_ACCESS).expect("MR_CREATE");
        let leaf = page.pages().gpa(0);
        set_entry(&hostile, 1, leaf | ALL);
        assert_eq!(poke(scene, &hostile, VA, &mr), [WcStatus::Success; 2]);
        page.fill(3);
        for level in 1..=4 {
            let entry = hostile.space().table().make_entry(VA, level);
            let good = hostile.driver.ram().word(entry, |word| word.load(Ordering::Acquire));
            set_entry(&hostile, level, good & !USER);
            assert_eq!(poke(scene, &hostile, VA, &mr), REFUSED, "no user bit at level {level}");
            set_entry(&hostile, level, good & !WRITABLE);
            let [into, _] = poke(scene, &hostile, VA, &mr);
            assert_eq!(into, WcStatus::RemAccessErr, "no write bit at level {level}");
            set_entry(&hostile, level, good & !PRESENT);
            assert_eq!(poke(scene, &hostile, VA, &mr), REFUSED, "not present at level {level}");
            set_entry(&hostile, level, good);
            assert_eq!(page.read(0, 4096), [3; 4096]);
        }
        assert_eq!(poke(scene, &hostile, VA, &mr), [WcStatus::Success; 2]);
        drop((mr, _page_mr));
        close(hostile);
    });
}

#[test]
fn addresses_that_are_not_the_users() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        hostile.driver.set_fault_policy(|_| FaultAnswer::Answer(PageResponseCode::Invalid));
        for addr in [1 << 47, (1 << 48) - 4096, 1 << 56, 1 << 63, u64::MAX - 4095] {
            // Refused at once, or by the walk.
            if let Ok(mr) = Mr::new(&hostile.pd, addr, 4095, ALL_ACCESS) {
                assert_eq!(poke(scene, &hostile, addr, &mr), REFUSED, "{addr:#x}");
            }
        }
        close(hostile);
    });
}

#[test]
fn tables_that_loop() {
    Scene::new().attack(|scene| {
        for paging in [Paging::Level4, Paging::Level5] {
            let options = GuestOptions { paging, ..GuestOptions::default() };
            let hostile = Endpoint::boot_with(&scene.daemon.socket("a"), 1, options);
            hostile.driver.set_fault_policy(|_| FaultAnswer::Answer(PageResponseCode::Invalid));
            let root = hostile.space().table().root();
            // Every way leads back to the root, which becomes the data page in the end.
            for index in 0..512 {
                let entry = entry_address(root, index << 12, 1);
                hostile.driver.ram().word(entry, |word| word.store(root | ALL, Ordering::Release));
            }
            hostile.space().invalidate(0, u64::MAX).expect("device quiesces");
            let mr = Mr::new(&hostile.pd, VA, 1 << 21, ALL_ACCESS).expect("MR_CREATE");
            let (victim, victim_mr) = scene.b.region(1 << 20);
            let (qa, qb) = (hostile.qp(), scene.b.qp());
            connect(&qa, &qb);
            // All of it is one page, which a walk finds in as many steps as there are levels.
            let wr = SendWr::write(&[mr.sge(VA, 1 << 20)], victim.addr(), victim_mr.rkey());
            qa.post_send(&wr);
            qa.send_cq.expect(0);
            let found = victim.read(0, 4096);
            let first = u64::from_le_bytes(found[..8].try_into().expect("eight bytes"));
            assert_eq!(first & ADDRESS, root);
            // The victim writes the table over while it is in use.
            victim.fill(0);
            qb.post_send(&SendWr::write(&[victim_mr.sge(victim.addr(), 1 << 20)], VA, mr.rkey()));
            assert_eq!(qb.send_cq.wait().status, WcStatus::RemAccessErr);
            drop((qa, qb, mr, victim_mr));
            close(hostile);
        }
    });
}

#[test]
fn tables_that_change_under_the_walker() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        hostile.driver.set_fault_policy(|_| FaultAnswer::Answer(PageResponseCode::Invalid));
        let (page, page_mr) = hostile.region(4096);
        let mr = Mr::new(&hostile.pd, VA, 4096, ALL_ACCESS).expect("MR_CREATE");
        let leaf = page.pages().gpa(0);
        set_entry(&hostile, 1, leaf | ALL);
        let ram = hostile.driver.ram();
        let hole = ram.hole();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let entries: Vec<u64> =
                    (1..=4).map(|level| hostile.space().table().make_entry(VA, level)).collect();
                let good: Vec<u64> = entries
                    .iter()
                    .map(|&entry| ram.word(entry, |word| word.load(Ordering::Acquire)))
                    .collect();
                let mut step = 0_u64;
                // Relaxed: a flag that carries nothing.
                while !stop.load(Ordering::Relaxed) {
                    step += 1;
                    let level = (step % 4) as usize;
                    let value = match step % 7 {
                        0 => 0,
                        1 => hole | ALL,
                        2 => u64::MAX,
                        3 => good[level] & !WRITABLE,
                        4 => good[level] | LARGE,
                        5 => hostile.space().table().root() | ALL,
                        _ => good[level],
                    };
                    // No invalidation: the guest breaks its own promise.
                    ram.word(entries[level], |word| word.store(value, Ordering::Release));
                    if step.is_multiple_of(3) {
                        for (&entry, &good) in entries.iter().zip(&good) {
                            ram.word(entry, |word| word.store(good, Ordering::Release));
                        }
                    }
                }
                // As it was, so that the guest's own invalidations find sound tables.
                for (&entry, &good) in entries.iter().zip(&good) {
                    ram.word(entry, |word| word.store(good, Ordering::Release));
                }
            });
            let (victim, victim_mr) = scene.b.region(4096);
            let data = pattern(4, 4096);
            victim.write(0, &data);
            for _ in 0..300 {
                let (qa, qb) = (hostile.qp(), scene.b.qp());
                connect(&qa, &qb);
                for id in 0..8 {
                    let sge = victim_mr.sge(victim.addr(), 4096);
                    qb.post_send(&SendWr::write(&[sge], VA, mr.rkey()).id(id));
                }
                let statuses: Vec<_> =
                    qb.send_cq.wait_many(8).iter().map(|done| done.status).collect();
                for status in statuses {
                    let allowed = [WcStatus::Success, WcStatus::RemAccessErr, WcStatus::WrFlushErr];
                    assert!(allowed.contains(&status), "{status:?}");
                }
                assert_eq!(victim.read(0, 4096), data);
            }
            stop.store(true, Ordering::Relaxed);
            drop(victim_mr);
        });
        drop((mr, page_mr));
        close(hostile);
    });
}

#[test]
fn a_driver_that_says_present_and_lies() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        hostile.driver.set_fault_policy(|_| FaultAnswer::Answer(PageResponseCode::Success));
        let (lazy, lazy_mr) = hostile.lazy_region(4096);
        let (victim, victim_mr) = scene.b.region(4096);
        let (qa, qb) = (hostile.qp(), scene.b.qp());
        connect(&qa, &qb);
        qa.post_send(&SendWr::write(
            &[lazy_mr.sge(lazy.addr(), 64)],
            victim.addr(),
            victim_mr.rkey(),
        ));
        // The device asks again, or gives up: what it must not do is to stop, or to read something.
        while hostile.driver.page_requests().len() < 3 && qa.send_cq.poll().is_none() {
            std::thread::yield_now();
        }
        assert_eq!(victim.read(0, 4096), [0; 4096]);
        drop((qa, qb, lazy_mr, victim_mr));
        close(hostile);
    });
}

#[test]
fn page_tables_in_pages_that_are_taken_back() {
    Scene::new().attack(|scene| {
        // The guest frees its tables while the device is bound to them, and fills them with noise.
        for seed in 0..4 {
            let hostile = scene.hostile();
            hostile.driver.set_fault_policy(|_| FaultAnswer::Answer(PageResponseCode::Invalid));
            let (buffer, mr) = hostile.region(64 << 10);
            let (victim, victim_mr) = scene.b.region(64 << 10);
            let root = hostile.space().table().root();
            for id in 0..50 {
                let (qa, qb) = (hostile.qp(), scene.b.qp());
                connect(&qa, &qb);
                let sge = victim_mr.sge(victim.addr(), 64 << 10);
                qb.post_send(&SendWr::write(&[sge], buffer.addr(), mr.rkey()).id(id));
                hostile.driver.ram().write(root, &pattern(seed * 100 + id, 4096));
                qb.send_cq.wait();
            }
            drop(victim_mr);
            hostile.driver.power_off();
        }
        close(scene.hostile());
    });
}
