// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A driver whose commands are well-formed and whose addresses, sizes and values are wrong.

use vnic_abi::config::Features;
use vnic_abi::ctrl::{
    AccessFlags, CqCreate, GidSet, GidType, Init, MAX_RING_PAGES, MrCreate, MrModify, PageList,
    PasidBind, QpCreate, QpType,
};
use vnic_abi::status::Status;
use vnic_testbed::process_guest::memory::{FRAME, Layout};
use vnic_testbed::process_guest::verbs::Endpoint;

use crate::common::assert_nothing_held;
use crate::victim::Scene;

/// Lists of pages that no queue may have, with the status that each one earns.
fn bad_lists(end: &Endpoint, count: usize) -> Vec<(&'static str, PageList)> {
    let driver = &end.driver;
    let pages = driver.ram().alloc((count as u64 + 1) * FRAME, Layout::Linear);
    let good = pages.gpas()[..count].to_vec();
    let mut lists = Vec::new();
    let mut with = |what, change: &dyn Fn(&mut Vec<u64>)| {
        let mut gpas = good.clone();
        change(&mut gpas);
        let list = driver.page_list(&gpas);
        lists.push((what, list.wire()));
        std::mem::forget(list);
    };
    let hole = driver.ram().hole();
    with("a page in the hole", &|gpas| gpas[0] = hole);
    with("a last page in the hole", &|gpas| *gpas.last_mut().expect("not empty") = hole);
    with("a page at the end of the address space", &|gpas| gpas[0] = u64::MAX - 4095);
    with("a misaligned page", &|gpas| gpas[0] += 8);
    with("the same page twice", &|gpas| gpas[1] = gpas[0]);
    with("one page less", &|gpas| gpas.truncate(gpas.len() - 1));
    let list = driver.page_list(&good);
    let wire = |address: u64, count: u32| PageList {
        list: address.into(),
        count: count.into(),
        ..Default::default()
    };
    let (at, count) = (list.wire().list.get(), count as u32);
    lists.push(("an empty list", wire(at, 0)));
    lists.push(("a list of 2^32 - 1", wire(at, u32::MAX)));
    lists.push(("a list that is longer than any", wire(at, MAX_RING_PAGES + 1)));
    lists.push(("a misaligned list", wire(at + 4, count)));
    lists.push(("a list in the hole", wire(hole, count)));
    lists.push(("a list that runs into the hole", wire(hole - 8, count)));
    lists.push(("a list that wraps", wire(u64::MAX - 7, count)));
    // The memory stays: the device may look whenever it likes.
    std::mem::forget((list, pages));
    lists
}

const ADDRESS_OR_SIZE: [Status; 2] = [Status::BadAddress, Status::BadSize];

#[test]
fn queues_whose_memory_is_wrong() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let driver = &hostile.driver;
        let cq = hostile.cq(4);
        for (what, list) in bad_lists(&hostile, 3) {
            let status = driver.cq_create(&CqCreate {
                ctx: hostile.ctx.handle().into(),
                // A control page and two pages of ring.
                depth: 256.into(),
                cookie: 0.into(),
                pages: list,
            });
            let status = status.expect_err(what);
            assert!(ADDRESS_OR_SIZE.contains(&status), "CQ, {what}: {status:?}");
            let status = driver.qp_create(&QpCreate {
                pd: hostile.pd.handle().into(),
                send_cq: cq.handle().into(),
                recv_cq: cq.handle().into(),
                qp_type: QpType::Rc.0,
                sq_depth: 64.into(),
                sq_stride: 64.into(),
                rq_depth: 64.into(),
                rq_stride: 64.into(),
                pages: list,
                ..Default::default()
            });
            let status = status.expect_err(what);
            assert!(ADDRESS_OR_SIZE.contains(&status), "QP, {what}: {status:?}");
        }
        let hole = driver.ram().hole();
        for page in [hole, u64::MAX, u64::MAX - 4095, 8, 4095, driver.ram().end()] {
            let status = driver.ctx_create(hostile.ctx.pasid(), page);
            assert_eq!(status, Err(Status::BadAddress), "doorbell page {page:#x}");
            let bind = |root: u64, invalidation: u64| PasidBind {
                root: root.into(),
                invalidation_page: invalidation.into(),
                mode: 4.into(),
                ..Default::default()
            };
            let status = driver.pasid_bind_with(&bind(page, 4096));
            assert_eq!(status, Err(Status::BadAddress), "root {page:#x}");
            let status = driver.pasid_bind_with(&bind(4096, page));
            assert_eq!(status, Err(Status::BadAddress), "invalidation page {page:#x}");
        }
        drop(cq);
        crate::common::close(hostile);

        // INIT destroys everything first, so that it comes last.
        let hostile = scene.hostile();
        let hole = hostile.driver.ram().hole();
        for page in [hole, u64::MAX, u64::MAX - 4095, 8, 4095] {
            let status = hostile.driver.init_with(&Init {
                version: vnic_abi::ABI_VERSION.into(),
                epoch_page: page.into(),
                ..Default::default()
            });
            assert_eq!(status, Err(Status::BadAddress), "epoch page {page:#x}");
        }
    });
}

#[test]
fn sizes_that_cannot_be() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let driver = &hostile.driver;
        let cq = hostile.cq(4);
        let pages = driver.ram().alloc(64 * FRAME, Layout::Linear);
        let list = driver.page_list(&pages.gpas());
        let sizes = [0, 3, 65, (1 << 24) + 1, 1 << 30, 1 << 31, u32::MAX];
        for depth in sizes {
            let status = driver.cq_create(&CqCreate {
                ctx: hostile.ctx.handle().into(),
                depth: depth.into(),
                cookie: 0.into(),
                pages: list.wire(),
            });
            assert_eq!(status, Err(Status::BadSize), "CQ of {depth}");
        }
        let create = |sq: (u32, u32), rq: (u32, u32)| {
            driver.qp_create(&QpCreate {
                pd: hostile.pd.handle().into(),
                send_cq: cq.handle().into(),
                recv_cq: cq.handle().into(),
                qp_type: QpType::Rc.0,
                sq_depth: sq.0.into(),
                sq_stride: sq.1.into(),
                rq_depth: rq.0.into(),
                rq_stride: rq.1.into(),
                pages: list.wire(),
                ..Default::default()
            })
        };
        for size in sizes {
            for (sq, rq) in [
                ((size, 64), (64, 64)),
                ((64, 64), (size, 64)),
                ((64, size), (64, 64)),
                ((64, 64), (64, size)),
                ((size, 512), (size, 512)),
            ] {
                let status = create(sq, rq).map(drop);
                assert_eq!(status, Err(Status::BadSize), "SQ {sq:?}, RQ {rq:?}");
            }
        }

        let mr = |start: u64, length: u64, iova: u64| {
            driver.mr_create_with(&MrCreate {
                pd: hostile.pd.handle().into(),
                access: 0.into(),
                start: start.into(),
                length: length.into(),
                iova: iova.into(),
            })
        };
        for (start, length, iova) in [
            (4096, u64::MAX, 4096),
            (u64::MAX, 2, 0),
            (u64::MAX - 4095, 4097, 0),
            (0, 4097, u64::MAX - 4095),
            (1, u64::MAX, 0),
            (0, u64::MAX, u64::MAX),
        ] {
            let status = mr(start, length, iova).map(drop).expect_err("a sum that wraps");
            let what = format!("{start:#x} + {length:#x} at {iova:#x}: {status:?}");
            assert!(ADDRESS_OR_SIZE.contains(&status), "{what}");
        }
        // Everything, or nearly so: a port allows that only if it was told to.
        let on_demand = AccessFlags::ON_DEMAND;
        let longest = driver.config().max_mr_size.get();
        assert_eq!(longest, 1 << 44);
        for (start, length, access, wanted) in [
            (0, u64::MAX, on_demand, Status::Unsupported),
            (0, u64::MAX, AccessFlags::empty(), Status::BadSize),
            (0, u64::MAX - 1, on_demand, Status::BadSize),
            (4096, 1 << 47, on_demand, Status::BadSize),
            (4096, longest + 1, on_demand, Status::BadSize),
        ] {
            let made = driver.mr_create(hostile.pd.handle(), start, length, access);
            assert_eq!(made.map(drop), Err(wanted), "{length:#x} {access:?}");
            let keys = mr(0, longest, 0).expect("as long as it may be");
            let change = MrModify {
                mr: keys.handle,
                mask: 5.into(),
                access: access.bits().into(),
                start: start.into(),
                length: length.into(),
                iova: start.into(),
                ..Default::default()
            };
            let changed = driver.mr_modify(&change).map(drop);
            assert_eq!(changed, Err(wanted), "change to {length:#x} {access:?}");
            driver.mr_destroy(keys.handle.get()).expect("MR_DESTROY");
        }
        // 2^32 bytes are nothing special, and nothing is touched.
        let keys = mr(1 << 40, 1 << 32, 1 << 40).expect("MR_CREATE");
        driver.mr_destroy(keys.handle.get()).expect("MR_DESTROY");
        drop(cq);
        crate::common::close(hostile);
    });
}

#[test]
fn values_that_nobody_defined() {
    Scene::new().attack(|scene| {
        let hostile = scene.hostile();
        let driver = &hostile.driver;
        let table = driver.new_space();
        for mode in [0, 3, 6, u32::MAX] {
            let status = driver.pasid_bind_with(&PasidBind {
                root: table.table().root().into(),
                invalidation_page: table.invalidation_page().gpa(0).into(),
                mode: mode.into(),
                ..Default::default()
            });
            assert!(
                matches!(status, Err(Status::Unsupported | Status::BadAttribute)),
                "paging mode {mode}: {status:?}"
            );
        }
        let (buffer, _mr) = hostile.region(4096);
        for access in [1 << 4, 1 << 7, 1 << 31, u32::MAX] {
            let status = driver.mr_create(
                hostile.pd.handle(),
                buffer.addr(),
                4096,
                AccessFlags::from_bits_retain(access),
            );
            assert!(
                matches!(status, Err(Status::Unsupported | Status::BadAttribute)),
                "access {access:#x}: {status:?}"
            );
        }
        for (mask, access) in [
            (0, 0),
            (1 << 3, 0),
            (u32::MAX, 0),
            (4, 1 << 4),
            (4, u32::MAX),
            (4, 1 << 1),
            (7, 1 << 3),
        ] {
            let change = MrModify {
                mr: _mr.handle().into(),
                mask: mask.into(),
                pd: hostile.pd.handle().into(),
                access: access.into(),
                ..Default::default()
            };
            let status = driver.mr_modify(&change).map(drop);
            assert_eq!(status, Err(Status::BadAttribute), "mask {mask:#x}, access {access:#x}");
        }
        let gid = [9; 16];
        for gid_type in [0, 3, 255] {
            let body = GidSet { gid_type, gid, ..Default::default() };
            assert!(driver.gid_set_with(&body).is_err(), "GID type {gid_type}");
        }
        for index in [driver.config().max_gid.get(), u32::MAX] {
            let body = GidSet {
                index: index.into(),
                gid_type: GidType::RoceV2.0,
                gid,
                ..Default::default()
            };
            assert!(driver.gid_set_with(&body).is_err(), "GID index {index}");
            assert!(driver.gid_clear(index).is_err(), "GID index {index}");
        }
        // An address that somebody else has.
        assert_eq!(driver.gid_set(1, scene.b.gid), Err(Status::Exists));
        for id in [0, 1, 77, u32::MAX] {
            for code in [0, 1, 2, 3, u32::MAX] {
                let code = vnic_abi::event::PageResponseCode(code);
                let status = driver.try_page_response(id, code).expect("an answer");
                assert_ne!(status, Status::Ok, "page response {id} {code:?}");
            }
        }
        drop(_mr);
        crate::common::close(hostile);

        let hostile = scene.hostile();
        let epoch_page = hostile.driver.epoch_page().gpa(0);
        let init = |version: u32, features: u64| {
            hostile.driver.init_with(&Init {
                version: version.into(),
                features: features.into(),
                epoch_page: epoch_page.into(),
                ..Default::default()
            })
        };
        assert!(init(0x7777_0000, 0).is_err(), "another version");
        assert!(init(vnic_abi::ABI_VERSION, u64::MAX).is_err(), "features that do not exist");
        init(vnic_abi::ABI_VERSION, Features::empty().bits()).expect("INIT");
        assert_nothing_held(&hostile.driver);
    });
}
