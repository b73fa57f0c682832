// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Finds what can be plotted in a report.

use super::{Bar, Line, Plot, Point, Scale, Shape, axis::Quantity};
use crate::{
    bench::{Curve, Report, Row, Unit, memory},
    page::text,
};

/// Figures from which on they are worth a picture, if there is no axis to put them along.
const BARS: usize = 3;

/// What others are measured against, if it is there: what bounds them.
const BOUNDS: [&str; 2] = ["cache line", "memcpy"];

/// The plots of a bench: its curves, then figures along an axis, then figures beside each other.
pub fn of_bench(report: &Report) -> Vec<Plot> {
    let rows = report.rows.iter().filter(|row| row.figure.is_some()).collect::<Vec<_>>();
    let several = rows.iter().any(|row| row.lane != rows[0].lane);
    let title = |row: &Row| {
        let (subject, _) = split(&row.subject);
        let subject = text::sentence(subject);
        if several { format!("{subject} ({})", row.lane) } else { subject }
    };
    let key = |row: &Row| (row.lane.clone(), split(&row.subject).0.to_string(), unit(row));
    let mut keys = Vec::new();
    for row in &rows {
        if !keys.contains(&key(row)) {
            keys.push(key(row));
        }
    }
    let (mut lines, mut bars) = (Vec::new(), Vec::new());
    for wanted in &keys {
        let group = rows.iter().filter(|row| key(row) == *wanted).copied().collect::<Vec<_>>();
        let title = title(group[0]);
        let line = along(&title, &group);
        bars.extend(beside(&title, &group, line.is_some()));
        lines.extend(line);
        lines.extend(shares(&title, &group));
    }
    let mut plots = curves(&report.curves);
    plots.extend(lines);
    plots.extend(bars);
    plots
}

/// A subject and its percentile: those of one thing belong into one plot.
fn split(subject: &str) -> (&str, &str) {
    let percentile = |text: &str| {
        text.strip_prefix('p').is_some_and(|digits| {
            !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        })
    };
    subject.rsplit_once(": ").filter(|(_, last)| percentile(last)).unwrap_or((subject, ""))
}

fn unit(row: &Row) -> Option<Unit> {
    row.figure.map(|figure| figure.unit)
}

fn curves(curves: &[Curve]) -> Vec<Plot> {
    let mut plots = Vec::<Plot>::new();
    for curve in curves {
        let finite = curve.points.iter().filter(|(x, y)| x.is_finite() && y.is_finite());
        let points = finite.map(|&(x, y)| Point { x, y, half: None }).collect();
        let line = Line { device: curve.label.clone(), variant: String::new(), points };
        if let Some(Shape::Lines { lines, .. }) =
            plots.iter_mut().find(|plot| plot.title == curve.plot).map(|plot| &mut plot.shape)
        {
            lines.push(line);
            continue;
        }
        let scale = |text: &str| {
            let quantity = Quantity::of_name(text);
            Scale { name: without_unit(text, quantity), quantity }
        };
        let (x, y) = (scale(&curve.x), scale(&curve.y));
        let stretched = y.name.contains('%') && curve.points.iter().any(|&(_, y)| y >= 99.0);
        let note = if stretched { "From 90 to 99 % is as far as from 99 to 99.9 %." } else { "" };
        let shape = Shape::Lines { x, y, lines: vec![line], level: None };
        plots.push(Plot { title: curve.plot.clone(), note: note.into(), shape });
    }
    plots
}

/// The name of an axis whose ticks tell their units.
fn without_unit(text: &str, quantity: Quantity) -> String {
    let Quantity::Unit(unit) = quantity else { return text.into() };
    let rest = text.rsplit_once([' ', '(', '[']).map_or("", |(rest, _)| rest);
    let rest = rest.trim_end_matches([' ', ',', '(', '[']);
    match rest.strip_suffix(" in").unwrap_or(rest).trim_end() {
        "" => name(unit).into(),
        rest => rest.into(),
    }
}

/// How many times what bounds them rows are, along an axis.
fn shares(title: &str, rows: &[&Row]) -> Option<Plot> {
    let bound = BOUNDS.into_iter().find(|bound| {
        rows.iter().filter_map(|row| row.compared.as_ref()).any(|compared| compared.with == *bound)
    })?;
    let share = |row: &Row| {
        let compared = row.compared.as_ref().filter(|compared| compared.with == bound)?;
        let times = compared.times;
        times.is_finite().then_some(Point { x: place_of(row)?, y: times, half: None })
    };
    let lines = lines(rows, share);
    let shape = Shape::Lines {
        x: axis(rows),
        y: Scale { name: format!("times {bound}"), quantity: Quantity::Plain },
        lines: lines?,
        level: Some(1.0),
    };
    Some(Plot { title: format!("{title} against {bound}"), note: String::new(), shape })
}

/// Rows of one subject that have places on an axis.
fn along(title: &str, rows: &[&Row]) -> Option<Plot> {
    let point = |row: &Row| {
        let figure = row.figure?;
        let half = Some((figure.lower, figure.upper));
        Some(Point { x: place_of(row)?, y: figure.median, half })
    };
    let y = rows.iter().find_map(|row| unit(row))?;
    let shape = Shape::Lines {
        x: axis(rows),
        y: Scale { name: name(y).into(), quantity: Quantity::Unit(y) },
        lines: lines(rows, point)?,
        level: None,
    };
    Some(Plot { title: title.into(), note: String::new(), shape })
}

/// The points of rows, as lines; `None` if no line has two places.
fn lines(rows: &[&Row], point: impl Fn(&Row) -> Option<Point>) -> Option<Vec<Line>> {
    let mut lines = Vec::<Line>::new();
    for row in rows {
        let Some(point) = point(row) else { continue };
        let rest = place(&row.case, point.x).1;
        let parts = [split(&row.subject).1, &rest].into_iter().filter(|part| !part.is_empty());
        let variant = parts.collect::<Vec<_>>().join(", ");
        let known =
            lines.iter_mut().find(|line| line.device == row.device && line.variant == variant);
        match known {
            Some(line) => line.points.push(point),
            None => {
                lines.push(Line { device: row.device.clone(), variant, points: vec![point] });
            }
        }
    }
    for line in &mut lines {
        line.points.sort_by(|a, b| a.x.total_cmp(&b.x));
    }
    let several = |line: &Line| line.points.first().map(|p| p.x) != line.points.last().map(|p| p.x);
    let some = lines.iter().any(several);
    plain(&mut lines);
    some.then_some(lines)
}

/// What the places of rows are.
fn axis(rows: &[&Row]) -> Scale {
    let all = rows.iter().filter_map(|row| place(&row.case, place_of(row)?).0);
    // "queue pairs" says more than the "queue pair" of a single one.
    let axis = all.max_by_key(|scale| scale.name.len());
    axis.unwrap_or_else(|| Scale { name: "place".into(), quantity: Quantity::Plain })
}

fn place_of(row: &Row) -> Option<f64> {
    row.at.filter(|at| at.is_finite())
}

/// Names lines by what tells them apart, and by no more.
fn plain(lines: &mut [Line]) {
    let Some((first, others)) = lines.split_first() else { return };
    let one_variant = others.iter().all(|line| line.variant == first.variant);
    let one_device = others.iter().all(|line| line.device == first.device);
    for line in lines {
        if one_variant {
            line.variant.clear();
        } else if one_device {
            line.device.clear();
        }
    }
}

/// What a case says of its place on an axis, and what is left of it without that.
fn place(case: &str, at: f64) -> (Option<Scale>, String) {
    let whole = at.fract() == 0.0 && at >= 0.0;
    let size = memory::size(at as u64);
    let mut axis = None;
    let mut rest = Vec::new();
    for part in case.split(", ") {
        let words = part.split(' ').collect::<Vec<_>>();
        if whole && part == size {
            axis = Some(Scale { name: "size".into(), quantity: Quantity::Size });
            continue;
        }
        let number = words.iter().position(|word| word.replace([',', '_'], "").parse() == Ok(at));
        match number {
            Some(index) => {
                let name = [&words[..index], &words[index + 1..]].concat().join(" ");
                axis = Some(Scale { name, quantity: Quantity::Plain });
            }
            None => rest.push(part),
        }
    }
    (axis, rest.join(", "))
}

/// Rows of one subject that are at the same place, or of the same case; `lines` says whether they are in
/// a plot with an axis already.
fn beside(title: &str, rows: &[&Row], lines: bool) -> Option<Plot> {
    // Of several places, the first: the smallest message, the fewest queue pairs.
    let first = rows.iter().filter_map(|row| place_of(row)).min_by(f64::total_cmp);
    let group = rows.iter().filter(|row| match first {
        Some(_) => place_of(row) == first,
        None => row.case == rows[0].case && !row.device.is_empty(),
    });
    let mut group = group.filter_map(|row| Some((*row, row.figure?))).collect::<Vec<_>>();
    // Two more than a plot with an axis would show well.
    (group.len() >= if lines { BARS + 1 } else { BARS }).then_some(())?;
    let unit = group[0].1.unit;
    let more = unit.more_is_better() == Some(true);
    group.sort_by(|a, b| a.1.median.total_cmp(&b.1.median));
    if more {
        group.reverse();
    }
    let bound = group.iter().find(|(row, _)| BOUNDS.contains(&&*row.device));
    let (base, least) = *bound.unwrap_or(&group[0]);
    let label = |row: &Row| {
        let rest = first.map_or(String::new(), |at| place(&row.case, at).1);
        match (&*row.device, &*rest) {
            (one, "") | ("", one) => one.to_string(),
            (device, rest) if rest.starts_with(device) => rest.into(),
            (device, rest) => format!("{device}: {rest}"),
        }
    };
    let text = |row: &Row, median: f64| {
        let value = text::value(unit, median);
        if std::ptr::eq(row, base) || least.median <= 0.0 {
            return value;
        }
        format!("{value}, {} x", text::number(median / least.median))
    };
    let bars = group.iter().map(|(row, figure)| Bar {
        label: label(row),
        device: row.device.clone(),
        value: figure.median,
        text: text(row, figure.median),
    });
    let better = if more { "More" } else { "Less" };
    let note = format!("{better} is better. Factors are to “{}”.", label(base));
    let bars = bars.collect();
    let (case, title) = (&rows[0].case, title.to_string());
    let title = match first {
        Some(at) if lines => format!("{title}, at {}", at_words(&group[0].0.case, at)),
        None if !case.is_empty() => format!("{title}: {case}"),
        _ => title,
    };
    Some(Plot { title, note, shape: Shape::Bars { quantity: Quantity::Unit(unit), bars } })
}

/// A place as a case has it.
fn at_words(case: &str, at: f64) -> String {
    let (_, rest) = place(case, at);
    let mut parts = case.split(", ").filter(|part| !rest.split(", ").any(|other| other == *part));
    parts.next().map_or_else(|| text::number(at), Into::into)
}

/// Names what a unit measures.
fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Nanoseconds => "time",
        Unit::Count => "number",
        Unit::Bytes => "memory",
        Unit::BytesPerSecond => "bandwidth",
        Unit::PerSecond => "rate",
        Unit::Percent => "share",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::{Findings, Machine, Samples};

    fn row(subject: &str, case: &str, device: &str, at: Option<f64>, median: f64) -> Row {
        let mut samples = Samples::times();
        samples.push_round(vec![median]);
        let row = Row { lane: "here".into(), at, ..Row::of(subject, case, &samples) };
        row.over(device)
    }

    fn plots(rows: Vec<Row>, curves: Vec<Curve>) -> Vec<Plot> {
        let findings = Findings { rows, curves, ..Findings::default() };
        of_bench(&Report::new("bench", false, Machine::look(), findings))
    }

    fn labels(plot: &Plot) -> Vec<String> {
        match &plot.shape {
            Shape::Lines { lines, .. } => lines.iter().map(Line::label).collect(),
            Shape::Bars { bars, .. } => bars.iter().map(|bar| bar.label.clone()).collect(),
        }
    }

    #[test]
    fn a_case_tells_its_axis() {
        for (case, at, axis, rest) in [
            ("64 KiB", 65536.0, "size", ""),
            ("4 KiB, 4 KiB pages", 4096.0, "size", "4 KiB pages"),
            ("10,000 QPs, 1 port", 10_000.0, "QPs", "1 port"),
            ("with 64 queue pairs", 64.0, "with queue pairs", ""),
        ] {
            let (scale, left) = place(case, at);
            assert_eq!((&*scale.unwrap().name, &*left), (axis, rest), "{case}");
        }
        assert_eq!(place("RDMA WRITE", 8.0), (None, "RDMA WRITE".into()));
    }

    #[test]
    fn devices_are_lines_over_sizes_and_bars_at_the_smallest() {
        let mut rows = Vec::new();
        for device in ["vNIC", "rxe", "TCP", "cache line"] {
            rows.push(row("one way", "1 MiB", device, Some(f64::from(1 << 20)), 9.0));
            rows.push(row("one way", "8 B", device, Some(8.0), 2.0));
        }
        let plots = plots(rows, Vec::new());
        let [lines, bars] = &plots[..] else { panic!("{plots:?}") };
        assert_eq!((&*lines.title, &*bars.title), ("One way", "One way, at 8 B"));
        assert_eq!(labels(lines), ["vNIC", "rxe", "TCP", "cache line"]);
        let Shape::Lines { lines, x, .. } = &lines.shape else { panic!("{lines:?}") };
        assert_eq!((x.quantity, lines[0].points[0].x), (Quantity::Size, 8.0));
        assert!(bars.note.contains("cache line"), "{}", bars.note);
    }

    #[test]
    fn percentiles_of_one_thing_are_one_plot() {
        let percentile = |name: &str, bytes: u64| {
            row(&format!("WRITE: {name}"), &memory::size(bytes), "vNIC", Some(bytes as f64), 5.0)
        };
        let rows = ["p50", "p99.9"].iter().flat_map(|name| [8, 64].map(|b| percentile(name, b)));
        let plots = plots(rows.collect(), Vec::new());
        assert_eq!((plots.len(), &*plots[0].title), (1, "WRITE"));
        assert_eq!(labels(&plots[0]), ["p50", "p99.9"]);
    }

    #[test]
    fn what_it_is_a_share_of_is_plotted_too() {
        let rows = [64, 4096].map(|bytes: u64| {
            let row = row("bandwidth", &memory::size(bytes), "vNIC", Some(bytes as f64), 5.0);
            row.times(Some(0.9), "memcpy")
        });
        let plots = plots(rows.to_vec(), Vec::new());
        assert_eq!((plots.len(), &*plots[1].title), (2, "Bandwidth against memcpy"));
    }

    #[test]
    fn without_an_axis_three_of_a_case_are_bars() {
        let rows = |count: usize| {
            let devices = ["a", "b", "c"].into_iter().take(count);
            devices.map(|device| row("wake", "up", device, None, 5.0)).collect::<Vec<_>>()
        };
        assert_eq!(plots(rows(2), Vec::new()), []);
        assert_eq!(labels(&plots(rows(3), Vec::new())[0]), ["a", "b", "c"]);
        let missing = Row::new("wake", "up", None).over("d").at(5.0);
        assert_eq!(plots(vec![missing], Vec::new()), []);
    }

    #[test]
    fn curves_of_one_plot_are_together_and_lose_what_is_no_number() {
        let curve = |plot: &str, label: &str| Curve {
            plot: plot.into(),
            label: label.into(),
            x: "time in ns".into(),
            y: "%".into(),
            points: vec![(1.0, 0.0), (f64::NAN, 5.0), (2.0, 100.0)],
        };
        let plots = plots(Vec::new(), vec![curve("a", "1"), curve("b", "1"), curve("a", "2")]);
        assert_eq!((plots.len(), labels(&plots[0])), (2, vec!["1".into(), "2".into()]));
        let Shape::Lines { x, y, lines, .. } = &plots[0].shape else { panic!("{plots:?}") };
        assert_eq!((&*x.name, &*y.name, lines[0].points.len()), ("time", "share", 2));
    }
}
