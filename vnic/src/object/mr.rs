// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory regions: windows of permission over an address space. Nothing is pinned or walked here.

use crate::fabric::direct::region::HostRegion;
use crate::object::key;
use crate::object::pd::Pd;
use crate::session::Session;
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use vnic_abi::config::Features;
use vnic_abi::ctrl::AccessFlags;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gva;

/// Where a region lies, and how requests name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// First virtual address.
    pub start: u64,
    /// Length in bytes; 0 is a region that allows nothing.
    pub length: u64,
    /// Address by which requests name the first byte.
    pub iova: u64,
}

impl Window {
    /// How verbs ask for a whole address space, with `ON_DEMAND`.
    pub const IMPLICIT: Self = Self { start: 0, length: u64::MAX, iova: 0 };
}

/// What a driver asks for when it registers a region.
#[derive(Debug, Clone, Copy)]
pub struct MrParams {
    /// Protection domain.
    pub pd: u32,
    /// Rights.
    pub access: AccessFlags,
    /// Place.
    pub window: Window,
}

/// What a driver asks for when it changes a region. What is `None` stays as it is.
#[derive(Debug, Clone, Copy)]
pub struct MrChange {
    /// The region.
    pub mr: u32,
    /// Another protection domain of the same context.
    pub pd: Option<u32>,
    /// Other rights.
    pub access: Option<AccessFlags>,
    /// Another place.
    pub window: Option<Window>,
}

/// A region's names.
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
///
/// It never changes: a changed region is another one under the same handle and key.
#[derive(Debug)]
pub struct Mr {
    /// Handle.
    pub handle: u32,
    /// Key.
    pub key: u32,
    /// Protection domain.
    pub pd: Arc<Pd>,
    access: AccessFlags,
    window: Window,
    /// That of the host behind it, on a port that goes direct, until it is destroyed.
    host: Mutex<Option<HostRegion>>,
    /// Its key for the host's queue pairs.
    host_lkey: Option<u32>,
}

impl Mr {
    fn names(&self) -> MrKeys {
        MrKeys { handle: self.handle, lkey: self.key, rkey: self.key }
    }

    /// The virtual address behind `addr`, if the region allows `access` to `len` bytes there.
    #[inline]
    pub fn check(&self, addr: u64, len: u64, access: AccessFlags) -> Option<Gva> {
        let Window { start, length, iova } = self.window;
        let offset = addr.checked_sub(iova)?;
        let fits = offset <= length && len <= length - offset;
        // The sum cannot wrap: `start + length` was checked when the region was made.
        (fits && self.access.contains(access)).then(|| Gva(start + offset))
    }

    /// The key by which the host's queue pairs know it.
    #[inline]
    pub fn host_lkey(&self) -> Option<u32> {
        self.host_lkey
    }

    /// The virtual address behind its last byte.
    #[inline]
    pub fn end(&self) -> Gva {
        // Does not wrap, as above.
        Gva(self.window.start + self.window.length)
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

    /// Changes whenever a key loses its region or gets another one.
    #[inline]
    pub fn version(&self) -> u64 {
        // Acquire: pairs with the Release in `outdate`.
        self.version.load(Ordering::Acquire)
    }

    /// Makes caches look again. Called after the table has changed, and before the grace period after
    /// which nobody uses what it held.
    fn outdate(&self) {
        // Release: pairs with the Acquire in `version`.
        self.version.fetch_add(1, Ordering::Release);
    }
}

/// The last region that a queue used, so that most lookups touch no shared state.
#[derive(Debug, Default)]
pub struct KeyCache {
    version: u64,
    mr: Option<Arc<Mr>>,
}

impl KeyCache {
    /// The region of `key`. Ask inside a scheduling pass: a destroy or a change waits for passes that
    /// may still use what was there before.
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

/// Keys of the host that are tried for a region before giving up.
const KEYS: usize = 16;

/// Rights that this device knows; asking for others is refused.
const KNOWN: AccessFlags = AccessFlags::LOCAL_WRITE
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC)
    .union(AccessFlags::ZERO_BASED)
    .union(AccessFlags::ON_DEMAND)
    .union(AccessFlags::RELAXED_ORDERING);

impl Session {
    /// Whether a region may have these rights at this place.
    fn judge(&self, access: AccessFlags, window: &Window) -> Result<(), Status> {
        let writes = AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_ATOMIC;
        if !KNOWN.contains(access)
            || (access.intersects(writes) && !access.contains(AccessFlags::LOCAL_WRITE))
        {
            return Err(Status::BadAttribute);
        }
        let Window { start, length, iova } = *window;
        if start.checked_add(length).is_none() || iova.checked_add(length).is_none() {
            return Err(Status::BadSize);
        }
        let on_demand = access.contains(AccessFlags::ON_DEMAND);
        let implicit = self.features.contains(Features::IMPLICIT_MR);
        if *window == Window::IMPLICIT && on_demand && !implicit {
            return Err(Status::Unsupported);
        }
        // A region that is nearly everything is no better than one that is.
        if length > self.limits.max_mr_size && !(on_demand && implicit) {
            return Err(Status::BadSize);
        }
        Ok(())
    }

    /// Registers a region.
    ///
    /// # Errors
    ///
    /// `BadHandle`; `BadSize` if a sum wraps or the region is too long; `Unsupported` for an implicit
    /// region that was not negotiated; `BadAttribute` for rights that verbs refuse; `Limit`.
    pub fn mr_create(self: &Arc<Self>, params: MrParams) -> Result<MrKeys, Status> {
        let MrParams { pd, access, window } = params;
        self.judge(access, &window)?;
        let pd = self.pd_acquire(pd)?;
        let made = (|| {
            let host = self.host_region(&pd, &window, access)?;
            let mut keys = self.keys.map.write();
            let key = match &host {
                // The host's, which peers name.
                Some(host) if keys.contains_key(&host.rkey()) => return Err(Status::Limit),
                Some(host) => host.rkey(),
                None => key::fresh(&keys, 32, 1)?,
            };
            let host_lkey = host.as_ref().map(HostRegion::lkey);
            let host = Mutex::new(host);
            let pd = pd.clone();
            let mr = self.mrs.lock().insert_with(|handle| {
                Ok(Mr { handle, key, pd, access, window, host, host_lkey })
            })?;
            keys.insert(key, mr.clone());
            Ok(mr.names())
        })();
        if made.is_err() {
            pd.release();
        }
        made
    }

    /// The region of the host behind a new one, if this port goes direct. One of a whole address space has none, and neither
    /// has one of nothing: no device of a host has such.
    fn host_region(
        self: &Arc<Self>,
        pd: &Pd,
        window: &Window,
        access: AccessFlags,
    ) -> Result<Option<HostRegion>, Status> {
        let (Some(direct), Some(host)) = (&self.direct, &pd.host) else { return Ok(None) };
        if window.length == 0 || *window == Window::IMPLICIT {
            return Ok(None);
        }
        // As ibv_reg_mr_iova(3) has it, and devices believe it.
        if !(window.start ^ window.iova).is_multiple_of(vnic_abi::PAGE_SIZE) {
            return Err(Status::Unsupported);
        }
        let mut taken = Vec::new();
        // Those are kept until the end, so that the host does not give their keys again.
        while taken.len() < KEYS {
            let space = &pd.ctx.space;
            let made = HostRegion::register(self, direct, &*host.pd, space, window, access)?;
            // A device that has come back gives keys that regions of the lost one have still.
            if !self.keys.map.read().contains_key(&made.rkey()) {
                return Ok(Some(made));
            }
            taken.push(made);
        }
        Err(Status::Limit)
    }

    /// Changes a region, whose key stays. After the return no access uses what the region was before;
    /// a request under way may have used that for its beginning.
    ///
    /// # Errors
    ///
    /// `Unsupported` on a port that goes direct, where the key is the host's; those of [`Self::mr_create`], `BadHandle` also for a protection domain of another context. The
    /// region is then as it was.
    pub fn mr_modify(&self, change: MrChange) -> Result<MrKeys, Status> {
        if self.direct.is_some() {
            return Err(Status::Unsupported);
        }
        let pd = change.pd.map(|pd| self.pd_acquire(pd)).transpose()?;
        let changed = self.mr_replace(&change, pd.as_ref());
        match (&changed, &pd) {
            // The region has left its old domain for the new one, or has not left it.
            (Ok((_, old)), Some(_)) => old.pd.release(),
            (Err(_), Some(new)) => new.release(),
            (_, None) => {}
        }
        let (names, _) = changed?;
        self.keys.outdate();
        self.device.grace().synchronize();
        Ok(names)
    }

    /// Puts the changed region in both tables; returns the one of before.
    fn mr_replace(
        &self,
        change: &MrChange,
        pd: Option<&Arc<Pd>>,
    ) -> Result<(MrKeys, Arc<Mr>), Status> {
        // Both locks, in the order of `mr_create`: two changes, or a change and a destruction, do not
        // mix.
        let mut keys = self.keys.map.write();
        let mut mrs = self.mrs.lock();
        let old = mrs.get(change.mr)?;
        let pd = pd.unwrap_or(&old.pd);
        if !Arc::ptr_eq(&pd.ctx, &old.pd.ctx) {
            return Err(Status::BadHandle);
        }
        let access = change.access.unwrap_or(old.access);
        let window = change.window.unwrap_or(old.window);
        self.judge(access, &window)?;
        let (handle, key) = (old.handle, old.key);
        let (pd, host) = (pd.clone(), Mutex::default());
        let mr = Arc::new(Mr { handle, key, pd, access, window, host, host_lkey: None });
        let old = mrs.replace(handle, mr.clone())?;
        let names = mr.names();
        keys.insert(key, mr);
        Ok((names, old))
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
            // Whoever still has the region uses no more of it than its bounds.
            drop(mr.host.lock().take());
            mr.pd.release();
        }
        self.keys.outdate();
        self.device.grace().synchronize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::testing::{session, session_with};
    use proptest::prelude::*;

    fn region(start: u64, length: u64, iova: u64, access: AccessFlags) -> (Arc<Session>, Arc<Mr>) {
        let (session, pd) = session();
        let window = Window { start, length, iova };
        let keys = session.mr_create(MrParams { pd, access, window }).unwrap();
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
            let window = Window { start, length, iova };
            session.mr_create(MrParams { pd, access, window }).map(drop)
        };
        let none = AccessFlags::empty();
        assert_eq!(mr(1, u64::MAX, 0, none), Err(Status::BadSize));
        assert_eq!(mr(0, 2, u64::MAX - 1, none), Err(Status::BadSize));
        assert_eq!(mr(0, 1, 0, AccessFlags::REMOTE_WRITE), Err(Status::BadAttribute));
        assert_eq!(mr(0, 1, 0, AccessFlags::from_bits_retain(1 << 9)), Err(Status::BadAttribute));
    }

    #[test]
    fn only_who_negotiated_it_has_the_whole_address_space_in_one_region() {
        let (none, on_demand) = (AccessFlags::empty(), AccessFlags::ON_DEMAND);
        let (most, least) = (1 << 44, (1 << 44) + 1);
        let whole = u64::MAX;
        for (features, start, length, access, wanted) in [
            (Features::empty(), 0, whole, on_demand, Err(Status::Unsupported)),
            (Features::empty(), 0, whole, none, Err(Status::BadSize)),
            (Features::empty(), 0, whole - 1, on_demand, Err(Status::BadSize)),
            (Features::empty(), 4096, whole - 4096, on_demand, Err(Status::BadSize)),
            (Features::empty(), 0, least, on_demand, Err(Status::BadSize)),
            (Features::empty(), 0, most, none, Ok(())),
            (Features::IMPLICIT_MR, 0, whole, on_demand, Ok(())),
            (Features::IMPLICIT_MR, 0, whole, none, Err(Status::BadSize)),
            (Features::IMPLICIT_MR, 4096, least, on_demand, Ok(())),
            (Features::IMPLICIT_MR, 4096, least, none, Err(Status::BadSize)),
        ] {
            let (session, pd) = session_with(features);
            let window = Window { start, length, iova: start };
            let made = session.mr_create(MrParams { pd, access, window });
            assert_eq!(made.map(drop), wanted, "{features:?} {window:x?} {access:?}");
            // A change is judged by what would become of the region.
            let small = Window { start: 0, length: 1, iova: 0 };
            let mr =
                session.mr_create(MrParams { pd, access: none, window: small }).unwrap().handle;
            let change = MrChange { mr, pd: None, access: Some(access), window: Some(window) };
            assert_eq!(session.mr_modify(change).map(drop), wanted, "{window:x?} {access:?}");
            let change = MrChange { access: Some(none), window: None, ..change };
            let back = session.mr_modify(change).map(drop);
            assert_eq!(back.is_ok(), wanted.is_err() || length <= most, "{window:x?}");
        }
    }

    #[test]
    fn a_change_is_whole_or_nothing() {
        let all = AccessFlags::LOCAL_WRITE | AccessFlags::REMOTE_WRITE;
        let (session, mr) = region(0x1000, 0x1000, 0x1000, all);
        let ctx = mr.pd.ctx.handle;
        let own = mr.pd.handle;
        let users = |pd: u32| session.pds.lock().get(pd).unwrap().users.load(Ordering::Relaxed);
        let other = session.pd_create(ctx).unwrap();
        let foreign = {
            let pasid = mr.pd.ctx.space.table.pasid();
            let ctx = session.ctx_create(pasid, vnic_iommu::addr::Gpa(0x4000)).unwrap();
            session.pd_create(ctx).unwrap()
        };
        let nothing = MrChange { mr: mr.handle, pd: None, access: None, window: None };
        let wraps = Window { start: 2, length: u64::MAX - 1, iova: 0 };
        let remote = Some(AccessFlags::REMOTE_WRITE);
        let moved = Window { start: 0x8000, length: 0x2000, iova: 0 };
        for (change, status) in [
            (MrChange { mr: mr.handle + 1, ..nothing }, Status::BadHandle),
            (MrChange { pd: Some(own + 77), ..nothing }, Status::BadHandle),
            (MrChange { pd: Some(foreign), window: Some(moved), ..nothing }, Status::BadHandle),
            (MrChange { pd: Some(other), window: Some(wraps), ..nothing }, Status::BadSize),
            (MrChange { pd: Some(other), access: remote, ..nothing }, Status::BadAttribute),
        ] {
            assert_eq!(session.mr_modify(change), Err(status), "{change:?}");
            let found = session.keys.get(mr.key).unwrap();
            assert!(Arc::ptr_eq(&found, &mr), "{change:?}");
            assert_eq!([own, other, foreign].map(users), [1, 0, 0], "{change:?}");
        }

        let mut cache = KeyCache::default();
        assert!(cache.get(&session.keys, mr.key).unwrap().check(0x1000, 1, all).is_some());
        let change = MrChange { pd: Some(other), window: Some(moved), ..nothing };
        let names = session.mr_modify(change).unwrap();
        assert_eq!(names, mr.names());
        assert_eq!([own, other, foreign].map(users), [0, 1, 0]);
        let now = cache.get(&session.keys, mr.key).unwrap();
        assert_eq!(now.check(0, 0x2000, all), Some(Gva(0x8000)));
        assert_eq!(now.check(0x2000, 1, AccessFlags::empty()), None);
        assert_eq!(now.pd.handle, other);
        // To the domain that it is in; and what is not named stays.
        let read = Some(AccessFlags::REMOTE_READ);
        session.mr_modify(MrChange { pd: Some(other), access: read, ..nothing }).unwrap();
        let now = cache.get(&session.keys, mr.key).unwrap();
        assert_eq!(now.check(0, 1, AccessFlags::REMOTE_READ), Some(Gva(0x8000)));
        assert_eq!(now.check(0, 1, AccessFlags::LOCAL_WRITE), None);
        assert_eq!([own, other].map(users), [0, 1]);
        session.pd_destroy(own).unwrap();
        assert_eq!(session.pd_destroy(other), Err(Status::Busy));
        session.mr_destroy(mr.handle).unwrap();
        session.pd_destroy(other).unwrap();
        assert_eq!(session.mr_modify(change), Err(Status::BadHandle));
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
