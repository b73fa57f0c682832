// SPDX-License-Identifier: Apache-2.0 OR MIT
//! GIDs: the addresses by which ports of one network find each other.

use crate::session::Session;
use crate::wire::hello::Port;
use parking_lot::{Condvar, Mutex, RwLock};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use vnic_abi::ctrl::GidType;
use vnic_abi::status::Status;

/// A GID in network byte order.
pub type Gid = [u8; 16];

/// A session by number, and the session itself while it lives.
type Holder = (u64, Weak<Session>);

/// Who holds which address in which network.
#[derive(Debug, Default)]
pub struct GidRegistry {
    holders: RwLock<HashMap<(Arc<str>, Gid), Holder>>,
    /// How often that changed.
    version: Mutex<u64>,
    changed: Condvar,
}

impl GidRegistry {
    /// The session that holds `gid` in `network`.
    pub fn find(&self, network: &Arc<str>, gid: &Gid) -> Option<Arc<Session>> {
        self.holders.read().get(&(network.clone(), *gid))?.1.upgrade()
    }

    /// Every address of every port that is there.
    pub fn all(&self) -> Vec<Port> {
        let holders = self.holders.read();
        let live = holders.iter().filter_map(|((network, gid), (_, session))| {
            let port = session.upgrade()?.port_number();
            Some(Port { network: network.as_ref().into(), gid: *gid, port })
        });
        live.collect()
    }

    /// How often it changed.
    pub fn version(&self) -> u64 {
        *self.version.lock()
    }

    /// Waits until it is another than `version`, or for so long. The version then.
    pub fn wait_for_change(&self, version: u64, time: Duration) -> u64 {
        let mut now = self.version.lock();
        if *now == version {
            self.changed.wait_for(&mut now, time);
        }
        *now
    }

    /// Ends every [`Self::wait_for_change`].
    pub fn wake_listeners(&self) {
        *self.version.lock() += 1;
        self.changed.notify_all();
    }

    fn claim(&self, session: &Arc<Session>, gid: Gid) -> Result<(), Status> {
        let mut holders = self.holders.write();
        let entry = (session.uid, Arc::downgrade(session));
        match holders.entry((session.network.clone(), gid)) {
            std::collections::hash_map::Entry::Occupied(mut held) => {
                if held.get().0 != session.uid && held.get().1.strong_count() != 0 {
                    return Err(Status::Exists);
                }
                held.insert(entry);
            }
            std::collections::hash_map::Entry::Vacant(free) => {
                free.insert(entry);
            }
        }
        drop(holders);
        self.wake_listeners();
        Ok(())
    }

    fn release(&self, session: &Session, gid: Gid) {
        let mut holders = self.holders.write();
        let key = (session.network.clone(), gid);
        if holders.get(&key).is_some_and(|(uid, _)| *uid == session.uid) {
            holders.remove(&key);
        }
        drop(holders);
        self.wake_listeners();
    }
}

impl Session {
    /// Puts a GID into the table.
    ///
    /// # Errors
    ///
    /// `BadAttribute` for an index or type that does not exist, or the zero GID; `Exists` if another
    /// port of the network holds it.
    pub fn gid_set(self: &Arc<Self>, index: u32, kind: GidType, gid: Gid) -> Result<(), Status> {
        if gid == [0; 16] || kind.name().is_none() {
            return Err(Status::BadAttribute);
        }
        let mut gids = self.gids.lock();
        let slot = gids.get(index as usize).copied().ok_or(Status::BadAttribute)?;
        self.device.gids().claim(self, gid)?;
        if let Some(direct) = &self.direct
            && !gids.contains(&Some(gid))
        {
            direct.add_address(&gid);
        }
        gids[index as usize] = Some(gid);
        if let Some(old) = slot
            && !gids.contains(&slot)
        {
            self.release_gid(old);
        }
        Ok(())
    }

    /// Empties an entry of the GID table.
    ///
    /// # Errors
    ///
    /// `BadAttribute` for an index that does not exist.
    pub fn gid_clear(&self, index: u32) -> Result<(), Status> {
        let mut gids = self.gids.lock();
        let old = gids.get_mut(index as usize).ok_or(Status::BadAttribute)?.take();
        if let Some(gid) = old
            && !gids.contains(&old)
        {
            self.release_gid(gid);
        }
        Ok(())
    }

    /// The device that this port goes direct by is another one.
    pub(crate) fn renew_addresses(&self) {
        let Some(direct) = &self.direct else { return };
        // Held as when one is set or cleared, which has to come before or after.
        let gids = self.gids.lock();
        let own: HashSet<_> = gids.iter().flatten().collect();
        own.into_iter().for_each(|gid| direct.renew_address(gid));
    }

    fn release_gid(&self, gid: Gid) {
        self.device.gids().release(self, gid);
        if let Some(direct) = &self.direct {
            direct.remove_address(&gid);
        }
    }

    /// Whether this port holds `gid`.
    pub(crate) fn holds_gid(&self, gid: &Gid) -> bool {
        self.gids.lock().contains(&Some(*gid))
    }

    /// Gives all addresses back.
    pub(crate) fn release_gids(&self) {
        for slot in self.gids.lock().iter_mut() {
            if let Some(gid) = slot.take() {
                self.release_gid(gid);
            }
        }
    }
}
