// SPDX-License-Identifier: Apache-2.0 OR MIT
//! From the bytes of a command to host types.

use vnic_abi::config::Features;
use vnic_abi::ctrl::{
    AccessFlags, CmdHeader, CmdOpcode, CqCreate, CtxCreate, GidSet, GidType, Handle, Init,
    MAX_RING_PAGES, MrAttrMask, MrCreate, MrModify, PageList, PageResponse, PagingMode, PasidBind,
    PdCreate, QpAttrMask, QpCreate, QpModify, QpType,
};
use vnic_abi::event::PageResponseCode;
use vnic_abi::status::Status;
use vnic_abi::{PAGE_SIZE, U64};
use vnic_iommu::addr::Gpa;
use vnic_iommu::memory::GuestRam;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

use super::Command;
use crate::port::{CqParams, MrChange, MrParams, QpParams, Window};

/// Parses the whole of `bytes` as one command. Page lists are copied out of `ram` here, once.
///
/// # Errors
///
/// - `MALFORMED`: too short, too long, or a reserved field is not zero
/// - `UNKNOWN_COMMAND`: no such opcode
/// - `BAD_SIZE`, `BAD_ADDRESS`: a page list has a bad count, or it or one of its pages is misaligned
///   or not in RAM
/// - `BAD_ATTRIBUTE`: a flag or code that has no meaning; `UNSUPPORTED`: an unknown feature
pub fn parse(bytes: &[u8], ram: &GuestRam) -> Result<Command, Status> {
    let (header, rest) = CmdHeader::read_from_prefix(bytes).map_err(|_| Status::Malformed)?;
    zero(header.reserved.get())?;
    match CmdOpcode(header.opcode.get()) {
        CmdOpcode::Init => init(rest),
        CmdOpcode::Nop => nothing(rest, Command::Nop),
        CmdOpcode::Shutdown => match handle(rest)? {
            0 => Ok(Command::Shutdown),
            _ => Err(Status::BadHandle),
        },
        CmdOpcode::GidSet => gid_set(rest),
        CmdOpcode::GidClear => Ok(Command::GidClear { index: handle(rest)? }),
        CmdOpcode::PasidBind => pasid_bind(rest),
        CmdOpcode::PasidUnbind => Ok(Command::PasidUnbind { pasid: handle(rest)? }),
        CmdOpcode::CtxCreate => ctx_create(rest),
        CmdOpcode::CtxDestroy => Ok(Command::CtxDestroy { ctx: handle(rest)? }),
        CmdOpcode::PdCreate => pd_create(rest),
        CmdOpcode::PdDestroy => Ok(Command::PdDestroy { pd: handle(rest)? }),
        CmdOpcode::MrCreate => mr_create(rest),
        CmdOpcode::MrDestroy => Ok(Command::MrDestroy { mr: handle(rest)? }),
        CmdOpcode::MrModify => mr_modify(rest),
        CmdOpcode::CqCreate => cq_create(rest, ram),
        CmdOpcode::CqDestroy => Ok(Command::CqDestroy { cq: handle(rest)? }),
        CmdOpcode::QpCreate => qp_create(rest, ram),
        CmdOpcode::QpModify => qp_modify(rest),
        CmdOpcode::QpQuery => Ok(Command::QpQuery { qpn: handle(rest)? }),
        CmdOpcode::QpDestroy => Ok(Command::QpDestroy { qpn: handle(rest)? }),
        CmdOpcode::PageResponse => page_response(rest),
        CmdOpcode::QueryCounters => nothing(rest, Command::QueryCounters),
        _ => Err(Status::UnknownCommand),
    }
}

/// The structure of the opcode: exactly its bytes, neither fewer nor more.
fn structure<T: FromBytes>(bytes: &[u8]) -> Result<T, Status> {
    T::read_from_bytes(bytes).map_err(|_| Status::Malformed)
}

fn nothing(bytes: &[u8], command: Command) -> Result<Command, Status> {
    if bytes.is_empty() { Ok(command) } else { Err(Status::Malformed) }
}

/// A reserved field.
fn zero(value: impl Into<u64>) -> Result<(), Status> {
    if value.into() == 0 { Ok(()) } else { Err(Status::Malformed) }
}

fn handle(bytes: &[u8]) -> Result<u32, Status> {
    let cmd: Handle = structure(bytes)?;
    zero(cmd.reserved.get())?;
    Ok(cmd.handle.get())
}

fn init(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: Init = structure(bytes)?;
    zero(cmd.reserved.get())?;
    Ok(Command::Init {
        version: cmd.version.get(),
        features: Features::from_bits(cmd.features.get()).ok_or(Status::Unsupported)?,
        epoch_page: Gpa(cmd.epoch_page.get()),
    })
}

fn gid_set(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: GidSet = structure(bytes)?;
    cmd.reserved.iter().try_for_each(|&byte| zero(byte))?;
    Ok(Command::GidSet { index: cmd.index.get(), kind: GidType(cmd.gid_type), gid: cmd.gid })
}

fn pasid_bind(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: PasidBind = structure(bytes)?;
    zero(cmd.reserved.get())?;
    Ok(Command::PasidBind {
        root: Gpa(cmd.root.get()),
        mode: PagingMode(cmd.mode.get()),
        invalidation_page: Gpa(cmd.invalidation_page.get()),
    })
}

fn ctx_create(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: CtxCreate = structure(bytes)?;
    zero(cmd.reserved.get())?;
    Ok(Command::CtxCreate { pasid: cmd.pasid.get(), doorbell_page: Gpa(cmd.doorbell_page.get()) })
}

fn pd_create(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: PdCreate = structure(bytes)?;
    zero(cmd.reserved.get())?;
    Ok(Command::PdCreate { ctx: cmd.ctx.get() })
}

fn mr_create(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: MrCreate = structure(bytes)?;
    Ok(Command::MrCreate(MrParams {
        pd: cmd.pd.get(),
        access: AccessFlags::from_bits(cmd.access.get()).ok_or(Status::BadAttribute)?,
        window: Window { start: cmd.start.get(), length: cmd.length.get(), iova: cmd.iova.get() },
    }))
}

fn mr_modify(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: MrModify = structure(bytes)?;
    let mask = MrAttrMask::from_bits(cmd.mask.get()).ok_or(Status::BadAttribute)?;
    if mask.is_empty() {
        return Err(Status::BadAttribute);
    }
    let named = |flag| mask.contains(flag);
    // What is not named is not looked at, and does not get any further.
    Ok(Command::MrModify(MrChange {
        mr: cmd.mr.get(),
        pd: named(MrAttrMask::PD).then(|| cmd.pd.get()),
        access: match named(MrAttrMask::ACCESS) {
            true => Some(AccessFlags::from_bits(cmd.access.get()).ok_or(Status::BadAttribute)?),
            false => None,
        },
        window: named(MrAttrMask::TRANSLATION).then(|| Window {
            start: cmd.start.get(),
            length: cmd.length.get(),
            iova: cmd.iova.get(),
        }),
    }))
}

fn cq_create(bytes: &[u8], ram: &GuestRam) -> Result<Command, Status> {
    let cmd: CqCreate = structure(bytes)?;
    Ok(Command::CqCreate(CqParams {
        ctx: cmd.ctx.get(),
        depth: cmd.depth.get(),
        cookie: cmd.cookie.get(),
        pages: page_list(&cmd.pages, ram)?,
    }))
}

fn qp_create(bytes: &[u8], ram: &GuestRam) -> Result<Command, Status> {
    let cmd: QpCreate = structure(bytes)?;
    zero(cmd.reserved.get())?;
    Ok(Command::QpCreate(QpParams {
        pd: cmd.pd.get(),
        send_cq: cmd.send_cq.get(),
        recv_cq: cmd.recv_cq.get(),
        qp_type: QpType(cmd.qp_type),
        sq_sig_all: match cmd.sq_sig_all {
            0 => false,
            1 => true,
            _ => return Err(Status::BadAttribute),
        },
        sq_depth: cmd.sq_depth.get(),
        sq_stride: cmd.sq_stride.get(),
        rq_depth: cmd.rq_depth.get(),
        rq_stride: cmd.rq_stride.get(),
        cookie: cmd.cookie.get(),
        pages: page_list(&cmd.pages, ram)?,
    }))
}

fn qp_modify(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: QpModify = structure(bytes)?;
    zero(cmd.attr.av.reserved.get())?;
    Ok(Command::QpModify {
        qpn: cmd.qpn.get(),
        mask: QpAttrMask::from_bits(cmd.mask.get()).ok_or(Status::BadAttribute)?,
        attr: cmd.attr,
    })
}

fn page_response(bytes: &[u8]) -> Result<Command, Status> {
    let cmd: PageResponse = structure(bytes)?;
    Ok(Command::PageResponse { id: cmd.id.get(), code: PageResponseCode(cmd.code.get()) })
}

/// Copies a page list out of guest memory.
///
/// The guest may rewrite the list at any time, so it is read once. The count is checked before
/// anything is allocated; the pages are checked after the copy, and nobody looks at the list again.
fn page_list(list: &PageList, ram: &GuestRam) -> Result<Vec<Gpa>, Status> {
    zero(list.reserved.get())?;
    let (address, count) = (list.list.get(), list.count.get());
    if count == 0 || count > MAX_RING_PAGES {
        return Err(Status::BadSize);
    }
    if address % size_of::<U64>() as u64 != 0 {
        return Err(Status::BadAddress);
    }
    let mut pages = vec![U64::new_zeroed(); count as usize];
    ram.read(Gpa(address), pages.as_mut_bytes()).ok_or(Status::BadAddress)?;
    pages
        .iter()
        .map(|page| Gpa(page.get()))
        .map(|page| {
            let usable = page.0 % PAGE_SIZE == 0 && ram.contains(page, PAGE_SIZE as usize);
            usable.then_some(page).ok_or(Status::BadAddress)
        })
        .collect()
}

#[cfg(test)]
#[path = "parse_tests.rs"]
mod tests;
