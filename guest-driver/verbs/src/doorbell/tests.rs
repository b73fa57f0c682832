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
