// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Whether a device pages on demand as it should, before the memory of guests is entrusted to it: it writes to, reads from
//! and counts in a window whose pages are not there, at odd places, and again after they have moved.

use super::{Found, Keeper, Pages, ShadowWindow};
use crate::engine::request::{Atomic, Op, Remote};
use crate::fabric::direct::nic::{NicMr, NicPd, NicQp, Payload, Range, Work};
use crate::fabric::direct::window::WindowBudget;
use crate::object::gid::Gid;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use vnic_abi::PAGE_SIZE;
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::{AccessFlags, AddressVector, QpAttr, QpAttrMask, QpState};
use vnic_iommu::memory::Backing;

/// Longest wait for a request.
const LIMIT: Duration = Duration::from_secs(10);
/// Pages of the window, and in each of the two places that it is moved between.
const PAGES: u64 = 4;
/// Where the pages are, as if a guest had them there.
const VA: u64 = 0x10_0000;
/// Where in the window it is written: over the end of a page, and not at the start of anything.
const PLACE: u64 = PAGE_SIZE - 51;
const LEN: usize = 100;
/// Where a word is.
const WORD: u64 = 2 * PAGE_SIZE + 1032;

/// The file behind the window.
struct Trial {
    file: Arc<File>,
    /// Pages by which it is moved.
    shift: AtomicU64,
}

impl Trial {
    /// Where in the file what is at `place` of the window is: the pages are in another order.
    fn at(&self, place: u64) -> u64 {
        // Relaxed: one thread after the other, with a lock between.
        let shift = self.shift.load(Ordering::Relaxed);
        (shift + PAGES - 1 - place / PAGE_SIZE) * PAGE_SIZE + place % PAGE_SIZE
    }

    /// Bytes of the window.
    fn bytes(&self, place: u64, len: usize) -> io::Result<Vec<u8>> {
        (place..place + len as u64)
            .map(|place| {
                let mut byte = [0];
                self.file.read_exact_at(&mut byte, self.at(place))?;
                Ok(byte[0])
            })
            .collect()
    }
}

impl Pages for Trial {
    fn find(&self, va: u64, _: bool) -> Found {
        let offset = self.at(va - VA);
        Found::Page(Backing { file: self.file.clone(), offset, len: PAGE_SIZE })
    }

    fn ask(&self, _: u64, _: bool, _: u32) -> bool {
        false
    }

    fn forget(&self, _: u32) {}

    fn space(&self) -> u64 {
        0
    }
}

/// A device, as far as it is tried.
#[derive(Debug, Clone, Copy)]
pub struct Tried<'d> {
    /// A protection domain.
    pub pd: &'d dyn NicPd,
    /// An address of the device, to which it sends.
    pub gid: Gid,
    /// The index of that.
    pub source: u8,
    /// Active MTU as verbs number it.
    pub mtu: u8,
    /// Try also regions that requests know by another address than the daemon. Where that is wrong, the kernel may not
    /// survive it.
    pub moved: bool,
}

/// Memory that a device may reach by itself.
struct Plain {
    mr: Box<dyn NicMr>,
    bytes: Box<Mutex<[u8; 256]>>,
}

impl Plain {
    fn new(pd: &dyn NicPd) -> io::Result<Self> {
        let bytes = Box::new(Mutex::new([0; 256]));
        let addr = bytes.data_ptr().cast::<u8>();
        let access =
            AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_READ;
        let mr = pd.register(addr, 256, addr.expose_provenance() as u64, access, false)?;
        Ok(Self { mr, bytes })
    }

    fn range(&self, len: usize) -> Range {
        let addr = self.bytes.data_ptr().expose_provenance() as u64;
        Range { addr, len: len as u32, lkey: self.mr.lkey() }
    }

    fn set(&self, bytes: &[u8]) {
        self.bytes.lock()[..bytes.len()].copy_from_slice(bytes);
    }

    fn get(&self, len: usize) -> Vec<u8> {
        self.bytes.lock()[..len].to_vec()
    }
}

impl Tried<'_> {
    /// Tries it.
    ///
    /// # Errors
    ///
    /// Why pages have to stay where they are for this device.
    pub fn judge(&self) -> Result<(), String> {
        let keeper = Keeper::start(Weak::new()).map_err(|error| error.to_string())?;
        self.judge_at(&keeper, false)?;
        if self.moved { self.judge_at(&keeper, true) } else { Ok(()) }
    }

    fn judge_at(&self, keeper: &Keeper, moved: bool) -> Result<(), String> {
        let os = |error: io::Error| format!("it cannot be tried: {error}");
        let file = memfd_create("vnic-trial", MemfdFlags::CLOEXEC).map_err(|e| os(e.into()))?;
        ftruncate(&file, 2 * PAGES * PAGE_SIZE).map_err(|e| os(e.into()))?;
        let trial = Arc::new(Trial { file: Arc::new(file.into()), shift: AtomicU64::new(0) });
        let budget = WindowBudget::new(2 * PAGES, 2 * PAGES);
        let len = PAGES * PAGE_SIZE;
        let window = ShadowWindow::open(keeper.shadows(), trial.clone(), VA, len, true, &budget)
            .map_err(|status| format!("there is no window: {status:?}"))?;
        let iova = if moved { VA } else { window.addr().expose_provenance() as u64 };
        let access = AccessFlags::LOCAL_WRITE
            | AccessFlags::REMOTE_WRITE
            | AccessFlags::REMOTE_READ
            | AccessFlags::REMOTE_ATOMIC;
        let region = self
            .pd
            .register(window.addr(), len, iova, access, true)
            .map_err(|error| format!("the device does not page on demand: {error}"))?;
        let plain = Plain::new(self.pd).map_err(os)?;
        let pair = [self.pd.qp(0, 8, 8).map_err(os)?, self.pd.qp(0, 8, 8).map_err(os)?];
        self.connect(&pair).map_err(os)?;
        let run = |op: Op, local: Range| run(&*pair[0], op, local);
        let remote = |place: u64| Remote { addr: iova + place, rkey: region.rkey() };
        let wrong = |what: &str| {
            let how = if moved { " in a region at another address" } else { "" };
            format!("its on-demand paging {what}{how}")
        };

        for round in 0..3u8 {
            let bytes: Vec<u8> = (0..LEN as u8).map(|n| n ^ (round * 77 + 1)).collect();
            plain.set(&bytes);
            run(Op::Write(remote(PLACE)), plain.range(LEN)).map_err(|e| wrong(&e))?;
            if trial.bytes(PLACE, LEN).map_err(os)? != bytes {
                return Err(wrong("writes to wrong places"));
            }
            plain.set(&[0; LEN]);
            run(Op::Read(remote(PLACE)), plain.range(LEN)).map_err(|e| wrong(&e))?;
            if plain.get(LEN) != bytes {
                return Err(wrong("reads from wrong places"));
            }
            // The window as the requester's own memory.
            let local = Range { addr: iova + PLACE + 7, len: 50, lkey: region.lkey() };
            let there = Remote { addr: plain.range(1).addr, rkey: plain.mr.rkey() };
            run(Op::Write(there), local).map_err(|e| wrong(&e))?;
            if plain.get(50) != bytes[7..57] {
                return Err(wrong("sends from wrong places"));
            }
            let before = trial.bytes(WORD, 8).map_err(os)?;
            let add = Op::Atomic(remote(WORD), Atomic::FetchAdd(3));
            run(add, plain.range(8)).map_err(|e| wrong(&e))?;
            let after = trial.bytes(WORD, 8).map_err(os)?;
            let number =
                |bytes: &[u8]| bytes.iter().rev().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
            if plain.get(8) != before || number(&after) != number(&before) + 3 {
                return Err(wrong("counts wrong"));
            }
            // Everything is elsewhere from now on.
            // Relaxed: see `at`.
            trial.shift.store(PAGES * u64::from(round % 2 == 0), Ordering::Relaxed);
            keeper.shadows().take_away(0, 0, u64::MAX);
        }
        drop(pair);
        drop(region);
        drop(window);
        Ok(())
    }

    fn connect(&self, pair: &[Arc<dyn NicQp>; 2]) -> io::Result<()> {
        for (own, other) in [(0, 1), (1, 0)] {
            let access =
                AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_READ | AccessFlags::REMOTE_ATOMIC;
            let attr = QpAttr {
                path_mtu: self.mtu,
                timeout: 18,
                retry_cnt: 6,
                rnr_retry: 6,
                min_rnr_timer: 1,
                max_rd_atomic: 1,
                max_dest_rd_atomic: 1,
                access: access.bits().into(),
                dest_qpn: pair[other].number().into(),
                av: AddressVector { dgid: self.gid, hop_limit: 64, ..AddressVector::default() },
                ..QpAttr::default()
            };
            for state in [QpState::Init, QpState::Rtr, QpState::Rts] {
                pair[own].modify(state, QpAttrMask::all(), &attr, self.source)?;
            }
        }
        Ok(())
    }
}

/// Has a request done.
fn run(qp: &dyn NicQp, op: Op, local: Range) -> Result<(), String> {
    let ranges = [local];
    let posted = qp.send(&Work {
        id: 1,
        op,
        imm: None,
        solicited: false,
        fenced: false,
        payload: Payload::Ranges(&ranges),
    });
    posted.map_err(|error| format!("takes no request: {error:?}"))?;
    let end = Instant::now() + LIMIT;
    let mut status = None;
    while status.is_none() && Instant::now() < end {
        qp.poll(&mut |done| status = Some(done.status)).map_err(|error| error.to_string())?;
        std::thread::yield_now();
    }
    match status {
        Some(WcStatus::Success) => Ok(()),
        Some(status) => Err(format!(
            "does not wait for a page ({}); Linux 7.3 and later can",
            status.name().unwrap_or("an unknown status")
        )),
        None => Err(format!("takes longer than {LIMIT:?}")),
    }
}
