// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The doorbell page: a bit per queue pair, and a kick only if the device sleeps.
//!
//! Driver: publish the element, set the bit, read `need_kick`. Device that wants to sleep: set
//! `need_kick`, full fence, read the bitmap. Each side writes one word and then reads the other's,
//! so that at least one of them sees what the other wrote (Dekker's argument), provided that
//! neither's read passes its own write. The driver's half of that is [`ring`].

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use vnic_abi::doorbell::{DOORBELL_BITMAP, DOORBELL_BITS, DOORBELL_NEED_KICK};

/// Wakes a device that went to sleep.
pub trait Kick {
    /// Wakes the device. May be called from several threads at once, and when nobody sleeps.
    fn kick(&self);
}

/// Any function can be a kick, e.g. one that writes to an eventfd.
impl<F: Fn()> Kick for F {
    fn kick(&self) {
        self();
    }
}

/// A kick by a store to the notification register of a virtqueue.
#[derive(Debug)]
pub struct MmioKick {
    register: NonNull<u16>,
    value: u16,
}

// SAFETY: the register is one device address, whichever thread writes to it.
#[allow(unsafe_code, reason = "raw memory shared with the device")]
unsafe impl Send for MmioKick {}
// SAFETY: stores to the register do not depend on one another.
#[allow(unsafe_code, reason = "raw memory shared with the device")]
unsafe impl Sync for MmioKick {}

impl MmioKick {
    /// A kick that stores `value` to `register`.
    ///
    /// # Safety
    /// `register` is aligned, stays mapped for writing while the value lives, and a store of
    /// `value` there has no other effect than to notify the device.
    #[allow(unsafe_code, reason = "raw memory shared with the device")]
    pub unsafe fn new(register: NonNull<u16>, value: u16) -> Self {
        Self { register, value }
    }
}

impl Kick for MmioKick {
    #[allow(unsafe_code, reason = "raw memory shared with the device")]
    fn kick(&self) {
        // SAFETY: the contract of `new`.
        unsafe { self.register.as_ptr().write_volatile(self.value.to_le()) }
    }
}

/// The place of a queue pair in the doorbell page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoorbellIndex(u32);

impl DoorbellIndex {
    /// The bit `index`; `None` if the page has no such bit.
    pub const fn new(index: u32) -> Option<Self> {
        if index < DOORBELL_BITS { Some(Self(index)) } else { None }
    }

    /// The number of the bit.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// The doorbell page of a context. All threads of the context share it.
#[derive(Debug)]
pub struct Doorbell<K> {
    page: NonNull<u8>,
    kick: K,
}

// SAFETY: the page is only used through atomic accesses.
#[allow(unsafe_code, reason = "raw memory shared with the device")]
unsafe impl<K: Send> Send for Doorbell<K> {}
// SAFETY: as above; the kick is shared only if it may be.
#[allow(unsafe_code, reason = "raw memory shared with the device")]
unsafe impl<K: Sync> Sync for Doorbell<K> {}

impl<K: Kick> Doorbell<K> {
    /// Uses the doorbell page at `page`.
    ///
    /// # Safety
    /// `page` is page-aligned, mapped for reading and writing while the value lives, and everybody
    /// who uses its words does so atomically.
    #[allow(unsafe_code, reason = "raw memory shared with the device")]
    pub unsafe fn new(page: NonNull<u8>, kick: K) -> Self {
        Self { page, kick }
    }

    /// Tells the device to look at the queues of queue pair `index`.
    ///
    /// Everything that this thread wrote before is visible to the device when it sees the bit.
    #[allow(unsafe_code, reason = "raw memory shared with the device")]
    pub fn ring(&self, index: DoorbellIndex) {
        let word = DOORBELL_BITMAP as usize + (index.0 / 64) as usize * 8;
        // SAFETY: both words lie in the page, since an index is below DOORBELL_BITS; they are aligned,
        // mapped and used atomically by the contract of `new`.
        let (word, need_kick) = unsafe {
            (
                AtomicU64::from_ptr(self.page.as_ptr().add(word).cast()),
                AtomicU32::from_ptr(self.page.as_ptr().add(DOORBELL_NEED_KICK as usize).cast()),
            )
        };
        ring(word, need_kick, 1 << (index.0 % 64), &self.kick);
    }

    /// The way to wake the device.
    pub fn kick(&self) -> &K {
        &self.kick
    }
}

/// A word of the bitmap. A trait, so that the protocol can be run on a model checker's words.
trait BitmapWord {
    /// Sets the bits of `mask`, as a full fence for what the thread does before and after.
    fn set(&self, mask: u64);
}

/// The `need_kick` word.
trait NeedKick {
    /// Reads the word, not before an earlier [`BitmapWord::set`] of this thread.
    fn get(&self) -> u32;
}

impl BitmapWord for AtomicU64 {
    fn set(&self, mask: u64) {
        // SeqCst, as release: pairs with the device's acquiring swap of this word to zero, so that
        // the element is visible with its bit. As part of the total order: it precedes the load in
        // `get`, against the device's store of `need_kick` and the fence behind it.
        self.fetch_or(mask, Ordering::SeqCst);
    }
}

impl NeedKick for AtomicU32 {
    fn get(&self) -> u32 {
        // SeqCst: after the `fetch_or` above in the total order. Pairs with the device's store of
        // `need_kick`, fence, and look at the bitmap: if this load misses the store, it precedes the
        // fence, so does the `fetch_or`, and the look behind the fence finds the bit. On x86-64 this
        // is a plain load.
        self.load(Ordering::SeqCst)
    }
}

/// The driver's half of the protocol.
fn ring(word: &impl BitmapWord, need_kick: &impl NeedKick, mask: u64, kick: &impl Kick) {
    word.set(mask);
    if need_kick.get() != 0 {
        kick.kick();
    }
}

#[cfg(test)]
mod tests;
