// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page-request table against a list.

use proptest::prelude::*;
use vnic_iommu::fault::{Counters, Limits, Outcome, PageRequest, PageRequestTable};
use vnic_iommu::{Access, Gva};

#[derive(Clone, Debug)]
enum Step {
    Request { pasid: u32, va: u64, len: u64, access: Access, waiter: u64 },
    Complete(prop::sample::Index),
    MadeUp(u32),
    Cancel(u32),
    Forget(u64),
}

fn steps() -> impl Strategy<Value = Step> {
    let va = prop_oneof![4 => 0..0x8000u64, 1 => any::<u64>(), 1 => u64::MAX - 0x3000..=u64::MAX];
    let len = prop_oneof![4 => 0..0x5000u64, 1 => any::<u64>()];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    prop_oneof![
        6 => (1..4u32, va, len, access, 0..20u64).prop_map(|(pasid, va, len, access, waiter)| {
            Step::Request { pasid, va, len, access, waiter }
        }),
        3 => any::<prop::sample::Index>().prop_map(Step::Complete),
        1 => any::<u32>().prop_map(Step::MadeUp),
        1 => (1..4u32).prop_map(Step::Cancel),
        1 => (0..20u64).prop_map(Step::Forget),
    ]
}

fn touched(va: u64, len: u64) -> (u128, u128) {
    let end = (u128::from(va) + u128::from(len.max(1))).min(1 << 64);
    (u128::from(va >> 12), end.div_ceil(4096))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_a_list(
        requests in 0..6usize, waiters in 0..12usize,
        steps in prop::collection::vec(steps(), 1..120),
    ) {
        let mut table = PageRequestTable::new(Limits { requests, waiters });
        let mut list: Vec<(PageRequest, Vec<u64>)> = Vec::new();
        let mut counted = Counters::default();
        for step in steps {
            match step {
                Step::Request { pasid, va, len, access, waiter } => {
                    let held: usize = list.iter().map(|(_, waiting)| waiting.len()).sum();
                    match table.request(pasid, Gva(va), len, access, waiter) {
                        Outcome::New(request) => {
                            prop_assert!(list.len() < requests && held < waiters);
                            prop_assert!(list.iter().all(|(other, _)| other.id != request.id));
                            prop_assert_eq!((request.pasid, request.access), (pasid, access));
                            prop_assert!(request.start.0 % 4096 == 0 && request.len % 4096 == 0);
                            prop_assert_eq!(request.start.0 >> 12, va >> 12);
                            // Every page but the unnameable last one of the address space.
                            let (first, end) = touched(va, len);
                            let end = end.min((1 << 52) - 1).max(first + 1);
                            prop_assert_eq!(u128::from(request.len >> 12), end - first);
                            list.push((request, vec![waiter]));
                            counted.sent += 1;
                        }
                        Outcome::Merged(id) => {
                            let (request, waiting) =
                                list.iter_mut().find(|(request, _)| request.id == id).unwrap();
                            prop_assert!(request.pasid == pasid && request.access >= access);
                            let (first, end) = touched(va, len);
                            let (start, last) = touched(request.start.0, request.len);
                            prop_assert!(start <= first && end.min((1 << 52) - 1) <= last);
                            if !waiting.contains(&waiter) {
                                prop_assert!(held < waiters);
                                waiting.push(waiter);
                            }
                            counted.merged += 1;
                        }
                        Outcome::Full => {
                            prop_assert!(list.len() == requests || held == waiters);
                            counted.refused += 1;
                        }
                    }
                }
                Step::Complete(which) if !list.is_empty() => {
                    let (request, waiting) = list.remove(which.index(list.len()));
                    prop_assert_eq!(table.get(request.id), Some(&request));
                    prop_assert_eq!(table.complete(request.id), Some(waiting));
                    prop_assert_eq!(table.complete(request.id), None);
                    counted.completed += 1;
                    counted.unknown += 1;
                }
                Step::Complete(_) => {}
                Step::MadeUp(id) => {
                    if list.iter().all(|(request, _)| request.id != id) {
                        prop_assert_eq!(table.complete(id), None);
                        counted.unknown += 1;
                    }
                }
                Step::Cancel(pasid) => {
                    let before = list.len();
                    let mut wanted = Vec::new();
                    list.retain_mut(|(request, waiting)| {
                        if request.pasid == pasid {
                            wanted.append(waiting);
                        }
                        request.pasid != pasid
                    });
                    let mut freed = table.cancel_pasid(pasid);
                    freed.sort_unstable();
                    wanted.sort_unstable();
                    prop_assert_eq!(freed, wanted);
                    counted.cancelled += (before - list.len()) as u64;
                }
                Step::Forget(waiter) => {
                    table.forget_waiter(waiter);
                    list.iter_mut().for_each(|(_, waiting)| waiting.retain(|&w| w != waiter));
                }
            }
            prop_assert_eq!(table.len(), list.len());
            prop_assert_eq!(table.is_empty(), list.is_empty());
            prop_assert_eq!(table.waiters(), list.iter().map(|(_, w)| w.len()).sum::<usize>());
            prop_assert_eq!(table.counters(), counted);
        }
    }
}

#[test]
fn a_wider_write_serves_a_read_inside_it_and_not_the_reverse() {
    let mut table = PageRequestTable::new(Limits { requests: 8, waiters: 8 });
    let Outcome::New(write) = table.request(1, Gva(0x1800), 0x2000, Access::Write, 1) else {
        panic!("the table was empty");
    };
    assert_eq!((write.start, write.len), (Gva(0x1000), 0x3000));
    assert_eq!(table.request(1, Gva(0x2004), 8, Access::Read, 2), Outcome::Merged(write.id));
    assert_eq!(table.request(1, Gva(0x1000), 0x3000, Access::Write, 3), Outcome::Merged(write.id));
    // Another space; a page too far; and a write where only reading was asked for.
    assert!(matches!(table.request(2, Gva(0x2000), 8, Access::Read, 4), Outcome::New(_)));
    assert!(matches!(table.request(1, Gva(0x3ffc), 8, Access::Read, 5), Outcome::New(_)));
    assert!(matches!(table.request(2, Gva(0x2000), 8, Access::Write, 6), Outcome::New(_)));
    assert_eq!(table.complete(write.id), Some(vec![1, 2, 3]));
}
