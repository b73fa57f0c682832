// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Every kind of object, created until the device says that it is enough.

use vnic_abi::ctrl::{AccessFlags, CqCreate, QpCreate, QpType};
use vnic_abi::status::Status;
use vnic_testbed::process_guest::memory::{FRAME, Layout};
use vnic_testbed::process_guest::{Driver, GuestOptions};

use crate::common::{assert_nothing_held, close};
use crate::victim::Scene;

/// Creates until `Limit`, checks that the number is what the configuration space promised less what
/// existed before, and destroys all of it.
#[track_caller]
fn exhaust(
    what: &str,
    limit: u32,
    existing: u32,
    mut create: impl FnMut(u32) -> Result<u32, Status>,
    mut destroy: impl FnMut(u32) -> Result<(), Status>,
) {
    let mut made = Vec::new();
    loop {
        match create(made.len() as u32) {
            Ok(handle) => made.push(handle),
            Err(status) => {
                assert_eq!(status, Status::Limit, "{what}, after {}", made.len());
                break;
            }
        }
        assert!(made.len() as u32 + existing <= limit, "{what}: more than the limit of {limit}");
    }
    assert_eq!(made.len() as u32 + existing, limit, "{what}");
    let mut unique = made.clone();
    unique.sort_unstable();
    unique.dedup();
    assert_eq!(unique.len(), made.len(), "{what}: a name was given twice");
    // One less makes room for exactly one more.
    let last = made.pop().expect("at least one");
    destroy(last).expect(what);
    made.push(create(0).expect(what));
    assert_eq!(create(0), Err(Status::Limit), "{what}");
    for handle in made {
        destroy(handle).expect(what);
    }
}

/// `count` pages, and the same pages over again for whoever asks for the next object: they are not
/// used by the device, since nothing is posted.
fn slot(pages: &[u64], index: u32, count: usize) -> &[u64] {
    let at = index as usize * count;
    &pages[at..at + count]
}

#[test]
fn every_object_until_a_small_limit() {
    let limits = "[limits]\nmax_qp = 70\nmax_cq = 33\nmax_mr = 1000\nmax_pd = 9\nmax_ctx = 5\n";
    let daemon = crate::common::daemon_options().config(limits).start();
    exhaust_everything(Scene::on(daemon), [70, 33, 1000, 9, 5]);
}

#[test]
fn every_object_until_its_limit() {
    exhaust_everything(Scene::new(), [16384, 16384, 1 << 18, 16384, 1024]);
}

fn exhaust_everything(scene: Scene, promised: [u32; 5]) {
    scene.attack(|scene| {
        let options = GuestOptions { ram: 1 << 30, ..GuestOptions::default() };
        let hostile = vnic_testbed::process_guest::verbs::Endpoint::boot_with(
            &scene.daemon.socket("a"),
            1,
            options,
        );
        let driver: &Driver = &hostile.driver;
        let config = *driver.config();
        let limits = [config.max_qp, config.max_cq, config.max_mr, config.max_pd, config.max_ctx];
        assert_eq!(limits.map(u32::from), promised);
        let (ctx, pd, pasid) = (hostile.ctx.handle(), hostile.pd.handle(), hostile.ctx.pasid());

        exhaust(
            "protection domains",
            config.max_pd.get(),
            1,
            |_| driver.pd_create(ctx),
            |pd| driver.pd_destroy(pd),
        );
        exhaust(
            "memory regions",
            config.max_mr.get(),
            0,
            |i| {
                let keys = driver.mr_create(pd, u64::from(i) << 12, 4096, AccessFlags::empty());
                keys.map(|keys| keys.handle.get())
            },
            |mr| driver.mr_destroy(mr),
        );
        let contexts = config.max_ctx.get();
        let doorbells = driver.ram().alloc(u64::from(contexts) * FRAME, Layout::Linear);
        exhaust(
            "contexts",
            contexts,
            1,
            |i| driver.ctx_create(pasid, doorbells.gpa(u64::from(i) * FRAME)),
            |ctx| driver.ctx_destroy(ctx),
        );
        let cqs = config.max_cq.get();
        let memory = driver.ram().alloc(u64::from(cqs + 1) * 2 * FRAME, Layout::Linear);
        let gpas = memory.gpas();
        let new_cq = |i: u32| {
            let list = driver.page_list(slot(&gpas, i, 2));
            driver.cq_create(&CqCreate {
                ctx: ctx.into(),
                depth: 4.into(),
                cookie: 0.into(),
                pages: list.wire(),
            })
        };
        exhaust("completion queues", cqs, 0, new_cq, |cq| driver.cq_destroy(cq));
        drop(memory);

        let qps = config.max_qp.get();
        let memory = driver.ram().alloc(u64::from(qps + 1) * 3 * FRAME, Layout::Linear);
        let gpas = memory.gpas();
        let cq = hostile.cq(4);
        exhaust(
            "queue pairs",
            qps,
            0,
            |i| {
                let list = driver.page_list(slot(&gpas, i, 3));
                let created = driver.qp_create(&QpCreate {
                    pd: pd.into(),
                    send_cq: cq.handle().into(),
                    recv_cq: cq.handle().into(),
                    qp_type: QpType::Rc.0,
                    sq_depth: 4.into(),
                    sq_stride: 64.into(),
                    rq_depth: 4.into(),
                    rq_stride: 64.into(),
                    pages: list.wire(),
                    ..Default::default()
                });
                created.map(|created| created.qpn.get())
            },
            |qp| driver.qp_destroy(qp),
        );
        drop(cq);

        let gids = config.max_gid.get();
        for index in 0..gids {
            driver.gid_set(index, [index as u8 + 1; 16]).expect("GID_SET");
        }
        for index in 0..gids {
            driver.gid_clear(index).expect("GID_CLEAR");
        }
        close(hostile);
    });
}

#[test]
fn address_spaces_until_their_limit() {
    Scene::new().attack(|scene| {
        let driver = Driver::boot(&scene.daemon.socket("a"));
        let space = driver.new_space();
        let mut bound = Vec::new();
        let status = loop {
            match driver.pasid_bind(&space) {
                Ok(pasid) => bound.push(pasid),
                Err(status) => break status,
            }
            assert!(bound.len() <= 1 << 20, "no limit at all");
        };
        assert_eq!(status, Status::Limit);
        assert!(bound.len() >= driver.config().max_ctx.get() as usize, "{}", bound.len());
        assert!(bound.iter().all(|&pasid| pasid != 0), "0 is the kernel's");
        for pasid in bound {
            driver.pasid_unbind(pasid).expect("PASID_UNBIND");
        }
        assert_nothing_held(&driver);
    });
}

#[test]
fn everything_at_its_limit_goes_with_the_guest() {
    Scene::new().attack(|scene| {
        for round in 0..3 {
            let hostile = scene.hostile();
            let pd = hostile.pd.handle();
            for i in 0..20_000 {
                let made = hostile.driver.mr_create(pd, i << 12, 4096, AccessFlags::empty());
                made.expect("MR_CREATE");
            }
            match round {
                0 => hostile.driver.ctx_destroy(hostile.ctx.handle()).expect("CTX_DESTROY"),
                1 => hostile.driver.shutdown().expect("SHUTDOWN"),
                _ => {
                    hostile.driver.power_off();
                    continue;
                }
            }
            assert_eq!(hostile.driver.counters().mrs.get(), 0);
        }
    });
}
