// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The IOTLB against a map: it may forget, it may not remember what it was told to forget.

use std::collections::HashMap;

use proptest::prelude::*;
use vnic_iommu::iotlb::{Iotlb, IotlbSize};
use vnic_iommu::testing::anonymous_ram;
use vnic_iommu::{Access, Gpa, Gva};

const SPACES: u64 = 3;

#[derive(Clone, Debug)]
enum Step {
    Insert { space: u64, va: u64, large: bool, frame: u64, writable: bool },
    Lookup { space: u64, va: u64, access: Access },
    Range { space: u64, start: u64, end: u64 },
    Space(u64),
    Flush,
}

fn addresses() -> impl Strategy<Value = u64> {
    prop_oneof![
        6 => 0..0x80_0000u64,
        2 => (0..8u64, 0..0x3000u64).prop_map(|(high, low)| high << 38 | low),
        // The last page of the widest user half, and what no table can map.
        1 => (1u64 << 56) - 0x1000..1u64 << 56,
        1 => any::<u64>(),
    ]
}

fn steps() -> impl Strategy<Value = Step> {
    let space = || 1..=SPACES;
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    prop_oneof![
        8 => (space(), addresses(), prop::bool::weighted(0.3), 0..64u64, any::<bool>()).prop_map(
            |(space, va, large, frame, writable)| Step::Insert { space, va, large, frame, writable }
        ),
        8 => (space(), addresses(), access)
            .prop_map(|(space, va, access)| Step::Lookup { space, va, access }),
        2 => (space(), addresses(), prop_oneof![0..0x4000u64, 0..0x40_0000u64, any::<u64>()])
            .prop_map(|(space, start, len)| {
                Step::Range { space, start, end: start.saturating_add(len) }
            }),
        1 => (space(), addresses(), addresses())
            .prop_map(|(space, start, end)| Step::Range { space, start, end }),
        1 => space().prop_map(Step::Space),
        1 => Just(Step::Flush),
    ]
}

/// Space, shift, page number -> where and whether writable.
type Model = HashMap<(u64, u32, u64), (usize, bool)>;

fn modelled(model: &Model, space: u64, va: u64, access: Access) -> Vec<(usize, usize)> {
    [12, 21]
        .into_iter()
        .filter_map(|shift| {
            let (page, writable) = *model.get(&(space, shift, va >> shift))?;
            let offset = va as usize & ((1 << shift) - 1);
            (writable || access == Access::Read).then_some((page + offset, (1 << shift) - offset))
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn agrees_with_a_map(
        small in 1..64usize, large in 1..16usize,
        steps in prop::collection::vec(steps(), 1..200),
    ) {
        let ram = anonymous_ram(0x40_0000 + 0x20_0000);
        let mut iotlb = Iotlb::new(IotlbSize { small, large });
        let mut model = Model::new();
        let mut probes: Vec<(u64, u64)> = Vec::new();
        for step in steps {
            match step {
                Step::Insert { space, va, large, frame, writable } => {
                    let shift = if large { 21 } else { 12 };
                    let host = ram.host_ptr(Gpa(frame << 12), 1 << shift).unwrap();
                    iotlb.insert(space, Gva(va), host, writable);
                    if va < 1 << 56 {
                        let entry = (host.as_ptr().addr(), writable);
                        model.insert((space, shift, va >> shift), entry);
                        let found = iotlb.lookup(space, Gva(va), Access::Read);
                        prop_assert!(found.is_some(), "forgot what was just inserted");
                    }
                    probes.push((space, va));
                }
                Step::Lookup { space, va, access } => {
                    if let Some(host) = iotlb.lookup(space, Gva(va), access) {
                        let found = (host.as_ptr().addr(), host.len());
                        prop_assert!(modelled(&model, space, va, access).contains(&found));
                    }
                }
                Step::Range { space, start, end } => {
                    iotlb.invalidate_range(space, Gva(start), Gva(end));
                    model.retain(|&(of, shift, page), _| {
                        let (first, after) = (page << shift, (page + 1) << shift);
                        of != space || after <= start || first >= end || start >= end
                    });
                }
                Step::Space(space) => {
                    iotlb.invalidate_space(space);
                    model.retain(|&(of, ..), _| of != space);
                }
                Step::Flush => {
                    iotlb.flush();
                    model.clear();
                }
            }
            for &(space, va) in &probes {
                for access in [Access::Read, Access::Write] {
                    if let Some(host) = iotlb.lookup(space, Gva(va), access) {
                        let found = (host.as_ptr().addr(), host.len());
                        prop_assert!(modelled(&model, space, va, access).contains(&found));
                    }
                }
            }
        }
    }
}

#[test]
fn what_fits_stays() {
    let ram = anonymous_ram(0x1000);
    let host = ram.host_ptr(Gpa(0), 0x1000).unwrap();
    let mut iotlb = Iotlb::new(IotlbSize { small: 256, large: 4 });
    let pages = || (0..256u64).map(|page| Gva(0x7f00_0000_0000 + (page << 12)));
    pages().for_each(|va| iotlb.insert(9, va, host, true));
    assert!(pages().all(|va| iotlb.lookup(9, va, Access::Write).is_some()));
}

#[test]
fn a_range_takes_only_its_own_pages() {
    let ram = anonymous_ram(0x1000);
    let host = ram.host_ptr(Gpa(0), 0x1000).unwrap();
    let mut iotlb = Iotlb::new(IotlbSize::default());
    for (space, page) in (0..1024).flat_map(|page| [(1, page), (2, page)]) {
        iotlb.insert(space, Gva(page << 12), host, true);
    }
    iotlb.invalidate_range(1, Gva(0x5800), Gva(0x7001));
    for page in 0..1024 {
        let gone = (5..=7).contains(&page);
        assert_eq!(iotlb.lookup(1, Gva(page << 12), Access::Read).is_none(), gone, "{page}");
        assert!(iotlb.lookup(2, Gva(page << 12), Access::Read).is_some());
    }
}

/// Spaces come and go, and tags are few: neither may bring an old entry back.
#[test]
fn reuse_of_tags_and_slots_brings_nothing_back() {
    let ram = anonymous_ram(0x1000);
    let host = ram.host_ptr(Gpa(0), 0x1000).unwrap();
    let mut iotlb = Iotlb::new(IotlbSize { small: 64, large: 4 });
    for turn in 0..(1 << 20) + 100u64 {
        // Space 2 is the first to be known, so that space 1 gets its tag when tags start over.
        iotlb.insert(2, Gva(0x5000), host, true);
        iotlb.insert(1, Gva(0x9000), host, true);
        assert!(iotlb.lookup(1, Gva(0x5000), Access::Read).is_none(), "turn {turn}");
        iotlb.invalidate_space(1);
        assert!(iotlb.lookup(1, Gva(0x9000), Access::Read).is_none(), "turn {turn}");
        iotlb.insert(1, Gva(0xa000), host, true);
        assert!(iotlb.lookup(1, Gva(0x5000), Access::Read).is_none(), "turn {turn}");
    }
    for space in 10..5000 {
        assert!(iotlb.lookup(space, Gva(0x1000), Access::Read).is_none());
        iotlb.insert(space, Gva(0x1000), host, false);
        assert!(iotlb.lookup(space, Gva(0x1000), Access::Read).is_some());
        assert!(iotlb.lookup(space, Gva(0x1000), Access::Write).is_none());
    }
}

/// Tag and page share a word: an address too wide for its half must not read as another tag.
#[test]
fn an_address_too_wide_finds_no_other_space() {
    let ram = anonymous_ram(0x1000);
    let host = ram.host_ptr(Gpa(0), 0x1000).unwrap();
    let mut iotlb = Iotlb::new(IotlbSize::default());
    for (space, page) in [(1, 0x1000), (2, 0x2000), (3, 0x3000)] {
        iotlb.insert(space, Gva(page), host, true);
    }
    for (space, bit) in (1..=3).flat_map(|space| (56..64).map(move |bit| (space, bit))) {
        for page in [0x1000, 0x2000, 0x3000] {
            assert!(iotlb.lookup(space, Gva(1 << bit | page), Access::Read).is_none());
        }
        iotlb.insert(space, Gva(1 << bit | 0x4000), host, true);
    }
    assert!((1..=3).all(|space| iotlb.lookup(space, Gva(0x4000), Access::Read).is_none()));
}
