// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The sleeping device against a posting driver, on a model checker's memory.

use std::boxed::Box;
use std::sync::atomic::{AtomicU32 as StdU32, Ordering::Relaxed as StdRelaxed};

use loom::sync::Arc;
use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::{BitmapWord, Doorbell, DoorbellIndex, NeedKick, ring};

/// The bitmap word on the checker's memory. The checker knows sequential consistency for fences only,
/// and takes a sequentially consistent access for an acquiring or releasing one. So what one
/// instruction does in the real word is an OR and a fence here.
struct Word {
    value: AtomicU64,
    fenced: bool,
}

impl BitmapWord for Word {
    fn set(&self, mask: u64) {
        self.value.fetch_or(mask, Ordering::Release);
        if self.fenced {
            fence(Ordering::SeqCst);
        }
    }
}

impl NeedKick for AtomicU32 {
    fn get(&self) -> u32 {
        self.load(Ordering::Relaxed)
    }
}

/// A driver posts one element while the device goes to sleep. Afterwards the device must have seen
/// the element, or sleep with a kick pending.
fn race(fenced: bool) {
    loom::model(move || {
        let element = Arc::new(AtomicU64::new(0));
        let word = Arc::new(Word { value: AtomicU64::new(0), fenced });
        let need_kick = Arc::new(AtomicU32::new(0));
        let kicked = Arc::new(AtomicU32::new(0));

        let device = {
            let (element, word, need_kick) = (element.clone(), word.clone(), need_kick.clone());
            loom::thread::spawn(move || {
                need_kick.store(1, Ordering::Relaxed);
                fence(Ordering::SeqCst);
                if word.value.swap(0, Ordering::Acquire) == 0 {
                    return false;
                }
                assert_eq!(element.load(Ordering::Relaxed), 1, "a bit without its element");
                true
            })
        };

        element.store(1, Ordering::Relaxed);
        let kick = || kicked.store(1, Ordering::Relaxed);
        ring(&*word, &*need_kick, 1 << 5, &kick);

        let seen = device.join().unwrap();
        assert!(seen || kicked.load(Ordering::Relaxed) == 1, "the device sleeps on work");
    });
}

#[test]
fn no_wake_up_is_lost() {
    race(true);
}

#[test]
#[should_panic(expected = "the device sleeps on work")]
fn a_wake_up_is_lost_without_the_fence() {
    race(false);
}

/// What a kick leads to: a sleeping worker wakes, and one that is about to sleep does not.
struct Bed {
    kicked: AtomicU32,
    /// No kick will follow.
    last: AtomicU32,
}

impl Bed {
    fn sleep(&self) {
        loop {
            let last = self.last.load(Ordering::Acquire) == 1;
            if self.kicked.swap(0, Ordering::AcqRel) == 1 {
                return;
            }
            // Said here and not left to the checker, which cannot unwind out of a deadlock.
            assert!(!last, "the device sleeps on work");
            loom::thread::yield_now();
        }
    }
}

/// A worker takes doorbells, sleeps when there are none, wakes, and sleeps again, while a driver posts
/// two elements. It ends with the second one, so that it must not sleep after the last kick.
fn sleep_and_wake(driver_fenced: bool, device_fenced: bool) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let element = Arc::new(AtomicU64::new(0));
        let word = Arc::new(Word { value: AtomicU64::new(0), fenced: driver_fenced });
        let need_kick = Arc::new(AtomicU32::new(0));
        let bed = Arc::new(Bed { kicked: AtomicU32::new(0), last: AtomicU32::new(0) });

        let device = {
            let (element, word, need_kick, bed) =
                (element.clone(), word.clone(), need_kick.clone(), bed.clone());
            loom::thread::spawn(move || {
                while element.load(Ordering::Relaxed) != 2 {
                    if word.value.swap(0, Ordering::Acquire) != 0 {
                        continue;
                    }
                    need_kick.store(1, Ordering::Release);
                    if device_fenced {
                        fence(Ordering::SeqCst);
                    }
                    if word.value.load(Ordering::Acquire) == 0 {
                        bed.sleep();
                    }
                    need_kick.store(0, Ordering::Release);
                }
            })
        };

        let kick = || {
            // An exchange: the checker puts a plain store between the halves of the other one.
            bed.kicked.swap(1, Ordering::AcqRel);
        };
        for count in 1..=2 {
            element.store(count, Ordering::Relaxed);
            ring(&*word, &*need_kick, 1 << 5, &kick);
        }
        bed.last.store(1, Ordering::Release);
        device.join().unwrap();
    });
}

#[test]
fn a_worker_wakes_for_every_element() {
    sleep_and_wake(true, true);
}

#[test]
#[should_panic(expected = "the device sleeps on work")]
fn a_worker_sleeps_for_ever_without_its_own_fence() {
    sleep_and_wake(true, false);
}

#[test]
#[should_panic(expected = "the device sleeps on work")]
fn a_worker_sleeps_for_ever_without_the_drivers_fence() {
    sleep_and_wake(false, true);
}

/// A page of the right alignment.
#[repr(align(4096))]
struct Page([u64; 512]);

#[test]
#[allow(unsafe_code, reason = "raw memory shared with the device")]
fn ringing_sets_one_bit_and_kicks_only_a_sleeping_device() {
    let page = Box::into_raw(Box::new(Page([0; 512])));
    let kicks = StdU32::new(0);
    let kick = || {
        kicks.fetch_add(1, StdRelaxed);
    };
    // SAFETY: a page of our own, used by this thread only.
    let bell = unsafe { Doorbell::new(core::ptr::NonNull::new(page.cast()).unwrap(), kick) };
    // SAFETY: the page lives until the end of the test; nothing else uses it during a call.
    let word = |i: usize| unsafe { (*page).0[i] };

    for index in [0, 63, 64, 16383] {
        bell.ring(DoorbellIndex::new(index).unwrap());
        assert_eq!(word(8 + index as usize / 64) >> (index % 64) & 1, 1);
    }
    assert_eq!((word(8), word(9), word(8 + 255)), (1 | 1 << 63, 1, 1 << 63));
    assert_eq!(kicks.load(StdRelaxed), 0);

    // SAFETY: as above.
    unsafe { (*page).0[0] = 1 };
    bell.ring(DoorbellIndex::new(7).unwrap());
    assert_eq!(kicks.load(StdRelaxed), 1);
    assert_eq!(DoorbellIndex::new(16384), None);

    // SAFETY: made by `into_raw` above, not used again.
    drop(unsafe { Box::from_raw(page) });
}
