// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Cost of a translation: from the IOTLB, by a walk, and of entering a burst at all.
#![allow(missing_docs)] // reason: criterion's macros define undocumented functions

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use vnic_iommu::testing::translations::{Translation, Translations};

/// Cache lines of cold entries: 64 MiB of them.
const LINES: u64 = 1 << 20;

fn translate(criterion: &mut Criterion) {
    let mut load = Translations::new(LINES);
    let mut group = criterion.benchmark_group("translate");
    for what in Translation::ALL {
        group.bench_function(format!("{what:?}"), |bencher| {
            bencher.iter_custom(|times| load.run(what, times));
        });
    }
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
