// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Frames that are poisoned the moment they are free, and looked at before they are used again.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vnic_testbed::process_guest::memory::FRAME;
use vnic_testbed::process_guest::page_table::{PRESENT, USER, WRITABLE};
use vnic_testbed::process_guest::{Layout, Pages, Ram};

/// Words of a frame.
pub const WORDS: usize = 512;
/// Contents of a free frame. No message and no atomic ever makes such a word.
const POISON: u64 = 0xdbdb_dbdb_dbdb_dbdb;
/// Contents of a frame that no table in use points at, only one that was freed.
const CANARY: u64 = 0xc5c5_c5c5_c5c5_c5c5;

/// The device did what it must not do.
#[derive(Debug, Clone)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a free frame was filled with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trap {
    /// Freed data: a later write changes it, a later read delivers it.
    Poison,
    /// A freed table of last-level entries, which all lead to the canary frame. A later walk marks
    /// one of them, and what it is for shows in the canary or comes from it.
    Leaves,
    /// A freed table of the level above, whose entries all lead to a table as the one before.
    Tables,
}

/// A guest's frames.
pub struct Frames {
    pages: Pages,
    gpas: Vec<u64>,
    /// In the order in which they were freed, so that each stays free for a while.
    free: Mutex<VecDeque<(usize, Trap)>>,
}

/// The canary frame.
const CANARY_FRAME: usize = 0;
/// A table as [`Trap::Leaves`] that stays.
const CANARY_TABLE: usize = 1;

impl Frames {
    /// `count` frames of `ram`, all of them free but the two that catch late walks.
    pub fn new(ram: &Ram, count: usize) -> Self {
        let pages = ram.alloc(count as u64 * FRAME, Layout::Scattered);
        let frames = Self { gpas: pages.gpas(), pages, free: Mutex::default() };
        frames.fill(CANARY_FRAME, CANARY);
        frames.fill(CANARY_TABLE, frames.contents(Trap::Leaves));
        for frame in CANARY_TABLE + 1..count {
            frames.put(frame, Trap::Poison);
        }
        frames
    }

    /// Guest-physical address of a frame.
    pub fn gpa(&self, frame: usize) -> u64 {
        self.gpas[frame]
    }

    /// What each word of a trap is.
    fn contents(&self, trap: Trap) -> u64 {
        // Neither accessed nor dirty, so that a walk has to write.
        let entry = |frame| self.gpa(frame) | PRESENT | WRITABLE | USER;
        match trap {
            Trap::Poison => POISON,
            Trap::Leaves => entry(CANARY_FRAME),
            Trap::Tables => entry(CANARY_TABLE),
        }
    }

    /// Sets every word of a frame.
    pub fn fill(&self, frame: usize, word: u64) {
        let bytes: [u8; FRAME as usize] = std::array::from_fn(|at| word.to_le_bytes()[at % 8]);
        self.pages.write(frame as u64 * FRAME, &bytes);
    }

    /// Every word of a frame.
    pub fn read(&self, frame: usize) -> [u64; WORDS] {
        let mut bytes = [0; FRAME as usize];
        self.pages.read(frame as u64 * FRAME, &mut bytes);
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
            *word = u64::from_le_bytes(*bytes);
        }
        words
    }

    fn expect(&self, frame: usize, wanted: u64, what: &str) -> Result<(), Violation> {
        match self.read(frame).iter().position(|&word| word != wanted) {
            None => Ok(()),
            Some(at) => {
                let found = self.read(frame)[at];
                Err(Violation(format!(
                    "{what}: word {at} of the frame at {:#x} became {found:#x}",
                    self.gpa(frame)
                )))
            }
        }
    }

    fn check(&self, (frame, trap): (usize, Trap)) -> Result<(), Violation> {
        let what = match trap {
            Trap::Poison => "write to freed data",
            Trap::Leaves | Trap::Tables => "walk of a freed table",
        };
        self.expect(frame, self.contents(trap), what)
    }

    fn free(&self) -> MutexGuard<'_, VecDeque<(usize, Trap)>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The frame that has been free for the longest time; nothing touched it since.
    pub fn take(&self) -> Result<usize, Violation> {
        let free = self.free().pop_front().expect("frames enough for every page and table");
        self.check(free)?;
        Ok(free.0)
    }

    /// Frees a frame, over which a trap is set at once.
    pub fn put(&self, frame: usize, trap: Trap) {
        self.fill(frame, self.contents(trap));
        self.free().push_back((frame, trap));
    }

    /// Frees a frame of data, in which nothing may be that was read from where nothing may be read.
    pub fn retire(&self, frame: usize) -> Result<(), Violation> {
        let words = self.read(frame);
        self.put(frame, Trap::Poison);
        match words.iter().find(|&&word| word == POISON || word == CANARY) {
            None => Ok(()),
            Some(word) => Err(Violation(format!("read of freed data: {word:#x} was delivered"))),
        }
    }

    /// Looks at every trap that is set.
    pub fn check_all(&self) -> Result<(), Violation> {
        let free = self.free();
        free.iter().try_for_each(|&frame| self.check(frame))?;
        self.expect(CANARY_FRAME, CANARY, "write behind a freed table")?;
        self.expect(CANARY_TABLE, self.contents(Trap::Leaves), "walk of a freed table")
    }
}
