// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Without devices of the host there are no windows for them.

use crate::object::space::Space;
use crate::session::Session;
use std::io;
use std::sync::{Arc, Weak};
use vnic_abi::status::Status;
use vnic_iommu::pasid::AddressSpace;

use super::window::WindowBudget;

/// Marks a waiter that is no queue pair.
pub const FAULT: u32 = 1 << 30;

/// There are none.
#[derive(Debug)]
pub enum Shadows {}

impl Shadows {
    /// Has the thread look at everything.
    pub fn ring(&self) {
        match *self {}
    }

    /// An address space is not walked any more.
    pub fn release(&self, _: &AddressSpace) {
        match *self {}
    }

    /// Fault `fault` was answered.
    pub fn answer(&self, _: u32, _: bool) {
        match *self {}
    }
}

/// There is none.
#[derive(Debug)]
pub enum Keeper {}

impl Keeper {
    /// Not in this program.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn start(_: Weak<Session>) -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// The windows.
    pub fn shadows(&self) -> &Arc<Shadows> {
        match *self {}
    }
}

/// The pages of a process.
#[derive(Debug)]
pub struct GuestPages;

impl GuestPages {
    /// Those of `space`.
    pub fn new(_: &Arc<Session>, _: &Arc<Space>) -> Self {
        Self
    }
}

/// There is none.
#[derive(Debug)]
pub enum ShadowWindow {}

impl ShadowWindow {
    /// Not in this program.
    ///
    /// # Errors
    ///
    /// Always.
    pub fn open(
        shadows: &Arc<Shadows>,
        _: Arc<GuestPages>,
        _: u64,
        _: u64,
        _: bool,
        _: &Arc<WindowBudget>,
    ) -> Result<Self, Status> {
        match **shadows {}
    }

    /// Where the region's first byte is.
    pub fn addr(&self) -> *mut u8 {
        match *self {}
    }
}
