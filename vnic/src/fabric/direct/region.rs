// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest's memory region as one of the host.

use super::Direct;
use super::nic::{NicMr, NicPd};
use super::shadow::{GuestPages, ShadowWindow};
use super::window::Window;
use crate::object::mr::Window as Place;
use crate::object::space::Space;
use crate::session::Session;
use std::sync::Arc;
use vnic_abi::ctrl::AccessFlags;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gva;

/// The region. It goes before its window does.
#[derive(Debug)]
pub struct HostRegion {
    mr: Box<dyn NicMr>,
    _view: View,
}

/// What the device sees of the guest's memory.
#[derive(Debug)]
enum View {
    /// Pages that stay.
    Pinned(Window),
    /// Pages that come and go.
    Shadow(ShadowWindow),
}

impl View {
    fn addr(&self) -> *mut u8 {
        match self {
            Self::Pinned(window) => window.addr(),
            Self::Shadow(window) => window.addr(),
        }
    }
}

/// Rights that mean something to the host.
const RIGHTS: AccessFlags = AccessFlags::LOCAL_WRITE
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC);

impl HostRegion {
    /// Registers what lies at `place` in `space` of `session`.
    ///
    /// # Errors
    ///
    /// As [`Window::of_pages`]; `Limit` if the host's device does not register it.
    pub fn register(
        session: &Arc<Session>,
        direct: &Direct,
        pd: &dyn NicPd,
        space: &Arc<Space>,
        place: &Place,
        access: AccessFlags,
    ) -> Result<Self, Status> {
        let writes = access.contains(AccessFlags::LOCAL_WRITE);
        let (slot, budget) = (&direct.slot, &direct.budget);
        let (start, length) = (place.start, place.length);
        let view = match direct.shadows() {
            Some(shadows) => {
                let pages = Arc::new(GuestPages::new(session, space));
                View::Shadow(ShadowWindow::open(shadows, pages, start, length, writes, budget)?)
            }
            None => {
                View::Pinned(Window::of_pages(space, Gva(start), length, writes, slot, budget)?)
            }
        };
        let on_demand = matches!(view, View::Shadow(_));
        let mr = pd
            .register(view.addr(), length, place.iova, access & RIGHTS, on_demand)
            .map_err(|error| {
                let name = direct.device();
                tracing::warn!(%error, device = name, bytes = place.length,
                    "the host's device does not register a region; is RLIMIT_MEMLOCK (ulimit -l) large enough?");
                Status::Limit
            })?;
        Ok(Self { mr, _view: view })
    }

    /// The host's key for its own queue pairs.
    pub fn lkey(&self) -> u32 {
        self.mr.lkey()
    }

    /// The host's key for peers.
    pub fn rkey(&self) -> u32 {
        self.mr.rkey()
    }
}
