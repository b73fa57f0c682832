// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The queue pairs whose completions a worker looks for. To ask the host for those of each in every pass would make one guest
//! pay for all that another one has: so a pass asks for those that had something to do lately, and for some of the
//! others in turn. All are asked for when somebody has a reason.

use crate::object::qp::Qp;
use arrayvec::ArrayVec;
use std::sync::Arc;

/// Those that each pass asks for.
pub const RECENT: usize = 32;
/// Passes after which one that had nothing to do is as any other.
const PATIENCE: u32 = 4096;
/// Others that a pass asks for.
const IN_TURN: usize = 8;

/// What came of a look at one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// It does not go this way any more.
    Gone,
    /// Nothing was there.
    Nothing,
    /// Something was done.
    Something,
}

/// The queue pairs of a worker that go direct.
#[derive(Debug)]
pub struct Watched<T = Qp> {
    all: Vec<Arc<T>>,
    /// The latest first. Nobody where a pass asks for all in any case.
    recent: ArrayVec<Recent<T>, RECENT>,
    /// Whose turn it is.
    next: usize,
    /// The next pass asks for all.
    whole: bool,
}

/// One that had something to do.
#[derive(Debug)]
struct Recent<T> {
    qp: Arc<T>,
    /// Passes since then.
    quiet: u32,
}

impl<T> Default for Watched<T> {
    fn default() -> Self {
        Self { all: Vec::new(), recent: ArrayVec::new(), next: 0, whole: false }
    }
}

impl<T> Watched<T> {
    /// Whether there is none.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.all.iter()
    }

    /// Adds one that may be there.
    pub fn add(&mut self, qp: Arc<T>) {
        if !self.all.iter().any(|held| Arc::ptr_eq(held, &qp)) {
            self.all.push(qp);
        }
    }

    /// It has something to do, and will have something done soon.
    #[inline]
    pub fn note(&mut self, qp: &Arc<T>) {
        match self.recent.first_mut().filter(|first| Arc::ptr_eq(&first.qp, qp)) {
            Some(first) => first.quiet = 0,
            None if self.all.len() > IN_TURN => self.put_first(qp),
            None => {}
        }
    }

    fn put_first(&mut self, qp: &Arc<T>) {
        match self.recent.iter().position(|held| Arc::ptr_eq(&held.qp, qp)) {
            Some(place) => {
                self.recent[place].quiet = 0;
                self.recent[..=place].rotate_right(1);
            }
            None => {
                if self.recent.is_full() {
                    self.recent.pop();
                }
                self.recent.insert(0, Recent { qp: qp.clone(), quiet: 0 });
            }
        }
    }

    /// The next pass asks for all: something may have happened to any.
    pub fn look_at_all(&mut self) {
        self.whole = true;
    }

    /// A pass: calls `look` for those that are to be asked for, once or twice.
    pub fn pass(&mut self, mut look: impl FnMut(&Arc<T>) -> Look) {
        if self.all.len() > IN_TURN {
            self.recent.retain(|held| match look(&held.qp) {
                Look::Gone => false,
                Look::Nothing => {
                    held.quiet += 1;
                    held.quiet < PATIENCE
                }
                Look::Something => {
                    held.quiet = 0;
                    true
                }
            });
        } else {
            self.recent.clear();
        }
        let whole = std::mem::take(&mut self.whole);
        let count = if whole { self.all.len() } else { self.all.len().min(IN_TURN) };
        for _ in 0..count {
            if self.next >= self.all.len() {
                self.next = 0;
            }
            let Some(qp) = self.all.get(self.next).cloned() else { return };
            match look(&qp) {
                Look::Gone => {
                    self.all.swap_remove(self.next);
                    continue;
                }
                Look::Nothing => {}
                Look::Something => self.note(&qp),
            }
            self.next += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    fn of(count: u32) -> Watched<u32> {
        let mut watched = Watched::default();
        (0..count).for_each(|number| watched.add(Arc::new(number)));
        watched
    }

    /// Who was asked for in a pass, with `found` those of whom something was done.
    fn pass(watched: &mut Watched<u32>, found: &[u32]) -> Vec<u32> {
        let asked = RefCell::new(Vec::new());
        watched.pass(|number| {
            asked.borrow_mut().push(**number);
            if found.contains(number) { Look::Something } else { Look::Nothing }
        });
        asked.into_inner()
    }

    #[test]
    fn few_are_asked_for_once_in_each_pass() {
        let mut watched = of(IN_TURN as u32);
        for _ in 0..3 {
            let mut asked = pass(&mut watched, &[3]);
            asked.sort_unstable();
            assert_eq!(asked, (0..IN_TURN as u32).collect::<Vec<_>>());
        }
    }

    #[test]
    fn of_many_all_have_their_turn_and_the_busy_ones_always() {
        let mut watched = of(1000);
        let mut seen = [0; 1000];
        for _ in 0..1000_usize.div_ceil(IN_TURN) {
            let asked = pass(&mut watched, &[5, 900]);
            assert!(asked.len() <= RECENT + IN_TURN, "{}", asked.len());
            asked.into_iter().for_each(|number| seen[number as usize] += 1);
        }
        assert!(seen.iter().all(|times| *times > 0));
        let asked = pass(&mut watched, &[]);
        assert_eq!(asked[..2], [900, 5], "the latest first");
        let next = watched.iter().find(|number| ***number == 500).cloned().unwrap();
        watched.note(&next);
        assert_eq!(pass(&mut watched, &[])[0], 500);
    }

    #[test]
    fn the_latest_stay() {
        let mut watched = of(100);
        let all = watched.iter().cloned().collect::<Vec<_>>();
        all[..60].iter().for_each(|number| watched.note(number));
        watched.note(&all[50]);
        let asked = pass(&mut watched, &[]);
        let first = [50].into_iter().chain((28..60).rev().filter(|number| *number != 50));
        assert_eq!(asked[..RECENT], first.take(RECENT).collect::<Vec<_>>());
        assert_eq!(asked.len(), RECENT + IN_TURN);
    }

    #[test]
    fn who_has_nothing_to_do_for_long_is_as_any_other() {
        let mut watched = of(100);
        let all = watched.iter().cloned().collect::<Vec<_>>();
        all[..3].iter().for_each(|number| watched.note(number));
        for number in 0..PATIENCE {
            assert_eq!(pass(&mut watched, &[]).len(), 3 + IN_TURN, "{number}");
            watched.note(&all[2]);
        }
        let asked = pass(&mut watched, &[]);
        assert_eq!((asked[0], asked.len()), (2, 1 + IN_TURN));
    }

    #[test]
    fn all_are_asked_for_when_there_is_a_reason() {
        let mut watched = of(100);
        pass(&mut watched, &[]);
        watched.look_at_all();
        let mut asked = pass(&mut watched, &[]);
        asked.sort_unstable();
        assert_eq!(asked, (0..100).collect::<Vec<_>>());
        assert_eq!(pass(&mut watched, &[]).len(), IN_TURN, "once");
    }

    #[test]
    fn who_has_gone_is_let_go() {
        let mut watched = of(100);
        let all = watched.iter().map(Arc::downgrade).collect::<Vec<_>>();
        let first = watched.iter().next().cloned().unwrap();
        watched.note(&first);
        drop(first);
        watched.look_at_all();
        watched.pass(|number| if **number < 90 { Look::Gone } else { Look::Nothing });
        assert_eq!(watched.iter().count(), 10);
        pass(&mut watched, &[]);
        assert!(all[..90].iter().all(|number| number.strong_count() == 0));
    }
}
