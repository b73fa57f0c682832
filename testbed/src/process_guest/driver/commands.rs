// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Each control command as a function.

use std::sync::atomic::Ordering;

use vnic_abi::ABI_VERSION;
use vnic_abi::config::Features;
use vnic_abi::ctrl::{
    AccessFlags, CmdHeader, CmdOpcode, Counters, CqCreate, CtxCreate, GidSet, GidType, Handle,
    HandleReply, Init, MrCreate, MrCreateReply, MrModify, PageList, PageResponse, PasidBind,
    PdCreate, QpAttr, QpAttrMask, QpCreate, QpCreateReply, QpModify, ReplyHeader,
};
use vnic_abi::event::PageResponseCode;
use vnic_abi::status::Status;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Kernel, Lost};
use crate::process_guest::address_space::AddressSpace;
use crate::process_guest::memory::{Layout, Pages};

/// A page list in guest memory, as `CQ_CREATE` and `QP_CREATE` want it. The device reads it during
/// the command only.
pub struct PageListMemory {
    pages: Pages,
    count: u32,
}

impl PageListMemory {
    /// The list's place and length for a command.
    pub fn wire(&self) -> PageList {
        PageList { list: self.pages.gpa(0).into(), count: self.count.into(), ..Default::default() }
    }

    /// The memory of the list.
    pub fn pages(&self) -> &Pages {
        &self.pages
    }
}

type Answer<T> = Result<T, Status>;

/// Each command waits for its answer.
///
/// # Panics
///
/// All of them panic if the device does not answer; [`Kernel::command`] does not.
impl Kernel {
    /// Sends `opcode` with `body`; gives the status, and what followed it in the reply.
    ///
    /// # Errors
    ///
    /// If no answer comes.
    pub fn try_call(
        &self,
        opcode: CmdOpcode,
        body: &(impl IntoBytes + Immutable + ?Sized),
        reply_len: usize,
    ) -> Result<(Status, Vec<u8>), Lost> {
        let header = CmdHeader { opcode: opcode.0.into(), ..Default::default() };
        let request = [header.as_bytes(), body.as_bytes()].concat();
        let reply = self.command(&request, size_of::<ReplyHeader>() + reply_len)?;
        let (header, rest) =
            ReplyHeader::read_from_prefix(&reply).expect("a reply has a header at least");
        assert_eq!(header.reserved.get(), 0, "{opcode:?}: reserved field of the reply");
        Ok((Status(header.status.get()), rest.to_vec()))
    }

    fn call<R: FromBytes>(
        &self,
        opcode: CmdOpcode,
        body: &(impl IntoBytes + Immutable + ?Sized),
    ) -> Answer<R> {
        let (status, rest) = self
            .try_call(opcode, body, size_of::<R>())
            .unwrap_or_else(|lost| panic!("{opcode:?}: {lost}"));
        if status != Status::Ok {
            assert!(rest.is_empty(), "{opcode:?} failed with {status:?} and a reply");
            return Err(status);
        }
        Ok(R::read_from_bytes(&rest).unwrap_or_else(|_| panic!("{opcode:?}: short reply")))
    }

    fn handle(&self, opcode: CmdOpcode, handle: u32) -> Answer<()> {
        self.call(opcode, &Handle { handle: handle.into(), ..Default::default() })
    }

    fn create(
        &self,
        opcode: CmdOpcode,
        body: &(impl IntoBytes + Immutable + ?Sized),
    ) -> Answer<u32> {
        self.call::<HandleReply>(opcode, body).map(|reply| reply.handle.get())
    }

    /// `INIT` with this driver's version and epoch page.
    pub fn init(&self, features: Features) -> Answer<()> {
        self.init_with(&Init {
            version: ABI_VERSION.into(),
            features: features.bits().into(),
            epoch_page: self.epoch_page().gpa(0).into(),
            ..Default::default()
        })
    }

    /// `INIT` as given.
    pub fn init_with(&self, init: &Init) -> Answer<()> {
        // Relaxed: see `features`.
        self.features.store(init.features.get(), Ordering::Relaxed);
        self.call(CmdOpcode::Init, init)
    }

    /// `NOP`.
    pub fn nop(&self) -> Answer<()> {
        self.call(CmdOpcode::Nop, &())
    }

    /// `SHUTDOWN`.
    pub fn shutdown(&self) -> Answer<()> {
        self.handle(CmdOpcode::Shutdown, 0)
    }

    /// `GID_SET` of a RoCE v2 address.
    pub fn gid_set(&self, index: u32, gid: [u8; 16]) -> Answer<()> {
        self.gid_set_with(&GidSet {
            index: index.into(),
            gid_type: GidType::RoceV2.0,
            gid,
            ..Default::default()
        })
    }

    /// `GID_SET` as given.
    pub fn gid_set_with(&self, gid_set: &GidSet) -> Answer<()> {
        self.call(CmdOpcode::GidSet, gid_set)
    }

    /// `GID_CLEAR`.
    pub fn gid_clear(&self, index: u32) -> Answer<()> {
        self.handle(CmdOpcode::GidClear, index)
    }

    /// `PASID_BIND` of `space`; its page requests are not yet served.
    pub fn pasid_bind(&self, space: &AddressSpace) -> Answer<u32> {
        let table = space.table();
        let bind = PasidBind {
            root: table.root().into(),
            invalidation_page: space.invalidation_page().gpa(0).into(),
            mode: table.paging().code().0.into(),
            ..Default::default()
        };
        drop(table);
        self.pasid_bind_with(&bind)
    }

    /// `PASID_BIND` as given.
    pub fn pasid_bind_with(&self, bind: &PasidBind) -> Answer<u32> {
        self.create(CmdOpcode::PasidBind, bind)
    }

    /// `PASID_UNBIND`.
    pub fn pasid_unbind(&self, pasid: u32) -> Answer<()> {
        self.handle(CmdOpcode::PasidUnbind, pasid)
    }

    /// `CTX_CREATE`.
    pub fn ctx_create(&self, pasid: u32, doorbell_page: u64) -> Answer<u32> {
        let body = CtxCreate {
            pasid: pasid.into(),
            doorbell_page: doorbell_page.into(),
            ..Default::default()
        };
        self.create(CmdOpcode::CtxCreate, &body)
    }

    /// `CTX_DESTROY`.
    pub fn ctx_destroy(&self, ctx: u32) -> Answer<()> {
        self.handle(CmdOpcode::CtxDestroy, ctx)
    }

    /// `PD_CREATE`.
    pub fn pd_create(&self, ctx: u32) -> Answer<u32> {
        self.create(CmdOpcode::PdCreate, &PdCreate { ctx: ctx.into(), ..Default::default() })
    }

    /// `PD_DESTROY`.
    pub fn pd_destroy(&self, pd: u32) -> Answer<()> {
        self.handle(CmdOpcode::PdDestroy, pd)
    }

    /// `MR_CREATE` of a region whose addresses are the process's own.
    pub fn mr_create(
        &self,
        pd: u32,
        start: u64,
        length: u64,
        access: AccessFlags,
    ) -> Answer<MrCreateReply> {
        self.mr_create_with(&MrCreate {
            pd: pd.into(),
            access: access.bits().into(),
            start: start.into(),
            length: length.into(),
            iova: start.into(),
        })
    }

    /// `MR_CREATE` as given.
    pub fn mr_create_with(&self, mr: &MrCreate) -> Answer<MrCreateReply> {
        self.call(CmdOpcode::MrCreate, mr)
    }

    /// `MR_MODIFY` as given.
    pub fn mr_modify(&self, change: &MrModify) -> Answer<MrCreateReply> {
        self.call(CmdOpcode::MrModify, change)
    }

    /// `MR_DESTROY`.
    pub fn mr_destroy(&self, mr: u32) -> Answer<()> {
        self.handle(CmdOpcode::MrDestroy, mr)
    }

    /// Writes a list of page addresses into guest memory.
    pub fn page_list(&self, gpas: &[u64]) -> PageListMemory {
        let bytes: Vec<u8> = gpas.iter().flat_map(|gpa| gpa.to_le_bytes()).collect();
        let pages = self.ram().alloc(bytes.len() as u64, Layout::Linear);
        pages.write(0, &bytes);
        PageListMemory { pages, count: gpas.len() as u32 }
    }

    /// `CQ_CREATE` as given.
    pub fn cq_create(&self, cq: &CqCreate) -> Answer<u32> {
        self.create(CmdOpcode::CqCreate, cq)
    }

    /// `CQ_DESTROY`.
    pub fn cq_destroy(&self, cq: u32) -> Answer<()> {
        self.handle(CmdOpcode::CqDestroy, cq)
    }

    /// `QP_CREATE` as given.
    pub fn qp_create(&self, qp: &QpCreate) -> Answer<QpCreateReply> {
        self.call(CmdOpcode::QpCreate, qp)
    }

    /// `QP_MODIFY`.
    pub fn qp_modify(&self, qpn: u32, mask: QpAttrMask, attr: &QpAttr) -> Answer<()> {
        let body = QpModify { qpn: qpn.into(), mask: mask.bits().into(), attr: *attr };
        self.call(CmdOpcode::QpModify, &body)
    }

    /// `QP_QUERY`.
    pub fn qp_query(&self, qpn: u32) -> Answer<QpAttr> {
        self.call(CmdOpcode::QpQuery, &Handle { handle: qpn.into(), ..Default::default() })
    }

    /// `QP_DESTROY`.
    pub fn qp_destroy(&self, qpn: u32) -> Answer<()> {
        self.handle(CmdOpcode::QpDestroy, qpn)
    }

    /// `PAGE_RESPONSE`.
    ///
    /// # Errors
    ///
    /// If no answer comes.
    pub fn try_page_response(&self, id: u32, code: PageResponseCode) -> Result<Status, Lost> {
        let body = PageResponse { id: id.into(), code: code.0.into() };
        self.try_call(CmdOpcode::PageResponse, &body, 0).map(|(status, _)| status)
    }

    /// `QUERY_COUNTERS`.
    pub fn counters(&self) -> Counters {
        self.call(CmdOpcode::QueryCounters, &()).expect("QUERY_COUNTERS never fails")
    }
}
