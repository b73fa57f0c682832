// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A plot on the page: heading, legend, picture, and the same in words.

use maud::{Markup, PreEscaped, html};

use super::{
    Line, Plot, Shape, draw,
    palette::{Look, Mark, Palette, hex},
};

/// The plot; empty if there is nothing to draw.
pub fn figure(plot: &Plot, palette: &Palette) -> Markup {
    let Some(svg) = draw::draw(plot, palette) else { return html! {} };
    html! {
        figure.plot {
            figcaption { h4 { (plot.title) } }
            @if let Shape::Lines { lines, .. } = &plot.shape {
                @if lines.len() > 1 || !lines[0].device.is_empty() { (legend(lines, palette)) }
            }
            div.picture role="img" aria-label=(words(plot)) { (PreEscaped(svg)) }
            @if !plot.note.is_empty() { p.note { (plot.note) } }
        }
    }
}

fn legend(lines: &[Line], palette: &Palette) -> Markup {
    html! {
        ul.legend {
            @for (line, look) in draw::looks(lines, palette) {
                li { (key(look)) (line.label()) }
            }
        }
    }
}

/// A piece of the line with a mark.
fn key(look: Look) -> Markup {
    let colour = hex(look.colour);
    let points = |corners: &str| html! { polygon points=(corners) fill=(colour) {} };
    html! {
        svg.key viewBox="0 0 30 12" aria-hidden="true" {
            line x1="0" y1="6" x2="30" y2="6" stroke=(colour) stroke-width=(if look.first { 2.5 } else { 1.8 })
                stroke-dasharray=[look.dashed.then_some("6 4")] {}
            @match look.mark {
                Mark::Circle => circle cx="15" cy="6" r="3.8" fill=(colour) {},
                Mark::Square => (points("11.6,2.6 18.4,2.6 18.4,9.4 11.6,9.4")),
                Mark::Triangle => (points("15,1.5 19.5,9.4 10.5,9.4")),
                Mark::Wedge => (points("15,10.5 19.5,2.6 10.5,2.6")),
                Mark::Cross => path d="M11.5 2.5 18.5 9.5 M11.5 9.5 18.5 2.5" stroke=(colour) stroke-width="2" {},
            }
        }
    }
}

/// What the picture shows, for who does not see it: where each line begins and ends.
fn words(plot: &Plot) -> String {
    match &plot.shape {
        Shape::Lines { x, y, lines, .. } => {
            let end = |point: &super::Point| {
                format!("{} at {}", y.quantity.say(point.y), x.quantity.say(point.x))
            };
            let lines = lines.iter().filter_map(|line| {
                let (first, last) = (line.points.first()?, line.points.last()?);
                Some(format!("{}: {} to {}", line.label(), end(first), end(last)))
            });
            let lines = lines.collect::<Vec<_>>().join("; ");
            format!("{}: {} by {}. {lines}.", plot.title, y.name, x.name)
        }
        Shape::Bars { bars, .. } => {
            let bars = bars.iter().map(|bar| format!("{} {}", bar.label, bar.text));
            format!("{}: {}.", plot.title, bars.collect::<Vec<_>>().join("; "))
        }
    }
}
