// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Bound address spaces.

use crate::fabric::direct::Direct;
use crate::session::Session;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use vnic_abi::ctrl::PagingMode as WireMode;
use vnic_abi::status::Status;
use vnic_iommu::addr::Gpa;
use vnic_iommu::pasid::{AddressSpace, BindError};
use vnic_iommu::walk::PagingMode;

/// An address space that the driver bound.
#[derive(Debug)]
pub struct Space {
    /// Page table and invalidation page.
    pub table: AddressSpace,
    bound: AtomicBool,
}

impl Space {
    /// Whether the driver still keeps it bound. Ask inside a scheduling pass: an unbind waits for
    /// passes that began before it.
    pub fn is_bound(&self) -> bool {
        // Acquire: pairs with the Release in `unbind`.
        self.bound.load(Ordering::Acquire)
    }

    /// Ends the use of the page table; the caller waits for a grace period afterwards.
    pub fn unbind(&self) {
        // Release: pairs with the Acquire in `is_bound`.
        self.bound.store(false, Ordering::Release);
    }
}

impl Session {
    /// Binds an address space and returns its PASID.
    ///
    /// # Errors
    ///
    /// `Unsupported` paging mode, `BadAddress`, `Limit`.
    pub fn pasid_bind(
        &self,
        root: Gpa,
        mode: WireMode,
        invalidation_page: Gpa,
    ) -> Result<u32, Status> {
        let mode = match mode {
            WireMode::X86Level4 => PagingMode::Level4,
            WireMode::X86Level5 => PagingMode::Level5,
            _ => return Err(Status::Unsupported),
        };
        let mut spaces = self.spaces.lock();
        let space = spaces.insert_with(|pasid| {
            let table = AddressSpace::new(pasid, self.ram.clone(), root, mode, invalidation_page)
                .map_err(|error| match error {
                BindError::ReservedPasid => Status::BadHandle,
                BindError::Root(_) | BindError::InvalidationPage(_) => Status::BadAddress,
            })?;
            Ok(Space { table, bound: AtomicBool::new(true) })
        })?;
        Ok(space.table.pasid())
    }

    /// Unbinds an address space. After the return no worker reads its page table.
    ///
    /// # Errors
    ///
    /// `BadHandle`.
    pub fn pasid_unbind(&self, pasid: u32) -> Result<(), Status> {
        let space = self.spaces.lock().remove(pasid)?;
        self.end_space(&space);
        Ok(())
    }

    /// Stops every use of `space`, waits for it, and lets those that wait for its pages fail.
    pub(crate) fn end_space(&self, space: &Arc<Space>) {
        space.unbind();
        self.device.grace().synchronize();
        if let Some(shadows) = self.direct.as_ref().and_then(Direct::shadows) {
            shadows.release(&space.table);
        }
        self.cancel_pages(space.table.pasid());
    }
}
