// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Links: the peer daemons that are there now, and which ports each one has.

use crate::object::gid::Gid;
use parking_lot::{Mutex, RwLock};
use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

/// Source of [`Link::id`]. Relaxed throughout: only uniqueness matters.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A port of a peer daemon.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemotePort {
    /// Its network.
    pub network: Arc<str>,
    /// One of its addresses.
    pub gid: Gid,
    /// Its number, by which its daemon knows it.
    pub port: u32,
}

/// A peer daemon, from the time when it was found until it is lost. When it comes back there is another one.
pub struct Link {
    /// Number that is never used again.
    pub id: u64,
    /// Name of the peer, as the configuration has it.
    pub peer: Arc<str>,
    /// Networks whose ports may reach ports of the peer; `None` for all.
    networks: Option<Vec<Arc<str>>>,
    ports: RwLock<HashMap<(Arc<str>, Gid), u32>>,
    lost: AtomicBool,
    why: OnceLock<String>,
    on_lost: Mutex<Option<Box<dyn FnOnce() + Send>>>,
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("id", &self.id)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// To `peer`, of which no port is known yet.
    pub fn new(peer: &str, networks: Option<Vec<Arc<str>>>) -> Arc<Self> {
        Arc::new(Self {
            // Relaxed: see `NEXT`.
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            peer: peer.into(),
            networks,
            ports: RwLock::default(),
            lost: AtomicBool::new(false),
            why: OnceLock::new(),
            on_lost: Mutex::new(None),
        })
    }

    /// Whether ports of `network` may reach the peer.
    pub fn allows(&self, network: &str) -> bool {
        self.networks.as_ref().is_none_or(|allowed| allowed.iter().any(|one| &**one == network))
    }

    /// Takes over the list of all ports of the peer. Those in networks that it has no part in are left out.
    pub fn set_ports(&self, ports: impl IntoIterator<Item = RemotePort>) {
        let ports = ports.into_iter().filter(|port| self.allows(&port.network));
        let ports = ports.map(|RemotePort { network, gid, port }| ((network, gid), port)).collect();
        // A statement of its own: the old map is dropped without the lock.
        let _old = std::mem::replace(&mut *self.ports.write(), ports);
    }

    /// The port of the peer that holds `gid` in `network`.
    pub fn port(&self, network: &Arc<str>, gid: &Gid) -> Option<u32> {
        self.ports.read().get(&(network.clone(), *gid)).copied()
    }

    /// Whether it was lost. Nothing comes back from that.
    #[inline]
    pub fn is_lost(&self) -> bool {
        // Acquire: pairs with the Release in `lose`.
        self.lost.load(Ordering::Acquire)
    }

    /// Why it was lost, if it was.
    pub fn why(&self) -> Option<&str> {
        self.why.get().map(String::as_str)
    }

    /// Number of the peer's addresses that are known.
    pub fn addresses(&self) -> usize {
        self.ports.read().len()
    }

    /// Calls `then` when the link is lost; at once if it was.
    pub fn on_lost(&self, then: impl FnOnce() + Send + 'static) {
        *self.on_lost.lock() = Some(Box::new(then));
        if self.is_lost() {
            self.tell();
        }
    }

    /// It is lost.
    pub fn lose(&self, why: &str) {
        let _first = self.why.set(why.to_owned());
        // Release: pairs with the Acquire in `is_lost`.
        self.lost.store(true, Ordering::Release);
        self.tell();
    }

    fn tell(&self) {
        // A statement of its own: `then` runs without the lock.
        let then = self.on_lost.lock().take();
        if let Some(then) = then {
            then();
        }
    }
}

/// All links of a device.
#[derive(Debug, Default)]
pub struct Links {
    all: RwLock<Vec<Arc<Link>>>,
}

impl Links {
    /// Adds one.
    pub fn add(&self, link: &Arc<Link>) {
        self.all.write().push(link.clone());
    }

    /// Removes one.
    pub fn remove(&self, link: &Arc<Link>) {
        self.all.write().retain(|held| !Arc::ptr_eq(held, link));
    }

    /// Those that are there now.
    pub fn all(&self) -> Vec<Arc<Link>> {
        self.all.read().clone()
    }

    /// By which link the port that holds `gid` in `network` is reached, and its number there.
    pub fn find(&self, network: &Arc<str>, gid: &Gid) -> Option<(Arc<Link>, u32)> {
        let all = self.all.read();
        let mut live = all.iter().filter(|link| !link.is_lost());
        live.find_map(|link| Some((link.clone(), link.port(network, gid)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(network: &str, last: u8, port: u32) -> RemotePort {
        let mut gid = [0; 16];
        gid[15] = last;
        RemotePort { network: network.into(), gid, port }
    }

    #[test]
    fn ports_are_found_in_the_networks_that_the_peer_has_a_part_in() {
        let link = Link::new("b", Some(vec!["blue".into()]));
        link.set_ports([port("blue", 1, 7), port("red", 2, 8)]);
        let links = Links::default();
        links.add(&link);
        let found = |network: &str, last| {
            links.find(&network.into(), &port(network, last, 0).gid).map(|(_, port)| port)
        };
        assert_eq!(found("blue", 1), Some(7));
        assert_eq!((found("red", 2), found("red", 1), found("blue", 2)), (None, None, None));
        link.set_ports([port("blue", 3, 9)]);
        assert_eq!((found("blue", 1), found("blue", 3)), (None, Some(9)));
        link.lose("gone");
        assert_eq!(found("blue", 3), None, "nobody is reached by a link that was lost");
        assert_eq!(link.why(), Some("gone"));
    }

    #[test]
    fn whoever_asks_late_is_told_of_the_loss_too() {
        let told = Arc::new(AtomicBool::new(false));
        let link = Link::new("b", None);
        link.lose("gone");
        let flag = told.clone();
        link.on_lost(move || flag.store(true, Ordering::Relaxed));
        assert!(told.load(Ordering::Relaxed));
    }
}
