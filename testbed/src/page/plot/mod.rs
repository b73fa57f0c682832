// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Plots: what they show, and how.
//!
//! - [`choose`] finds what can be plotted in a bench, and [`testbed`] in a run between guests.
//! - [`axis`]: ticks and labels.
//! - [`draw`] makes a picture of a plot, and [`figure`] sets it on the page.
//! - [`palette`]: which line looks how.

pub mod axis;
pub mod choose;
pub mod draw;
pub mod figure;
pub mod palette;
pub mod testbed;

use self::axis::Quantity;

/// A plot.
#[derive(Debug, Clone, PartialEq)]
pub struct Plot {
    /// Its heading.
    pub title: String,
    /// What a reader has to know to read it.
    pub note: String,
    /// What it shows.
    pub shape: Shape,
}

impl Plot {
    /// Whether it has lines over two axes.
    pub fn has_axes(&self) -> bool {
        matches!(self.shape, Shape::Lines { .. })
    }
}

/// What a plot shows.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Lines over two axes.
    Lines {
        /// The horizontal axis.
        x: Scale,
        /// The vertical axis.
        y: Scale,
        /// The lines.
        lines: Vec<Line>,
        /// A height that the lines are looked at from.
        level: Option<f64>,
    },
    /// Numbers beside each other, as bars that start together.
    Bars {
        /// What they are.
        quantity: Quantity,
        /// The bars, from above.
        bars: Vec<Bar>,
    },
}

/// What an axis is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Scale {
    /// Its name.
    pub name: String,
    /// What its numbers are.
    pub quantity: Quantity,
}

/// A line.
#[derive(Debug, Clone, PartialEq)]
pub struct Line {
    /// What decides on its colour: the device.
    pub device: String,
    /// What tells it from other lines of the device; often empty.
    pub variant: String,
    /// Its points, from left to right.
    pub points: Vec<Point>,
}

impl Line {
    /// What the legend calls it.
    pub fn label(&self) -> String {
        match (&*self.device, &*self.variant) {
            ("", "") => "median".into(),
            (one, "") | ("", one) => one.into(),
            (device, variant) => format!("{device}, {variant}"),
        }
    }
}

/// A point of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Place on the horizontal axis.
    pub x: f64,
    /// The number.
    pub y: f64,
    /// What half of all samples lie between, if that is shown.
    pub half: Option<(f64, f64)>,
}

/// A bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// What it is of.
    pub label: String,
    /// What decides on its colour: the device.
    pub device: String,
    /// How long it is.
    pub value: f64,
    /// What is written beside it.
    pub text: String,
}
