// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The walker against two references: a list of mappings that never saw a table, and a recursive
//! reading of a snapshot of hostile memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;
use vm_memory::{GuestAddress, GuestMemoryMmap};
use vnic_iommu::testing::{PageTableBuilder, anonymous_ram};
use vnic_iommu::walk::x86_64::{
    ACCESSED, DIRTY, LARGE_PAT, NO_EXECUTE, PAGE_SIZE_BIT, PRESENT, USER, WRITABLE,
};
use vnic_iommu::walk::{Access, Fault, Leaf, PagingMode, walk};
use vnic_iommu::{Gpa, GuestRam, Gva};

fn modes() -> impl Strategy<Value = PagingMode> {
    prop_oneof![Just(PagingMode::Level4), Just(PagingMode::Level5)]
}

fn accesses() -> impl Strategy<Value = Access> {
    prop_oneof![Just(Access::Read), Just(Access::Write)]
}

/// Bits that mean nothing to a device, or must survive it.
fn neutral_bits() -> impl Strategy<Value = u64> {
    // Write-through, cache disable, global, three software bits; software and key bits 52 to 62; NX.
    (any::<u64>()).prop_map(|bits| bits & (0xf18 | 0x7ff << 52 | NO_EXECUTE))
}

// ---- Well-formed tables ----------------------------------------------------------------------

const TABLES: u64 = 0x10_0000;
const LOW_RAM: usize = 0x40_0000;
/// A second region, so that 2 MiB and 1 GiB leaves can end outside RAM.
const HIGH_RAM: (u64, usize) = (0x4000_0000, 0x30_0000);

fn two_regions() -> GuestRam {
    let ranges = [(GuestAddress(0), LOW_RAM), (GuestAddress(HIGH_RAM.0), HIGH_RAM.1)];
    GuestRam::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()))
}

fn in_ram(gpa: u64) -> bool {
    gpa < LOW_RAM as u64 || (HIGH_RAM.0..HIGH_RAM.0 + HIGH_RAM.1 as u64).contains(&gpa)
}

#[derive(Clone, Debug)]
struct Mapping {
    va: u64,
    gpa: u64,
    shift: u32,
    flags: u64,
}

impl Mapping {
    fn covers(&self, va: u64) -> bool {
        va.checked_sub(self.va).is_some_and(|offset| offset >> self.shift == 0)
    }

    fn overlaps(&self, other: &Self) -> bool {
        self.covers(other.va) || other.covers(self.va)
    }
}

fn mappings() -> impl Strategy<Value = Mapping> {
    let shift = prop_oneof![4 => Just(12u32), 2 => Just(21u32), 1 => Just(30u32)];
    // Few distinct places, so that mappings are neighbours and share tables.
    let place = (0..3u64, 0..3u64, 0..3u64, 508..512u64);
    let gpa = prop_oneof![0..LOW_RAM as u64, HIGH_RAM.0..HIGH_RAM.0 + 0x60_0000, 0..1u64 << 40];
    (shift, place, gpa, any::<[bool; 4]>(), neutral_bits()).prop_map(
        |(shift, (l4, l3, l2, l1), gpa, [user, write, dirty, pat], neutral)| {
            let align = |value: u64| value >> shift << shift;
            let mut flags = neutral;
            flags |= if user || neutral & 8 != 0 { USER } else { 0 };
            flags |= if write { WRITABLE | if dirty { DIRTY } else { 0 } } else { 0 };
            flags |= if pat && shift > 12 { LARGE_PAT } else { 0 };
            let va = align(l4 << 39 | l3 << 30 | l2 << 21 | l1 << 12);
            Mapping { va, gpa: align(gpa), shift, flags }
        },
    )
}

/// What the list of mappings says, in the terms of the interface and none of the format.
fn expected(list: &[Mapping], va: u64, access: Access) -> Result<Leaf, Fault> {
    let Some(found) = list.iter().find(|mapping| mapping.covers(va)) else {
        return Err(Fault::NotPresent);
    };
    let writable = found.flags & WRITABLE != 0;
    let gpa = found.gpa + (va - found.va);
    match access {
        _ if found.flags & USER == 0 => Err(Fault::NotUser),
        Access::Write if !writable => Err(Fault::NotWritable),
        _ if !in_ram(gpa) => Err(Fault::OutsideRam),
        _ => Ok(Leaf {
            gpa: Gpa(gpa),
            page_shift: found.shift,
            writable,
            dirty: access == Access::Write || found.flags & DIRTY != 0,
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn agrees_with_a_list_of_mappings(
        mode in modes(),
        wanted in prop::collection::vec(mappings(), 1..12),
        probes in prop::collection::vec((any::<prop::sample::Index>(), 0..1u64 << 31, accesses()), 1..24),
    ) {
        let ram = two_regions();
        let table =
            PageTableBuilder::new(&ram, mode, Gpa(TABLES), Gpa(LOW_RAM as u64)).unwrap();
        let mut list: Vec<Mapping> = Vec::new();
        for mapping in wanted {
            if !list.iter().any(|held| held.overlaps(&mapping)) {
                table.map(Gva(mapping.va), Gpa(mapping.gpa), mapping.shift, mapping.flags).unwrap();
                list.push(mapping);
            }
        }
        for (which, offset, access) in probes {
            let index = which.index(list.len());
            let near = list[index].va;
            // Around the start, and somewhere inside or a little behind.
            let inside = offset & ((2 << list[index].shift) - 1);
            for va in [near, near.saturating_sub(1), near + inside] {
                let before = table.leaf_entry(Gva(va));
                let result = walk(&ram, table.root(), mode, Gva(va), access);
                prop_assert_eq!(result, expected(&list, va, access), "{:#x}", va);
                let marks = match (&result, access) {
                    (Err(_), _) => 0,
                    (Ok(_), Access::Read) => ACCESSED,
                    (Ok(_), Access::Write) => ACCESSED | DIRTY,
                };
                let after = table.leaf_entry(Gva(va));
                prop_assert_eq!(after, before.map(|(entry, shift)| (entry | marks, shift)));
                if marks & DIRTY != 0 {
                    let held = list.iter_mut().find(|mapping| mapping.covers(va)).unwrap();
                    held.flags |= DIRTY;
                }
            }
        }
    }
}

// ---- Hostile memory --------------------------------------------------------------------------

const FRAMES: usize = 12;
const INDICES: [u64; 4] = [0, 1, 2, 511];

fn hostile_entries() -> impl Strategy<Value = u64> {
    let address = prop_oneof![
        // Mostly frames of RAM: tables that point to each other and to themselves.
        8 => (0..FRAMES as u64).prop_map(|frame| frame << 12),
        2 => (0..FRAMES as u64, 0..1u64 << 8).prop_map(|(f, high)| f << 12 | high << 44 & ((1 << 52) - 1)),
        1 => Just(0),
        1 => any::<u64>().prop_map(|raw| raw & ((1 << 52) - 1) & !0xfff),
    ];
    let permissions = prop_oneof![
        6 => Just(PRESENT | USER | WRITABLE),
        2 => Just(PRESENT | USER),
        1 => Just(PRESENT | WRITABLE),
        1 => Just(USER | WRITABLE),
    ];
    let leaf =
        prop_oneof![4 => Just(0), 1 => Just(PAGE_SIZE_BIT), 1 => Just(PAGE_SIZE_BIT | DIRTY)];
    let entry = (address, permissions, leaf, neutral_bits())
        .prop_map(|(address, permissions, leaf, neutral)| address | permissions | leaf | neutral);
    prop_oneof![9 => entry, 1 => any::<u64>()]
}

/// The rules of the format, read off a snapshot level by level from the root down.
fn recursive(
    words: &[u64],
    table: u64,
    level: u32,
    va: u64,
    mut write: bool,
) -> Result<(usize, u64, u32, bool), Fault> {
    let index = va / 512u64.pow(level - 1) / 4096 % 512;
    let slot = usize::try_from(table / 8 + index).unwrap();
    let entry = *words.get(slot).ok_or(Fault::OutsideRam)?;
    let bit = |number: u32| entry >> number & 1 == 1;
    match (bit(0), bit(2)) {
        (false, _) => return Err(Fault::NotPresent),
        (true, false) => return Err(Fault::NotUser),
        (true, true) => write &= bit(1),
    }
    let frame = entry / 4096 % (1 << 40);
    match (level, bit(7)) {
        (1, _) => Ok((slot, frame * 4096, 12, write)),
        (2 | 3, true) => {
            let pages = if level == 2 { 512 } else { 512 * 512 };
            let frame = frame - frame % 2;
            if frame % pages != 0 {
                return Err(Fault::ReservedBits);
            }
            Ok((slot, frame * 4096, if level == 2 { 21 } else { 30 }, write))
        }
        (_, true) => Err(Fault::ReservedBits),
        (_, false) => recursive(words, frame * 4096, level - 1, va, write),
    }
}

fn judge(
    words: &[u64],
    root: u64,
    mode: PagingMode,
    va: u64,
    access: Access,
) -> Result<(usize, Leaf), Fault> {
    let user_end = if mode == PagingMode::Level4 { 0x8000_0000_0000 } else { 0x100_0000_0000_0000 };
    if va >= user_end {
        return Err(Fault::NonCanonical);
    }
    let levels = if mode == PagingMode::Level4 { 4 } else { 5 };
    let (slot, base, page_shift, writable) = recursive(words, root, levels, va, true)?;
    let write = access == Access::Write;
    if write && !writable {
        return Err(Fault::NotWritable);
    }
    let gpa = base + va % (1 << page_shift);
    if gpa / 4096 >= FRAMES as u64 {
        return Err(Fault::OutsideRam);
    }
    let dirty = write || words[slot] & DIRTY != 0;
    Ok((slot, Leaf { gpa: Gpa(gpa), page_shift, writable, dirty }))
}

fn snapshot(ram: &GuestRam) -> Vec<u64> {
    (0..FRAMES as u64 * 512).map(|word| ram.read_u64(Gpa(word * 8)).unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn agrees_with_a_recursive_reading_of_hostile_memory(
        mode in modes(),
        root in 0..FRAMES as u64,
        entries in prop::collection::vec(
            (0..FRAMES as u64, prop::sample::select(&INDICES[..]), hostile_entries()), 0..48),
        probes in prop::collection::vec(
            (prop::array::uniform5(prop::sample::select(&INDICES[..])), 0..4096u64, accesses()), 1..16),
    ) {
        let ram = anonymous_ram(FRAMES << 12);
        for (frame, index, entry) in entries {
            ram.write_u64(Gpa(frame << 12 | index << 3), entry).unwrap();
        }
        for (indices, offset, access) in probes {
            let va = indices.iter().fold(0, |va, index| va << 9 | index) << 12 | offset;
            // A 5-level address for a 4-level table is not canonical; try the rest of it too.
            let lower = if mode == PagingMode::Level4 { va & ((1 << 47) - 1) } else { va & ((1 << 56) - 1) };
            for va in [va, lower] {
                let mut words = snapshot(&ram);
                let wanted = judge(&words, root << 12, mode, va, access);
                let result = walk(&ram, Gpa(root << 12), mode, Gva(va), access);
                prop_assert_eq!(result, wanted.map(|(_, leaf)| leaf), "{:#x}", va);
                // Nothing but the leaf has changed, and in nothing but its marks.
                if let Ok((slot, _)) = wanted {
                    words[slot] |= ACCESSED | if access == Access::Write { DIRTY } else { 0 };
                }
                prop_assert_eq!(snapshot(&ram), words);
            }
        }
    }

    #[test]
    fn any_root_and_address_end(root in any::<u64>(), va in any::<u64>(), mode in modes()) {
        let ram = anonymous_ram(FRAMES << 12);
        prop_assert!(walk(&ram, Gpa(root), mode, Gva(va), Access::Write).is_err());
    }
}

// ---- Memory that changes during the walk -----------------------------------------------------

/// One leaf alternates between a writable page, a read-only page and nothing, while a device walks.
#[test]
fn a_changing_leaf_is_judged_and_marked_as_one() {
    const WRITABLE_PAGE: u64 = 0x5000;
    const READ_ONLY_PAGE: u64 = 0x6000;
    let ram = anonymous_ram(0x10_0000);
    let table =
        PageTableBuilder::new(&ram, PagingMode::Level4, Gpa(0x1_0000), Gpa(0x10_0000)).unwrap();
    let va = Gva(0x7000_0000);
    table.map(va, Gpa(WRITABLE_PAGE), 12, USER | WRITABLE).unwrap();
    let stop = AtomicBool::new(false);
    /// Ends the other thread also when this one panics.
    struct StopOnDrop<'s>(&'s AtomicBool);
    impl Drop for StopOnDrop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        scope.spawn(|| {
            let values =
                [READ_ONLY_PAGE | USER | PRESENT, 0, WRITABLE_PAGE | USER | WRITABLE | PRESENT];
            // Relaxed: the flag orders nothing.
            while !stop.load(Ordering::Relaxed) {
                for value in values {
                    table.set_raw(1, va, value).unwrap();
                    std::hint::spin_loop();
                    let entry = table.entry(1, va).unwrap();
                    assert_eq!(entry & !(ACCESSED | DIRTY), value, "only marks may be added");
                    assert!(
                        value & WRITABLE != 0 || entry & DIRTY == 0,
                        "dirty on a read-only leaf"
                    );
                    assert!(value != 0 || entry == 0, "a mark on an absent leaf");
                }
            }
        });
        for _ in 0..200_000 {
            match walk(&ram, table.root(), PagingMode::Level4, va, Access::Write) {
                Ok(leaf) => assert_eq!((leaf.gpa, leaf.writable), (Gpa(WRITABLE_PAGE), true)),
                Err(fault) => assert!(fault.is_recoverable(), "{fault:?}"),
            }
            match walk(&ram, table.root(), PagingMode::Level4, va, Access::Read) {
                Ok(leaf) => assert_eq!(leaf.writable, leaf.gpa == Gpa(WRITABLE_PAGE)),
                Err(fault) => assert!(matches!(fault, Fault::NotPresent | Fault::Unstable)),
            }
        }
    });
}
