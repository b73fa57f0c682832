// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The memory that both halves share, behind a trait so that a model checker can stand in for it.

use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use crate::addr::{Gpa, PAGE_SHIFT, PAGE_SIZE};
use crate::memory::{GuestRam, Mapping};

/// Words in a page.
const WORDS: usize = PAGE_SIZE as usize / size_of::<u64>();

/// A page of 64-bit words shared between device and driver, and the fences between accesses to it.
///
/// The protocol is written against this and nothing else. Word indices are below 512.
pub trait SharedWords {
    /// An atomic load.
    fn load(&self, word: usize, order: Ordering) -> u64;
    /// An atomic store.
    fn store(&self, word: usize, value: u64, order: Ordering);
    /// A fence of the calling thread.
    fn fence(&self, order: Ordering);
    /// Called while waiting for the other side.
    fn spin(&self);
}

/// A page of guest RAM as shared words. Keeps the mapping of its region alive.
#[derive(Clone)]
pub struct GuestPage {
    words: NonNull<[AtomicU64; WORDS]>,
    gpa: Gpa,
    _mapping: Mapping,
}

#[allow(unsafe_code)] // reason: NonNull suppresses the auto traits
// SAFETY: the pointer leads to atomics in a mapping that `_mapping`, Send and Sync itself, keeps alive.
unsafe impl Send for GuestPage {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as for `Send`; the words are only ever accessed atomically.
unsafe impl Sync for GuestPage {}

impl GuestPage {
    /// The page at `gpa`, if it is page-aligned and in RAM.
    pub fn new(ram: &GuestRam, gpa: Gpa) -> Option<Self> {
        if !gpa.is_aligned(PAGE_SHIFT) {
            return None;
        }
        let (host, mapping) = ram.pin(gpa, PAGE_SIZE as usize)?;
        let words = host.as_non_null().cast::<[AtomicU64; WORDS]>();
        words.is_aligned().then_some(Self { words, gpa, _mapping: mapping })
    }

    /// Where the page lies.
    pub const fn gpa(&self) -> Gpa {
        self.gpa
    }

    /// One word, for accesses beyond [`SharedWords`].
    ///
    /// # Panics
    ///
    /// If `word` is not below 512.
    #[inline]
    pub fn word(&self, word: usize) -> &AtomicU64 {
        &self.words()[word]
    }

    #[inline]
    fn words(&self) -> &[AtomicU64; WORDS] {
        #[allow(unsafe_code)] // reason: guest RAM has no Rust owner
        // SAFETY: a whole aligned page of a mapping that `self._mapping` keeps alive; this process only
        // accesses it atomically or by volatile copies, and atomics tolerate the guest's changes.
        unsafe {
            self.words.as_ref()
        }
    }
}

impl SharedWords for GuestPage {
    #[inline]
    fn load(&self, word: usize, order: Ordering) -> u64 {
        self.words()[word].load(order)
    }

    #[inline]
    fn store(&self, word: usize, value: u64, order: Ordering) {
        self.words()[word].store(value, order);
    }

    #[inline]
    fn fence(&self, order: Ordering) {
        match order {
            Ordering::SeqCst => full_fence(),
            order => fence(order),
        }
    }

    #[inline]
    fn spin(&self) {
        std::hint::spin_loop();
    }
}

/// A sequentially consistent fence, at the price of a locked instruction.
///
/// The compiler makes a fence an `mfence`, which on many processors also holds back every later
/// instruction. A locked one orders all ordinary loads and stores before it with those behind it too (Intel
/// 64 and IA-32 Architectures Software Developer's Manual, volume 3, section "Memory Ordering";
/// AMD64 Architecture Programmer's Manual, volume 2, section "Memory Barrier"), and memory of guests is ordinary.
#[inline]
pub fn full_fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[allow(unsafe_code)] // reason: no other way to ask for the instruction
    // SAFETY: adds nothing to the word at the top of the stack. Not `nomem`, so that the compiler moves
    // no access across it.
    unsafe {
        std::arch::asm!("lock or dword ptr [rsp], 0", options(nostack));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    fence(Ordering::SeqCst);
}

/// A sequentially consistent fence that follows an exchange of this thread: on x86-64 that is locked, and
/// has ordered everything already.
#[inline]
pub fn full_fence_after_swap() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    std::sync::atomic::compiler_fence(Ordering::SeqCst);
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    fence(Ordering::SeqCst);
}

impl fmt::Debug for GuestPage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("GuestPage").field(&self.gpa).finish()
    }
}
