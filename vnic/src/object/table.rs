// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Handles: a table of one kind of object, bounded, with generations.

use std::sync::Arc;
use vnic_abi::status::Status;

/// Bits of a handle that name the slot; the rest count how often the slot was used.
const INDEX_BITS: u32 = 20;
const INDEX_MASK: u32 = (1 << INDEX_BITS) - 1;
const GENERATIONS: u32 = 1 << (32 - INDEX_BITS);

#[derive(Debug)]
struct Slot<T> {
    /// From 1, so that 0 is never a handle.
    generation: u32,
    value: Option<Arc<T>>,
}

/// Objects of one kind, by handle.
///
/// A handle of a destroyed object does not come back until its slot was reused 4095 times, and a
/// handle of another kind names nothing here but by accident of number; owners are checked by the
/// caller.
#[derive(Debug)]
pub struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
    len: u32,
    limit: u32,
}

impl<T> Table<T> {
    /// An empty table for at most `limit` objects (and never more than 2^20).
    pub fn new(limit: u32) -> Self {
        Self { slots: Vec::new(), free: Vec::new(), len: 0, limit: limit.min(INDEX_MASK + 1) }
    }

    /// Number of objects.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Whether there is no object.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Puts the object that `make` builds from its handle.
    ///
    /// # Errors
    ///
    /// [`Status::Limit`] if the table is full; what `make` returns otherwise.
    pub fn insert_with(
        &mut self,
        make: impl FnOnce(u32) -> Result<T, Status>,
    ) -> Result<Arc<T>, Status> {
        if self.len >= self.limit {
            return Err(Status::Limit);
        }
        let index = match self.free.last() {
            Some(&index) => index,
            None => {
                let index = self.slots.len() as u32;
                self.slots.push(Slot { generation: 1, value: None });
                self.free.push(index);
                index
            }
        };
        let slot = &mut self.slots[index as usize];
        let value = Arc::new(make(slot.generation << INDEX_BITS | index)?);
        slot.value = Some(value.clone());
        self.free.pop();
        self.len += 1;
        Ok(value)
    }

    /// The object of a handle.
    ///
    /// # Errors
    ///
    /// [`Status::BadHandle`] if there is none.
    pub fn get(&self, handle: u32) -> Result<&Arc<T>, Status> {
        self.slots
            .get((handle & INDEX_MASK) as usize)
            .filter(|slot| slot.generation == handle >> INDEX_BITS)
            .and_then(|slot| slot.value.as_ref())
            .ok_or(Status::BadHandle)
    }

    /// Puts another object in the place of one that keeps its handle; returns the one of before.
    ///
    /// # Errors
    ///
    /// [`Status::BadHandle`] if there is none.
    pub fn replace(&mut self, handle: u32, value: Arc<T>) -> Result<Arc<T>, Status> {
        self.get(handle)?;
        let slot = &mut self.slots[(handle & INDEX_MASK) as usize];
        slot.value.replace(value).ok_or(Status::BadHandle)
    }

    /// Takes the object of a handle out.
    ///
    /// # Errors
    ///
    /// [`Status::BadHandle`] if there is none.
    pub fn remove(&mut self, handle: u32) -> Result<Arc<T>, Status> {
        self.get(handle)?;
        let index = handle & INDEX_MASK;
        let slot = &mut self.slots[index as usize];
        slot.generation = (slot.generation % (GENERATIONS - 1)) + 1;
        self.free.push(index);
        self.len -= 1;
        slot.value.take().ok_or(Status::BadHandle)
    }

    /// Every object.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<T>> {
        self.slots.iter().filter_map(|slot| slot.value.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    #[test]
    fn the_limit_holds_and_a_failed_make_takes_nothing() {
        let mut table = Table::new(1);
        assert_eq!(table.insert_with(|_| Err::<u8, _>(Status::BadSize)), Err(Status::BadSize));
        table.insert_with(|_| Ok(1)).unwrap();
        assert_eq!(table.insert_with(|_| Ok(2)), Err(Status::Limit));
    }

    proptest! {
        #[test]
        fn behaves_as_a_map_with_fresh_handles(ops in prop::collection::vec((0u8..5, any::<u8>()), 0..400)) {
            let mut table = Table::new(32);
            let mut model = HashMap::new();
            let mut dead = Vec::new();
            for (op, n) in ops {
                let live = model.keys().nth(n as usize % model.len().max(1)).copied();
                if op < 2 {
                    match table.insert_with(|h| Ok((h, n))) {
                        Ok(value) => prop_assert!(model.insert(value.0, n).is_none() && value.0 != 0),
                        Err(_) => prop_assert_eq!(model.len(), 32),
                    }
                } else if let (2, Some(handle)) = (op, live) {
                    let old = table.replace(handle, Arc::new((handle, n))).unwrap();
                    prop_assert_eq!(Some(old.1), model.insert(handle, n));
                } else if let Some(handle) = live {
                    prop_assert_eq!(table.remove(handle).unwrap().1, model.remove(&handle).unwrap());
                    dead.push(handle);
                }
                for handle in &dead {
                    let value = Arc::new((*handle, n));
                    prop_assert!(model.contains_key(handle) || table.replace(*handle, value).is_err());
                }
                prop_assert_eq!(table.len() as usize, model.len());
                for (handle, n) in &model {
                    prop_assert_eq!(table.get(*handle).unwrap().1, *n);
                }
            }
        }
    }
}
