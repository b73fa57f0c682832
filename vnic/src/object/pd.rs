// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Protection domains: what ties regions to the queue pairs that may use them.

use crate::fabric::direct::nic::{Nic, NicPd};
use crate::object::ctx::Ctx;
use crate::session::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use vnic_abi::status::Status;

/// A protection domain.
#[derive(Debug)]
pub struct Pd {
    /// Handle.
    pub handle: u32,
    /// Owner.
    pub ctx: Arc<Ctx>,
    /// That of the host behind it, on a port that goes direct.
    pub host: Option<HostPd>,
    /// Regions and queue pairs in it.
    pub(crate) users: AtomicU32,
}

/// A protection domain of the host.
#[derive(Debug, Clone)]
pub struct HostPd {
    /// The device that it is of.
    pub nic: Arc<dyn Nic>,
    /// The domain.
    pub pd: Arc<dyn NicPd>,
}

impl Pd {
    /// Counts one more user. Called with the table of domains locked, so that a destroy cannot miss
    /// it.
    pub(crate) fn acquire(&self) {
        // Relaxed: the table's lock orders it.
        self.users.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts one user less.
    pub(crate) fn release(&self) {
        // Relaxed: a destroy that still sees the user answers `Busy`, which is no lie.
        self.users.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Session {
    /// Allocates a protection domain.
    ///
    /// # Errors
    ///
    /// `BadHandle`, `Limit`.
    pub fn pd_create(&self, ctx: u32) -> Result<u32, Status> {
        let ctx = self.ctxs.lock().get(ctx)?.clone();
        let host = self.direct.as_ref().map(|direct| {
            let nic = direct.nic();
            nic.pd().map(|pd| HostPd { nic, pd })
        });
        let host = host.transpose().map_err(|error| {
            tracing::warn!(%error, "the host's device does not make a protection domain");
            Status::Limit
        })?;
        let pd = self
            .pds
            .lock()
            .insert_with(|handle| Ok(Pd { handle, ctx, host, users: AtomicU32::new(0) }))?;
        Ok(pd.handle)
    }

    /// Frees a protection domain.
    ///
    /// # Errors
    ///
    /// `BadHandle`; `Busy` if a region or a queue pair is in it.
    pub fn pd_destroy(&self, handle: u32) -> Result<(), Status> {
        let mut pds = self.pds.lock();
        // Relaxed: see `acquire`.
        if pds.get(handle)?.users.load(Ordering::Relaxed) != 0 {
            return Err(Status::Busy);
        }
        pds.remove(handle).map(drop)
    }

    /// The domain, with one more user.
    pub(crate) fn pd_acquire(&self, handle: u32) -> Result<Arc<Pd>, Status> {
        let pds = self.pds.lock();
        let pd = pds.get(handle)?;
        pd.acquire();
        Ok(pd.clone())
    }
}
