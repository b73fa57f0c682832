// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Keeps the reports of runs in a folder, and the page that shows the newest of each.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{Inputs, render};
use crate::{
    bench,
    compare::{Comparison, entry::Kept},
    error::{Doing, Result},
    report,
};

/// The page.
const PAGE: &str = "report.html";

/// Name of the testbed's report, without its ending.
const TESTBED: &str = "report";

/// Names of the benches' reports, without their endings, in the order of the page.
const BENCHES: [&str; 3] = ["bench", "memory", "wire"];

/// Keeps the report of a bench in `folder`, with what it was compared with, and renews the page there.
/// Returns where the page is.
///
/// # Errors
/// When something cannot be written. What cannot be read, the page tells.
pub fn keep_bench(
    folder: &Path,
    report: &bench::Report,
    comparison: Option<&Comparison>,
) -> Result<PathBuf> {
    let name = BENCHES.into_iter().find(|name| *name == report.bench).unwrap_or(BENCHES[0]);
    fs::create_dir_all(folder).at("make", folder)?;
    write(&folder.join(format!("{name}.json")), &report.json()?)?;
    renew(folder, name, comparison)
}

/// Keeps the report of the testbed in `folder`, like [`keep_bench`].
///
/// # Errors
/// When something cannot be written.
pub fn keep_testbed(
    folder: &Path,
    report: &report::Report,
    comparison: Option<&Comparison>,
) -> Result<PathBuf> {
    report.write(folder)?;
    renew(folder, TESTBED, comparison)
}

fn renew(folder: &Path, name: &str, comparison: Option<&Comparison>) -> Result<PathBuf> {
    let path = compared(folder, name);
    match comparison {
        Some(comparison) => write(&path, &comparison.json()?)?,
        // One of an earlier run would only mislead.
        None => match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(error).at("remove", &path);
            }
            _ => {}
        },
    }
    let page = folder.join(PAGE);
    write(&page, &render(&gather(folder)))?;
    Ok(page)
}

fn compared(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!("compare-{name}.json"))
}

/// Reads all that earlier runs left in `folder`.
fn gather(folder: &Path) -> Inputs {
    let mut inputs = Inputs::default();
    for name in BENCHES.into_iter().chain([TESTBED]) {
        let path = folder.join(format!("{name}.json"));
        if !path.exists() {
            continue;
        }
        match Kept::read(&path) {
            Ok(Kept::Bench(report)) => inputs.benches.push(*report),
            Ok(Kept::Testbed(report)) => inputs.testbed = Some(*report),
            Err(error) => inputs.absent.push(format!("An earlier run is left out: {error}")),
        }
        let comparison = fs::read(compared(folder, name)).ok();
        let comparison = comparison.and_then(|text| serde_json::from_slice(&text).ok());
        inputs.comparisons.extend(comparison);
    }
    inputs
}

/// Writes a file that is whole whenever somebody looks at it.
fn write(path: &Path, text: &str) -> Result<()> {
    let unfinished = path.with_extension("unfinished");
    fs::write(&unfinished, text).at("write", &unfinished)?;
    fs::rename(&unfinished, path).at("finish", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Findings, Machine, Report, Row, Samples};

    fn report(bench: &str, time: f64) -> Report {
        let mut samples = Samples::times();
        (0..9).for_each(|_| samples.push_round(vec![time]));
        let rows = vec![Row::of("something", "8 B", &samples)];
        let findings = Findings { rows, ..Findings::default() };
        Report::new(bench, false, Machine::look(), findings)
    }

    fn compared(old: &Report, new: &Report) -> Comparison {
        Comparison::new(crate::compare::entry::of_bench(old), crate::compare::entry::of_bench(new))
    }

    #[test]
    fn the_page_has_the_newest_of_each() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("new");
        let keep = |report: &Report| keep_bench(&folder, report, None).unwrap();
        keep(&report("path", 100.0));
        keep(&report("memory", 222.0));
        let page = fs::read_to_string(keep(&report("path", 333.0))).unwrap();
        assert!(page.contains("222 ns") && page.contains("333 ns") && !page.contains("100 ns"));
        let kept = Kept::read(&folder.join("bench.json")).unwrap();
        assert_eq!(kept, Kept::Bench(Box::new(report_at(&folder))));
        assert!(!folder.join("bench.unfinished").exists());
    }

    fn report_at(folder: &Path) -> Report {
        serde_json::from_slice(&fs::read(folder.join("bench.json")).unwrap()).unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("memory.json"), "{\"schema\": 0, \"bench\": \"memory\"}")
            .unwrap();
        let page = keep_bench(folder.path(), &report("path", 1.0), None).unwrap();
        let page = fs::read_to_string(page).unwrap();
        assert!(page.contains("An earlier run is left out") && page.contains("schema 0"), "{page}");
    }

    #[test]
    fn a_comparison_lasts_as_long_as_its_run() {
        let folder = tempfile::tempdir().unwrap();
        let (old, new) = (report("memory", 100.0), report("memory", 200.0));
        let keep = |report: &Report, comparison: Option<&Comparison>| {
            fs::read_to_string(keep_bench(folder.path(), report, comparison).unwrap()).unwrap()
        };
        assert!(keep(&new, Some(&compared(&old, &new))).contains("id=\"changes\""));
        assert!(keep(&report("path", 1.0), None).contains("id=\"changes\""), "of the other bench");
        assert!(!keep(&new, None).contains("id=\"changes\""));
    }
}
