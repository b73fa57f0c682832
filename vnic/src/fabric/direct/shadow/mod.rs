// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Windows whose pages come when a device of the host needs them, and go when the guest takes them away: nothing is
//! pinned.
//!
//! A device that pages on demand takes a fault where a window has no page. All windows are under userfaultfd(2), so
//! that a thread hears of it, finds the guest's page by the guest's own table, asks the guest for it if need be, and
//! maps it from the file behind the guest's memory. What a guest invalidates is taken out of the window's page table, by
//! which the host's kernel takes it from the device before the guest is told that it is done.
//!
//! | module | is |
//! |---|---|
//! | [`keeper`] | the thread, and what it knows |
//! | [`map`] | pages go into windows and come out |
//! | [`guest`] | where the pages of a guest's process are |
//! | [`invalidate`] | what guests take away |
//! | [`trial`] | whether a device is sound enough for it |

mod guest;
mod invalidate;
mod keeper;
mod map;
#[cfg(test)]
mod tests;
pub mod trial;

use super::window::{WindowBudget, whole_pages};
pub use guest::{FAULT, GuestPages};
pub use keeper::{Keeper, Shadows};
use std::sync::Arc;
use vnic_abi::PAGE_SIZE;
use vnic_abi::status::Status;
use vnic_iommu::memory::Backing;

/// What is known of a page.
#[derive(Debug)]
pub enum Found {
    /// It is here, as it was asked for, with what lies behind it in one piece.
    Page(Backing),
    /// It may come if somebody is asked for it.
    Missing,
    /// It cannot be had.
    Never,
}

/// Where the pages of a window are.
pub trait Pages: Send + Sync {
    /// The page at `va`, to be written or only read.
    fn find(&self, va: u64, write: bool) -> Found;

    /// Asks for it on behalf of fault `fault`, which will be answered by [`Shadows::answer`]. `false` if nobody can be asked.
    fn ask(&self, va: u64, write: bool, fault: u32) -> bool;

    /// Fault `fault` waits no longer.
    fn forget(&self, fault: u32);

    /// Of which address space they are, for [`Shadows::take_away`].
    fn space(&self) -> u64;
}

/// A window, until it is dropped.
#[derive(Debug)]
pub struct ShadowWindow {
    shadows: Arc<Shadows>,
    start: usize,
    len: usize,
    offset: usize,
    budget: Arc<WindowBudget>,
}

impl ShadowWindow {
    /// A window on `len` bytes at `va` of `pages`, which its device may write to if `writes`.
    ///
    /// # Errors
    ///
    /// `BadSize` if it is no range of a process; `Limit` if the budget or the operating system has no room.
    pub fn open(
        shadows: &Arc<Shadows>,
        pages: Arc<dyn Pages>,
        va: u64,
        len: u64,
        writes: bool,
        budget: &Arc<WindowBudget>,
    ) -> Result<Self, Status> {
        let (offset, bytes) = whole_pages(va, len)?;
        let count = bytes as u64 / PAGE_SIZE;
        budget.take_pages(count)?;
        match shadows.open(pages, va - offset, bytes, writes) {
            Ok(start) => {
                let (shadows, budget) = (shadows.clone(), budget.clone());
                Ok(Self { shadows, start, len: bytes, offset: offset as usize, budget })
            }
            Err(error) => {
                budget.give_pages(count);
                tracing::warn!(%error, "cannot make a window for a device of the host");
                Err(Status::Limit)
            }
        }
    }

    /// Where the region's first byte is.
    pub fn addr(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.start + self.offset)
    }
}

impl Drop for ShadowWindow {
    fn drop(&mut self) {
        self.shadows.close(self.start, self.len);
        self.budget.give_pages(self.len as u64 / PAGE_SIZE);
    }
}
