// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory regions: windows of permission over an address space. Nothing is pinned or walked here.

use crate::object::key;
use crate::object::pd::Pd;
use crate::session::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::ctrl::AccessFlags;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gva;

/// What a driver asks for when it registers a region.
#[derive(Debug, Clone, Copy)]
pub struct MrParams {
    /// Protection domain.
    pub pd: u32,
    /// Rights.
    pub access: AccessFlags,
    /// First virtual address.
    pub start: u64,
    /// Length in bytes; 0 is a region that allows nothing.
    pub length: u64,
    /// Address by which requests name the first byte.
    pub iova: u64,
}

/// A new region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MrKeys {
    /// Handle for destruction.
    pub handle: u32,
    /// Local key.
    pub lkey: u32,
    /// Remote key.
    pub rkey: u32,
}

/// A memory region. Its one key serves as local and as remote key, as verbs allow.
#[derive(Debug)]
pub struct Mr {
    /// Handle.
    pub handle: u32,
    /// Key.
    pub key: u32,
    /// Protection domain.
    pub pd: Arc<Pd>,
    access: AccessFlags,
    start: u64,
    length: u64,
    iova: u64,
}

impl Mr {
    /// The virtual address behind `addr`, if the region allows `access` to `len` bytes there.
    #[inline]
    pub fn check(&self, addr: u64, len: u64, access: AccessFlags) -> Option<Gva> {
        let offset = addr.checked_sub(self.iova)?;
        let fits = offset <= self.length && len <= self.length - offset;
        // The sum cannot wrap: `start + length` was checked when the region was made.
        (fits && self.access.contains(access)).then(|| Gva(self.start + offset))
    }
}

/// Regions by key, and a version that tells caches when to look again.
#[derive(Debug, Default)]
pub struct KeyTable {
    map: parking_lot::RwLock<std::collections::HashMap<u32, Arc<Mr>>>,
    version: AtomicU64,
}

impl KeyTable {
    /// The region of a key.
    pub fn get(&self, key: u32) -> Option<Arc<Mr>> {
        self.map.read().get(&key).cloned()
    }

    /// Changes whenever a key loses its region.
    #[inline]
    pub fn version(&self) -> u64 {
        // Acquire: pairs with the Release in `remove`.
        self.version.load(Ordering::Acquire)
    }
}

/// The last region that a queue used, so that most lookups touch no shared state.
#[derive(Debug, Default)]
pub struct KeyCache {
    version: u64,
    mr: Option<Arc<Mr>>,
}

impl KeyCache {
    /// The region of `key`. Ask inside a scheduling pass: a destroy waits for passes that may still
    /// use what it removed.
    #[inline]
    pub fn get(&mut self, keys: &KeyTable, key: u32) -> Option<&Arc<Mr>> {
        let version = keys.version();
        if self.version != version || self.mr.as_ref().is_none_or(|mr| mr.key != key) {
            self.mr = keys.get(key);
            self.version = version;
        }
        self.mr.as_ref()
    }

    /// Forgets the region.
    pub fn clear(&mut self) {
        self.mr = None;
    }
}

/// Rights that this device knows; asking for others is refused.
const KNOWN: AccessFlags = AccessFlags::LOCAL_WRITE
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC)
    .union(AccessFlags::ZERO_BASED)
    .union(AccessFlags::ON_DEMAND)
    .union(AccessFlags::RELAXED_ORDERING);

impl Session {
    /// Registers a region.
    ///
    /// # Errors
    ///
    /// `BadHandle`, `BadSize` if a sum wraps, `BadAttribute` for rights that verbs refuse, `Limit`.
    pub fn mr_create(&self, params: MrParams) -> Result<MrKeys, Status> {
        let MrParams { pd, access, start, length, iova } = params;
        let writes = AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_ATOMIC;
        if !KNOWN.contains(access)
            || (access.intersects(writes) && !access.contains(AccessFlags::LOCAL_WRITE))
        {
            return Err(Status::BadAttribute);
        }
        if start.checked_add(length).is_none() || iova.checked_add(length).is_none() {
            return Err(Status::BadSize);
        }
        let pd = self.pd_acquire(pd)?;
        let made = (|| {
            let mut keys = self.keys.map.write();
            let key = key::fresh(&keys, 32, 1)?;
            let mr = self.mrs.lock().insert_with(|handle| {
                Ok(Mr { handle, key, pd: pd.clone(), access, start, length, iova })
            })?;
            keys.insert(key, mr.clone());
            Ok(MrKeys { handle: mr.handle, lkey: key, rkey: key })
        })();
        if made.is_err() {
            pd.release();
        }
        made
    }

    /// Ends a region. After the return no access uses its key.
    ///
    /// # Errors
    ///
    /// `BadHandle`.
    pub fn mr_destroy(&self, handle: u32) -> Result<(), Status> {
        self.mrs.lock().get(handle)?;
        self.mrs_remove(&[handle]);
        Ok(())
    }

    /// Ends several regions for the price of one grace period.
    pub(crate) fn mrs_remove(&self, handles: &[u32]) {
        for &handle in handles {
            let Ok(mr) = self.mrs.lock().remove(handle) else { continue };
            self.keys.map.write().remove(&mr.key);
            mr.pd.release();
        }
        // Release: pairs with the Acquire in `version`.
        self.keys.version.fetch_add(1, Ordering::Release);
        self.device.grace().synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::session;
    use proptest::prelude::*;

    fn region(start: u64, length: u64, iova: u64, access: AccessFlags) -> (Arc<Session>, Arc<Mr>) {
        let (session, pd) = session();
        let keys = session.mr_create(MrParams { pd, access, start, length, iova }).unwrap();
        let mr = session.keys.get(keys.lkey).unwrap();
        (session, mr)
    }

    proptest! {
        #[test]
        fn a_window_never_allows_more_than_its_bytes(
            start in 0u64..1 << 40, length in 0u64..1 << 20, iova in 0u64..1 << 40,
            addr in any::<u64>(), near in -4096i64..1 << 21, len in any::<u64>(), short in 0u64..1 << 21,
        ) {
            let (_session, mr) = region(start, length, iova, AccessFlags::LOCAL_WRITE);
            for (addr, len) in [(addr, len), (iova.wrapping_add_signed(near), short)] {
                let inside = u128::from(addr) >= u128::from(iova)
                    && u128::from(addr) + u128::from(len) <= u128::from(iova) + u128::from(length);
                let got = mr.check(addr, len, AccessFlags::empty());
                prop_assert_eq!(got.map(|va| va.0), inside.then(|| start + (addr.wrapping_sub(iova))));
                prop_assert!(mr.check(addr, len, AccessFlags::REMOTE_READ).is_none());
            }
        }
    }

    #[test]
    fn sums_that_wrap_and_strange_rights_are_refused() {
        let (session, pd) = session();
        let mr = |start, length, iova, access| {
            session.mr_create(MrParams { pd, access, start, length, iova }).map(drop)
        };
        let none = AccessFlags::empty();
        assert_eq!(mr(1, u64::MAX, 0, none), Err(Status::BadSize));
        assert_eq!(mr(0, 2, u64::MAX - 1, none), Err(Status::BadSize));
        assert_eq!(mr(0, u64::MAX, 0, none), Ok(()));
        assert_eq!(mr(0, 1, 0, AccessFlags::REMOTE_WRITE), Err(Status::BadAttribute));
        assert_eq!(mr(0, 1, 0, AccessFlags::from_bits_retain(1 << 9)), Err(Status::BadAttribute));
    }

    #[test]
    fn a_cache_forgets_with_the_table() {
        let (session, mr) = region(0, 4096, 0, AccessFlags::empty());
        let mut cache = KeyCache::default();
        assert!(cache.get(&session.keys, mr.key).is_some());
        session.mr_destroy(mr.handle).unwrap();
        assert!(cache.get(&session.keys, mr.key).is_none());
        assert_eq!(session.mr_destroy(mr.handle), Err(Status::BadHandle));
    }
}
