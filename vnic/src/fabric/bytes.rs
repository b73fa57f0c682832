// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the bytes of a message are at one end, piece by piece, with the keys that allow it.

use crate::engine::responder::Target;
use crate::object::mr::KeyCache;
use crate::object::qp::Qp;
use crate::object::space::Space;
use crate::ring::rq::SgeList;
use std::sync::Arc;
use vnic_abi::ctrl::AccessFlags;
use vnic_iommu::addr::Gva;

/// One end's bytes of a message.
pub(super) enum Bytes<'a> {
    /// Held by the device, from this byte of the message on: a copy of an element, or what came over a wire.
    Held { bytes: &'a [u8], first: u64 },
    /// Room of the device's own, for what goes over a wire, from this byte of the message on.
    Room { room: &'a mut [u8], first: u64 },
    /// In a list of ranges, each with a key.
    List { qp: &'a Qp, list: SgeList<'a>, keys: &'a mut KeyCache, right: AccessFlags },
    /// In one range.
    Range(Target<'a>),
}

/// A contiguous piece of one end.
pub(super) enum Piece<'a> {
    Held(&'a [u8]),
    Room { start: *mut u8, len: usize },
    Mapped { space: &'a Space, va: Gva, len: u64, limit: Gva },
}

/// A key does not cover its range.
pub(super) struct BadKey;

impl Bytes<'_> {
    /// The piece that begins `offset` bytes into the message; the message is longer than that.
    pub(super) fn piece(&mut self, offset: u64) -> Result<Piece<'_>, BadKey> {
        match self {
            Self::Held { bytes, first } => {
                let into = offset.checked_sub(*first).ok_or(BadKey)?;
                Ok(Piece::Held(bytes.get(into as usize..).ok_or(BadKey)?))
            }
            Self::Room { room, first } => {
                let into = offset.checked_sub(*first).ok_or(BadKey)?;
                let rest = room.get_mut(into as usize..).ok_or(BadKey)?;
                Ok(Piece::Room { start: rest.as_mut_ptr(), len: rest.len() })
            }
            Self::Range(target) => {
                let va = Gva(target.start.0 + offset);
                Ok(Piece::Mapped { space: target.space, va, len: u64::MAX, limit: target.end })
            }
            Self::List { qp, list, keys, right } => {
                let mut before = 0;
                for sge in list.entries() {
                    let length = u64::from(sge.length.get());
                    if offset < before + length {
                        // The whole range is checked, so that nothing moves before the error.
                        let (start, limit) = keys
                            .get(&qp.session.keys, sge.lkey.get())
                            .filter(|mr| Arc::ptr_eq(&mr.pd, &qp.pd))
                            .and_then(|mr| {
                                Some((mr.check(sge.addr.get(), length, *right)?, mr.end()))
                            })
                            .ok_or(BadKey)?;
                        let into = offset - before;
                        let va = Gva(start.0 + into);
                        let space = &qp.pd.ctx.space;
                        return Ok(Piece::Mapped { space, va, len: length - into, limit });
                    }
                    before += length;
                }
                Err(BadKey)
            }
        }
    }
}

/// Checks every key of a list before anything moves.
pub(super) fn check_list(
    qp: &Qp,
    list: SgeList<'_>,
    keys: &mut KeyCache,
    right: AccessFlags,
) -> bool {
    list.entries().iter().filter(|sge| sge.length.get() != 0).all(|sge| {
        keys.get(&qp.session.keys, sge.lkey.get())
            .filter(|mr| Arc::ptr_eq(&mr.pd, &qp.pd))
            .and_then(|mr| mr.check(sge.addr.get(), sge.length.get().into(), right))
            .is_some()
    })
}

impl Piece<'_> {
    /// Bytes of the piece.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Held(bytes) => bytes.len() as u64,
            Self::Room { len, .. } => *len as u64,
            Self::Mapped { len, .. } => *len,
        }
    }
}
