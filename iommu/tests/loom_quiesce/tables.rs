// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Page tables in the checker's memory, and a worker that translates through them: the walker, the
//! IOTLB and the reader of invalidations are the device's own.

use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicU64;
use vnic_iommu::iotlb::{Iotlb, IotlbSize};
use vnic_iommu::quiesce::{Burst, Dropped, InvalidationReader};
use vnic_iommu::testing::anonymous_ram;
use vnic_iommu::walk::x86_64::{ACCESSED, DIRTY, PRESENT, USER, WRITABLE};
use vnic_iommu::walk::{TableEntry, TableMemory, walk};
use vnic_iommu::{Access, Gpa, GuestRam, Gva, PagingMode};

use super::shared::View;

/// The address that is translated, at index 0 of every table.
pub const VA: Gva = Gva(0x1000);
/// The address of the neighbour, which the same table maps.
pub const NEIGHBOUR: Gva = Gva(0x2000);
/// The root; the tables of the next levels follow it.
const ROOT: u64 = 0x1000;
/// Where the entry lies that leads to the last table.
pub const LINK: Gpa = Gpa(0x3000);
/// The last table.
pub const TABLE: u64 = 0x4000;
/// The entry of [`VA`].
pub const LEAF: Gpa = Gpa(TABLE + 8);
/// The entry of [`NEIGHBOUR`].
pub const NEXT_LEAF: Gpa = Gpa(TABLE + 16);
/// The page behind [`VA`], and the one behind [`NEIGHBOUR`].
pub const PAGE: Gpa = Gpa(0x5000);
pub const NEXT_PAGE: Gpa = Gpa(0x6000);
/// A page that only a reused table leads to.
pub const CANARY: Gpa = Gpa(0x7000);

/// An entry that leads to `gpa`.
pub const fn entry(gpa: u64) -> u64 {
    gpa | PRESENT | USER | WRITABLE
}

/// What an entry is; one that nobody changes costs the model nothing.
enum Value {
    Fixed(u64),
    Shared(AtomicU64),
}

/// An entry, and how it is marked.
pub struct Entry {
    value: Value,
    /// As it should be: only if it is what was judged. Otherwise by a load and a store.
    atomically: bool,
}

impl Entry {
    fn shared(&self) -> &AtomicU64 {
        match &self.value {
            Value::Fixed(_) => panic!("a change of an entry that does not change"),
            Value::Shared(value) => value,
        }
    }
}

impl TableEntry for Entry {
    fn load(&self, order: Ordering) -> u64 {
        match &self.value {
            Value::Fixed(value) => *value,
            Value::Shared(value) => value.load(order),
        }
    }

    fn replace(&self, old: u64, new: u64, success: Ordering, failure: Ordering) -> bool {
        if self.atomically {
            return self.shared().compare_exchange(old, new, success, failure).is_ok();
        }
        let same = self.shared().load(failure) == old;
        if same {
            self.shared().store(new, success);
        }
        same
    }
}

/// A hierarchy of four tables with two pages.
#[derive(Clone)]
pub struct Tables(Arc<Vec<(Gpa, Entry)>>);

impl Tables {
    /// Leaves that nobody used yet: the walk marks them.
    pub fn new() -> Self {
        Self::with(0, true, false)
    }

    /// Leaves that were marked before: the walk only reads them.
    pub fn marked() -> Self {
        Self::with(ACCESSED | DIRTY, true, false)
    }

    /// Leaves are marked by less than a compare-and-swap.
    pub fn sloppy() -> Self {
        Self::with(0, false, false)
    }

    /// The last table itself may go.
    pub fn freeable() -> Self {
        Self::with(0, true, true)
    }

    fn with(marks: u64, atomically: bool, freeable: bool) -> Self {
        let entries = [
            (Gpa(ROOT), entry(0x2000)),
            (Gpa(0x2000), entry(LINK.0)),
            (LINK, entry(TABLE)),
            (LEAF, entry(PAGE.0) | marks),
            (NEXT_LEAF, entry(NEXT_PAGE.0) | marks),
        ];
        let make = |(gpa, value)| {
            let shared = gpa >= LEAF || (gpa == LINK && freeable);
            let value =
                if shared { Value::Shared(AtomicU64::new(value)) } else { Value::Fixed(value) };
            (gpa, Entry { value, atomically })
        };
        Self(Arc::new(entries.map(make).into()))
    }

    /// The driver clears an entry, and gets what it was.
    pub fn clear(&self, gpa: Gpa) -> u64 {
        // AcqRel: one locked exchange, as Linux and the process guests do it; the device marks the
        // entry meanwhile. (The checker does not see that a plain store cannot come between the two
        // halves of a compare-and-swap.)
        self.at(gpa).swap(0, Ordering::AcqRel)
    }

    /// The driver's access to an entry.
    pub fn at(&self, gpa: Gpa) -> &AtomicU64 {
        self.entry(gpa).expect("an entry of the model").shared()
    }
}

impl TableMemory for Tables {
    type Entry = Entry;

    fn entry(&self, gpa: Gpa) -> Option<&Entry> {
        self.0.iter().find(|(at, _)| *at == gpa).map(|(_, entry)| entry)
    }

    fn contains(&self, _: Gpa, _: usize) -> bool {
        true
    }
}

/// What host addresses stand for; nobody looks at the bytes.
fn ram() -> &'static GuestRam {
    static RAM: OnceLock<GuestRam> = OnceLock::new();
    RAM.get_or_init(|| anonymous_ram(0x10000))
}

/// A worker's translations, put together as `Translator` does it.
pub struct Worker {
    tables: Tables,
    invalidation: View,
    iotlb: Iotlb,
    reader: Option<InvalidationReader>,
}

/// The one address space.
const SPACE: u64 = 1;

impl Worker {
    pub fn new(tables: &Tables, invalidation: View) -> Self {
        let iotlb = Iotlb::new(IotlbSize { small: 4, large: 4 });
        Self { tables: tables.clone(), invalidation, iotlb, reader: None }
    }

    /// Drops what was invalidated. Once per burst, before [`Self::translate`].
    pub fn sync(&mut self, _: &Burst<'_, View>) {
        let (page, iotlb) = (&self.invalidation, &mut self.iotlb);
        let reader = self.reader.get_or_insert_with(|| InvalidationReader::attach(page));
        reader.sync(page, |dropped| match dropped {
            Dropped::All => iotlb.invalidate_space(SPACE),
            Dropped::Range { start, end } => iotlb.invalidate_range(SPACE, start, end),
        });
    }

    /// The page behind `va`, from the IOTLB or by a walk.
    pub fn translate(&mut self, _: &Burst<'_, View>, va: Gva, access: Access) -> Option<Gpa> {
        let base = ram().host_ptr(Gpa(0), 1)?.as_ptr() as u64;
        let host = match self.iotlb.lookup(SPACE, va, access) {
            Some(host) => host,
            None => {
                let root = Gpa(ROOT);
                let leaf = walk(&self.tables, root, PagingMode::Level4, va, access).ok()?;
                let host = ram().host_ptr(leaf.gpa, 0x1000)?;
                self.iotlb.insert(SPACE, va, host, leaf.writable && leaf.dirty);
                host
            }
        };
        Some(Gpa(host.as_ptr() as u64 - base))
    }
}
