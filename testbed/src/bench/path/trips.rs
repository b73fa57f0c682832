// SPDX-License-Identifier: Apache-2.0 OR MIT
//! WRITEs that go to and fro: each is seen in memory, by its last byte, before the next is posted.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Instant,
};

use super::{
    end::{self, End, Held, SHAPE},
    spin,
};
use crate::{error::Result, process_guest::verbs::Payload};

/// Two ends in the hands of one thread, and a size.
pub struct Trips<'a> {
    there: Hop<'a>,
    back: Hop<'a>,
    at_a: Held<'a>,
    at_b: Held<'a>,
    /// The last byte of the last message.
    value: u8,
}

/// One direction.
struct Hop<'a> {
    /// Where the last byte comes from, if it is not in the element.
    source: Option<&'a AtomicU8>,
    /// Where it arrives.
    target: &'a AtomicU8,
    payload: Payload<'static>,
    remote: (u64, u32),
    length: usize,
}

impl<'a> Hop<'a> {
    fn new(from: &'a End, to: &'a End, bytes: u64) -> Self {
        let in_element = bytes <= u64::from(SHAPE.max_inline);
        Self {
            source: (!in_element).then(|| from.source_byte(bytes - 1)),
            target: to.byte(bytes - 1),
            payload: from.payload(bytes as u32),
            remote: to.remote(),
            length: bytes as usize,
        }
    }

    /// Sends `value` and waits until it is there.
    #[inline(always)]
    fn go(&self, from: &mut Held<'_>, value: u8) -> Result<()> {
        match self.source {
            Some(source) => {
                // Relaxed: the post publishes it.
                source.store(value, Ordering::Relaxed);
                from.post(&end::write(self.payload, self.remote))?;
            }
            None => {
                let content = [value; SHAPE.max_inline as usize];
                let payload = Payload::Inline(&content[..self.length]);
                from.post(&end::write(payload, self.remote))?;
            }
        }
        // Acquire: the device stored it with release.
        spin::until(|| (self.target.load(Ordering::Acquire) == value).then_some(()))
    }
}

impl<'a> Trips<'a> {
    /// Messages of `bytes` between `a` and `b`, whose memory has room for them.
    pub fn new(a: &'a End, b: &'a End, bytes: u64) -> Self {
        let (there, back) = (Hop::new(a, b, bytes), Hop::new(b, a, bytes));
        // Relaxed: nobody else uses the memory now.
        let value = there.target.load(Ordering::Relaxed);
        back.target.store(value, Ordering::Relaxed);
        Self { there, back, at_a: a.hold(), at_b: b.hold(), value }
    }

    /// Goes there and back `count` times; calls `note` after each way.
    ///
    /// # Errors
    /// If a request fails, or a message does not arrive.
    #[inline(always)]
    pub fn run(&mut self, count: u64, mut note: impl FnMut()) -> Result<()> {
        for _ in 0..count {
            self.value = self.value.wrapping_add(1);
            self.there.go(&mut self.at_a, self.value)?;
            note();
            self.back.go(&mut self.at_b, self.value)?;
            note();
        }
        Ok(())
    }

    /// Goes there and back `count` times; returns the nanoseconds of one way.
    ///
    /// # Errors
    /// If a request fails, or a message does not arrive.
    pub fn time(&mut self, count: u64) -> Result<f64> {
        let since = Instant::now();
        self.run(count, || ())?;
        Ok(since.elapsed().as_nanos() as f64 / (2 * count) as f64)
    }

    /// Takes all completions, so that others find the queues empty.
    ///
    /// # Errors
    /// If a request failed.
    pub fn end(mut self) -> Result<()> {
        self.at_a.drain()?;
        self.at_b.drain()
    }
}
