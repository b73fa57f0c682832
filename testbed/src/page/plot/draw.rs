// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A picture of a plot, in SVG.
//!
//! Pictures are as wide as a phone and stand beside each other where there is more room, so that their
//! letters have one size everywhere.

use plotters::{
    coord::{Shift, ranged1d::Ranged},
    element::{Circle, PathElement, Polygon, Rectangle, Text},
    prelude::*,
    style::text_anchor::{HPos, Pos, VPos},
};

use super::{
    Bar, Line, Plot, Scale, Shape,
    axis::{Axis, LABELS, Quantity},
    palette::{self, AXIS, GRID, Look, Mark, OTHERS, Palette, STRONG, TEXT},
};

/// Plotters places everything at whole units, so that a unit is a quarter of a pixel here.
const UNIT: i32 = 4;

/// Width of a picture, in pixels of a page that shows it at its own size.
pub const WIDTH: i32 = 330;

/// Height of a picture with lines.
const HEIGHT: i32 = 236;

/// Height of a bar with its label.
const BAR: i32 = 38;

/// Room above the first bar.
const ABOVE: i32 = 6;

/// Letters that fit across a picture.
const LETTERS: usize = 46;

/// More points than this have no marks: their line is dense enough.
const MARKS: usize = 16;

type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
type Drawn = Result<(), Box<dyn std::error::Error>>;

/// Draws it. `None` if there is nothing that could be drawn.
pub fn draw(plot: &Plot, palette: &Palette) -> Option<String> {
    let mut svg = String::new();
    let height = match &plot.shape {
        Shape::Lines { lines, .. } if lines.iter().all(|line| line.points.is_empty()) => {
            return None;
        }
        Shape::Lines { .. } => HEIGHT,
        Shape::Bars { bars, .. } if bars.is_empty() => return None,
        Shape::Bars { bars, .. } => ABOVE + BAR * bars.len() as i32 + 30,
    };
    let size = ((WIDTH * UNIT) as u32, (height * UNIT) as u32);
    let area = SVGBackend::with_string(&mut svg, size).into_drawing_area();
    let drawn = match &plot.shape {
        Shape::Lines { x, y, lines, level } => draw_lines(&area, (x, y), lines, *level, palette),
        Shape::Bars { quantity, bars } => draw_bars(&area, *quantity, bars),
    };
    // Writing to a string does not fail.
    let drawn = drawn.and_then(|()| Ok(area.present()?));
    drop(area);
    drawn.ok().map(|()| svg)
}

fn font(pixels: i32) -> FontDesc<'static> {
    // Plotters makes letters this much smaller than it is told, in SVG.
    const SMALLER: f64 = 1.24;
    FontDesc::new(FontFamily::SansSerif, f64::from(pixels * UNIT) * SMALLER, FontStyle::Normal)
}

fn draw_lines(
    area: &Area<'_>,
    (x, y): (&Scale, &Scale),
    lines: &[Line],
    level: Option<f64>,
    palette: &Palette,
) -> Drawn {
    let points = || lines.iter().flat_map(|line| &line.points);
    let heights = points().flat_map(|point| {
        let (low, high) = point.half.unwrap_or((point.y, point.y));
        // A range that reaches 0 must not keep the axis from being logarithmic.
        [point.y, if low > 0.0 { low } else { point.y }, high]
    });
    let places = points().map(|point| point.x).collect::<Vec<_>>();
    let x_axis = Axis::of_places(x.quantity, &places).with_room(0.03, 0.03);
    let heights = heights.chain(level).collect::<Vec<_>>();
    let y_axis = if y.name.contains('%') {
        Axis::of_shares(y.quantity, &heights)
    } else {
        Axis::new(y.quantity, heights.into_iter(), 12.0, LABELS)
    };
    let y_axis =
        if y_axis.is_log() { y_axis.with_room(0.06, 0.06) } else { y_axis.with_room(0.0, 0.04) };
    let labels = (x_axis.clone(), y_axis.clone());

    let mut chart = ChartBuilder::on(area)
        .margin_left(2 * UNIT)
        .margin_right(24 * UNIT)
        .margin_top(26 * UNIT)
        .x_label_area_size(40 * UNIT)
        .y_label_area_size(66 * UNIT)
        .build_cartesian_2d(x_axis, y_axis)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID[0].stroke_width(UNIT as u32))
        .axis_style(AXIS[0].stroke_width(UNIT as u32))
        .label_style(font(12).color(&TEXT[0]))
        .x_label_formatter(&|value| labels.0.label(*value))
        .y_label_formatter(&|value| labels.1.label(*value))
        .set_tick_mark_size(LabelAreaPosition::Left, 3 * UNIT)
        .set_tick_mark_size(LabelAreaPosition::Bottom, 3 * UNIT)
        .draw()?;
    name(area, &y.name, (4, 4), Pos::new(HPos::Left, VPos::Top))?;
    name(area, &x.name, (WIDTH - 24, HEIGHT - 3), Pos::new(HPos::Right, VPos::Bottom))?;

    if let Some(level) = level {
        let ends = chart.x_range();
        let style = TEXT[0].stroke_width(UNIT as u32);
        let line = [(ends.start, level), (ends.end, level)];
        chart.draw_series(DashedLineSeries::new(line, 2 * UNIT as u32, 3 * UNIT as u32, style))?;
    }
    // The first one lies over all others.
    for (line, look) in looks(lines, palette).into_iter().rev() {
        let width = (if look.first { 10 } else { 7 }) * UNIT as u32 / 4;
        let style = look.colour.stroke_width(width);
        let places = line.points.iter().map(|point| (point.x, point.y));
        if look.dashed {
            chart.draw_series(DashedLineSeries::new(
                places,
                6 * UNIT as u32,
                4 * UNIT as u32,
                style,
            ))?;
        } else {
            chart.draw_series(LineSeries::new(places, style))?;
        }
        let halves = line.points.iter().filter_map(|point| Some((point.x, point.half?)));
        chart.draw_series(halves.map(|(x, (low, high))| {
            PathElement::new(
                vec![(x, low), (x, high)],
                look.colour.mix(0.45).stroke_width(3 * UNIT as u32),
            )
        }))?;
        if line.points.len() <= MARKS {
            for point in &line.points {
                mark(area, chart.backend_coord(&(point.x, point.y)), look)?;
            }
        }
    }
    Ok(())
}

/// Every line with its look. Variants of a device differ by dashes. Where the own device has no rival in a
/// plot, its lines can have the colours that rivals have elsewhere.
pub fn looks<'l>(lines: &'l [Line], palette: &Palette) -> Vec<(&'l Line, Look)> {
    let one = lines.iter().all(|line| line.device == lines[0].device);
    let alone = one || !has_rivals(lines);
    let with = lines.iter().enumerate().map(|(index, line)| {
        let before = lines[..index].iter().filter(|other| other.device == line.device).count();
        let mut look = if alone { Look::nth(index) } else { palette.look(&line.device, before) };
        look.first &= one || !alone;
        (line, look)
    });
    with.collect()
}

/// Whether the own device is shown beside others.
pub fn has_rivals(lines: &[Line]) -> bool {
    let ours = lines.iter().filter(|line| palette::is_ours(&line.device)).count();
    ours > 0 && ours < lines.len()
}

fn name(area: &Area<'_>, text: &str, (x, y): (i32, i32), anchor: Pos) -> Drawn {
    let style = TextStyle::from(font(12)).color(&TEXT[0]).pos(anchor);
    area.draw(&Text::new(cut(text, LETTERS), (x * UNIT, y * UNIT), style))?;
    Ok(())
}

fn mark(area: &Area<'_>, (x, y): (i32, i32), look: Look) -> Drawn {
    const HALF: i32 = 15;
    let fill = look.colour.filled();
    let around = |corners: &[(i32, i32)]| {
        let at = |(dx, dy): &(i32, i32)| (x + dx * HALF / 10, y + dy * HALF / 10);
        corners.iter().map(at).collect::<Vec<_>>()
    };
    match look.mark {
        Mark::Circle => area.draw(&Circle::new((x, y), HALF, fill))?,
        Mark::Square => {
            area.draw(&Polygon::new(around(&[(-9, -9), (9, -9), (9, 9), (-9, 9)]), fill))?
        }
        Mark::Triangle => area.draw(&Polygon::new(around(&[(0, -12), (12, 9), (-12, 9)]), fill))?,
        Mark::Wedge => area.draw(&Polygon::new(around(&[(0, 12), (12, -9), (-12, -9)]), fill))?,
        Mark::Cross => {
            for ends in [[(-10, -10), (10, 10)], [(-10, 10), (10, -10)]] {
                area.draw(&PathElement::new(
                    around(&ends),
                    look.colour.stroke_width(2 * UNIT as u32),
                ))?;
            }
        }
    }
    Ok(())
}

fn draw_bars(area: &Area<'_>, quantity: Quantity, bars: &[Bar]) -> Drawn {
    /// What is left for the text behind the longest bar.
    const BEHIND: i32 = 112;
    let values = bars.iter().map(|bar| bar.value);
    // A bar of the least value has to be seen, too.
    let axis = Axis::new(quantity, values, 30.0, LABELS - 2);
    let axis = if axis.is_log() { axis.with_room(0.12, 0.0) } else { axis };
    let ends = (4 * UNIT, (WIDTH - BEHIND) * UNIT);
    let bottom = (ABOVE + BAR * bars.len() as i32) * UNIT;
    let middle = Pos::new(HPos::Center, VPos::Top);
    let mut free = i32::MIN;
    for tick in axis.key_points(0) {
        let x = axis.map(&tick, ends);
        let line = vec![(x, ABOVE * UNIT), (x, bottom + 3 * UNIT)];
        area.draw(&PathElement::new(line, GRID[0].stroke_width(UNIT as u32)))?;
        let label = axis.label(tick);
        let half = label.chars().count() as i32 * 13;
        if x - half > free {
            let style = TextStyle::from(font(12)).color(&TEXT[0]).pos(middle);
            area.draw(&Text::new(label, (x.max(half + UNIT), bottom + 8 * UNIT), style))?;
            free = x + half + 4 * UNIT;
        }
    }
    for (index, bar) in bars.iter().enumerate() {
        let top = (ABOVE + BAR * index as i32) * UNIT;
        // One of them is what the page is about.
        let colour = if palette::is_ours(&bar.device) { Look::nth(0).colour } else { OTHERS[0] };
        let end = axis.map(&bar.value, ends).max(ends.0 + 2 * UNIT);
        let corners = [(ends.0, top + 19 * UNIT), (end, top + 33 * UNIT)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        let label =
            TextStyle::from(font(13)).color(&STRONG[0]).pos(Pos::new(HPos::Left, VPos::Top));
        area.draw(&Text::new(cut(&bar.label, LETTERS), (ends.0, top + 3 * UNIT), label))?;
        let value =
            TextStyle::from(font(12)).color(&TEXT[0]).pos(Pos::new(HPos::Left, VPos::Center));
        area.draw(&Text::new(bar.text.clone(), (end + 6 * UNIT, top + 26 * UNIT), value))?;
    }
    Ok(())
}

/// The beginning of a text that is too long.
fn cut(text: &str, letters: usize) -> String {
    if text.chars().count() <= letters {
        return text.into();
    }
    text.chars().take(letters - 1).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{bench::Unit, page::plot::Point};

    fn lines(points: &[(f64, f64)]) -> Plot {
        let points = points.iter().map(|&(x, y)| Point { x, y, half: None }).collect();
        let hostile = "<script>alert(1)</script>".to_string();
        let scale = || Scale { name: hostile.clone(), quantity: Quantity::Plain };
        let line = Line { device: "vNIC".into(), variant: String::new(), points };
        let shape = Shape::Lines { x: scale(), y: scale(), lines: vec![line], level: Some(1.0) };
        Plot { title: String::new(), note: String::new(), shape }
    }

    #[test]
    fn what_is_written_is_text() {
        let palette = Palette::new(["vNIC"].into_iter());
        let svg = draw(&lines(&[(1.0, 2.0), (64.0, 900.0)]), &palette).unwrap();
        assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"), "{svg}");
        assert!(!svg.contains("<script") && svg.contains("&lt;script"), "{svg}");
        let bars = vec![Bar {
            label: "<b>".into(),
            device: String::new(),
            value: 3.0,
            text: "\"'&".into(),
        }];
        let shape = Shape::Bars { quantity: Quantity::Unit(Unit::Nanoseconds), bars };
        let plot = Plot { title: String::new(), note: String::new(), shape };
        let svg = draw(&plot, &palette).unwrap();
        assert!(!svg.contains("<b>") && svg.contains("&lt;b&gt;"), "{svg}");
    }

    #[test]
    fn odd_numbers_are_drawn_or_left_out() {
        let palette = Palette::default();
        assert_eq!(draw(&lines(&[]), &palette), None);
        for points in [&[(0.0, 0.0)][..], &[(1.0, -5.0), (2.0, 5.0)], &[(1e-9, 1e12), (1e12, 1e-9)]]
        {
            let svg = draw(&lines(points), &palette).unwrap();
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{points:?}");
        }
    }

    #[test]
    fn long_labels_are_cut() {
        assert_eq!((cut("abc", 3), cut("abcd", 3)), ("abc".into(), "ab…".into()));
    }
}
