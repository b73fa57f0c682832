// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The doorbells that a worker looks at: lines of bitmaps, in turn, and the busy ones always.
//!
//! To look at all lines in each pass would make every queue pair pay for those that are idle. So a pass
//! looks at a few lines that rang lately, and at the next few of the others.

use crate::object::ctx::{Ctx, LINES};
use crate::object::qp::Qp;
use std::sync::Arc;

/// Lines that every pass looks at.
const HOT: usize = 8;
/// Other lines that a pass looks at.
const COLD: usize = 4;
/// Passes without a doorbell after which a line is as any other.
const PATIENCE: u32 = 4096;

struct Line {
    ctx: Arc<Ctx>,
    line: usize,
    /// The pass in which it rang last.
    rang: u32,
}

impl Line {
    /// # Safety
    ///
    /// As [`Ctx::take_doorbells`].
    #[inline]
    #[allow(unsafe_code)] // reason: passed on
    unsafe fn take(&mut self, pass: u32, each: impl FnMut(&Arc<Qp>)) -> bool {
        // SAFETY: the caller's.
        let rang = unsafe { self.ctx.take_doorbells(self.line, each) };
        if rang {
            self.rang = pass;
        }
        rang
    }
}

/// What one worker looks at.
#[derive(Default)]
pub struct Doorbells {
    contexts: Vec<Arc<Ctx>>,
    /// The first `hot` of them are those that rang lately.
    lines: Vec<Line>,
    hot: usize,
    /// Which of the others is next.
    next: usize,
    pass: u32,
}

impl Doorbells {
    /// The lines of `contexts` that are this worker's and have been used.
    pub fn renew(&mut self, contexts: &[Arc<Ctx>], worker: usize) {
        self.contexts.clear();
        self.lines.clear();
        for ctx in contexts {
            let before = self.lines.len();
            let own = |line: &usize| ctx.worker_of_line(*line) == worker && ctx.uses_line(*line);
            let lines = (0..LINES).filter(own);
            self.lines.extend(lines.map(|line| Line { ctx: ctx.clone(), line, rang: 0 }));
            if self.lines.len() != before {
                self.contexts.push(ctx.clone());
            }
        }
        (self.hot, self.next) = (0, 0);
    }

    /// Takes doorbells and hands out their queue pairs. `true` if there were any.
    ///
    /// # Safety
    ///
    /// As [`Ctx::take_doorbells`].
    #[inline]
    #[allow(unsafe_code)] // reason: passed on
    pub unsafe fn poll(&mut self, mut each: impl FnMut(&Arc<Qp>)) -> bool {
        self.pass = self.pass.wrapping_add(1);
        let mut any = false;
        for line in &mut self.lines[..self.hot] {
            // SAFETY: the caller's.
            any |= unsafe { line.take(self.pass, &mut each) };
        }
        if self.hot < self.lines.len() {
            // SAFETY: the caller's.
            any |= unsafe { self.poll_others(each) };
        }
        if self.pass.is_multiple_of(PATIENCE) {
            self.cool();
        }
        any
    }

    /// # Safety
    ///
    /// As [`Ctx::take_doorbells`].
    #[allow(unsafe_code)] // reason: passed on
    unsafe fn poll_others(&mut self, mut each: impl FnMut(&Arc<Qp>)) -> bool {
        let mut any = false;
        for _ in 0..COLD.min(self.lines.len() - self.hot) {
            if self.next < self.hot || self.next >= self.lines.len() {
                self.next = self.hot;
            }
            // SAFETY: the caller's.
            if unsafe { self.lines[self.next].take(self.pass, &mut each) } {
                any = true;
                self.warm(self.next);
                if self.hot == self.lines.len() {
                    break;
                }
            }
            self.next += 1;
        }
        any
    }

    /// Puts a line among those that every pass looks at, if need be in place of another.
    fn warm(&mut self, line: usize) {
        let place = if self.hot < HOT {
            self.hot += 1;
            self.hot - 1
        } else {
            let age = |place: &usize| self.pass.wrapping_sub(self.lines[*place].rang);
            (0..self.hot).max_by_key(age).unwrap_or(0)
        };
        self.lines.swap(place, line);
    }

    fn cool(&mut self) {
        for place in (0..self.hot).rev() {
            if self.pass.wrapping_sub(self.lines[place].rang) > PATIENCE {
                self.hot -= 1;
                self.lines.swap(place, self.hot);
            }
        }
    }

    /// Whether any doorbell is set at all.
    pub fn any(&self) -> bool {
        self.lines.iter().any(|line| line.ctx.has_doorbell(line.line))
    }

    /// Tells every driver whether to kick after a doorbell.
    pub fn set_need_kick(&self, worker: usize, need: bool) {
        for ctx in &self.contexts {
            ctx.set_need_kick(worker, need);
        }
    }
}
