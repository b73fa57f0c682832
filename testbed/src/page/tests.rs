// SPDX-License-Identifier: Apache-2.0 OR MIT

use super::*;
use crate::{
    bench::{Findings, Machine, Report, Row, Samples, Verdict},
    host::Conditions,
};

fn machine() -> Machine {
    Machine {
        date: "2001-02-03T04:05:06Z".into(),
        cpu: "a processor".into(),
        cores: 2,
        memory_mib: 4096,
        kernel: "6.1".into(),
        load: 0.25,
        jitter: 1.05,
        conditions: Conditions::default(),
    }
}

fn small() -> Inputs {
    let mut samples = Samples::times();
    samples.push_round(vec![1200.0, 1300.0, 1400.0]);
    let rows = vec![
        Row::of("register", "4 KiB", &samples).times(Some(1.01), "smallest"),
        Row::new("register", "64 GiB", None).missing("cannot be <pinned>"),
    ];
    let verdicts = vec![
        Verdict::at_most("slowest over quickest", Some(1.25), 1.5),
        Verdict::at_least("million operations", Some(12.5), 20.0),
        Verdict::at_most("wake-ups", None, 0.0),
    ];
    let notes = vec!["a <note>".into()];
    let findings = Findings { rows, verdicts, notes, ..Findings::default() };
    let mut report = Report::new("memory", true, machine(), findings);
    report.command = Some("cargo xtask bench memory --quick".into());
    report.commit = Some("0123abc".into());
    Inputs { benches: vec![report], ..Inputs::default() }
}

/// The page without its style and data, with a line for each element, so that changes can be read.
fn body(page: &str) -> String {
    let (_, body) = page.split_once("</head>").unwrap();
    let (before, data) = body.split_once(DATA).unwrap();
    let (_, after) = data.split_once('"').unwrap();
    format!("{before}{DATA}...\"{after}").replace("><", ">\n<")
}

const DATA: &str = "data:application/json;charset=utf-8,";

#[test]
fn a_small_page() {
    insta::assert_snapshot!(body(&render(&small())));
}

#[test]
fn the_data_of_a_page_can_be_taken_from_it() {
    let inputs = small();
    let page = render(&inputs);
    let (_, link) = page.split_once(DATA).unwrap();
    let (link, _) = link.split_once('"').unwrap();
    let mut bytes = Vec::new();
    let mut rest = link.bytes();
    while let Some(byte) = rest.next() {
        let mut digit = || (rest.next().unwrap() as char).to_digit(16).unwrap() as u8;
        bytes.push(if byte == b'%' { digit() * 16 + digit() } else { byte });
    }
    assert_eq!(serde_json::from_slice::<Report>(&bytes).unwrap(), inputs.benches[0]);
}

#[test]
fn the_page_asks_for_nothing() {
    let page = render(&small());
    assert!(page.contains("default-src 'none'") && !page.contains("<script"));
    for word in ["http://", "https://", "url(", "@import", "src="] {
        let found = page.matches(word).count();
        let namespaces = page.matches("xmlns=\"http://www.w3.org/2000/svg\"").count();
        assert_eq!(found, if word == "http://" { namespaces } else { 0 }, "{word}");
    }
    assert!(!page.contains("SPDX"), "comments are for the source");
}

#[test]
fn nothing_measured_is_a_page_as_well() {
    let page = render(&Inputs::default());
    assert!(page.contains("Nothing has been measured yet."), "{page}");
    assert!(!page.contains("<section"), "{page}");
}

#[test]
fn what_virtualisation_costs() {
    let inputs = Inputs { benches: vec![crate::bench::wire::tests::report()], ..Inputs::default() };
    let section = overhead::section(&inputs).unwrap().into_string();
    insta::assert_snapshot!(section.replace("><", ">\n<"));
    assert!(render(&inputs).contains("id=\"overhead\""));
    assert!(overhead::section(&small()).is_none());
}
