// SPDX-License-Identifier: Apache-2.0 OR MIT

use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

use super::*;

fn run(machine: &str) -> Run {
    Run {
        bench: "memory".into(),
        date: "2001-02-03T04:05:06Z".into(),
        count: 1,
        machine: machine.into(),
        quick: false,
        warnings: Vec::new(),
    }
}

fn entry(subject: &str, unit: Unit, rounds: &[f64]) -> Entry {
    let mut sorted = rounds.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Entry {
        lane: "here".into(),
        subject: subject.into(),
        case: "8 B".into(),
        device: String::new(),
        unit,
        value: sorted.get(sorted.len() / 2).copied().unwrap_or(7.0),
        rounds: rounds.to_vec(),
        runs: Vec::new(),
    }
}

/// Nine rounds around `middle`, a few percent apart.
fn rounds(middle: f64) -> Vec<f64> {
    [1.0, 0.99, 1.02, 0.98, 1.01, 1.03, 0.97, 1.0, 1.005].map(|part| part * middle).to_vec()
}

fn compared(old: Vec<Entry>, new: Vec<Entry>) -> Comparison {
    Comparison::new((run("a"), old), (run("a"), new))
}

fn findings(comparison: &Comparison) -> Vec<Finding> {
    comparison.changes.iter().map(|change| change.finding).collect()
}

fn some(factor: f64) -> Vec<Entry> {
    vec![
        entry("time", Unit::Nanoseconds, &rounds(1000.0 * factor)),
        entry("rate", Unit::PerSecond, &rounds(1e6 * factor)),
        entry("count", Unit::Count, &rounds(50.0 * factor)),
    ]
}

#[test]
fn what_is_the_same_has_not_changed() {
    let same = compared(some(1.0), some(1.0));
    assert_eq!(findings(&same), [Finding::Steady; 3]);
    assert!(same.warnings == [SINGLE] && gate::check(&same, 0.0).is_ok(), "{same:?}");
}

#[test]
fn a_fifth_is_found_in_both_directions() {
    let up = compared(some(1.0), some(1.2));
    assert_eq!(findings(&up), [Finding::Worse, Finding::Better, Finding::Different]);
    let change = &up.changes[0];
    let (low, high) = change.interval.unwrap();
    assert!((change.change.unwrap() - 0.2).abs() < 0.02 && low > 0.1 && high < 0.3, "{change:?}");
    let down = compared(some(1.0), some(0.8));
    assert_eq!(findings(&down), [Finding::Better, Finding::Worse, Finding::Different]);
}

#[test]
fn less_than_the_floor_is_no_change() {
    let exact = |value| vec![entry("time", Unit::Nanoseconds, &[value; 9])];
    assert_eq!(findings(&compared(exact(1000.0), exact(1010.0))), [Finding::Steady]);
    assert_eq!(findings(&compared(exact(1000.0), exact(1030.0))), [Finding::Worse]);
}

#[test]
fn the_gate_names_what_became_worse() {
    let up = compared(some(1.0), some(1.2));
    let error = gate::check(&up, 10.0).unwrap_err().to_string();
    assert!(
        error.contains("1 figure is worse by more than 10 %") && error.contains("time, 8 B (here)"),
        "{error}"
    );
    assert!(gate::check(&up, 30.0).is_ok(), "20 % is no 30 %");
    // A rate that fell.
    assert_eq!(gate::worse(&compared(some(1.0), some(0.8)), 10.0)[0].subject, "rate");
}

#[test]
fn a_gate_that_cannot_fail_fails() {
    let few = |factor: f64| vec![entry("time", Unit::Nanoseconds, &rounds(factor)[..3])];
    let comparison = compared(few(1.0), few(9.0));
    assert_eq!(findings(&comparison), [Finding::Unknown]);
    assert!(comparison.warnings[0].contains("--rounds 4"), "{:?}", comparison.warnings);
    assert!(gate::check(&comparison, 10.0).unwrap_err().to_string().contains("--rounds 4"));
    let once = |value| vec![Entry { value, ..entry("time", Unit::Nanoseconds, &[]) }];
    let comparison = compared(once(5.0), once(50.0));
    assert_eq!(
        (comparison.changes[0].change, findings(&comparison)),
        (Some(9.0), vec![Finding::Unknown])
    );
    assert!(comparison.warnings[0].contains("measured once"));
    assert!(gate::check(&comparison, 10.0).is_err());
}

#[test]
fn one_of_many_needs_more_rounds() {
    let many = |first: &[f64]| {
        let others =
            (1..50).map(|index| entry(&index.to_string(), Unit::Nanoseconds, &rounds(1.0)[..5]));
        std::iter::once(entry("time", Unit::Nanoseconds, first)).chain(others).collect::<Vec<_>>()
    };
    let comparison = compared(many(&rounds(1.0)[..5]), many(&rounds(2.0)[..5]));
    assert_eq!(comparison.changes[0].finding, Finding::Hint);
    assert!(comparison.warnings[0].contains("--rounds 7"), "{:?}", comparison.warnings);
    assert_eq!([1, 50, 100].map(rounds_needed), [4, 7, 8]);
}

#[test]
fn zero_has_no_percents() {
    let zero = |value| vec![entry("idle", Unit::Percent, &[value; 9])];
    let comparison = compared(zero(0.0), zero(0.5));
    assert_eq!((comparison.changes[0].change, findings(&comparison)), (None, vec![Finding::Worse]));
    assert!(gate::check(&comparison, 1000.0).is_err());
    assert_eq!(findings(&compared(zero(0.0), zero(0.0))), [Finding::Steady]);
    // Differences of two times can be less than nothing.
    let below = |by: f64| {
        vec![entry(
            "time",
            Unit::Nanoseconds,
            &rounds(1.0).iter().map(|v| v - 2.0 + by).collect::<Vec<_>>(),
        )]
    };
    let comparison = compared(below(0.0), below(0.5));
    assert_eq!(findings(&comparison), [Finding::Worse]);
    assert!((comparison.changes[0].change.unwrap() - 0.5).abs() < 0.05);
}

#[test]
fn what_only_one_run_has_is_told() {
    let mut new = some(1.0);
    new[1].case = "16 B".into();
    new[2].unit = Unit::Bytes;
    let comparison = compared(some(1.0), new);
    assert_eq!(comparison.changes.len(), 1);
    assert_eq!(comparison.gone, ["rate, 8 B (here)", "count, 8 B (here)"]);
    assert_eq!(comparison.added, ["rate, 16 B (here)", "count, 8 B (here)"]);
    let text = table::render(&comparison);
    assert!(
        text.contains("only before: rate, 8 B (here)") && text.contains("only now: rate, 16 B"),
        "{text}"
    );
}

#[test]
fn equal_names_are_paired_in_order() {
    let twice = |first: f64, second: f64| {
        [first, second].map(|middle| entry("time", Unit::Nanoseconds, &rounds(middle))).to_vec()
    };
    assert_eq!(findings(&compared(twice(1.0, 9.0), twice(1.0, 9.0))), [Finding::Steady; 2]);
    assert_eq!(compared(twice(1.0, 9.0), twice(1.0, 9.0)[..1].to_vec()).gone.len(), 1);
}

#[test]
fn unlike_runs_are_warned_of() {
    let other = Run { quick: true, warnings: vec!["busy".into()], ..run("b") };
    let comparison = Comparison::new((run("a"), some(1.0)), (other, some(1.0)));
    let [machines, quick, busy, _] = &comparison.warnings[..] else { panic!("{comparison:?}") };
    assert!(machines.contains("different machines") && quick.contains("new run was a quick one"));
    assert_eq!(busy, "new run: busy");
}

#[test]
fn runs_that_differ_among_themselves_show_no_small_change() {
    let three = |factors: [f64; 3]| {
        entry::together(factors.iter().map(|factor| (run("a"), some(*factor))).collect()).unwrap()
    };
    let (old, near, far) =
        (three([1.0, 1.3, 1.1]), three([1.25, 1.2, 1.28]), three([1.6, 1.5, 1.7]));
    assert_eq!((old.0.count, old.1[0].rounds.len(), old.1.len()), (3, 27, 3));
    assert_eq!(old.1[0].value, 1100.0);
    let comparison = Comparison::new(old.clone(), near);
    assert_eq!(findings(&comparison), [Finding::Hint; 3], "{comparison:?}");
    assert!((comparison.changes[0].spread.unwrap() - 0.3).abs() < 1e-9);
    let comparison = Comparison::new(old.clone(), far.clone());
    assert_eq!(findings(&comparison), [Finding::Worse, Finding::Better, Finding::Different]);
    assert_eq!(comparison.warnings, [""; 0]);
    // Half is as far away as twice.
    let comparison = Comparison::new(far, old);
    assert_eq!(findings(&comparison), [Finding::Better, Finding::Worse, Finding::Different]);
    assert!(table::render(&comparison).contains("3 runs until 2001"));
}

#[test]
fn runs_need_not_have_the_same_figures() {
    let other = vec![entry("other", Unit::Bytes, &rounds(5.0))];
    let (run, all) = entry::together(vec![(run("a"), some(1.0)), (run("b"), other)]).unwrap();
    assert_eq!((all.len(), &*run.machine, all[3].runs.len()), (4, "a and others", 1));
    assert_eq!(entry::together(Vec::new()), None);
}

#[test]
fn for_a_terminal_and_for_programs() {
    let mut old = some(1.0);
    old.push(entry("gone", Unit::Bytes, &rounds(4096.0)));
    let comparison = Comparison::new((run("a"), old), (run("b"), some(1.25)));
    insta::assert_snapshot!(table::render(&comparison));
    let json = serde_json::to_string(&comparison).unwrap();
    assert_eq!(serde_json::from_str::<Comparison>(&json).unwrap(), comparison);
}

/// A run of 40 figures, whose rounds have noise of this strength, with a long tail, and sometimes a
/// round in which something else was going on.
fn noisy() -> impl Strategy<Value = Vec<Entry>> {
    let round = (-1.0..1.0f64, -1.0..1.0f64, 0..12u8).prop_map(|(a, b, disturbed)| {
        (0.05 * (a + b)).exp() * if disturbed == 0 { 2.5 } else { 1.0 }
    });
    let figure = prop::collection::vec(round, 9);
    prop::collection::vec(figure, 40).prop_map(|all| {
        let all = all.iter().enumerate();
        all.map(|(index, rounds)| entry(&index.to_string(), Unit::Nanoseconds, rounds)).collect()
    })
}

#[test]
fn noise_alone_is_rarely_called_a_change() {
    const RUNS: usize = 600;
    let mut runner = TestRunner::deterministic();
    let mut draw = || noisy().new_tree(&mut runner).unwrap().current();
    let (mut alarms, mut hints) = (0, 0);
    for _ in 0..RUNS {
        let comparison = compared(draw(), draw());
        alarms += usize::from(
            findings(&comparison).contains(&Finding::Worse)
                || findings(&comparison).contains(&Finding::Better),
        );
        hints += findings(&comparison).iter().filter(|finding| **finding == Finding::Hint).count();
    }
    // 5 % of the runs may have any, and 5 % of figures an interval without 0: with three deviations of
    // what is drawn here.
    assert!(alarms <= RUNS * 77 / 1000, "{alarms} of {RUNS} runs");
    assert!(hints <= RUNS * 40 * 55 / 1000, "{hints} of {} figures", RUNS * 40);
    assert!(hints > 0, "the noise is there");
}

proptest! {
    #![proptest_config(Config { cases: 16, ..Config::default() })]

    #[test]
    fn a_fifth_is_found_in_noise(old in noisy(), new in noisy(), which in 0..40usize) {
        let mut new = new;
        // A round in which something else was going on may hide it; without such, it is seen.
        let calm = |entry: &Entry| entry.rounds.iter().all(|round| *round < 1.5);
        prop_assume!(calm(&old[which]) && calm(&new[which]));
        new[which].rounds.iter_mut().for_each(|round| *round *= 1.35);
        let comparison = compared(old, new);
        prop_assert_eq!(comparison.changes[which].finding, Finding::Worse);
    }
}
