// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What ends otherwise than by an invalidation: grace periods, and a device that is given up.

use std::sync::atomic::Ordering;

use loom::sync::Arc;
use loom::sync::atomic::AtomicBool;
use loom::thread;
use vnic_iommu::Access;
use vnic_iommu::quiesce::{
    GENERATION_WORD, Grace, Invalidator, RING_WORD, SharedWords, WorkerSlot,
};

use super::shared::{FULL_FENCE, Frame, LOOKING, View, Without, check};
use super::tables::{LEAF, Tables, VA, Worker};

/// Words of [`Grace`] with one worker: the target, what the worker saw, and whether it sleeps.
const TARGET: usize = 0;
const SEEN: usize = 8;
const ASLEEP: usize = 9;

/// An object is removed and its memory freed, while a worker wakes, makes two passes in which it may
/// use the object, and sleeps.
fn object_is_removed(worker: Without, control: Without) {
    check(Some(4), move || {
        let words = View::page([TARGET, SEEN, ASLEEP].map(|word| (word, 0)));
        let ends = Ends {
            worker: words.without(worker),
            control: words.without(control),
            control_thread: thread::current().id(),
        };
        let grace = Arc::new(Grace::with(ends, 1));
        let (bound, frame) = (Arc::new(AtomicBool::new(true)), Frame::new());
        let device = {
            let (grace, bound, frame) = (grace.clone(), bound.clone(), frame.clone());
            thread::spawn(move || {
                grace.wake(0);
                for _ in 0..2 {
                    grace.quiescent(0);
                    if bound.load(Ordering::Relaxed) {
                        frame.access();
                    }
                }
                grace.sleep(0);
            })
        };
        bound.store(false, Ordering::Relaxed);
        grace.synchronize();
        frame.reuse();
        device.join().unwrap();
    });
}

/// One grace period's words as its two ends see them.
struct Ends {
    worker: View,
    control: View,
    control_thread: thread::ThreadId,
}

impl Ends {
    fn mine(&self) -> &View {
        if thread::current().id() == self.control_thread { &self.control } else { &self.worker }
    }
}

impl SharedWords for Ends {
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.mine().load(word, order)
    }

    fn store(&self, word: usize, value: u64, order: Ordering) {
        self.mine().store(word, value, order);
    }

    fn fence(&self, order: Ordering) {
        self.mine().fence(order);
    }

    fn spin(&self) {
        thread::yield_now();
    }
}

#[test]
fn nothing_is_used_after_its_grace_period() {
    object_is_removed(Without::Nothing, Without::Nothing);
}

#[test]
#[should_panic]
fn waking_needs_its_fence() {
    object_is_removed(FULL_FENCE, Without::Nothing);
}

#[test]
#[should_panic]
fn waiting_needs_its_fence() {
    object_is_removed(Without::Nothing, FULL_FENCE);
}

#[test]
#[should_panic]
fn a_pass_has_to_carry_the_one_before() {
    object_is_removed(Without::Release(|word, _| word == SEEN), Without::Nothing);
}

#[test]
#[should_panic]
fn sleep_has_to_carry_the_last_pass() {
    object_is_removed(Without::Release(|word, _| word == ASLEEP), Without::Nothing);
}

#[test]
#[should_panic]
fn a_pass_has_to_take_the_removal_in() {
    object_is_removed(LOOKING, Without::Nothing);
}

#[test]
#[should_panic]
fn the_target_has_to_carry_the_removal() {
    object_is_removed(Without::Nothing, Without::Release(|word, _| word == TARGET));
}

#[test]
#[should_panic]
fn waiting_has_to_take_the_accesses_in() {
    object_is_removed(Without::Nothing, LOOKING);
}

/// What a driver does with a page whose worker did not leave its burst in time.
#[derive(Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    /// Frees it.
    Free,
    /// Keeps it until the device confirms that it touches nothing any more.
    Keep,
}

/// The driver does not wait for a worker that takes its time.
fn driver_gives_up(then: GivenUp) {
    check(Some(4), move || {
        let epochs = View::page([(0, 0)]);
        let ring = [GENERATION_WORD, RING_WORD, RING_WORD + 1];
        let invalidation = View::page(ring.map(|word| (word, 0)));
        let (tables, frame) = (Tables::new(), Frame::new());
        let grace =
            Arc::new(Grace::with(View::page([TARGET, SEEN, ASLEEP].map(|word| (word, 0))), 1));
        let device = {
            let slot = WorkerSlot::new(epochs.clone(), 0).unwrap();
            let mut worker = Worker::new(&tables, invalidation.clone());
            let (frame, grace) = (frame.clone(), grace.clone());
            thread::spawn(move || {
                grace.wake(0);
                grace.quiescent(0);
                let burst = slot.enter();
                worker.sync(&burst);
                if worker.translate(&burst, VA, Access::Write).is_some() {
                    frame.access();
                }
                burst.leave();
                grace.sleep(0);
            })
        };
        let invalidator = Invalidator::new(invalidation, epochs);
        tables.clear(LEAF);
        let left = invalidator.invalidate(VA.0, VA.0 + 0x1000, || false);
        if left.is_err() && then == GivenUp::Keep {
            // The answer to SHUTDOWN, or the end of a reset.
            grace.synchronize();
        }
        frame.reuse();
        device.join().unwrap();
    });
}

#[test]
fn what_is_kept_until_the_device_confirms_is_safe() {
    driver_gives_up(GivenUp::Keep);
}

#[test]
#[should_panic = "Causality violation"]
fn what_the_burst_in_hand_may_use_is_not_safe() {
    driver_gives_up(GivenUp::Free);
}

/// The driver gives the first burst up and frees a page. That burst does not use the page, the next
/// one wants to: a device that comes back late reads what it missed.
fn device_comes_back_late(worker: Without, driver: Without) {
    check(Some(4), move || {
        let epochs = View::page([(0, 0)]);
        let ring = [GENERATION_WORD, RING_WORD, RING_WORD + 1];
        let invalidation = View::page(ring.map(|word| (word, 0)));
        let (tables, frame) = (Tables::new(), Frame::new());
        let slot = WorkerSlot::new(epochs.without(worker), 0).unwrap();
        let mut device = Worker::new(&tables, invalidation.without(worker));
        // In the IOTLB since long ago.
        let burst = slot.enter();
        device.sync(&burst);
        assert!(device.translate(&burst, VA, Access::Write).is_some());
        burst.leave();
        let first = slot.enter();
        let driver = {
            let (tables, frame) = (tables.clone(), frame.clone());
            let epochs = epochs.without(driver);
            thread::spawn(move || {
                let invalidator = Invalidator::new(invalidation.without(driver), epochs.clone());
                tables.clear(LEAF);
                // 3 is the first of the two bursts.
                let patient = || epochs.load(0, Ordering::Relaxed) != 3;
                // Whether or not it had to be given up.
                let _ = invalidator.invalidate(VA.0, VA.0 + 0x1000, patient);
                frame.reuse();
            })
        };
        device.sync(&first);
        first.leave();
        let second = slot.enter();
        device.sync(&second);
        if device.translate(&second, VA, Access::Write).is_some() {
            frame.access();
        }
        second.leave();
        driver.join().unwrap();
    });
}

#[test]
fn giving_up_loses_the_burst_in_hand_and_no_other() {
    device_comes_back_late(Without::Nothing, Without::Nothing);
}

#[test]
#[should_panic]
fn d2_is_needed_by_a_device_that_comes_back() {
    device_comes_back_late(FULL_FENCE, Without::Nothing);
}

#[test]
#[should_panic]
fn g3_is_needed_when_giving_up() {
    device_comes_back_late(Without::Nothing, FULL_FENCE);
}
