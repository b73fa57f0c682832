// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Steps of the engine, and operations of the rings, each by itself and in one thread.
//!
//! A step is everything from posting to polling: driver, worker and completion, without the trip from
//! one processor to the other.
#![allow(missing_docs)] // reason: criterion's macros define undocumented functions

mod rig;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use rig::{Load, Work, direct};
use std::hint::black_box;
use std::time::{Duration, Instant};
use vnic::ring::cq::CompletionRing;
use vnic::ring::memory::{PageBudget, RingMemory};
use vnic::ring::sq::{Element, WorkRing};
use vnic_abi::cqe::{CQ_CONSUMER_OFFSET, Cqe};
use vnic_abi::wqe::WqeFlags;
use vnic_iommu::addr::Gpa;
use vnic_iommu::testing::anonymous_ram;

fn steps(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("step");
    for work in Work::ALL {
        let mut load = Load::new(work, 1);
        if work == Work::Bulk {
            group.throughput(Throughput::Bytes(64 << 10));
        }
        group.bench_function(format!("{work:?}"), |bencher| {
            bencher.iter_custom(|times| {
                let since = Instant::now();
                load.run(times);
                since.elapsed()
            });
        });
    }
    group.finish();
    // By a device of the host that takes no time: what direct adds to what that does.
    let mut group = criterion.benchmark_group("direct");
    let alone = direct::Work::ALL.map(|work| (format!("{work:?}"), direct::Load::new(work, 1)));
    let among = direct::Load::new(direct::Work::Write, 1).among(900);
    let loads = alone.into_iter().chain([("Write, among 900 that wait".into(), among)]);
    for (name, mut load) in loads {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let since = Instant::now();
                load.run(times);
                since.elapsed()
            });
        });
    }
    group.finish();
}

/// Elements of the rings.
const DEPTH: u32 = 64;

fn rings(criterion: &mut Criterion) {
    let ram = anonymous_ram(1 << 20);
    let memory = |pages: &[u64]| {
        let list: Vec<_> = pages.iter().copied().map(Gpa).collect();
        let len = 4096 * pages.len() as u64;
        RingMemory::new(&ram, &PageBudget::new(16), &list, len).expect("pages of RAM")
    };
    let mut group = criterion.benchmark_group("ring");
    let (work, mut ring) = (memory(&[0x1000]), WorkRing::of_sends(0, DEPTH, 64));
    let mut element = Element::new(64);
    let mut count = 0u32;
    group.bench_function("take an element", |bencher| {
        bencher.iter(|| {
            let phase = if count & DEPTH == 0 { WqeFlags::PHASE.bits() } else { 0 };
            let place = (count % DEPTH) as usize * 64;
            let head = u64::from_le_bytes([3, phase, 1, 0, 0, 0, 0, 0]);
            work.word(place).store(head, std::sync::atomic::Ordering::Release);
            count = count.wrapping_add(1);
            assert!(ring.take(&work, black_box(&mut element)));
        });
    });
    let (done, mut ring) = (memory(&[0x2000, 0x3000]), CompletionRing::new(DEPTH));
    group.bench_function("publish a completion", |bencher| {
        bencher.iter(|| {
            let consumer = done.word32(CQ_CONSUMER_OFFSET as usize);
            consumer.store(ring.produced().to_le(), std::sync::atomic::Ordering::Release);
            ring.publish(&done, &black_box(Cqe::default()).into()).expect("room");
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
    targets = steps, rings
}
criterion_main!(benches);
