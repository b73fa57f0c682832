// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker and a guest that shares its page table with it.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use vnic_iommu::quiesce::{GuestPage, Invalidator};
use vnic_iommu::testing::{PageTableBuilder, anonymous_ram};
use vnic_iommu::walk::x86_64::{ACCESSED, DIRTY, USER, WRITABLE};
use vnic_iommu::{
    Access, AddressSpace, Burst, Fault, Gpa, GuestRam, Gva, PagingMode, Translator, WorkerSlot,
};

const EPOCHS: Gpa = Gpa(0);
const INVALIDATION: Gpa = Gpa(0x1000);
const TABLES: (Gpa, Gpa) = (Gpa(0x1_0000), Gpa(0x8_0000));
const DATA: u64 = 0x8_0000;
const VA: Gva = Gva(0x7f12_3456_7000);

/// A VM with one process.
struct Vm {
    ram: GuestRam,
    table: PageTableBuilder,
    driver: Invalidator,
    space: AddressSpace,
}

impl Vm {
    fn new(ram_len: usize, mode: PagingMode) -> Self {
        let ram = anonymous_ram(ram_len);
        let page = |gpa| GuestPage::new(&ram, gpa).unwrap();
        let table = PageTableBuilder::new(&ram, mode, TABLES.0, TABLES.1).unwrap();
        let driver = Invalidator::new(page(INVALIDATION), page(EPOCHS));
        let space = AddressSpace::new(7, ram.clone(), table.root(), mode, INVALIDATION).unwrap();
        Self { ram, table, driver, space }
    }

    fn slot(&self, worker: usize) -> WorkerSlot {
        WorkerSlot::new(GuestPage::new(&self.ram, EPOCHS).unwrap(), worker).unwrap()
    }

    /// What a process sees as madvise(MADV_DONTNEED).
    fn take_away(&self, va: Gva) {
        self.table.unmap(va).unwrap();
        self.driver.invalidate(va.0, va.0 + 0x1000, || false).unwrap();
    }
}

/// Translates in a burst of its own; where in RAM, and how many bytes.
fn locate(
    translator: &mut Translator,
    vm: &Vm,
    va: Gva,
    len: usize,
    access: Access,
) -> Result<(u64, usize), Fault> {
    let slot = vm.slot(0);
    let burst = slot.enter();
    let chunk = translator.translate(&burst, &vm.space, va, len, access)?;
    let base = vm.ram.host_ptr(Gpa(0), 0).unwrap().as_ptr();
    Ok((chunk.as_ptr().addr() as u64 - base.addr() as u64, chunk.len()))
}

#[test]
fn a_hit_is_the_walk_again_until_the_page_is_taken_away() {
    for mode in [PagingMode::Level4, PagingMode::Level5] {
        let vm = Vm::new(0x10_0000, mode);
        let mut translator = Translator::default();
        vm.table.map(VA, Gpa(DATA), 12, USER | WRITABLE).unwrap();
        for _ in 0..3 {
            let found = locate(&mut translator, &vm, Gva(VA.0 + 0xff0), 0x100, Access::Write);
            assert_eq!(found, Ok((DATA + 0xff0, 0x10)));
        }
        assert_eq!(translator.stats().walks, 1);
        vm.take_away(VA);
        let gone = locate(&mut translator, &vm, VA, 8, Access::Read);
        assert_eq!(gone, Err(Fault::NotPresent));
        vm.table.map(VA, Gpa(DATA + 0x1000), 12, USER).unwrap();
        let moved = locate(&mut translator, &vm, VA, 8, Access::Read);
        assert_eq!(moved, Ok((DATA + 0x1000, 8)));
        assert_eq!(translator.stats().ranges_dropped, 1);
    }
}

/// The guest does not announce that an entry became present or writable.
#[test]
fn faults_and_read_only_hits_are_walked_again() {
    let vm = Vm::new(0x10_0000, PagingMode::Level4);
    let mut translator = Translator::default();
    let mut at = |access| locate(&mut translator, &vm, VA, 8, access);
    assert_eq!(at(Access::Read), Err(Fault::NotPresent));
    vm.table.map(VA, Gpa(DATA), 12, USER).unwrap();
    assert_eq!(at(Access::Read), Ok((DATA, 8)));
    assert_eq!(at(Access::Write), Err(Fault::NotWritable));
    vm.table.protect(VA, 0, WRITABLE).unwrap();
    assert_eq!(at(Access::Write), Ok((DATA, 8)));
}

#[test]
fn a_write_marks_dirty_even_where_a_read_was_cached() {
    let vm = Vm::new(0x10_0000, PagingMode::Level4);
    let mut translator = Translator::default();
    vm.table.map(VA, Gpa(DATA), 12, USER | WRITABLE).unwrap();
    locate(&mut translator, &vm, VA, 8, Access::Read).unwrap();
    let entry = vm.table.leaf_entry(VA).unwrap().0;
    assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED);
    locate(&mut translator, &vm, VA, 8, Access::Write).unwrap();
    let entry = vm.table.leaf_entry(VA).unwrap().0;
    assert_eq!(entry & (ACCESSED | DIRTY), ACCESSED | DIRTY);
}

#[test]
fn large_leaves_are_cached_in_pieces_and_end_with_ram() {
    // The last 2 MiB of the 1 GiB leaf that are RAM are not whole.
    let ram_len = 0x60_3000;
    let vm = Vm::new(ram_len, PagingMode::Level4);
    let mut translator = Translator::default();
    vm.table.map(Gva(1 << 30), Gpa(0), 30, USER | WRITABLE).unwrap();
    vm.table.map(Gva(4 << 30), Gpa(0x20_0000), 21, USER | WRITABLE).unwrap();
    let mut at = |va: u64, len| locate(&mut translator, &vm, Gva(va), len, Access::Read);
    assert_eq!(at((4 << 30) + 0x12_3456, usize::MAX), Ok((0x32_3456, 0x20_0000 - 0x12_3456)));
    for _ in 0..2 {
        assert_eq!(at((1 << 30) + 0x21_0000, 0x80_0000), Ok((0x21_0000, 0x1f_0000)));
        assert_eq!(at((1 << 30) + 0x60_1004, 0x80_0000), Ok((0x60_1004, 0xffc)));
        assert_eq!(at((1 << 30) + 0x60_3000, 1), Err(Fault::OutsideRam));
    }
    // A small range in the middle of a large page takes it out of the cache.
    let walks = translator.stats().walks;
    vm.driver.invalidate((4 << 30) + 0x5000, (4 << 30) + 0x6000, || false).unwrap();
    locate(&mut translator, &vm, Gva(4 << 30), 8, Access::Read).unwrap();
    assert_eq!(translator.stats().walks, walks + 1);
}

#[test]
fn one_burst_reaches_two_vms_and_keeps_them_apart() {
    let vms = [0x11u8, 0x22].map(|fill| {
        let vm = Vm::new(0x10_0000, PagingMode::Level4);
        vm.table.map(VA, Gpa(DATA), 12, USER | WRITABLE).unwrap();
        vm.ram.write(Gpa(DATA), &[fill; 64]).unwrap();
        vm
    });
    let slots = [vms[0].slot(4), vms[1].slot(4)];
    let mut translator = Translator::default();
    for _ in 0..2 {
        let burst = Burst::enter_all(&[&slots[0], &slots[1]]);
        let [from, to] = [(0, Access::Read), (1, Access::Write)].map(|(vm, access)| {
            translator.translate(&burst, &vms[vm].space, VA, 64, access).unwrap()
        });
        from.volatile().subslice(0, 32).unwrap().copy_to_volatile_slice(to.volatile());
    }
    let mut bytes = [0; 64];
    vms[1].ram.read(Gpa(DATA), &mut bytes).unwrap();
    assert_eq!((&bytes[..32], &bytes[32..]), (&[0x11; 32][..], &[0x22; 32][..]));
    assert_eq!(translator.stats().walks, 2);
}

#[test]
fn the_identity_space_is_ram() {
    let vm = Vm::new(0x10_0000, PagingMode::Level4);
    let space = AddressSpace::identity(vm.ram.clone());
    let slot = vm.slot(0);
    let burst = slot.enter();
    let mut translator = Translator::default();
    let mut at = |va, len| translator.translate(&burst, &space, Gva(va), len, Access::Write);
    assert_eq!(at(0x1234, 0x5000).unwrap().len(), 0x5000);
    assert_eq!(at(0xf_fff0, 0x5000).unwrap().len(), 0x10);
    assert_eq!(at(0x10_0000, 1).unwrap_err(), Fault::OutsideRam);
    assert_eq!(at(u64::MAX, 1).unwrap_err(), Fault::OutsideRam);
}

/// More spaces than are remembered.
#[test]
fn a_crowd_of_spaces_only_costs_walks() {
    let vm = Vm::new(0x10_0000, PagingMode::Level4);
    vm.table.map(VA, Gpa(DATA), 12, USER).unwrap();
    let root = vm.table.root();
    let bind = || AddressSpace::new(9, vm.ram.clone(), root, PagingMode::Level4, INVALIDATION);
    let crowd: Vec<_> = (0..1000).map(|_| bind().unwrap()).collect();
    let slot = vm.slot(0);
    let mut translator = Translator::default();
    for round in 0..3 {
        if round == 2 {
            vm.take_away(VA);
        }
        let burst = slot.enter();
        for space in &crowd {
            let found = translator.translate(&burst, space, VA, 8, Access::Read);
            assert_eq!(found.is_ok(), round < 2);
        }
    }
}

/// More invalidations than are worth following one by one; a bystander keeps what it has.
#[test]
fn a_flood_of_invalidations_drops_one_space() {
    let [flooder, bystander] = [0, 1].map(|_| {
        let vm = Vm::new(0x10_0000, PagingMode::Level4);
        vm.table.map(VA, Gpa(DATA), 12, USER).unwrap();
        vm
    });
    let mut translator = Translator::default();
    for vm in [&flooder, &bystander] {
        locate(&mut translator, vm, VA, 8, Access::Read).unwrap();
    }
    for _ in 0..20 {
        flooder.driver.invalidate(1 << 40, 1 << 46, || false).unwrap();
    }
    for vm in [&flooder, &bystander] {
        locate(&mut translator, vm, VA, 8, Access::Read).unwrap();
    }
    let stats = translator.stats();
    assert_eq!((stats.walks, stats.spaces_dropped), (3, 1));
    assert!(stats.ranges_dropped < 3, "every range was followed through the whole cache");
}

/// The guest gives frames new owners as fast as it can while a worker reads and writes them: the new
/// owner's bytes are never seen, and never changed.
#[test]
fn frames_change_owners_under_a_running_worker() {
    const TURNS: u64 = 30_000;
    const POISON: u64 = u64::MAX;
    let vm = Vm::new(0x10_0000, PagingMode::Level4);
    let frames: Vec<Gpa> = (0..4).map(|frame| Gpa(DATA + (frame << 12))).collect();
    frames.iter().for_each(|&frame| vm.ram.write_u64(frame, POISON).unwrap());
    let (done, reached) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let slot = vm.slot(2);
            let mut translator = Translator::default();
            // Relaxed: neither flag nor counter orders anything.
            while !done.load(Ordering::Relaxed) {
                let burst = slot.enter();
                for access in [Access::Read, Access::Write, Access::Write] {
                    let Ok(chunk) = translator.translate(&burst, &vm.space, VA, 8, access) else {
                        continue;
                    };
                    let word = chunk.atomic_u64().unwrap();
                    let value = word.load(Ordering::Relaxed);
                    assert_ne!(value, POISON, "read the next owner's page");
                    if access == Access::Write {
                        word.store(value + 1, Ordering::Relaxed);
                    }
                    reached.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        struct Done<'d>(&'d AtomicBool);
        impl Drop for Done<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _done = Done(&done);
        let mut turn = 0;
        // Go on until both sides have really met.
        while turn < TURNS || reached.load(Ordering::Relaxed) < 1000 {
            let frame = frames[turn as usize % frames.len()];
            vm.ram.write_u64(frame, turn << 32).unwrap();
            vm.table.map(VA, frame, 12, USER | WRITABLE).unwrap();
            std::hint::spin_loop();
            vm.table.unmap(VA).unwrap();
            vm.driver.invalidate(VA.0, VA.0 + 0x1000, || true).unwrap();
            vm.ram.write_u64(frame, POISON).unwrap();
            for &other in &frames {
                assert_eq!(vm.ram.read_u64(other), Some(POISON), "the last owner wrote");
            }
            turn += 1;
        }
    });
}

/// Pages of two processes of one VM, `pages` of each from [`VA`] on, scattered in RAM.
fn two_spaces(pages: u64) -> (Vm, Vm) {
    let ram_len = 0x40_0000;
    let (one, other) = (Vm::new(ram_len, PagingMode::Level4), Vm::new(ram_len, PagingMode::Level4));
    for (vm, step) in [(&one, 7), (&other, 11)] {
        for page in 0..pages {
            let frame = Gpa(DATA + page * step % pages * 0x1000);
            vm.table.map(Gva(VA.0 + page * 0x1000), frame, 12, USER | WRITABLE).unwrap();
        }
    }
    (one, other)
}

/// What [`Translator::cached_pairs`] hands out: guest-physical addresses, length, whether it is the last.
fn pairs(
    translator: &mut Translator,
    (one, other): (&Vm, &Vm),
    (from, to, len): (u64, u64, usize),
) -> (usize, Vec<(u64, u64, usize, bool)>) {
    let (one_slot, other_slot) = (one.slot(0), other.slot(0));
    let burst = Burst::enter_both(&one_slot, &other_slot);
    let bases = [one, other].map(|vm| vm.ram.host_ptr(Gpa(0), 0).unwrap().as_ptr().addr());
    let mut found = Vec::new();
    let (from, to) = ((&one.space, Gva(VA.0 + from)), (&other.space, Gva(VA.0 + to)));
    let done = translator.cached_pairs(&burst, from, to, len, |[from, to], last| {
        assert_eq!(from.len(), to.len());
        let gpas = [from, to].map(|chunk| chunk.as_ptr().addr());
        let gpas = [(gpas[0] - bases[0]) as u64, (gpas[1] - bases[1]) as u64];
        found.push((gpas[0], gpas[1], from.len(), last));
    });
    (done, found)
}

#[test]
fn pairs_of_pages_are_what_each_side_translates_to() {
    let (one, other) = two_spaces(13);
    let vms = (&one, &other);
    let mut translator = Translator::default();
    let whole = (0x10, 0x10, 0x5000);
    assert_eq!(pairs(&mut translator, vms, whole), (0, vec![]), "nothing is cached");
    // For reading on the one side; on the other for reading only, which is not enough.
    for page in 0..6 {
        let va = Gva(VA.0 + page * 0x1000);
        locate(&mut translator, &one, va, 1, Access::Read).unwrap();
        locate(&mut translator, &other, va, 1, Access::Read).unwrap();
    }
    assert_eq!(pairs(&mut translator, vms, whole).0, 0);
    for page in 0..6 {
        locate(&mut translator, &other, Gva(VA.0 + page * 0x1000), 1, Access::Write).unwrap();
    }
    let (done, found) = pairs(&mut translator, vms, whole);
    assert_eq!((done, found.len()), (0x5000, 6));
    let mut offset = 0x10;
    for (index, &(from, to, len, last)) in found.iter().enumerate() {
        let va = Gva(VA.0 + offset);
        assert_eq!(locate(&mut translator, &one, va, len, Access::Read), Ok((from, len)));
        assert_eq!(locate(&mut translator, &other, va, len, Access::Write), Ok((to, len)));
        assert_eq!(last, index == 5);
        offset += len as u64;
    }
    assert_eq!(offset, 0x5010);
    // Ranges whose pages do not lie side by side, and ranges that go on behind what is known.
    assert_eq!(pairs(&mut translator, vms, (0x10, 0x18, 0x5000)).0, 0);
    assert_eq!(pairs(&mut translator, vms, (0x10, 0x10, 0x8000)).0, 0x5ff0);
    assert_eq!(pairs(&mut translator, vms, (0, 0, 0)), (0, vec![]));
}

#[test]
fn pairs_end_where_either_guest_has_taken_a_page_back() {
    for side in [0, 1] {
        let (one, other) = two_spaces(8);
        let vms = [&one, &other];
        let mut translator = Translator::default();
        for page in 0..8 {
            for vm in vms {
                let va = Gva(VA.0 + page * 0x1000);
                locate(&mut translator, vm, va, 1, Access::Write).unwrap();
            }
        }
        let mut done = || pairs(&mut translator, (&one, &other), (0, 0, 0x8000)).0;
        assert_eq!(done(), 0x8000);
        vms[side].take_away(Gva(VA.0 + 0x3000));
        assert_eq!(done(), 0x3000);
    }
}

#[test]
fn a_burst_hears_of_an_invalidation_that_waits_for_it() {
    let vm = Vm::new(0x10_0000, PagingMode::Level4);
    vm.table.map(VA, Gpa(DATA), 12, USER | WRITABLE).unwrap();
    let mut translator = Translator::default();
    let slot = vm.slot(0);
    let burst = slot.enter();
    assert!(!translator.is_wanted_back(&burst, &vm.space), "it is not in use");
    translator.translate(&burst, &vm.space, VA, 8, Access::Read).unwrap();
    assert!(!translator.is_wanted_back(&burst, &vm.space));
    // The guest gives up waiting at once, since the burst does not end.
    assert!(vm.driver.invalidate(VA.0, VA.0 + 0x1000, || false).is_err());
    assert!(translator.is_wanted_back(&burst, &vm.space));
    burst.leave();
}
