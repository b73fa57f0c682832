// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Shared pages in the checker's memory, and what a side leaves out so that a model must fail.

use std::sync::atomic::Ordering;

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::sync::atomic::{AtomicU64, fence};
use loom::thread;
use vnic_iommu::quiesce::{GENERATION_WORD, RING_WORD, SharedWords};

/// Runs `model` in every interleaving; with at most `preemptions` of them where all are too many.
pub fn check(preemptions: Option<usize>, model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = preemptions;
    builder.max_branches = 10_000;
    builder.check(model);
}

/// An access or a fence that is as weak as can be, or missing.
#[derive(Clone, Copy)]
pub enum Without {
    /// Nothing is left out.
    Nothing,
    /// Fences of this order do nothing.
    Fence(Ordering),
    /// Stores for which this holds of word and value are relaxed.
    Release(fn(usize, u64) -> bool),
    /// Loads of words for which this holds are relaxed.
    Acquire(fn(usize) -> bool),
}

/// The full fence of either side.
pub const FULL_FENCE: Without = Without::Fence(Ordering::SeqCst);
/// D1 carries nothing.
pub const ENTERING: Without = Without::Release(|_, epoch| epoch % 2 == 1);
/// D5 carries nothing.
pub const LEAVING: Without = Without::Release(|_, epoch| epoch % 2 == 0);
/// The generation carries nothing, G2.
pub const PUBLISHING: Without = Without::Release(|word, _| word == GENERATION_WORD);
/// Entries of the ring carry nothing, G2.
pub const RECORDING: Without = Without::Release(|word, _| word >= RING_WORD);
/// The look at a generation or an epoch takes nothing in, D3 or G4.
pub const LOOKING: Without = Without::Acquire(|_| true);

/// One side's view of a shared page.
#[derive(Clone)]
pub struct View {
    /// The words that matter; every other one is always 0, and costs the model nothing.
    words: Arc<Vec<(usize, AtomicU64)>>,
    without: Without,
}

impl View {
    /// A page in which these words matter.
    pub fn page(words: impl IntoIterator<Item = (usize, u64)>) -> Self {
        let words = words.into_iter().map(|(word, value)| (word, AtomicU64::new(value)));
        Self { words: Arc::new(words.collect()), without: Without::Nothing }
    }

    /// The same page for somebody who leaves something out.
    pub fn without(&self, without: Without) -> Self {
        Self { words: self.words.clone(), without }
    }

    fn word(&self, word: usize) -> Option<&AtomicU64> {
        self.words.iter().find(|(index, _)| *index == word).map(|(_, value)| value)
    }
}

impl SharedWords for View {
    fn load(&self, word: usize, order: Ordering) -> u64 {
        let order = match self.without {
            Without::Acquire(left_out) if left_out(word) => Ordering::Relaxed,
            _ => order,
        };
        self.word(word).map_or(0, |value| value.load(order))
    }

    fn store(&self, word: usize, value: u64, order: Ordering) {
        let order = match self.without {
            Without::Release(left_out) if left_out(word, value) => Ordering::Relaxed,
            _ => order,
        };
        self.word(word).expect("a word of the model").store(value, order);
    }

    fn fence(&self, order: Ordering) {
        match self.without {
            Without::Fence(left_out) if left_out == order => {}
            _ => fence(order),
        }
    }

    fn spin(&self) {
        thread::yield_now();
    }
}

/// A page that the device accesses and the driver gives to somebody else. Reports any two accesses
/// that nothing orders, and any that comes too late.
#[derive(Clone)]
pub struct Frame(Arc<UnsafeCell<bool>>);

#[allow(unsafe_code)] // reason: the cell is the model's detector
impl Frame {
    /// Still the process's.
    pub fn new() -> Self {
        Self(Arc::new(UnsafeCell::new(false)))
    }

    /// The device reads or writes it.
    pub fn access(&self) {
        // SAFETY: a race with `reuse` is what the checker looks for; devices do not race here.
        self.0.with(|reused| assert!(!unsafe { *reused }, "an access to a reused page"));
    }

    /// It has a new owner.
    pub fn reuse(&self) {
        // SAFETY: as above.
        self.0.with_mut(|reused| unsafe { *reused = true });
    }
}
