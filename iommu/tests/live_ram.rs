// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Translations follow a VM's memory map: from one burst to the next, and without the guest's help.

use std::sync::Arc;

use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap};
use vnic_iommu::quiesce::GuestPage;
use vnic_iommu::testing::PageTableBuilder;
use vnic_iommu::walk::x86_64::{USER, WRITABLE};
use vnic_iommu::{
    Access, AddressSpace, Fault, Gpa, GuestRam, Gva, LiveRam, PagingMode, Translator, WorkerSlot,
};

const LOW: usize = 0x10_0000;
const EPOCHS: Gpa = Gpa(0);
const INVALIDATION: Gpa = Gpa(0x1000);
const TABLES: (Gpa, Gpa) = (Gpa(0x1_0000), Gpa(0x8_0000));
/// Where a module of 4 MiB comes and goes.
const MODULE: u64 = 1 << 32;
const MODULE_LEN: usize = 4 << 20;
const SMALL: Gva = Gva(0x7f00_0000_0000);
const LARGE: Gva = Gva(0x7f00_0020_0000);
const ELSEWHERE: Gva = Gva(0x7f00_0040_0000);

#[test]
fn every_space_of_a_vm_follows_its_memory_map() {
    let low = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), LOW)]).unwrap();
    let with_module = || {
        let module = GuestRegionMmap::from_range(GuestAddress(MODULE), MODULE_LEN, None).unwrap();
        GuestRam::new(Arc::new(low.insert_region(Arc::new(module)).unwrap()))
    };
    let without = || GuestRam::new(Arc::new(low.clone()));
    let ram = LiveRam::new(without());
    let view = ram.current();
    let table = PageTableBuilder::new(&view, PagingMode::Level4, TABLES.0, TABLES.1).unwrap();
    table.map(SMALL, Gpa(MODULE + 0x5000), 12, USER | WRITABLE).unwrap();
    table.map(LARGE, Gpa(MODULE + 0x20_0000), 21, USER | WRITABLE).unwrap();
    table.map(ELSEWHERE, Gpa(0x8_0000), 12, USER | WRITABLE).unwrap();
    let space = |pasid| {
        AddressSpace::new(pasid, ram.clone(), table.root(), PagingMode::Level4, INVALIDATION)
    };
    let spaces = [space(1).unwrap(), space(2).unwrap()];
    let slot = WorkerSlot::new(GuestPage::new(&view, EPOCHS).unwrap(), 0).unwrap();
    let mut translator = Translator::default();
    for round in 0..20u64 {
        let burst = slot.enter();
        for space in &spaces {
            for va in [SMALL, LARGE] {
                let missing = translator.translate(&burst, space, va, 8, Access::Write);
                assert_eq!(missing.map(|chunk| chunk.len()), Err(Fault::OutsideRam));
            }
            translator.translate(&burst, space, ELSEWHERE, 8, Access::Write).unwrap();
        }
        burst.leave();

        let view = with_module();
        drop_retired(ram.replace(view.clone()));
        // Twice, so that it is cached.
        for _ in 0..2 {
            let burst = slot.enter();
            for space in &spaces {
                for (va, at) in [(SMALL, 0x5000), (LARGE, 0x20_0000)] {
                    let chunk = translator.translate(&burst, space, va, 8, Access::Write).unwrap();
                    // Not where the module of the round before was.
                    assert_eq!(chunk.host_ptr(), view.host_ptr(Gpa(MODULE + at), 8).unwrap());
                    chunk.atomic_u64().unwrap().store(round, std::sync::atomic::Ordering::Relaxed);
                }
            }
            burst.leave();
        }
        let burst = slot.enter();
        translator.translate(&burst, &spaces[0], SMALL, 8, Access::Write).unwrap();
        drop_retired(ram.replace(without()));
        // This burst began before: whoever replaced the view waits for it.
        let chunk = translator.translate(&burst, &spaces[0], SMALL, 8, Access::Write).unwrap();
        assert_eq!(chunk.host_ptr(), view.host_ptr(Gpa(MODULE + 0x5000), 8).unwrap());
        burst.leave();
    }
    // One burst for each change and space, not one for each translation.
    assert_eq!(translator.stats().spaces_remapped, 20 * 2 * 2 - 2);
}

/// Leaves the old view in place: this test holds one of its own.
fn drop_retired(retired: vnic_iommu::live::Retired) {
    drop(retired);
}
