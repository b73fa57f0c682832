// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A bare ring in shared memory between two threads: the least that a hand-over of bytes can be.
//!
//! A slot is a sequence number and room for a message, whole cache lines together. The sender copies
//! the message in and then stores the number; the receiver copies it out, and now and then says how
//! far it is. No doorbell, no key, no translation, and each side must trust the other.

use std::{
    ptr::NonNull,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::Instant,
};

use super::{
    super::{
        Effort,
        cores::Cores,
        spin::{self, Line},
    },
    Baseline, Found, Metric, ONE_WAY, RATE, SAMPLES, messages, streams, trips,
};
use crate::error::Result;

/// Bytes of a cache line.
const LINE_BYTES: usize = 64;
/// Bytes of a slot's number.
const NUMBER: usize = 8;
/// Slots of a ring, unless messages are large.
const SLOTS: usize = 128;
/// Bytes of a ring with large messages.
const LARGE: usize = 4 << 20;

/// The baseline.
pub struct Ring;

impl Baseline for Ring {
    fn name(&self) -> &'static str {
        "shared-memory ring"
    }

    fn round(&mut self, cores: &Cores, effort: Effort) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        for bytes in ONE_WAY {
            let times = one_way(cores, bytes as usize, trips(effort, bytes))?;
            found.push(Found::new(Metric::OneWay, bytes, times));
        }
        for bytes in streams(effort) {
            let rates = stream(cores, bytes as usize, messages(effort, bytes))?;
            let rates = rates.into_iter().map(|rate| rate * bytes as f64).collect();
            found.push(Found::new(Metric::Stream, bytes, rates));
        }
        let rates = stream(cores, RATE as usize, 100 * effort.operations)?;
        found.push(Found::new(Metric::Rate, RATE, rates));
        Ok(found)
    }

    fn note(&self) -> Option<&'static str> {
        Some(
            "messages are copied into a slot and out of it, between two threads that trust each \
             other",
        )
    }
}

/// Memory that both threads use.
struct Shared {
    memory: NonNull<u8>,
    layout: std::alloc::Layout,
    slots: u64,
    bytes: usize,
    stride: usize,
    /// How many messages the receiver has taken.
    taken: Taken,
}

/// On a line of its own.
#[derive(Default)]
#[repr(align(128))]
struct Taken(AtomicU64);

#[allow(unsafe_code, reason = "a ring is memory that two threads use at once")]
// SAFETY: the two halves below access a slot only while its number, or the count of those taken,
// says that it is theirs.
unsafe impl Sync for Shared {}

#[allow(unsafe_code, reason = "as above")]
impl Shared {
    fn new(bytes: usize) -> Self {
        let stride = (NUMBER + bytes).next_multiple_of(LINE_BYTES);
        let slots = (LARGE / stride).clamp(2, SLOTS);
        let layout = std::alloc::Layout::from_size_align(stride * slots, 4096);
        let layout = layout.expect("a ring of some megabytes");
        // SAFETY: the layout is not empty.
        let memory = unsafe { std::alloc::alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| std::alloc::handle_alloc_error(layout));
        Self { memory, layout, slots: slots as u64, bytes, stride, taken: Taken::default() }
    }

    /// The number of the slot for message `index`, and its content.
    fn slot(&self, index: u64) -> (&AtomicU64, *mut u8) {
        let offset = (index % self.slots) as usize * self.stride;
        // SAFETY: the slot lies in the memory, is aligned to a line, and its first word is only used
        // as this atomic one.
        unsafe {
            let slot = self.memory.as_ptr().add(offset);
            (AtomicU64::from_ptr(slot.cast()), slot.add(NUMBER))
        }
    }

    /// Sends message `index`, counted from 0. `room` is up to which message there is room.
    #[inline(always)]
    fn send(&self, index: u64, room: &mut u64, content: &[u8]) -> Result<()> {
        debug_assert_eq!(content.len(), self.bytes);
        if index >= *room {
            // Acquire: pairs with the release in `receive`, so that the slot has been read.
            let taken = || self.taken.0.load(Ordering::Acquire) + self.slots;
            *room = spin::until(|| Some(taken()).filter(|room| index < *room))?;
        }
        let (number, slot) = self.slot(index);
        // SAFETY: the slot has room for `bytes`, and the receiver does not look at it before its
        // number is stored.
        unsafe { std::ptr::copy_nonoverlapping(content.as_ptr(), slot, self.bytes) };
        // Release: pairs with the acquire in `receive`.
        number.store(index + 1, Ordering::Release);
        Ok(())
    }

    /// Receives message `index`.
    #[inline(always)]
    fn receive(&self, index: u64, content: &mut [u8]) -> Result<()> {
        debug_assert_eq!(content.len(), self.bytes);
        let (number, slot) = self.slot(index);
        // Acquire: pairs with the release in `send`, so that the message is there.
        spin::until(|| (number.load(Ordering::Acquire) == index + 1).then_some(()))?;
        // SAFETY: as in `send`; the sender does not write to the slot before it was taken.
        unsafe {
            std::ptr::copy_nonoverlapping(slot.cast_const(), content.as_mut_ptr(), self.bytes)
        };
        // Not for each message, since that would cost the sender a line each time.
        let often = (self.slots / 4).max(1);
        if (index + 1).is_multiple_of(often) {
            // Release: pairs with the acquire in `send`.
            self.taken.0.store(index + 1, Ordering::Release);
        }
        Ok(())
    }
}

#[allow(unsafe_code, reason = "as above")]
impl Drop for Shared {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, and nobody uses it any more.
        unsafe { std::alloc::dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// Nanoseconds of one way of a message of `bytes`, each the mean of `count` there and back.
fn one_way(cores: &Cores, bytes: usize, count: u64) -> Result<Vec<f64>> {
    let (there, back) = (Shared::new(bytes), Shared::new(bytes));
    let warm_up = there.slots.max(count.div_ceil(10));
    let all = warm_up + SAMPLES as u64 * count;
    thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let _pinned = cores.worker()?;
            let (mut content, mut room) = (vec![1; bytes], 0);
            for index in 0..all {
                there.receive(index, &mut content)?;
                back.send(index, &mut room, &content)?;
            }
            Ok(())
        });
        let _pinned = cores.client()?;
        let (mut content, mut room, mut index) = (vec![1; bytes], 0, 0);
        let mut trips = |count: u64| {
            let since = Instant::now();
            for _ in 0..count {
                there.send(index, &mut room, &content)?;
                back.receive(index, &mut content)?;
                index += 1;
            }
            Ok(since.elapsed().as_nanos() as f64 / (2 * count) as f64)
        };
        // Once over every slot, until its memory is there.
        trips(warm_up)?;
        let times = (0..SAMPLES).map(|_| trips(count)).collect::<Result<_>>()?;
        echo.join().expect("the echo does not panic")?;
        Ok(times)
    })
}

/// Messages of `bytes` per second, each until the last of `count` has been taken.
fn stream(cores: &Cores, bytes: usize, count: u64) -> Result<Vec<f64>> {
    let (ring, taken) = (Shared::new(bytes), Line::default());
    let warm_up = ring.slots.max(count.div_ceil(10));
    thread::scope(|scope| {
        let sink = scope.spawn(|| {
            let _pinned = cores.worker()?;
            let mut content = vec![1; bytes];
            let mut index = 0;
            for count in [warm_up].into_iter().chain([count; SAMPLES]) {
                for _ in 0..count {
                    ring.receive(index, &mut content)?;
                    index += 1;
                }
                taken.set(index);
            }
            Ok(())
        });
        let _pinned = cores.client()?;
        let (content, mut room, mut index) = (vec![1; bytes], 0, 0);
        let mut send = |count: u64| {
            let since = Instant::now();
            for _ in 0..count {
                ring.send(index, &mut room, &content)?;
                index += 1;
            }
            spin::until(|| taken.is(index))?;
            Ok(count as f64 / since.elapsed().as_secs_f64())
        };
        send(warm_up)?;
        let rates = (0..SAMPLES).map(|_| send(count)).collect::<Result<_>>()?;
        sink.join().expect("the sink does not panic")?;
        Ok(rates)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_arrive_whole_and_in_order() {
        let ring = Shared::new(100);
        let count = 3 * ring.slots + 5;
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut room = 0;
                for index in 0..count {
                    ring.send(index, &mut room, &[index as u8; 100]).unwrap();
                }
            });
            let mut content = [0; 100];
            for index in 0..count {
                ring.receive(index, &mut content).unwrap();
                assert_eq!(content, [index as u8; 100]);
            }
        });
    }

    #[test]
    fn large_messages_need_few_slots() {
        assert_eq!(Shared::new(56).stride, LINE_BYTES);
        assert_eq!((Shared::new(56).slots, Shared::new(8 << 20).slots), (SLOTS as u64, 2));
    }
}
