// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The C header, made from the same definitions as the Rust types.

use crate::{CodeInfo, ConstInfo, FlagInfo, StructInfo, config, cqe, ctrl, doorbell, epoch};
use crate::{event, status, uverbs, wqe};
use alloc::string::String;
use core::fmt::Write;

/// Every named number, by module.
pub const ALL_CONSTS: &[&[ConstInfo]] = &[
    crate::CONSTS,
    config::CONSTS,
    ctrl::CONSTS,
    wqe::CONSTS,
    cqe::CONSTS,
    doorbell::CONSTS,
    epoch::CONSTS,
    event::CONSTS,
    uverbs::CONSTS,
];

/// Every open enumeration.
pub const ALL_CODES: &[CodeInfo] = &[
    status::Status::INFO,
    ctrl::CmdOpcode::INFO,
    ctrl::GidType::INFO,
    ctrl::PagingMode::INFO,
    ctrl::QpType::INFO,
    ctrl::QpState::INFO,
    wqe::Opcode::INFO,
    cqe::WcStatus::INFO,
    cqe::WcOpcode::INFO,
    cqe::Arm::INFO,
    event::EventKind::INFO,
    event::PageResponseCode::INFO,
];

/// Every set of flags.
pub const ALL_FLAGS: &[FlagInfo] = &[
    config::Features::INFO,
    ctrl::AccessFlags::INFO,
    ctrl::MrAttrMask::INFO,
    ctrl::QpAttrMask::INFO,
    wqe::WqeFlags::INFO,
    cqe::CqeFlags::INFO,
    event::PageAccess::INFO,
];

/// Every structure, those that others contain first.
pub const ALL_STRUCTS: &[StructInfo] = &[
    config::Config::INFO,
    ctrl::CmdHeader::INFO,
    ctrl::ReplyHeader::INFO,
    ctrl::Handle::INFO,
    ctrl::HandleReply::INFO,
    ctrl::Init::INFO,
    ctrl::GidSet::INFO,
    ctrl::PasidBind::INFO,
    ctrl::CtxCreate::INFO,
    ctrl::PdCreate::INFO,
    ctrl::MrCreate::INFO,
    ctrl::MrCreateReply::INFO,
    ctrl::MrModify::INFO,
    ctrl::PageList::INFO,
    ctrl::CqCreate::INFO,
    ctrl::QpCreate::INFO,
    ctrl::QpCreateReply::INFO,
    ctrl::AddressVector::INFO,
    ctrl::QpAttr::INFO,
    ctrl::QpModify::INFO,
    ctrl::PageResponse::INFO,
    ctrl::Counters::INFO,
    wqe::Sge::INFO,
    wqe::SendWqe::INFO,
    wqe::AtomicWqe::INFO,
    wqe::RecvWqe::INFO,
    cqe::Cqe::INFO,
    cqe::CqControl::INFO,
    doorbell::DoorbellPage::INFO,
    doorbell::QpControl::INFO,
    epoch::EpochSlot::INFO,
    epoch::InvalidationRange::INFO,
    epoch::InvalidationPage::INFO,
    event::Event::INFO,
    event::PageRequest::INFO,
    uverbs::ContextResp::INFO,
    uverbs::CqResp::INFO,
    uverbs::QpResp::INFO,
];

/// The text of `vnic_abi.h`.
///
/// It needs `__u8`, `__le16`, `__le32` and `__le64` of `linux/types.h` and asserts every size and
/// offset where the compiler knows `_Static_assert`.
pub fn c_header() -> String {
    let mut h = String::new();
    h.push_str(
        "/* SPDX-License-Identifier: GPL-2.0 OR Apache-2.0 OR MIT */\n\
         /* Made from the crate vnic-abi by `cargo xtask tidy --fix`. Do not edit. */\n\
         #ifndef VNIC_ABI_H\n#define VNIC_ABI_H\n\n\
         #include <linux/types.h>\n#include <linux/stddef.h>\n\n",
    );
    for c in ALL_CONSTS.iter().flat_map(|group| group.iter()) {
        define(&mut h, c.c_name, c.value);
    }
    for (prefix, values) in ALL_CODES
        .iter()
        .map(|c| (c.c_prefix, c.values))
        .chain(ALL_FLAGS.iter().map(|f| (f.c_prefix, f.values)))
    {
        h.push('\n');
        for (name, value) in values {
            let mut full = String::from(prefix);
            full.push('_');
            full.push_str(name);
            define(&mut h, &full, *value);
        }
    }
    for s in ALL_STRUCTS {
        structure(&mut h, s);
    }
    h.push_str("\n#endif\n");
    h
}

fn define(h: &mut String, name: &str, value: u64) {
    let suffix = if value > u64::from(u32::MAX) { "ULL" } else { "" };
    // Writing to a String cannot fail.
    let _ = writeln!(h, "#define {name} {value:#x}{suffix}");
}

fn structure(h: &mut String, s: &StructInfo) {
    let _ = writeln!(h, "\nstruct {} {{", s.c_name);
    for f in s.fields {
        let _ = match f.array {
            0 => writeln!(h, "\t{} {};", f.c_type, f.name),
            n => writeln!(h, "\t{} {}[{n}];", f.c_type, f.name),
        };
    }
    h.push_str("};\n");
    let _ =
        writeln!(h, "_Static_assert(sizeof(struct {}) == {}, \"{}\");", s.c_name, s.size, s.c_name);
    for f in s.fields {
        let _ = writeln!(
            h,
            "_Static_assert(__builtin_offsetof(struct {0}, {1}) == {2}, \"{0}.{1}\");",
            s.c_name, f.name, f.offset
        );
    }
}
