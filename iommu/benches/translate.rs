// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cost of a translation: from the IOTLB, by a walk, and of entering a burst at all.
#![allow(missing_docs)] // reason: criterion's macros define undocumented functions

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use vnic_iommu::iotlb::IotlbSize;
use vnic_iommu::quiesce::GuestPage;
use vnic_iommu::testing::{PageTableBuilder, anonymous_ram};
use vnic_iommu::walk::x86_64::{USER, WRITABLE};
use vnic_iommu::{Access, AddressSpace, Gpa, Gva, PagingMode, Translator, WorkerSlot};

const PAGES: u64 = 1024;
const BASE: u64 = 0x7f00_0000_0000;

fn translate(criterion: &mut Criterion) {
    let ram = anonymous_ram(0x100_0000);
    let mode = PagingMode::Level4;
    let table = PageTableBuilder::new(&ram, mode, Gpa(0x1_0000), Gpa(0x80_0000)).unwrap();
    for page in 0..PAGES {
        let gpa = Gpa(0x80_0000 + (page << 12));
        table.map(Gva(BASE + (page << 12)), gpa, 12, USER | WRITABLE).unwrap();
    }
    table.map(Gva(1 << 30), Gpa(0x80_0000), 21, USER | WRITABLE).unwrap();
    let space = AddressSpace::new(1, ram.clone(), table.root(), mode, Gpa(0x1000)).unwrap();
    let slot = WorkerSlot::new(GuestPage::new(&ram, Gpa(0)).unwrap(), 0).unwrap();
    let mut group = criterion.benchmark_group("translate");

    let mut translator = Translator::default();
    let mut page = 0;
    let mut next = || {
        page = (page + 1) % PAGES;
        Gva(BASE + (page << 12))
    };
    group.bench_function("hit, 1024 small pages", |bencher| {
        let burst = slot.enter();
        bencher.iter(|| {
            let va = black_box(next());
            translator.translate(&burst, &space, va, 64, Access::Write).unwrap().as_ptr()
        });
    });
    group.bench_function("hit, one small page", |bencher| {
        let burst = slot.enter();
        bencher.iter(|| {
            let va = black_box(Gva(BASE));
            translator.translate(&burst, &space, va, 64, Access::Write).unwrap().as_ptr()
        });
    });
    group.bench_function("hit, one large page", |bencher| {
        let burst = slot.enter();
        bencher.iter(|| {
            let va = black_box(Gva(1 << 30));
            translator.translate(&burst, &space, va, 64, Access::Write).unwrap().as_ptr()
        });
    });
    group.bench_function("burst with one hit", |bencher| {
        bencher.iter(|| {
            let burst = slot.enter();
            let va = black_box(Gva(BASE));
            translator.translate(&burst, &space, va, 64, Access::Write).unwrap().as_ptr()
        });
    });
    let mut tiny = Translator::new(IotlbSize { small: 4, large: 4 });
    group.bench_function("miss and walk", |bencher| {
        let burst = slot.enter();
        bencher.iter(|| {
            let va = black_box(next());
            tiny.translate(&burst, &space, va, 64, Access::Write).unwrap().as_ptr()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .without_plots()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(500));
    targets = translate
}
criterion_main!(benches);
