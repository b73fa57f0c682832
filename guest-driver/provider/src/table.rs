// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Queue pairs of a context by their number.

use core::ptr;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Mutex, PoisonError};

/// One level for each eight bits of a number. Numbers are random, so that wide levels would be
/// nearly empty.
const WIDTH: usize = 256;

type Level<T> = [AtomicPtr<T>; WIDTH];

fn level<T>() -> Level<T> {
    [const { AtomicPtr::new(ptr::null_mut()) }; WIDTH]
}

/// A map from 24-bit numbers to objects of which it owns nothing.
///
/// Looking up takes no lock. Levels, once made, stay until the table goes.
pub(crate) struct Table<T> {
    top: Level<Level<Level<T>>>,
    /// Held to change the table.
    change: Mutex<()>,
}

impl<T> Table<T> {
    pub(crate) fn new() -> Self {
        Self { top: level(), change: Mutex::new(()) }
    }

    /// What is set for `number`, or null.
    pub(crate) fn get(&self, number: u32) -> *mut T {
        let Some([high, middle, low]) = digits(number) else { return ptr::null_mut() };
        // Acquire, each: pairs with the releasing stores in `set` and `child`, so that a level is
        // visible with its address, and an object with its own.
        let middles = self.top[high].load(Ordering::Acquire);
        if middles.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: levels live as long as the table.
        let middles = unsafe { &*middles };
        let lows = middles[middle].load(Ordering::Acquire);
        if lows.is_null() {
            return ptr::null_mut();
        }
        // SAFETY: as above.
        let lows = unsafe { &*lows };
        lows[low].load(Ordering::Acquire)
    }

    /// Changes what is set for `number`: `change` is called with it and returns what shall be set.
    /// One change at a time; numbers above 24 bits are ignored.
    pub(crate) fn set(&self, number: u32, change: impl FnOnce(*mut T) -> *mut T) {
        let Some([high, middle, low]) = digits(number) else { return };
        // The lock guards no data, so that a panic under it spoils none.
        let _held = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let middles = child(&self.top[high]);
        let lows = child(&middles[middle]);
        let slot = &lows[low];
        // Relaxed: changed under the lock only. Release: pairs with the loads in `get`.
        slot.store(change(slot.load(Ordering::Relaxed)), Ordering::Release);
    }
}

/// The level below a slot, made if there is none. Called under the table's lock.
fn child<T>(slot: &AtomicPtr<Level<T>>) -> &Level<T> {
    // Relaxed: set under the lock only.
    let mut below = slot.load(Ordering::Relaxed);
    if below.is_null() {
        below = Box::into_raw(Box::new(level()));
        // Release: pairs with the loads in `get`.
        slot.store(below, Ordering::Release);
    }
    // SAFETY: made above or earlier in the same way; it lives as long as the table.
    unsafe { &*below }
}

/// The three eight-bit parts of a 24-bit number.
fn digits(number: u32) -> Option<[usize; 3]> {
    let [top, high, middle, low] = number.to_be_bytes();
    (top == 0).then_some([high.into(), middle.into(), low.into()])
}

impl<T> Drop for Table<T> {
    fn drop(&mut self) {
        for high in &mut self.top {
            if high.get_mut().is_null() {
                continue;
            }
            // SAFETY: made by `Box::into_raw` in `child`, and freed here only.
            let mut middles = unsafe { Box::from_raw(*high.get_mut()) };
            for middle in middles.iter_mut() {
                if !middle.get_mut().is_null() {
                    // SAFETY: as above.
                    drop(unsafe { Box::from_raw(*middle.get_mut()) });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_kept_apart() {
        let mut objects: Vec<u32> = vec![0, 1, 0xff, 0x100, 0x1_0000, 0xff_ffff, 0xab_cdef];
        let table = Table::new();
        for object in &mut objects {
            let number = *object;
            let pointer: *mut u32 = object;
            table.set(number, |old: *mut u32| {
                assert!(old.is_null());
                pointer
            });
        }
        for object in &objects {
            assert!(ptr::eq(table.get(*object), object));
        }
        assert!(table.get(2).is_null() && table.get(0x20_0000).is_null());
        table.set(0x100, |_| ptr::null_mut());
        assert!(table.get(0x100).is_null() && !table.get(0xff).is_null());
    }

    #[test]
    fn numbers_that_do_not_exist_find_nothing() {
        let table: Table<u32> = Table::new();
        table.set(u32::MAX, |_| panic!("must not be called"));
        assert!(table.get(u32::MAX).is_null() && table.get(1 << 24).is_null());
    }
}
