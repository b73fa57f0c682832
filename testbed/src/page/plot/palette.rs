// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which device has which colour and mark, on the whole page.
//!
//! Colours are those of Okabe and Ito, which colour-blind readers tell apart, a little darker where they
//! would be faint on white; on a dark page each has a lighter twin. Marks and dashes repeat what colours
//! say, for whoever sees or prints without them.

use std::fmt::Write;

use plotters::style::RGBColor;

/// A colour on a light page and its twin on a dark one.
type Twins = [RGBColor; 2];

const COLOURS: [Twins; 7] = [
    [RGBColor(0x00, 0x5f, 0xa8), RGBColor(0x5c, 0xb3, 0xf5)],
    [RGBColor(0xc8, 0x4b, 0x00), RGBColor(0xff, 0x8f, 0x50)],
    [RGBColor(0x00, 0x80, 0x5f), RGBColor(0x3d, 0xc9, 0x9c)],
    [RGBColor(0xa4, 0x4e, 0x8c), RGBColor(0xe8, 0x9f, 0xcb)],
    [RGBColor(0xa3, 0x6a, 0x00), RGBColor(0xf0, 0xb8, 0x45)],
    [RGBColor(0x2a, 0x8b, 0xc0), RGBColor(0xa3, 0xdc, 0xff)],
    [RGBColor(0x70, 0x70, 0x70), RGBColor(0xb0, 0xb0, 0xb0)],
];

/// Bars that are there for comparison.
pub const OTHERS: Twins = [RGBColor(0x9a, 0xa3, 0xad), RGBColor(0x5d, 0x67, 0x73)];
/// Lines of a frame and a grid, and text.
pub const GRID: Twins = [RGBColor(0xe3, 0xe6, 0xea), RGBColor(0x2b, 0x31, 0x39)];
/// The axes themselves.
pub const AXIS: Twins = [RGBColor(0x8d, 0x95, 0x9f), RGBColor(0x6b, 0x74, 0x80)];
/// What is written on and beside axes.
pub const TEXT: Twins = [RGBColor(0x4a, 0x52, 0x5c), RGBColor(0xb4, 0xbd, 0xc8)];
/// What is written beside marks.
pub const STRONG: Twins = [RGBColor(0x1b, 0x1f, 0x24), RGBColor(0xe8, 0xec, 0xf1)];

/// The form of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Filled.
    Circle,
    /// Filled.
    Square,
    /// Filled, point up.
    Triangle,
    /// Two strokes.
    Cross,
    /// Filled, point down.
    Wedge,
}

/// What the device of this project is called where others are measured, too.
const OURS: &str = "vNIC";

const MARKS: [Mark; 5] = [Mark::Circle, Mark::Square, Mark::Triangle, Mark::Cross, Mark::Wedge];

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// Colour on a light page.
    pub colour: RGBColor,
    /// Mark of its points.
    pub mark: Mark,
    /// Whether it is drawn in dashes.
    pub dashed: bool,
    /// Whether it stands before the others.
    pub first: bool,
}

impl Look {
    /// The look of the device with this number, or of such a line where there is one device alone.
    pub fn nth(index: usize) -> Self {
        Self {
            colour: COLOURS[index % COLOURS.len()][0],
            // Neighbours in the list differ in both, and it takes long until both repeat.
            mark: MARKS[index % MARKS.len()],
            dashed: false,
            first: index == 0,
        }
    }
}

/// Devices in the order in which they get their looks.
#[derive(Debug, Clone, Default)]
pub struct Palette(Vec<String>);

impl Palette {
    /// The device of this project comes first, whatever else there is.
    pub fn new<'a>(devices: impl Iterator<Item = &'a str>) -> Self {
        let mut known = Vec::<String>::new();
        for device in devices {
            // All its names are one.
            let name = if is_ours(device) { OURS } else { device };
            if !known.iter().any(|other| other == name) {
                known.push(name.into());
            }
        }
        known.retain(|device| device != OURS);
        known.insert(0, OURS.into());
        Self(known)
    }

    /// How a device looks; its variants are in dashes, but for the first.
    pub fn look(&self, device: &str, variant: usize) -> Look {
        let device = if is_ours(device) { OURS } else { device };
        let index = self.0.iter().position(|known| known == device).unwrap_or(self.0.len());
        Look { dashed: variant > 0, ..Look::nth(index) }
    }
}

/// Whether it is the device of this project: where no other is measured, it has no name.
pub fn is_ours(device: &str) -> bool {
    device.is_empty() || device == OURS || device.starts_with("vNIC ")
}

/// A colour as the pictures and the style sheet write it.
pub fn hex(colour: RGBColor) -> String {
    format!("#{:02X}{:02X}{:02X}", colour.0, colour.1, colour.2)
}

/// The rules that give every colour of a picture its twin.
pub fn dark_rules() -> String {
    let mut rules = String::new();
    for [light, dark] in COLOURS.iter().chain(&[OTHERS, GRID, AXIS, TEXT, STRONG]) {
        let (light, dark) = (hex(*light), hex(*dark));
        let _ = write!(
            rules,
            "svg [fill=\"{light}\"]{{fill:{dark}}}svg [stroke=\"{light}\"]{{stroke:{dark}}}"
        );
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_device_comes_first_and_others_differ() {
        let palette = Palette::new(["rxe", "TCP", "rxe", "vNIC"].into_iter());
        let looks = ["vNIC", "rxe", "TCP"].map(|device| palette.look(device, 0));
        assert!(looks[0].first && !looks[1].first);
        assert!(looks[1].colour != looks[2].colour && looks[1].mark != looks[2].mark);
        assert!(palette.look("vNIC", 1).dashed);
    }

    #[test]
    fn every_colour_has_contrast_on_its_page() {
        let linear = |part: u8| {
            let part = f64::from(part) / 255.0;
            if part <= 0.040_45 { part / 12.92 } else { ((part + 0.055) / 1.055).powf(2.4) }
        };
        let luminance = |RGBColor(r, g, b): RGBColor| {
            0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b)
        };
        let contrast = |a: RGBColor, b: RGBColor| {
            let (a, b) = (luminance(a) + 0.05, luminance(b) + 0.05);
            a.max(b) / a.min(b)
        };
        // The bounds of the accessibility guidelines: of text, and of marks.
        let pages = [RGBColor(0xff, 0xff, 0xff), RGBColor(0x16, 0x1b, 0x22)];
        for index in 0..2 {
            for text in [TEXT, STRONG] {
                assert!(contrast(text[index], pages[index]) >= 4.5, "{text:?}");
            }
            for colour in COLOURS {
                assert!(contrast(colour[index], pages[index]) >= 3.0, "{colour:?}");
            }
        }
    }
}
