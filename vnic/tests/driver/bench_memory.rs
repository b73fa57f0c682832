// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory bench, cut short: it runs to its end, and finds what does not depend on the clock.

use std::path::Path;

use vnic_testbed::bench::memory::{Effort, process};

#[test]
fn the_memory_bench_measures_everything_it_lists() {
    let effort = Effort { rounds: 2, samples: 8, quick: true };
    let found = process::run(Path::new(env!("CARGO_BIN_EXE_vnic")), effort).expect("the bench");

    let subjects = ["register", "deregister", "translate", "first 8 B WRITE", "invalidate"];
    for subject in subjects.into_iter().chain(["WRITE to fresh memory", "page requests of it"]) {
        let rows = found.rows.iter().filter(|row| row.subject == subject).collect::<Vec<_>>();
        assert!(rows.len() >= 2, "{subject}: {} rows", rows.len());
        for row in rows {
            let figure = row.figure.as_ref().unwrap_or_else(|| panic!("no figure: {row:?}"));
            assert_eq!(figure.rounds, 2, "{row:?}");
            // Not the least one: a difference of two times may be less than nothing now and then.
            assert!(figure.median > 0.0 && figure.min <= figure.median, "{row:?}");
        }
    }
    let row = |subject: &str, case: &str| {
        let mut rows = found.rows.iter().filter(|row| row.subject == subject);
        let row = rows.find(|row| row.case.contains(case));
        row.unwrap_or_else(|| panic!("no row {subject}, {case}"))
    };
    // One page at a time is the same number whatever the machine does.
    let single = row("page requests of it", "page by page").figure.expect("a figure");
    assert_eq!((single.min, single.max), (256.0, 256.0), "page requests of 1 MiB, one by one");

    // Counted, not timed: these goals hold on a busy machine too. Times of a program that is not
    // optimised, on a machine that runs other tests, are only held to an order of magnitude.
    for verdict in &found.verdicts {
        assert!(verdict.met_within(10.0), "{verdict:?}");
    }
    let counted = found.verdicts.iter().filter(|verdict| verdict.goal.contains("device idle"));
    assert_eq!(counted.count(), 2, "wake-ups and commands of an idle device");
}
