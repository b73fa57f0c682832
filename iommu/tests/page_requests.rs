// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The page-request table against a list, and its budget against a clock.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use vnic_iommu::fault::{
    Claimant, Counters, Limits, Outcome, PageRequest, PageRequestTable, Waiter, Wish,
};
use vnic_iommu::{Access, Gva};

#[derive(Clone, Debug)]
enum Step {
    Request { foreign: bool, pasid: u32, va: u64, len: u64, access: Access, who: u32 },
    Prefetch { pasid: u32, va: u64, len: u64, access: Access },
    Complete(prop::sample::Index),
    MadeUp(u32),
    Cancel(u32),
    Forget(u32),
}

fn steps() -> impl Strategy<Value = Step> {
    let va = prop_oneof![4 => 0..0x8000u64, 1 => any::<u64>(), 1 => u64::MAX - 0x3000..=u64::MAX];
    let len = prop_oneof![4 => 0..0x5000u64, 1 => any::<u64>()];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    prop_oneof![
        6 => (any::<bool>(), 1..4u32, va.clone(), len.clone(), access.clone(), 0..20u32).prop_map(
            |(foreign, pasid, va, len, access, who)| {
                Step::Request { foreign, pasid, va, len, access, who }
            }
        ),
        2 => (1..4u32, va, len, access).prop_map(|(pasid, va, len, access)| {
            Step::Prefetch { pasid, va, len, access }
        }),
        3 => any::<prop::sample::Index>().prop_map(Step::Complete),
        1 => any::<u32>().prop_map(Step::MadeUp),
        1 => (1..4u32).prop_map(Step::Cancel),
        1 => (0..20u32).prop_map(Step::Forget),
    ]
}

fn touched(va: u64, len: u64) -> (u128, u128) {
    let end = (u128::from(va) + u128::from(len.max(1))).min(1 << 64);
    let first = u128::from(va >> 12);
    // Every page but the unnameable last one of the address space.
    (first, end.div_ceil(4096).min((1 << 52) - 1).max(first + 1))
}

fn wish(claimant: Claimant, pasid: u32, va: u64, len: u64, access: Access) -> Wish {
    Wish { claimant, pasid, va: Gva(va), len, ahead: 0, access }
}

/// What the table should hold: outstanding requests with who waits, and wishes in their order.
#[derive(Default)]
struct Model {
    sent: Vec<(PageRequest, Claimant, Vec<Waiter>)>,
    deferred: Vec<(Wish, Waiter)>,
    counted: Counters,
}

impl Model {
    fn held(&self, claimant: Claimant) -> usize {
        self.sent.iter().filter(|(_, of, _)| *of == claimant).count()
    }

    /// The rule of the shares, said another way than the table says it.
    fn admits(&self, limits: &Limits, claimant: Claimant) -> bool {
        let foreign = |claimant| matches!(claimant, Claimant::Foreign(_));
        let theirs = self.sent.iter().filter(|(_, of, _)| foreign(*of)).count();
        let held = self.held(claimant);
        self.sent.len() + held < limits.requests
            && (!foreign(claimant) || theirs + held < (limits.requests / 2).max(1))
    }

    fn serving(&self, wish: &Wish) -> Option<usize> {
        self.sent.iter().position(|(request, ..)| {
            let (first, end) = touched(request.start.0, request.len);
            let page = u128::from(wish.va.0 >> 12);
            request.pasid == wish.pasid
                && request.access >= wish.access
                && (first..end).contains(&page)
        })
    }

    fn forget(&mut self, who: u32) {
        self.sent.iter_mut().for_each(|(.., waiting)| waiting.retain(|w| w.who != who));
        self.deferred.retain(|(_, waiter)| waiter.who != who);
    }

    fn add(&mut self, request: PageRequest, wish: &Wish, waiter: Option<Waiter>) {
        assert!(self.sent.iter().all(|(other, ..)| other.id != request.id));
        assert_eq!((request.pasid, request.access), (wish.pasid, wish.access));
        assert!(request.start.0.is_multiple_of(4096) && request.len.is_multiple_of(4096));
        assert_eq!(request.start.0 >> 12, wish.va.0 >> 12);
        let (first, end) = touched(wish.va.0, wish.len);
        assert_eq!(u128::from(request.len >> 12), end - first);
        self.counted.sent += 1;
        self.counted.pages += request.len >> 12;
        if waiter.is_none() {
            self.counted.prefetched += request.len >> 12;
        }
        self.sent.push((request, wish.claimant, waiter.into_iter().collect()));
    }

    /// Takes over what the table's `next` returned, all of it.
    fn drain(&mut self, table: &mut PageRequestTable, limits: &Limits, now: Instant) {
        while let Some(request) = table.next(now) {
            assert_eq!(table.get(request.id), Some(&request));
            let first = table.waiters(request.id)[0];
            let at = self.deferred.iter().position(|(_, waiter)| *waiter == first);
            let at = at.expect("a wish that was deferred");
            assert!(self.admits(limits, self.deferred[at].0.claimant));
            let (wish, waiter) = self.deferred.remove(at);
            self.add(request, &wish, Some(waiter));
        }
        // What is still there has nobody who could be asked, or was merged.
        let (mut merged, mut rest) = (Vec::new(), Vec::new());
        for (wish, waiter) in self.deferred.drain(..) {
            if table.is_deferred(waiter.who) { &mut rest } else { &mut merged }
                .push((wish, waiter));
        }
        self.deferred = rest;
        for (wish, waiter) in merged {
            let at = self.serving(&wish).expect("merged with something");
            self.sent[at].2.push(waiter);
            self.counted.merged += 1;
        }
        for (wish, _) in &self.deferred {
            assert!(!self.admits(limits, wish.claimant), "{wish:?} could go");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn agrees_with_a_list(
        requests in 0..9usize, steps in prop::collection::vec(steps(), 1..120),
    ) {
        let limits = Limits { requests, rate: 0, burst: 1 };
        let mut table = PageRequestTable::new(limits);
        let mut model = Model::default();
        let now = Instant::now();
        let mut waits = 0;
        for step in steps {
            match step {
                Step::Request { foreign, pasid, va, len, access, who } => {
                    let claimant = if foreign { Claimant::Foreign(7) } else { Claimant::Own(pasid) };
                    let wish = wish(claimant, pasid, va, len, access);
                    waits += 1;
                    let waiter = Waiter { who, wait: waits };
                    model.forget(who);
                    match table.request(wish, waiter, now) {
                        Outcome::New(request) => {
                            prop_assert!(model.serving(&wish).is_none());
                            prop_assert!(model.admits(&limits, claimant));
                            model.add(request, &wish, Some(waiter));
                        }
                        Outcome::Merged(id) => {
                            let at = model.sent.iter().position(|(r, ..)| r.id == id).unwrap();
                            let (first, end) = touched(model.sent[at].0.start.0, model.sent[at].0.len);
                            prop_assert!((first..end).contains(&u128::from(va >> 12)));
                            prop_assert!(model.sent[at].0.pasid == pasid);
                            prop_assert!(model.sent[at].0.access >= access);
                            model.sent[at].2.push(waiter);
                            model.counted.merged += 1;
                        }
                        Outcome::Deferred => {
                            prop_assert!(model.serving(&wish).is_none());
                            model.counted.deferred += 1;
                            model.deferred.push((wish, waiter));
                        }
                    }
                }
                Step::Prefetch { pasid, va, len, access } => {
                    let wish = wish(Claimant::Own(pasid), pasid, va, len, access);
                    let before = table.counters();
                    match table.prefetch(wish, now) {
                        Some(request) => {
                            let (first, end) = touched(va, len);
                            let (start, last) = touched(request.start.0, request.len);
                            prop_assert!(first <= start && last == end);
                            let rest = Wish { va: request.start, len: request.len, ..wish };
                            prop_assert!(model.serving(&rest).is_none());
                            model.add(request, &rest, None);
                        }
                        None if table.counters() != before => model.counted.skipped += 1,
                        None => prop_assert!(model.serving(&wish).is_some()),
                    }
                }
                Step::Complete(which) if !model.sent.is_empty() => {
                    let (request, _, waiters) = model.sent.remove(which.index(model.sent.len()));
                    prop_assert_eq!(table.get(request.id), Some(&request));
                    let answered = table.complete(request.id).unwrap();
                    // All are woken: the order is that of merging, where claimants take turns.
                    let (mut woken, mut waiting) = (answered.waiters, waiters);
                    woken.sort_by_key(|waiter| waiter.wait);
                    waiting.sort_by_key(|waiter| waiter.wait);
                    prop_assert_eq!((answered.request, woken), (request, waiting));
                    prop_assert_eq!(table.complete(request.id), None);
                    model.counted.completed += 1;
                    model.counted.unknown += 1;
                }
                Step::Complete(_) => {}
                Step::MadeUp(id) => {
                    if model.sent.iter().all(|(request, ..)| request.id != id) {
                        prop_assert_eq!(table.complete(id), None);
                        model.counted.unknown += 1;
                    }
                }
                Step::Cancel(pasid) => {
                    let before = model.sent.len();
                    let mut wanted = Vec::new();
                    model.sent.retain(|(request, _, waiters)| {
                        if request.pasid == pasid {
                            wanted.extend(waiters.iter().map(|w| w.who));
                        }
                        request.pasid != pasid
                    });
                    model.deferred.retain(|(wish, waiter)| {
                        if wish.pasid == pasid {
                            wanted.push(waiter.who);
                        }
                        wish.pasid != pasid
                    });
                    let mut freed: Vec<_> =
                        table.cancel_pasid(pasid).iter().map(|w| w.who).collect();
                    freed.sort_unstable();
                    wanted.sort_unstable();
                    prop_assert_eq!(freed, wanted);
                    model.counted.cancelled += (before - model.sent.len()) as u64;
                }
                Step::Forget(who) => {
                    let deferred = model.deferred.iter().any(|(_, waiter)| waiter.who == who);
                    prop_assert_eq!(table.forget_waiter(who), deferred);
                    model.forget(who);
                }
            }
            model.drain(&mut table, &limits, now);
            prop_assert_eq!(table.len(), model.sent.len());
            prop_assert_eq!(table.is_empty(), model.sent.is_empty());
            prop_assert_eq!(table.waiting(), model.sent.iter().map(|(.., w)| w.len()).sum::<usize>());
            prop_assert_eq!(table.deferred(), model.deferred.len());
            prop_assert_eq!(table.counters(), model.counted);
            prop_assert!(table.len() <= requests);
        }
    }
}

const OWN: Claimant = Claimant::Own(1);

fn table(requests: usize) -> PageRequestTable {
    PageRequestTable::new(Limits { requests, rate: 0, burst: 1 })
}

fn waiter(who: u32) -> Waiter {
    Waiter { who, wait: who.into() }
}

/// A wish for page `page` of space 1.
fn page(claimant: Claimant, page: u64) -> Wish {
    wish(claimant, 1, page << 12, 1, Access::Write)
}

#[test]
fn a_request_serves_whoever_needs_a_page_of_it_for_no_more_than_it_asks_for() {
    let mut table = table(80);
    let now = Instant::now();
    let mut ask = |pasid, va, len, access, who| {
        table.request(wish(OWN, pasid, va, len, access), waiter(who), now)
    };
    let Outcome::New(write) = ask(1, 0x1800, 0x2000, Access::Write, 1) else {
        panic!("the table was empty");
    };
    assert_eq!((write.start, write.len), (Gva(0x1000), 0x3000));
    assert_eq!(ask(1, 0x2004, 8, Access::Read, 2), Outcome::Merged(write.id));
    assert_eq!(ask(1, 0x1000, 0x3000, Access::Write, 3), Outcome::Merged(write.id));
    // The first page is what is waited for; the rest is asked for when it is needed.
    assert_eq!(ask(1, 0x3ffc, 8, Access::Read, 5), Outcome::Merged(write.id));
    // Another space; a page before it; and a write where only reading was asked for.
    assert!(matches!(ask(2, 0x2000, 8, Access::Read, 4), Outcome::New(_)));
    assert!(matches!(ask(1, 0xffc, 8, Access::Read, 6), Outcome::New(_)));
    assert!(matches!(ask(2, 0x2000, 8, Access::Write, 7), Outcome::New(_)));
    let waited: Vec<u32> =
        table.complete(write.id).unwrap().waiters.iter().map(|w| w.who).collect();
    assert_eq!(waited, [1, 2, 3, 5]);
}

#[test]
fn nobody_waits_twice() {
    let mut table = table(8);
    let now = Instant::now();
    let Outcome::New(first) = table.request(page(OWN, 1), waiter(1), now) else { panic!() };
    let again = Waiter { who: 1, wait: 99 };
    let Outcome::New(second) = table.request(page(OWN, 2), again, now) else { panic!() };
    assert_eq!(table.complete(first.id).unwrap().waiters, []);
    assert_eq!(table.complete(second.id).unwrap().waiters, [again]);
}

/// Somebody who asks for ever and is never answered.
fn storm(
    table: &mut PageRequestTable,
    claimant: Claimant,
    who: std::ops::Range<u32>,
    now: Instant,
) {
    for who in who {
        table.request(page(claimant, who.into()), waiter(who), now);
        while table.next(now).is_some() {}
    }
}

#[test]
fn a_storm_that_is_never_answered_leaves_room_for_others() {
    let (other, peer, peer2) = (Claimant::Own(2), Claimant::Foreign(1), Claimant::Foreign(2));
    let now = Instant::now();
    let mut table = table(64);
    storm(&mut table, OWN, 0..1000, now);
    assert_eq!((table.len(), table.deferred()), (32, 968), "half of the room for one");
    storm(&mut table, peer, 1000..2000, now);
    assert_eq!(table.len(), 48, "a peer alone has half of the peers' half");
    let mut told = 0;
    for (who, claimant) in [(5000, other), (5001, peer2)] {
        // Whoever comes now is behind nobody: the stormers' wishes are not allowed.
        let wish = Wish { pasid: 2, ..page(claimant, who.into()) };
        assert_eq!(table.request(wish, waiter(who), now), Outcome::Deferred);
        told += usize::from(
            table.next(now).is_some_and(|request| request.start.0 >> 12 == u64::from(who)),
        );
    }
    assert_eq!(told, 2);
}

#[test]
fn wishes_of_one_claimant_go_in_order_and_claimants_take_turns() {
    let now = Instant::now();
    let mut table = PageRequestTable::new(Limits { requests: 1000, rate: 10, burst: 1 });
    let Outcome::New(_) = table.request(page(OWN, 999), waiter(999), now) else { panic!() };
    for n in 0..4 {
        for (claimant, first) in [(OWN, 0), (Claimant::Foreign(3), 100), (Claimant::Own(9), 200)] {
            let outcome = table.request(page(claimant, first + n), waiter((first + n) as u32), now);
            assert_eq!(outcome, Outcome::Deferred);
        }
    }
    let mut order = Vec::new();
    let mut at = now;
    for _ in 0..12 {
        assert_eq!(table.next(at), None, "no token yet");
        at += Duration::from_millis(100);
        assert!(table.next_time(at).is_none(), "not for the rate now");
        order.push(table.next(at).unwrap().start.0 >> 12);
    }
    assert_eq!(order, [0, 100, 200, 1, 101, 201, 2, 102, 202, 3, 103, 203]);
    assert_eq!(table.deferred(), 0);
}

/// Requests that come as fast as they can, and are answered at once: exactly the burst at first, and
/// then exactly the rate.
#[test]
fn the_rate_holds_exactly() {
    let start = Instant::now();
    let mut table = PageRequestTable::new(Limits { requests: 64, rate: 1000, burst: 20 });
    let mut sent = 0;
    let mut page_number = 0;
    for micros in (0..=500_000).step_by(50) {
        let now = start + Duration::from_micros(micros);
        loop {
            let request = match table.next(now) {
                Some(request) => request,
                None => {
                    page_number += 1;
                    let who = waiter(page_number as u32);
                    match table.request(page(OWN, page_number), who, now) {
                        Outcome::New(request) => request,
                        Outcome::Deferred => break,
                        Outcome::Merged(_) => panic!("nothing is asked for twice"),
                    }
                }
            };
            sent += 1;
            table.complete(request.id).unwrap();
        }
        assert_eq!(sent, 20 + micros / 1000, "after {micros} us");
    }
}

/// A wish is told a time, and at that time it is its turn if nobody else came.
#[test]
fn who_is_deferred_is_told_when_to_look_again() {
    let now = Instant::now();
    let mut table = PageRequestTable::new(Limits { requests: 4, rate: 1000, burst: 1 });
    assert_eq!(table.next_time(now), None);
    let Outcome::New(first) = table.request(page(OWN, 1), waiter(1), now) else { panic!() };
    let tick = Duration::from_millis(1);
    for n in 2..5 {
        assert_eq!(table.request(page(OWN, n), waiter(n as u32), now), Outcome::Deferred);
        assert_eq!(table.next_time(now), Some(now + tick * (n as u32 - 1)));
    }
    assert!(table.next(now + tick).is_some());
    assert_eq!(table.next_time(now + tick), Some(now + tick * 3));
    // Two of four are outstanding: now it is for an answer that the rest waits.
    assert_eq!(table.next(now + tick * 2), None);
    assert_eq!(table.next_time(now + tick * 2), None);
    table.complete(first.id).unwrap();
    assert_eq!(table.next(now + tick * 2).unwrap().start, Gva(0x3000));
}

#[test]
fn prefetching_asks_for_what_is_not_asked_for_yet_and_only_with_room_to_spare() {
    let now = Instant::now();
    let mut table = table(16);
    let Outcome::New(_) = table.request(page(OWN, 4), waiter(1), now) else { panic!() };
    let ahead = |first: u64, pages: u64| wish(OWN, 1, first << 12, pages << 12, Access::Write);
    assert_eq!(table.prefetch(ahead(4, 1), now), None);
    let rest = table.prefetch(ahead(4, 3), now).unwrap();
    assert_eq!((rest.start.0 >> 12, rest.len >> 12), (5, 2));
    assert_eq!(table.prefetch(ahead(4, 3), now), None);
    assert_eq!(table.counters().skipped, 0);
    let made = (10..100).filter(|&at| table.prefetch(ahead(at, 1), now).is_some()).count();
    assert_eq!(made + 2, 6, "held < (16 - held) / 2");
    assert!(table.counters().skipped > 0);
    let Outcome::New(_) = table.request(page(OWN, 200), waiter(2), now) else {
        panic!("prefetches have taken the room of what is needed")
    };
}
