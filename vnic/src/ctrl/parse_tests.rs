// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Tests of the parser against the wire types themselves.

use std::sync::Arc;

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vnic_abi::ctrl::{QpAttr, QpState};
use zerocopy::Immutable;

use super::*;

const RAM: u64 = 0x40_0000;
const LIST: u64 = 0x1000;

fn ram() -> GuestRam {
    let ranges = [(GuestAddress(0), RAM as usize)];
    GuestRam::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()))
}

/// RAM with a list of `pages` at [`LIST`].
fn ram_with_list(pages: &[u64]) -> GuestRam {
    let ram = ram();
    for (at, page) in pages.iter().enumerate() {
        ram.write(Gpa(LIST + 8 * at as u64), &page.to_le_bytes()).unwrap();
    }
    ram
}

fn bytes<T: IntoBytes + Immutable>(opcode: CmdOpcode, body: T) -> Vec<u8> {
    let header = CmdHeader { opcode: opcode.0.into(), reserved: 0.into() };
    [header.as_bytes(), body.as_bytes()].concat()
}

fn handle_bytes(opcode: CmdOpcode, handle: u32) -> Vec<u8> {
    bytes(opcode, Handle { handle: handle.into(), reserved: 0.into() })
}

fn list(count: u32) -> PageList {
    PageList { list: LIST.into(), count: count.into(), reserved: 0.into() }
}

fn cq_create(pages: PageList) -> Vec<u8> {
    let body = CqCreate { ctx: 3.into(), depth: 64.into(), cookie: 0x1234.into(), pages };
    bytes(CmdOpcode::CqCreate, body)
}

fn qp_create() -> QpCreate {
    QpCreate {
        pd: 1.into(),
        send_cq: 2.into(),
        recv_cq: 3.into(),
        qp_type: QpType::Rc.0,
        sq_sig_all: 1,
        reserved: 0.into(),
        sq_depth: 16.into(),
        sq_stride: 64.into(),
        rq_depth: 32.into(),
        rq_stride: 128.into(),
        cookie: 99.into(),
        pages: list(2),
    }
}

/// One valid command of each opcode.
fn each() -> Vec<(CmdOpcode, Vec<u8>)> {
    use CmdOpcode as Op;
    let init = Init {
        version: 7.into(),
        reserved: 0.into(),
        features: Features::ATOMIC.bits().into(),
        epoch_page: 0x5000.into(),
    };
    let gid = GidSet {
        index: 5.into(),
        gid_type: GidType::RoceV2.0,
        reserved: [0; 3],
        gid: *b"0123456789abcdef",
    };
    let bind = PasidBind {
        root: 0x6000.into(),
        invalidation_page: 0x7000.into(),
        mode: PagingMode::X86Level5.0.into(),
        reserved: 0.into(),
    };
    let ctx = CtxCreate { doorbell_page: 0x8000.into(), pasid: 9.into(), reserved: 0.into() };
    let mr = MrCreate {
        pd: 1.into(),
        access: (AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_READ).bits().into(),
        start: 0x7f00_0000_0000.into(),
        length: (1u64 << 40).into(),
        iova: 0x7f00_0000_0123.into(),
    };
    let mr_modify = MrModify {
        mr: 5.into(),
        mask: (MrAttrMask::TRANSLATION | MrAttrMask::PD).bits().into(),
        pd: 2.into(),
        access: u32::MAX.into(),
        start: 0x1000.into(),
        length: 0x2000.into(),
        iova: 0x3000.into(),
    };
    let modify = QpModify {
        qpn: 12.into(),
        mask: (QpAttrMask::STATE | QpAttrMask::PORT).bits().into(),
        attr: QpAttr { state: QpState::Init.0, port: 1, ..QpAttr::default() },
    };
    let response = PageResponse { id: 77.into(), code: PageResponseCode::Gone.0.into() };
    vec![
        (Op::Init, bytes(Op::Init, init)),
        (Op::Nop, bytes(Op::Nop, ())),
        (Op::Shutdown, handle_bytes(Op::Shutdown, 0)),
        (Op::GidSet, bytes(Op::GidSet, gid)),
        (Op::GidClear, handle_bytes(Op::GidClear, 4)),
        (Op::PasidBind, bytes(Op::PasidBind, bind)),
        (Op::PasidUnbind, handle_bytes(Op::PasidUnbind, 2)),
        (Op::CtxCreate, bytes(Op::CtxCreate, ctx)),
        (Op::CtxDestroy, handle_bytes(Op::CtxDestroy, 3)),
        (Op::PdCreate, bytes(Op::PdCreate, PdCreate { ctx: 8.into(), reserved: 0.into() })),
        (Op::PdDestroy, handle_bytes(Op::PdDestroy, 4)),
        (Op::MrCreate, bytes(Op::MrCreate, mr)),
        (Op::MrDestroy, handle_bytes(Op::MrDestroy, 5)),
        (Op::CqCreate, cq_create(list(2))),
        (Op::CqDestroy, handle_bytes(Op::CqDestroy, 6)),
        (Op::QpCreate, bytes(Op::QpCreate, qp_create())),
        (Op::QpModify, bytes(Op::QpModify, modify)),
        (Op::QpQuery, handle_bytes(Op::QpQuery, 7)),
        (Op::QpDestroy, handle_bytes(Op::QpDestroy, 8)),
        (Op::PageResponse, bytes(Op::PageResponse, response)),
        (Op::QueryCounters, bytes(Op::QueryCounters, ())),
        (Op::MrModify, bytes(Op::MrModify, mr_modify)),
    ]
}

#[test]
fn every_opcode_of_the_interface_is_tried() {
    let tried: Vec<u64> = each().iter().map(|(opcode, _)| u64::from(opcode.0)).collect();
    let defined: Vec<u64> = CmdOpcode::INFO.values.iter().map(|&(_, value)| value).collect();
    assert_eq!(tried, defined);
}

#[test]
fn every_opcode_arrives_with_its_values() {
    let ram = ram_with_list(&[0x9000, 0xa000]);
    let all: Vec<String> =
        each().iter().map(|(_, bytes)| format!("{:?}", parse(bytes, &ram).unwrap())).collect();
    insta::assert_snapshot!(all.join("\n"), @r"
    Init { version: 7, features: Features(ATOMIC), epoch_page: Gpa(0x5000) }
    Nop
    Shutdown
    GidSet { index: 5, kind: RoceV2, gid: [48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 97, 98, 99, 100, 101, 102] }
    GidClear { index: 4 }
    PasidBind { root: Gpa(0x6000), mode: X86Level5, invalidation_page: Gpa(0x7000) }
    PasidUnbind { pasid: 2 }
    CtxCreate { pasid: 9, doorbell_page: Gpa(0x8000) }
    CtxDestroy { ctx: 3 }
    PdCreate { ctx: 8 }
    PdDestroy { pd: 4 }
    MrCreate(MrParams { pd: 1, access: AccessFlags(LOCAL_WRITE | REMOTE_READ), window: Window { start: 139637976727552, length: 1099511627776, iova: 139637976727843 } })
    MrDestroy { mr: 5 }
    CqCreate(CqParams { ctx: 3, depth: 64, cookie: 4660, pages: [Gpa(0x9000), Gpa(0xa000)] })
    CqDestroy { cq: 6 }
    QpCreate(QpParams { pd: 1, send_cq: 2, recv_cq: 3, qp_type: Rc, sq_sig_all: true, sq_depth: 16, sq_stride: 64, rq_depth: 32, rq_stride: 128, cookie: 99, pages: [Gpa(0x9000), Gpa(0xa000)] })
    QpModify { qpn: 12, mask: QpAttrMask(STATE | PORT), attr: QpAttr { state: 1, cur_state: 0, port: 1, path_mtu: 0, pkey_index: U16(0), timeout: 0, retry_cnt: 0, rnr_retry: 0, min_rnr_timer: 0, max_rd_atomic: 0, max_dest_rd_atomic: 0, access: U32(0), qkey: U32(0), dest_qpn: U32(0), rq_psn: U32(0), sq_psn: U32(0), av: AddressVector { dgid: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], flow_label: U32(0), sgid_index: 0, hop_limit: 0, traffic_class: 0, sl: 0, dmac: [0, 0, 0, 0, 0, 0], reserved: U16(0) } } }
    QpQuery { qpn: 7 }
    QpDestroy { qpn: 8 }
    PageResponse { id: 77, code: Gone }
    QueryCounters
    MrModify(MrChange { mr: 5, pd: Some(2), access: None, window: Some(Window { start: 4096, length: 8192, iova: 12288 }) })
    ");
}

#[test]
fn every_truncation_and_every_extension_is_malformed() {
    let ram = ram_with_list(&[0x9000, 0xa000]);
    for (opcode, bytes) in each() {
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len], &ram).unwrap_err(), Status::Malformed, "{opcode:?}");
        }
        for more in [1, 7, 8, 100] {
            let longer = [&bytes[..], &vec![0; more]].concat();
            assert_eq!(parse(&longer, &ram).unwrap_err(), Status::Malformed, "{opcode:?}");
        }
    }
}

/// Sets each byte of each reserved field. Which those are is what the wire types call reserved.
#[test]
fn a_reserved_field_that_is_not_zero_is_malformed() {
    use vnic_abi::StructInfo;
    use vnic_abi::ctrl::AddressVector;

    let ram = ram_with_list(&[0x9000, 0xa000]);
    let body_of = |opcode: CmdOpcode| -> Option<StructInfo> {
        Some(match opcode {
            CmdOpcode::Nop | CmdOpcode::QueryCounters => return None,
            CmdOpcode::Init => Init::INFO,
            CmdOpcode::GidSet => GidSet::INFO,
            CmdOpcode::PasidBind => PasidBind::INFO,
            CmdOpcode::CtxCreate => CtxCreate::INFO,
            CmdOpcode::PdCreate => PdCreate::INFO,
            CmdOpcode::MrCreate => MrCreate::INFO,
            CmdOpcode::MrModify => MrModify::INFO,
            CmdOpcode::CqCreate => CqCreate::INFO,
            CmdOpcode::QpCreate => QpCreate::INFO,
            CmdOpcode::QpModify => QpModify::INFO,
            CmdOpcode::PageResponse => PageResponse::INFO,
            _ => Handle::INFO,
        })
    };
    let reserved = |info: &StructInfo, base: usize| -> Vec<usize> {
        let fields = info.fields.iter().filter(|field| field.name.starts_with("reserved"));
        fields.flat_map(|field| base + field.offset..base + field.offset + field.size).collect()
    };
    let mut tried = 0;
    for (opcode, bytes) in each() {
        let header = size_of::<CmdHeader>();
        let mut offsets = reserved(&CmdHeader::INFO, 0);
        if let Some(info) = body_of(opcode) {
            assert_eq!(header + info.size, bytes.len());
            offsets.extend(reserved(&info, header));
            for field in info.fields {
                let at = header + field.offset;
                match field.c_type {
                    "struct vnic_page_list" => offsets.extend(reserved(&PageList::INFO, at)),
                    "struct vnic_qp_attr" => {
                        let av = QpAttr::INFO.fields.iter().find(|field| field.name == "av");
                        offsets.extend(reserved(&AddressVector::INFO, at + av.unwrap().offset));
                    }
                    _ => {}
                }
            }
        }
        for offset in offsets {
            let mut bad = bytes.clone();
            bad[offset] = 1;
            assert_eq!(parse(&bad, &ram).unwrap_err(), Status::Malformed, "{opcode:?} {offset}");
            tried += 1;
        }
    }
    assert!(tried > 100, "{tried}");
}

#[test]
fn unknown_opcodes_are_told_apart() {
    let ram = ram();
    for opcode in [0, 23, 0x8000_0000, u32::MAX] {
        let bytes = bytes(CmdOpcode(opcode), ());
        assert_eq!(parse(&bytes, &ram).unwrap_err(), Status::UnknownCommand);
    }
}

#[test]
fn values_without_a_meaning_are_refused() {
    let ram = ram_with_list(&[0x9000, 0xa000]);
    let error = |bytes: Vec<u8>| parse(&bytes, &ram).unwrap_err();
    let init = Init { features: (1u64 << 63).into(), ..Init::default() };
    assert_eq!(error(bytes(CmdOpcode::Init, init)), Status::Unsupported);
    let mr = MrCreate { access: (1u32 << 31).into(), ..MrCreate::default() };
    assert_eq!(error(bytes(CmdOpcode::MrCreate, mr)), Status::BadAttribute);
    for (mask, access) in [(0u32, 0u32), (1 << 3, 0), (u32::MAX, 0), (4, 1 << 31), (7, 1 << 4)] {
        let modify = MrModify { mask: mask.into(), access: access.into(), ..MrModify::default() };
        assert_eq!(error(bytes(CmdOpcode::MrModify, modify)), Status::BadAttribute);
    }
    let modify = QpModify { mask: (1u32 << 2).into(), ..QpModify::default() };
    assert_eq!(error(bytes(CmdOpcode::QpModify, modify)), Status::BadAttribute);
    let qp = QpCreate { sq_sig_all: 2, ..qp_create() };
    assert_eq!(error(bytes(CmdOpcode::QpCreate, qp)), Status::BadAttribute);
    assert_eq!(error(handle_bytes(CmdOpcode::Shutdown, 1)), Status::BadHandle);
}

#[test]
fn page_lists_lie_in_ram_and_name_ram() {
    let try_list = |pages: &[u64], list: PageList| {
        parse(&cq_create(list), &ram_with_list(pages)).map(|command| match command {
            Command::CqCreate(params) => params.pages,
            other => panic!("{other:?}"),
        })
    };
    let at = |address: u64, count: u32| PageList {
        list: address.into(),
        count: count.into(),
        reserved: 0.into(),
    };
    assert_eq!(try_list(&[0x9000, 0], list(2)), Ok(vec![Gpa(0x9000), Gpa(0)]));
    assert_eq!(try_list(&[RAM - 0x1000], list(1)), Ok(vec![Gpa(RAM - 0x1000)]));

    assert_eq!(try_list(&[], list(0)), Err(Status::BadSize));
    assert_eq!(try_list(&[], list(MAX_RING_PAGES + 1)), Err(Status::BadSize));
    assert_eq!(try_list(&[], list(u32::MAX)), Err(Status::BadSize));
    assert!(try_list(&[], list(MAX_RING_PAGES)).is_ok());

    assert_eq!(try_list(&[0x9000], at(LIST + 4, 1)), Err(Status::BadAddress));
    assert_eq!(try_list(&[], at(RAM - 8, 2)), Err(Status::BadAddress));
    assert!(try_list(&[], at(RAM - 8, 1)).is_ok());
    assert_eq!(try_list(&[], at(RAM, 1)), Err(Status::BadAddress));
    assert_eq!(try_list(&[], at(u64::MAX - 7, 1)), Err(Status::BadAddress));
    assert_eq!(try_list(&[], at(u64::MAX - 7, MAX_RING_PAGES)), Err(Status::BadAddress));

    for bad in [0x9001, 0x9800, RAM, RAM - 0x800, u64::MAX, !0xfff, 1 << 63] {
        assert_eq!(try_list(&[0x9000, bad], list(2)), Err(Status::BadAddress), "{bad:#x}");
    }
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        let _ = parse(&bytes, &ram());
    }

    /// Arbitrary bytes behind a known opcode, so that the bodies are reached.
    #[test]
    fn arbitrary_bodies_do_not_panic(
        opcode in 0u32..25,
        body in proptest::collection::vec(any::<u8>(), 0..160),
    ) {
        let _ = parse(&[bytes(CmdOpcode(opcode), ()), body].concat(), &ram());
    }

    /// A valid command with some bytes changed is either refused or still a command of the opcode,
    /// and its page list never leads out of RAM.
    #[test]
    fn changed_bytes_never_make_pages_outside_ram(
        which in 0usize..each().len(),
        changes in proptest::collection::vec((8usize..128, any::<u8>()), 1..6),
        pages in proptest::collection::vec(any::<u64>(), 2..4),
    ) {
        let (_, mut bytes) = each().swap_remove(which);
        let len = bytes.len();
        for (at, value) in changes {
            if let Some(byte) = bytes.get_mut(at % len) {
                *byte = value;
            }
        }
        let ram = ram_with_list(&pages);
        let pages = match parse(&bytes, &ram) {
            Ok(Command::CqCreate(params)) => params.pages,
            Ok(Command::QpCreate(params)) => params.pages,
            _ => vec![],
        };
        prop_assert!(pages.iter().all(|page| page.0 % PAGE_SIZE == 0 && page.0 < RAM));
    }
}
