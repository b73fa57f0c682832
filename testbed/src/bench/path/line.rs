// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The limit of every hand-over between two cores: a cache line there, and one back.

use std::{thread, time::Instant};

use super::{
    cores::Cores,
    spin::{self, Line},
};
use crate::error::Result;

/// Times of single round trips in nanoseconds, each the mean of `batch` of them.
///
/// # Errors
/// If a thread cannot be kept on its core, or does not answer.
pub fn round_trips(cores: &Cores, batches: usize, batch: u64) -> Result<Vec<f64>> {
    let (there, back) = (Line::default(), Line::default());
    // One more, in which the other thread starts.
    let last = (batches as u64 + 1) * batch;
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let _pinned = cores.worker()?;
            for value in 1..=last {
                spin::until(|| there.is(value))?;
                back.set(value);
            }
            Ok(())
        });
        let _pinned = cores.client()?;
        let mut times = Vec::with_capacity(batches);
        let mut value = 0;
        let mut trip = || {
            value += 1;
            there.set(value);
            spin::until(|| back.is(value))
        };
        for _ in 0..batch {
            trip()?;
        }
        for _ in 0..batches {
            let since = Instant::now();
            for _ in 0..batch {
                trip()?;
            }
            times.push(since.elapsed().as_nanos() as f64 / batch as f64);
        }
        echo.join().expect("the echo does not panic")?;
        Ok(times)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_round_trip_takes_time() {
        let times = round_trips(&Cores::choose().unwrap(), 3, 20).unwrap();
        assert!(times.len() == 3 && times.iter().all(|time| *time > 0.0), "{times:?}");
    }
}
