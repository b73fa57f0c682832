// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Waiting for another core without giving this one away.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use crate::error::{Error, Result};

/// Looks between two looks at the clock: some ten microseconds.
const LOOKS: u32 = 1 << 14;

/// Nothing that is measured takes this long; whoever does not answer is broken.
const LIMIT: Duration = Duration::from_secs(20);

/// Looks until `look` finds something, without a pause between two looks: on some processors that
/// takes as long as a message.
///
/// # Errors
/// If that takes 20 seconds.
#[inline(always)]
pub fn until<T>(mut look: impl FnMut() -> Option<T>) -> Result<T> {
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look() {
                return Ok(found);
            }
        }
        if let Some(found) = patiently(&mut look)? {
            return Ok(found);
        }
    }
}

/// What a wait that is out of the ordinary does: it lets others run, and ends.
#[cold]
fn patiently<T>(look: &mut impl FnMut() -> Option<T>) -> Result<Option<T>> {
    let since = Instant::now();
    loop {
        for _ in 0..LOOKS {
            if let Some(found) = look() {
                return Ok(Some(found));
            }
        }
        if since.elapsed() > LIMIT {
            let what = format!("the other side did not answer within {LIMIT:?}");
            return Err(Error::unfit(what, "Look at the daemon's log"));
        }
        thread::yield_now();
    }
}

/// A word with cache lines of its own. Two lines each, since processors fetch them in pairs.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Line(AtomicU64);

impl Line {
    /// Stores `value`; what this thread wrote before is seen by whoever sees it.
    #[inline(always)]
    pub fn set(&self, value: u64) {
        // Release: pairs with the acquire in `is`.
        self.0.store(value, Ordering::Release);
    }

    /// Whether the word is `value`.
    #[inline(always)]
    pub fn is(&self, value: u64) -> Option<()> {
        // Acquire: pairs with the release in `set`.
        (self.0.load(Ordering::Acquire) == value).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_with_what_it_was_for() {
        let (mut looks, wanted) = (0, LOOKS + 7);
        let found = until(|| {
            looks += 1;
            (looks == wanted).then_some(looks)
        });
        assert_eq!(found.unwrap(), wanted);
    }
}
