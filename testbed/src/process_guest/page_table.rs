// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Real x86-64 page tables in guest RAM, written as a guest kernel writes them.

use std::collections::HashMap;
use std::sync::atomic::Ordering;

use vnic_abi::ctrl::PagingMode;

use super::memory::{FRAME, Layout, Pages, Ram};

/// Entry bit: present.
pub const PRESENT: u64 = 1 << 0;
/// Entry bit: writable.
pub const WRITABLE: u64 = 1 << 1;
/// Entry bit: user.
pub const USER: u64 = 1 << 2;
/// Entry bit: accessed.
pub const ACCESSED: u64 = 1 << 5;
/// Entry bit: dirty.
pub const DIRTY: u64 = 1 << 6;
/// Entry bit of an upper level: a leaf.
pub const LARGE: u64 = 1 << 7;
/// A software bit that Linux is known to set; a walker must mask it.
pub const SOFTWARE: u64 = 1 << 58;
/// Level of the leaves that map large pages.
const LARGE_LEVEL: u32 = 2;
/// Address bits of an entry.
pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// Depth of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Paging {
    /// 4 levels, 48 bits.
    Level4,
    /// 5 levels, 57 bits.
    Level5,
}

impl Paging {
    /// Levels from the root to a 4 KiB leaf.
    pub const fn levels(self) -> u32 {
        match self {
            Paging::Level4 => 4,
            Paging::Level5 => 5,
        }
    }

    /// The code of the device interface.
    pub const fn code(self) -> PagingMode {
        match self {
            Paging::Level4 => PagingMode::X86Level4,
            Paging::Level5 => PagingMode::X86Level5,
        }
    }
}

/// A table hierarchy. Tables are allocated as they are needed and freed with the hierarchy.
pub struct PageTable {
    ram: Ram,
    paging: Paging,
    root: u64,
    /// Every table by guest-physical address.
    tables: HashMap<u64, Pages>,
}

impl PageTable {
    /// An empty hierarchy.
    pub fn new(ram: &Ram, paging: Paging) -> Self {
        let mut table = Self { ram: ram.clone(), paging, root: 0, tables: HashMap::new() };
        table.root = table.new_table();
        table
    }

    /// Guest-physical address of the root.
    pub fn root(&self) -> u64 {
        self.root
    }

    /// The depth.
    pub fn paging(&self) -> Paging {
        self.paging
    }

    fn new_table(&mut self) -> u64 {
        let pages = self.ram.alloc(FRAME, Layout::Scattered);
        let gpa = pages.gpa(0);
        self.tables.insert(gpa, pages);
        gpa
    }

    /// Guest-physical address of the entry for `va` at `level` (1 holds the 4 KiB leaves), if the
    /// tables above it exist and are this hierarchy's own.
    pub fn entry(&self, va: u64, level: u32) -> Option<u64> {
        let mut table = self.root;
        let mut at = self.paging.levels();
        loop {
            let entry = entry_address(table, va, at);
            if at == level {
                return Some(entry);
            }
            let value = self.ram.word(entry, |word| word.load(Ordering::Relaxed));
            if value & PRESENT == 0 || value & LARGE != 0 {
                return None;
            }
            table = value & ADDRESS;
            // A test may have put anything there.
            if !self.tables.contains_key(&table) {
                return None;
            }
            at -= 1;
        }
    }

    /// As [`entry`](Self::entry), making the tables above it.
    pub fn make_entry(&mut self, va: u64, level: u32) -> u64 {
        let mut table = self.root;
        for at in (level + 1..=self.paging.levels()).rev() {
            let entry = entry_address(table, va, at);
            let value = self.ram.word(entry, |word| word.load(Ordering::Relaxed));
            let below = value & ADDRESS;
            table = if value & PRESENT == 0 || !self.tables.contains_key(&below) {
                let new = self.new_table();
                // Release: pairs with the walker's acquire; the new table is zero before it is seen.
                let value = new | PRESENT | WRITABLE | USER;
                self.ram.word(entry, |word| word.store(value, Ordering::Release));
                new
            } else {
                below
            };
        }
        entry_address(table, va, level)
    }

    /// Maps the page at `va` to `gpa`.
    pub fn map(&mut self, va: u64, gpa: u64, writable: bool) {
        let entry = self.make_entry(va, 1);
        let writable = if writable { WRITABLE } else { 0 };
        let value = gpa | PRESENT | USER | writable | SOFTWARE;
        // Release: pairs with the walker's acquire; the page's contents are there before it.
        self.ram.word(entry, |word| word.store(value, Ordering::Release));
    }

    /// Maps the large page at `va` to `gpa`, both multiples of its size.
    pub fn map_large(&mut self, va: u64, gpa: u64, writable: bool) {
        let entry = self.make_entry(va, LARGE_LEVEL);
        let writable = if writable { WRITABLE } else { 0 };
        let value = gpa | PRESENT | USER | LARGE | writable | SOFTWARE;
        // Release: as in `map`.
        self.ram.word(entry, |word| word.store(value, Ordering::Release));
    }

    /// The entry that maps `va`, of whatever size.
    fn leaf(&self, va: u64) -> Option<u64> {
        let large = self.entry(va, LARGE_LEVEL)?;
        let value = self.ram.word(large, |word| word.load(Ordering::Relaxed));
        if value & LARGE != 0 { Some(large) } else { self.entry(va, 1) }
    }

    /// Clears the entry of `va`, with all that a large one maps; returns what it was, with its
    /// accessed and dirty bits.
    pub fn unmap(&mut self, va: u64) -> u64 {
        let Some(entry) = self.leaf(va) else { return 0 };
        // AcqRel: takes the device's last update of the bits with it; the order against the device's
        // walk is made by the fence of the invalidation that follows.
        self.ram.word(entry, |word| word.swap(0, Ordering::AcqRel))
    }

    /// Takes the write permission of `va` away.
    pub fn write_protect(&mut self, va: u64) {
        if let Some(entry) = self.leaf(va) {
            // AcqRel: as in `unmap`.
            self.ram.word(entry, |word| word.fetch_and(!(WRITABLE | DIRTY), Ordering::AcqRel));
        }
    }

    /// The entry of `va`, 0 if there is none.
    pub fn get(&self, va: u64) -> u64 {
        // Acquire: pairs with the device's update of accessed and dirty.
        self.leaf(va).map_or(0, |e| self.ram.word(e, |word| word.load(Ordering::Acquire)))
    }
}

/// Guest-physical address of the entry for `va` in the table at `table`, which is of `level`.
pub const fn entry_address(table: u64, va: u64, level: u32) -> u64 {
    let index = va >> (12 + 9 * (level - 1)) & 511;
    table + index * 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_found_at_every_depth() {
        for paging in [Paging::Level4, Paging::Level5] {
            let ram = Ram::new(1 << 20);
            let mut table = PageTable::new(&ram, paging);
            let va = 0x7f12_3456_7000;
            table.map(va, 0x5000, true);
            assert_eq!(table.get(va) & (ADDRESS | WRITABLE), 0x5000 | WRITABLE);
            table.write_protect(va);
            assert_eq!(table.get(va) & WRITABLE, 0);
            assert_eq!(table.unmap(va) & ADDRESS, 0x5000);
            assert_eq!(table.get(va), 0);
            assert_eq!(table.tables.len() as u32, paging.levels());
        }
    }

    #[test]
    fn a_large_page_is_one_entry() {
        let ram = Ram::new(1 << 20);
        let mut table = PageTable::new(&ram, Paging::Level4);
        let va = 0x7f12_3440_0000;
        table.map_large(va, 0x20_0000, true);
        for at in [va, va + FRAME, va + 511 * FRAME] {
            assert_eq!(table.get(at) & (ADDRESS | LARGE), 0x20_0000 | LARGE);
        }
        assert_eq!(table.unmap(va + FRAME) & ADDRESS, 0x20_0000);
        assert_eq!(table.get(va), 0);
        assert_eq!(table.tables.len(), 3);
    }
}
