// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which frames of a guest's RAM are free, and which an allocation gets.

use super::memory::{FRAME, LARGE_PAGE};

/// How frames are chosen for an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Contiguous in guest-physical memory.
    Linear,
    /// Any frames, in disorder: neighbours in virtual memory are not neighbours in physical memory.
    Scattered,
    /// Contiguous, and aligned to large pages in virtual and guest-physical memory.
    Large,
}

/// Which frames are free, by number in the memfd, and a small generator of disorder.
pub(super) struct Frames {
    used: Vec<bool>,
    /// No frame below this one is free.
    lowest: usize,
    /// The first frame of the upper region.
    split: usize,
    random: u64,
}

impl Frames {
    /// `count` free frames, of which those from number `split` on are in the upper region.
    pub(super) fn new(count: usize, split: usize) -> Self {
        Self { used: vec![false; count], lowest: 0, split, random: 0x9e37_79b9_7f4a_7c15 }
    }

    /// How many are free.
    pub(super) fn free(&self) -> usize {
        self.used.iter().filter(|used| !**used).count()
    }

    /// `count` free frames, which are free no longer; `None` if there are not as many.
    pub(super) fn take(&mut self, count: usize, layout: Layout) -> Option<Vec<usize>> {
        let chosen = match layout {
            Layout::Linear => self.run(count, 1)?,
            Layout::Large => self.run(count, (LARGE_PAGE / FRAME) as usize)?,
            Layout::Scattered => self.pick(count)?,
        };
        for &frame in &chosen {
            self.used[frame] = true;
        }
        while self.used.get(self.lowest) == Some(&true) {
            self.lowest += 1;
        }
        Some(chosen)
    }

    /// A frame is free again.
    pub(super) fn put(&mut self, frame: usize) {
        self.used[frame] = false;
        self.lowest = self.lowest.min(frame);
    }

    /// The first run of free frames within one region that begins at a multiple of `align`.
    fn run(&self, count: usize, align: usize) -> Option<Vec<usize>> {
        let mut length = 0;
        for frame in self.lowest..self.used.len() {
            if frame == self.split {
                length = 0;
            }
            let counts = !self.used[frame] && (length > 0 || frame.is_multiple_of(align));
            length = if counts { length + 1 } else { 0 };
            if length == count {
                return Some((frame + 1 - count..=frame).collect());
            }
        }
        None
    }

    fn pick(&mut self, count: usize) -> Option<Vec<usize>> {
        self.guess(count).or_else(|| self.choose(count))
    }

    /// Any frames, by guessing: quick while most are free.
    fn guess(&mut self, count: usize) -> Option<Vec<usize>> {
        let mut chosen: Vec<usize> = Vec::with_capacity(count);
        for _ in 0..2 * count + 8 {
            if chosen.len() == count {
                break;
            }
            let frame = self.next() as usize % self.used.len();
            // Marked at once, so that it is not chosen again.
            if !std::mem::replace(&mut self.used[frame], true) {
                chosen.push(frame);
            }
        }
        for &frame in &chosen {
            self.used[frame] = false;
        }
        (chosen.len() == count).then_some(chosen)
    }

    /// Any frames, out of all that are free.
    fn choose(&mut self, count: usize) -> Option<Vec<usize>> {
        let mut free: Vec<usize> =
            (self.lowest..self.used.len()).filter(|&i| !self.used[i]).collect();
        if free.len() < count {
            return None;
        }
        for i in 0..count {
            let other = i + self.next() as usize % (free.len() - i);
            free.swap(i, other);
        }
        free.truncate(count);
        Some(free)
    }

    fn next(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}
