// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Where the pages of a guest's process are: its own page table says so, and its kernel is asked for those that are not
//! there.

use super::{Found, Pages};
use crate::object::space::Space;
use crate::session::Session;
use std::sync::{Arc, Weak};
use std::time::Instant;
use vnic_abi::PAGE_SIZE;
use vnic_iommu::addr::Gva;
use vnic_iommu::fault::{Waiter, Wish};
use vnic_iommu::memory::Backing;
use vnic_iommu::walk::Access;

/// Marks a waiter that is no queue pair.
pub const FAULT: u32 = 1 << 30;

/// The pages of a process.
pub struct GuestPages {
    session: Weak<Session>,
    space: Arc<Space>,
}

impl GuestPages {
    /// Those of `space`, which is of `session`.
    pub fn new(session: &Arc<Session>, space: &Arc<Space>) -> Self {
        Self { session: Arc::downgrade(session), space: space.clone() }
    }
}

fn access(write: bool) -> Access {
    if write { Access::Write } else { Access::Read }
}

/// The name of a fault as a waiter.
fn waiter(fault: u32) -> u32 {
    FAULT | (fault & (FAULT - 1))
}

impl Pages for GuestPages {
    fn find(&self, va: u64, write: bool) -> Found {
        let Some(session) = self.session.upgrade() else { return Found::Never };
        let Some(direct) = &session.direct else { return Found::Never };
        let slot = direct.slot.lock();
        let burst = slot.enter();
        if !self.space.is_bound() {
            return Found::Never;
        }
        let walked = self.space.table.walk(Gva(va), access(write));
        drop(burst);
        match walked {
            Ok(leaf) => {
                let rest = (1u64 << leaf.page_shift) - (leaf.gpa.0 & ((1 << leaf.page_shift) - 1));
                let backing = self.space.table.ram().load().backing(leaf.gpa);
                backing.map_or(Found::Never, |backing| {
                    Found::Page(Backing { len: backing.len.min(rest), ..backing })
                })
            }
            Err(fault) if fault.is_recoverable() => Found::Missing,
            Err(_) => Found::Never,
        }
    }

    fn ask(&self, va: u64, write: bool, fault: u32) -> bool {
        let Some(session) = self.session.upgrade() else { return false };
        let Some(shadows) = session.direct.as_ref().and_then(|direct| direct.shadows()) else {
            return false;
        };
        let (who, device) = (waiter(fault), &session.device);
        device.faults().lock().insert(who, (Arc::downgrade(shadows), fault));
        let pasid = self.space.table.pasid();
        let wish = Wish {
            claimant: session.claimant(&session, pasid),
            pasid,
            va: Gva(va),
            len: PAGE_SIZE,
            ahead: 0,
            access: access(write),
        };
        // One that is deferred is sent when its turn comes, for which the keeper looks.
        session.request_pages(wish, Waiter { who, wait: device.next_wait() }, Instant::now());
        // An unbind that did not see the request cannot have cancelled it.
        let bound = self.space.is_bound();
        if !bound {
            self.forget(fault);
        }
        bound
    }

    fn forget(&self, fault: u32) {
        let Some(session) = self.session.upgrade() else { return };
        session.device.faults().lock().remove(&waiter(fault));
        session.forget_page_waiter(waiter(fault));
    }

    fn space(&self) -> u64 {
        self.space.table.id()
    }
}
