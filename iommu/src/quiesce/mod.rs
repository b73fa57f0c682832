// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Taking a page away from a device that is running: the epoch protocol, both halves.
//!
//! Two kinds of page in guest memory, both given by the driver, all words 64-bit little-endian:
//!
//! - the **epoch page**, one per VM and port: a slot of 64 bytes for each of 64 workers. The first
//!   word of slot *i* is the epoch of worker *i*, odd while the worker is inside a burst of accesses.
//!   Only the device writes it, and the device never reads it.
//! - the **invalidation page**, one per address space: the generation at offset 0, and from offset 64
//!   a ring of 32 entries `{ start, end }`, `end` exclusive; `(0, u64::MAX)` means everything. The
//!   entry of generation *g*, counted from 1, is at index `(g - 1) % 32`. Only the driver writes it.
//!
//! | device: [`Burst`], [`InvalidationReader`] | driver: [`Invalidator`] |
//! |---|---|
//! | D1 epoch = odd (Release) | G1 clear the page-table entry |
//! | D2 **fence SeqCst** | G2 write the ring entry (Release), then generation (Release) |
//! | D3 load generation (Acquire); if it moved, read the ring and drop what it names | G3 **fence SeqCst** |
//! | D4 translate, access | G4 load each epoch (Acquire); where odd, wait until it differs |
//! | D5 epoch = even (Release) | G5 reuse the page |
//!
//! *D2 pairs with G3.* Either D2 comes first in the single order of SeqCst fences, then G4 sees the
//! odd epoch and waits; or G3 comes first, then D3 sees the new generation and a walk in D4 sees the
//! cleared entry. Without one of the two fences both sides may miss each other, and the device writes
//! to a page that has a new owner.
//!
//! *D5 pairs with G4*: when the driver sees the epoch move, every access of that burst has happened.
//! D1 is a Release for the same reason: the driver may see the next burst's odd value instead of
//! D5's, and a plain store would not carry the accesses of the burst before it.
//!
//! *G2 pairs with D3*: who sees the generation sees its ring entry. An entry may be overwritten while
//! it is read; since entry stores are themselves Release and ordered after the generations before
//! them, a second look at the generation behind an Acquire fence tells (see [`InvalidationReader`]).
//!
//! The wait in G4 is bounded by the length of a burst, and against a dead device by the caller's own
//! limit. Hostile values cost the guest its own cache, never the device more than a bounded effort.

mod driver;
mod grace;
mod page;
mod reader;
mod sabotage;
mod worker;

pub use driver::{Invalidator, TimedOut};
pub use grace::{Grace, Marks};
pub use page::{GuestPage, SharedWords, full_fence, full_fence_after_swap};
pub use reader::{Dropped, InvalidationReader};
pub use sabotage::sabotage;
pub(crate) use sabotage::{Step, leaves_out};
pub use worker::{Burst, MAX_BURST_SLOTS, WorkerSlot};

/// Workers that an epoch page has slots for.
pub const EPOCH_SLOTS: usize = 64;
/// Distance in 64-bit words between two slots: a cache line each.
pub const EPOCH_SLOT_WORDS: usize = 8;
/// Word of the invalidation page that holds the generation.
pub const GENERATION_WORD: usize = 0;
/// Word of the invalidation page that the device writes: the last generation that has left its windows.
pub const ACKNOWLEDGED_WORD: usize = 1;
/// Word of the invalidation page at which the ring begins.
pub const RING_WORD: usize = 8;
/// Entries in the ring.
pub const RING_ENTRIES: u64 = 32;
/// Words in a ring entry: start, and the exclusive end.
pub const RING_ENTRY_WORDS: usize = 2;

/// The word of the ring entry that belongs to `generation`, which counts from 1.
const fn ring_word(generation: u64) -> usize {
    let index = generation.wrapping_sub(1) % RING_ENTRIES;
    RING_WORD + index as usize * RING_ENTRY_WORDS
}
