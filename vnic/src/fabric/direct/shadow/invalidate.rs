// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What guests take away: their drivers wait until it is out of the windows.

use super::keeper::Shadows;
use crate::object::space::Space;
use crate::session::Session;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use vnic_iommu::pasid::AddressSpace;
use vnic_iommu::quiesce::{
    ACKNOWLEDGED_WORD, Dropped, GENERATION_WORD, InvalidationReader, SharedWords,
};

/// Added to the generation of an address space that is gone: no driver waits for what comes after.
const FOR_GOOD: u64 = 1 << 62;

impl Shadows {
    /// An address space is not walked any more: nothing of it is in a window, and whoever waits for that need not.
    pub fn release(&self, space: &AddressSpace) {
        let Some(page) = space.invalidation() else { return };
        self.take_away(space.id(), 0, u64::MAX);
        let generation = page.load(GENERATION_WORD, Ordering::Acquire);
        // Release: as in `look`.
        page.store(ACKNOWLEDGED_WORD, generation.wrapping_add(FOR_GOOD), Ordering::Release);
    }
}

/// How far each address space, by its own number, was followed.
#[derive(Debug, Default)]
pub struct Taken(HashMap<u64, InvalidationReader>);

impl Taken {
    /// Takes out of the windows what the driver of `session` has announced since, and tells it. The driver has rung after
    /// it announced, so that what it waits for is seen.
    pub fn look(&mut self, shadows: &Shadows, session: &Session) {
        let spaces: Vec<Arc<Space>> = session.spaces.lock().iter().cloned().collect();
        self.0.retain(|id, _| spaces.iter().any(|space| space.table.id() == *id));
        for space in spaces.iter().filter(|space| space.is_bound()) {
            let Some(page) = space.table.invalidation() else { continue };
            let id = space.table.id();
            // Whoever is new has missed everything, and has nothing.
            let reader = self.0.entry(id).or_default();
            reader.sync(page, |dropped| match dropped {
                Dropped::Range { start, end } => shadows.take_away(id, start.0, end.0),
                Dropped::All => shadows.take_away(id, 0, u64::MAX),
            });
            // Release: pairs with the driver's Acquire, behind which it frees the pages.
            page.store(ACKNOWLEDGED_WORD, reader.seen(), Ordering::Release);
            // SeqCst: pairs with the grace period between an unbind and its `release`. Either that comes behind the store
            // above, or the unbind is seen here.
            fence(Ordering::SeqCst);
            if !space.is_bound() {
                shadows.release(&space.table);
            }
        }
    }
}
