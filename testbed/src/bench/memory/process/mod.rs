// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two guests that are processes, on a daemon of their own.
//!
//! | module | measures |
//! |---|---|
//! | [`register`] | the command that registers memory, and the one that ends that |
//! | [`translate`] | finding a page, without a daemon |
//! | [`touch`] | the first access to a page, whatever state that is in |
//! | [`invalidate`] | taking memory back from a device that is idle, or is not |
//! | [`batch`] | faulting many pages in at once, or one by one |

pub mod batch;
pub mod invalidate;
pub mod register;
pub mod touch;
pub mod translate;

use std::path::Path;

use super::Effort;
use crate::{
    bench::{self, Experiment, Findings},
    error::Result,
    process_guest::{
        Daemon, GuestOptions,
        verbs::{Endpoint, Qp, connect},
    },
};

/// What this lane is called in reports.
pub const LANE: &str = "process guests";

/// RAM of each guest: room for the largest transfer on both sides, and for page tables.
const RAM: u64 = 192 << 20;

/// Two guests on one daemon.
pub struct Bed {
    /// The guest that writes.
    pub a: Endpoint,
    /// The guest whose memory is measured.
    pub b: Endpoint,
    /// The daemon, with one worker.
    pub daemon: Daemon,
}

impl Bed {
    /// Starts the daemon at `program` and both guests.
    ///
    /// # Panics
    ///
    /// If the daemon or a guest does not start.
    pub fn start(program: &Path) -> Self {
        let daemon = Daemon::of(program).port("a").port("b").workers(1).start();
        let boot = |port: &str, host| {
            let options = GuestOptions { ram: RAM, ..GuestOptions::default() };
            Endpoint::boot_with(&daemon.socket(port), host, options)
        };
        let (a, b) = (boot("a", 1), boot("b", 2));
        Self { a, b, daemon }
    }

    /// Connected queue pairs, the first in the guest that writes.
    pub fn qps(&self) -> (Qp, Qp) {
        let (a, b) = (self.a.qp(), self.b.qp());
        connect(&a, &b);
        (a, b)
    }
}

/// Runs the whole lane with the daemon at `program`.
///
/// # Errors
/// When a file that stands for a swap device cannot be had, or a busy device was not busy.
///
/// # Panics
///
/// If the device refuses what it must grant, as in a test.
pub fn run(program: &Path, effort: Effort) -> Result<Findings> {
    let bed = Bed::start(program);
    let mut experiments: Vec<Box<dyn Experiment + '_>> = vec![
        Box::new(register::Register::new(&bed, effort)),
        Box::new(translate::Translate::new(effort)),
        Box::new(touch::Touch::new(&bed, effort)?),
        Box::new(invalidate::Invalidate::new(&bed, effort)),
        Box::new(batch::Batch::new(&bed, effort)),
    ];
    bench::run(LANE, &mut experiments, effort.rounds)
}
