// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A control command as host types.

use vnic_abi::config::Features;
use vnic_abi::ctrl::{
    Counters, GidType, HandleReply, MrCreateReply, PagingMode, QpAttr, QpAttrMask, QpCreateReply,
    ReplyHeader,
};
use vnic_abi::event::PageResponseCode;
use vnic_iommu::addr::Gpa;

use crate::port::{CqParams, MrChange, MrParams, QpParams};

/// One control command, complete and well-formed. Its values are not yet judged.
#[derive(Debug, Clone)]
#[allow(missing_docs)] // The fields are those of the structures in `vnic_abi::ctrl`.
pub enum Command {
    /// Start the device for a driver.
    Init { version: u32, features: Features, epoch_page: Gpa },
    /// Nothing.
    Nop,
    /// Destroy everything.
    Shutdown,
    /// Set an entry of the GID table.
    GidSet { index: u32, kind: GidType, gid: [u8; 16] },
    /// Clear an entry of the GID table.
    GidClear { index: u32 },
    /// Bind an address space.
    PasidBind { root: Gpa, mode: PagingMode, invalidation_page: Gpa },
    /// Release an address space.
    PasidUnbind { pasid: u32 },
    /// Open a context.
    CtxCreate { pasid: u32, doorbell_page: Gpa },
    /// Close a context.
    CtxDestroy { ctx: u32 },
    /// Allocate a protection domain.
    PdCreate { ctx: u32 },
    /// Free a protection domain.
    PdDestroy { pd: u32 },
    /// Register a memory region.
    MrCreate(MrParams),
    /// Change a memory region.
    MrModify(MrChange),
    /// Deregister a memory region.
    MrDestroy { mr: u32 },
    /// Create a completion queue.
    CqCreate(CqParams),
    /// Destroy a completion queue.
    CqDestroy { cq: u32 },
    /// Create a queue pair.
    QpCreate(QpParams),
    /// Change attributes of a queue pair.
    QpModify { qpn: u32, mask: QpAttrMask, attr: QpAttr },
    /// Read the attributes of a queue pair.
    QpQuery { qpn: u32 },
    /// Destroy a queue pair.
    QpDestroy { qpn: u32 },
    /// Answer a page request.
    PageResponse { id: u32, code: PageResponseCode },
    /// Read the counters of the port.
    QueryCounters,
}

impl Command {
    /// Bytes of the reply if the command succeeds.
    ///
    /// Whoever executes a command checks first that this much room is there: an object whose handle
    /// cannot be told would be lost to its owner.
    pub fn reply_len(&self) -> usize {
        let body = match self {
            Self::PasidBind { .. }
            | Self::CtxCreate { .. }
            | Self::PdCreate { .. }
            | Self::CqCreate(_) => size_of::<HandleReply>(),
            Self::MrCreate(_) | Self::MrModify(_) => size_of::<MrCreateReply>(),
            Self::QpCreate(_) => size_of::<QpCreateReply>(),
            Self::QpQuery { .. } => size_of::<QpAttr>(),
            Self::QueryCounters => size_of::<Counters>(),
            Self::Init { .. }
            | Self::Nop
            | Self::Shutdown
            | Self::GidSet { .. }
            | Self::GidClear { .. }
            | Self::PasidUnbind { .. }
            | Self::CtxDestroy { .. }
            | Self::PdDestroy { .. }
            | Self::MrDestroy { .. }
            | Self::CqDestroy { .. }
            | Self::QpModify { .. }
            | Self::QpDestroy { .. }
            | Self::PageResponse { .. } => 0,
        };
        size_of::<ReplyHeader>() + body
    }
}
