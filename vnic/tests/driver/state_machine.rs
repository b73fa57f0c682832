// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands in any order, against a model of what the device holds.

use std::collections::HashMap;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use vnic_abi::config::Features;
use vnic_abi::ctrl::{
    AccessFlags, AddressVector, CqCreate, QpAttr, QpAttrMask, QpCreate, QpState, QpType,
};
use vnic_abi::status::Status;
use vnic_testbed::process_guest::memory::{FRAME, Layout};
use vnic_testbed::process_guest::verbs::{Endpoint, SendWr, gid_of};
use vnic_testbed::process_guest::{AddressSpace, Driver, Pages};

use crate::victim::Scene;

/// A command. Numbers select among all objects of that kind that ever existed.
#[derive(Debug, Clone)]
enum Op {
    Bind,
    Unbind(usize),
    CtxCreate(usize),
    CtxDestroy(usize),
    PdCreate(usize),
    PdDestroy(usize),
    MrCreate(usize),
    MrDestroy(usize),
    CqCreate(usize),
    CqDestroy(usize),
    QpCreate(usize, usize, usize),
    QpModify(usize, u8, Option<u32>, usize),
    QpQuery(usize),
    QpDestroy(usize),
    /// Makes every element of a queue pair's memory look valid, and rings.
    Post(usize, u8),
    GidSet(u32),
    GidClear(u32),
    PageResponse(u32, u32),
    Nop,
    Init,
    Shutdown,
}

fn op() -> impl Strategy<Value = Op> {
    let which = || 0_usize..64;
    prop_oneof![
        3 => Just(Op::Bind),
        1 => which().prop_map(Op::Unbind),
        4 => which().prop_map(Op::CtxCreate),
        1 => which().prop_map(Op::CtxDestroy),
        6 => which().prop_map(Op::PdCreate),
        2 => which().prop_map(Op::PdDestroy),
        4 => which().prop_map(Op::MrCreate),
        3 => which().prop_map(Op::MrDestroy),
        6 => which().prop_map(Op::CqCreate),
        2 => which().prop_map(Op::CqDestroy),
        10 => (which(), which(), which()).prop_map(|(a, b, c)| Op::QpCreate(a, b, c)),
        20 => (which(), 0_u8..8, prop::option::weighted(0.2, any::<u32>()), which())
            .prop_map(|(qp, state, mask, peer)| Op::QpModify(qp, state, mask, peer)),
        2 => which().prop_map(Op::QpQuery),
        3 => which().prop_map(Op::QpDestroy),
        8 => (which(), any::<u8>()).prop_map(|(qp, byte)| Op::Post(qp, byte)),
        1 => (0_u32..3).prop_map(Op::GidSet),
        1 => (0_u32..3).prop_map(Op::GidClear),
        1 => (any::<u32>(), 0_u32..4).prop_map(|(id, code)| Op::PageResponse(id, code)),
        1 => Just(Op::Nop),
        1 => Just(Op::Init),
        1 => Just(Op::Shutdown),
    ]
}

/// Objects of one kind: every handle that ever was, and those alive with what they depend on.
#[derive(Default)]
struct Kind {
    ever: Vec<u32>,
    alive: HashMap<u32, Vec<u32>>,
}

impl Kind {
    fn pick(&self, index: usize) -> u32 {
        // A number that is nobody's, if there is nothing to pick from.
        if self.ever.is_empty() { 0x00ab_cdef } else { self.ever[index % self.ever.len()] }
    }

    fn add(&mut self, handle: u32, parents: &[u32]) {
        assert_ne!(handle, 0);
        assert!(self.alive.insert(handle, parents.to_vec()).is_none(), "{handle:#x} given twice");
        self.ever.push(handle);
    }

    fn has(&self, handle: u32) -> bool {
        self.alive.contains_key(&handle)
    }

    fn uses(&self, at: usize, parent: u32) -> bool {
        self.alive.values().any(|parents| parents[at] == parent)
    }

    fn remove_with(&mut self, at: usize, parent: u32) {
        self.alive.retain(|_, parents| parents[at] != parent);
    }
}

/// What the device should hold. Parents: context -> [pasid]; domain and completion queue ->
/// [context]; region -> [domain, context]; queue pair -> [domain, send, receive queue, context].
struct Model<'a> {
    driver: &'a Driver,
    space: std::sync::Arc<AddressSpace>,
    running: bool,
    pasids: Kind,
    ctxs: Kind,
    pds: Kind,
    mrs: Kind,
    cqs: Kind,
    qps: Kind,
    /// Memory given to the device. Nothing is freed during a case, as a buggy driver would not.
    memory: HashMap<u32, Pages>,
    doorbells: HashMap<u32, (Pages, u32)>,
    kept: Vec<Pages>,
    peer: (u32, [u8; 16]),
}

impl Model<'_> {
    fn clear(&mut self) {
        for kind in [
            &mut self.pasids,
            &mut self.ctxs,
            &mut self.pds,
            &mut self.mrs,
            &mut self.cqs,
            &mut self.qps,
        ] {
            kind.alive.clear();
        }
    }

    fn pages(&self, count: u64) -> Pages {
        self.driver.ram().alloc(count * FRAME, Layout::Scattered)
    }

    /// Compares an answer with what the model expects of a creation.
    fn created(&self, what: &str, answer: Result<u32, Status>, possible: bool) -> Option<u32> {
        match answer {
            Ok(handle) => {
                assert!(possible && self.running, "{what} succeeded on something dead");
                Some(handle)
            }
            Err(status) => {
                assert!(
                    !(possible && self.running) || status == Status::Limit,
                    "{what}: {status:?}"
                );
                None
            }
        }
    }

    /// Compares an answer with what the model expects of a destruction; whether it happened.
    fn destroyed(&self, what: &str, answer: Result<(), Status>, alive: bool, in_use: bool) -> bool {
        let wanted = match (self.running, alive, in_use) {
            (false, ..) => Err(Status::BadState),
            (_, false, _) => Err(Status::BadHandle),
            (.., true) => Err(Status::Busy),
            _ => Ok(()),
        };
        assert_eq!(answer, wanted, "{what}");
        answer.is_ok()
    }

    fn run(&mut self, op: &Op) {
        let driver = self.driver;
        match *op {
            Op::Bind => {
                let answer = driver.pasid_bind(&self.space);
                if let Some(handle) = self.created("PASID_BIND", answer, true) {
                    self.pasids.add(handle, &[]);
                }
            }
            Op::Unbind(i) => {
                let pasid = self.pasids.pick(i);
                let answer = driver.pasid_unbind(pasid);
                // Allowed with contexts on it: a process's memory ends before its open files do.
                if self.destroyed("PASID_UNBIND", answer, self.pasids.has(pasid), false) {
                    self.pasids.alive.remove(&pasid);
                }
            }
            Op::CtxCreate(i) => {
                let pasid = self.pasids.pick(i);
                let page = self.pages(1);
                let answer = driver.ctx_create(pasid, page.gpa(0));
                let possible = self.pasids.has(pasid);
                if let Some(handle) = self.created("CTX_CREATE", answer, possible) {
                    self.ctxs.add(handle, &[pasid]);
                    self.memory.insert(handle, page);
                }
            }
            Op::CtxDestroy(i) => {
                let ctx = self.ctxs.pick(i);
                let answer = driver.ctx_destroy(ctx);
                if self.destroyed("CTX_DESTROY", answer, self.ctxs.has(ctx), false) {
                    self.ctxs.alive.remove(&ctx);
                    self.pds.remove_with(0, ctx);
                    self.cqs.remove_with(0, ctx);
                    self.mrs.remove_with(1, ctx);
                    self.qps.remove_with(3, ctx);
                }
            }
            Op::PdCreate(i) => {
                let ctx = self.ctxs.pick(i);
                let answer = driver.pd_create(ctx);
                if let Some(handle) = self.created("PD_CREATE", answer, self.ctxs.has(ctx)) {
                    self.pds.add(handle, &[ctx]);
                }
            }
            Op::PdDestroy(i) => {
                let pd = self.pds.pick(i);
                let answer = driver.pd_destroy(pd);
                let used = self.mrs.uses(0, pd) || self.qps.uses(0, pd);
                if self.destroyed("PD_DESTROY", answer, self.pds.has(pd), used) {
                    self.pds.alive.remove(&pd);
                }
            }
            Op::MrCreate(i) => {
                let pd = self.pds.pick(i);
                let access = AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE;
                let answer = driver.mr_create(pd, 0x7000_0000, 1 << 30, access);
                let answer = answer.map(|keys| keys.handle.get());
                if let Some(handle) = self.created("MR_CREATE", answer, self.pds.has(pd)) {
                    let ctx = self.pds.alive[&pd][0];
                    self.mrs.add(handle, &[pd, ctx]);
                }
            }
            Op::MrDestroy(i) => {
                let mr = self.mrs.pick(i);
                let answer = driver.mr_destroy(mr);
                if self.destroyed("MR_DESTROY", answer, self.mrs.has(mr), false) {
                    self.mrs.alive.remove(&mr);
                }
            }
            Op::CqCreate(i) => {
                let ctx = self.ctxs.pick(i);
                let pages = self.pages(2);
                let list = driver.page_list(&pages.gpas());
                let answer = driver.cq_create(&CqCreate {
                    ctx: ctx.into(),
                    depth: 16.into(),
                    cookie: 1.into(),
                    pages: list.wire(),
                });
                if let Some(handle) = self.created("CQ_CREATE", answer, self.ctxs.has(ctx)) {
                    self.cqs.add(handle, &[ctx]);
                    self.kept.push(pages);
                }
            }
            Op::CqDestroy(i) => {
                let cq = self.cqs.pick(i);
                let answer = driver.cq_destroy(cq);
                let used = self.qps.uses(1, cq) || self.qps.uses(2, cq);
                if self.destroyed("CQ_DESTROY", answer, self.cqs.has(cq), used) {
                    self.cqs.alive.remove(&cq);
                }
            }
            Op::QpCreate(pd, send, recv) => self.qp_create(pd, send, recv),
            Op::QpModify(qp, state, mask, peer) => self.qp_modify(qp, state, mask, peer),
            Op::QpQuery(i) => {
                let qp = self.qps.pick(i);
                let answer = driver.qp_query(qp).map(drop);
                assert_eq!(answer.is_ok(), self.running && self.qps.has(qp), "{answer:?}");
            }
            Op::QpDestroy(i) => {
                let qp = self.qps.pick(i);
                let answer = driver.qp_destroy(qp);
                if self.destroyed("QP_DESTROY", answer, self.qps.has(qp), false) {
                    self.qps.alive.remove(&qp);
                }
            }
            Op::Post(i, byte) => {
                let qp = self.qps.pick(i);
                if let Some((pages, doorbell)) = self.doorbells.get(&qp) {
                    pages.write(FRAME, &[byte | 0x80; FRAME as usize]);
                    if let Some(page) = self.memory.get(doorbell) {
                        page.write(64, &[0xff; 2048]);
                    }
                    vnic_verbs::Kick::kick(&driver.kick());
                }
            }
            Op::GidSet(index) => {
                let gid = gid_of([10, 9, 9, index as u8].into());
                let answer = driver.gid_set(index, gid);
                assert!(answer.is_ok() == self.running || answer == Err(Status::Exists));
            }
            Op::GidClear(index) => {
                let _ = driver.gid_clear(index);
            }
            Op::PageResponse(id, code) => {
                let code = vnic_abi::event::PageResponseCode(code);
                driver.try_page_response(id, code).expect("an answer");
            }
            Op::Nop => driver.nop().expect("NOP"),
            Op::Init => {
                driver.init(Features::empty()).expect("INIT");
                self.clear();
                self.running = true;
            }
            Op::Shutdown => {
                let _ = driver.shutdown();
                self.clear();
                self.running = false;
            }
        }
    }

    fn qp_create(&mut self, pd: usize, send: usize, recv: usize) {
        let (pd, send, recv) = (self.pds.pick(pd), self.cqs.pick(send), self.cqs.pick(recv));
        let owner = |kind: &Kind, handle| kind.alive.get(&handle).map(|parents| parents[0]);
        let ctx = owner(&self.pds, pd);
        let possible =
            ctx.is_some() && ctx == owner(&self.cqs, send) && ctx == owner(&self.cqs, recv);
        let pages = self.pages(3);
        let list = self.driver.page_list(&pages.gpas());
        let answer = self.driver.qp_create(&QpCreate {
            pd: pd.into(),
            send_cq: send.into(),
            recv_cq: recv.into(),
            qp_type: QpType::Rc.0,
            sq_depth: 16.into(),
            sq_stride: 64.into(),
            rq_depth: 16.into(),
            rq_stride: 64.into(),
            cookie: 2.into(),
            pages: list.wire(),
            ..Default::default()
        });
        let answer = answer.map(|created| created.qpn.get());
        if let (Some(qpn), Some(ctx)) = (self.created("QP_CREATE", answer, possible), ctx) {
            self.qps.add(qpn, &[pd, send, recv, ctx]);
            self.doorbells.insert(qpn, (pages, ctx));
        }
    }

    fn qp_modify(&mut self, qp: usize, state: u8, mask: Option<u32>, peer: usize) {
        let qpn = self.qps.pick(qp);
        // The right mask for the transition, unless the case wants another one.
        let right = QpAttrMask::STATE
            | match QpState(state) {
                QpState::Init => {
                    QpAttrMask::PKEY_INDEX | QpAttrMask::PORT | QpAttrMask::ACCESS_FLAGS
                }
                QpState::Rtr => {
                    QpAttrMask::AV
                        | QpAttrMask::PATH_MTU
                        | QpAttrMask::DEST_QPN
                        | QpAttrMask::RQ_PSN
                        | QpAttrMask::MAX_DEST_RD_ATOMIC
                        | QpAttrMask::MIN_RNR_TIMER
                }
                QpState::Rts => {
                    QpAttrMask::TIMEOUT
                        | QpAttrMask::RETRY_CNT
                        | QpAttrMask::RNR_RETRY
                        | QpAttrMask::SQ_PSN
                        | QpAttrMask::MAX_QP_RD_ATOMIC
                }
                _ => QpAttrMask::empty(),
            };
        let mask = mask.map_or(right, QpAttrMask::from_bits_retain);
        // Every third connection goes to a victim's queue pair, the others to one's own.
        let (dest_qpn, dgid) = if peer.is_multiple_of(3) {
            self.peer
        } else {
            (self.qps.pick(peer), gid_of([10, 9, 9, 0].into()))
        };
        let attr = QpAttr {
            state,
            port: 1,
            path_mtu: 3,
            timeout: 5,
            retry_cnt: 1,
            rnr_retry: 1,
            min_rnr_timer: 1,
            max_rd_atomic: 1,
            max_dest_rd_atomic: 1,
            access: AccessFlags::REMOTE_WRITE.bits().into(),
            dest_qpn: dest_qpn.into(),
            av: AddressVector { dgid, ..Default::default() },
            ..Default::default()
        };
        let answer = self.driver.qp_modify(qpn, mask, &attr);
        if !(self.running && self.qps.has(qpn)) {
            assert!(answer.is_err(), "QP_MODIFY succeeded on something dead");
        }
    }

    fn check(&self) {
        let held = crate::common::held(&self.driver.counters());
        let wanted = [&self.pasids, &self.ctxs, &self.pds, &self.mrs, &self.cqs, &self.qps]
            .map(|kind| kind.alive.len() as u32);
        assert_eq!(held[..6], wanted, "pasids, contexts, pds, mrs, cqs, qps");
    }
}

#[test]
fn commands_in_any_order() {
    Scene::new().attack(|scene| {
        let target = scene.b.qp();
        let peer = (target.qpn(), scene.b.gid);
        let config = Config { cases: 64, failure_persistence: None, ..Config::default() };
        let mut runner = TestRunner::new(config);
        let cases = prop::collection::vec(op(), 1..150);
        let result = runner.run(&cases, |ops| {
            let driver = Driver::boot(&scene.daemon.socket("a"));
            let mut model = Model {
                driver: &driver,
                space: driver.new_space(),
                running: true,
                pasids: Kind::default(),
                ctxs: Kind::default(),
                pds: Kind::default(),
                mrs: Kind::default(),
                cqs: Kind::default(),
                qps: Kind::default(),
                memory: HashMap::new(),
                doorbells: HashMap::new(),
                kept: Vec::new(),
                peer,
            };
            for op in &ops {
                model.run(op);
                model.check();
            }
            driver.init(Features::empty()).expect("INIT");
            crate::common::assert_nothing_held(&driver);
            Ok(())
        });
        if let Err(error) = result {
            panic!("{error}");
        }
        assert_eq!(target.state(), QpState::Reset);
        drop(target);
        // The port is as good as new.
        let fresh: Endpoint = scene.hostile();
        let (qa, qb) = (fresh.qp(), scene.b.qp());
        vnic_testbed::process_guest::verbs::connect(&qa, &qb);
        let (to, to_mr) = scene.b.region(64);
        qa.post_send(&SendWr::write(&[], to.addr(), to_mr.rkey()).inline(b"fresh"));
        qa.send_cq.expect(0);
        drop((qa, qb, to_mr));
        crate::common::close(fresh);
    });
}
