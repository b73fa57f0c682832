// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A device for tests that makes nothing.

use super::nic::{Nic, NicLimits, NicPd};
use crate::object::gid::Gid;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The device.
#[derive(Debug)]
pub struct FakeNic {
    /// What it says that it can do.
    pub limits: NicLimits,
    /// Addresses that it was given and not lost.
    pub addresses: Mutex<Vec<Gid>>,
    /// An address that the host has by itself.
    pub of_the_host: Option<Gid>,
    pins: Option<String>,
    lost: AtomicBool,
    event: OwnedFd,
}

impl FakeNic {
    /// One that is there, and wants pages to stay if there is a reason.
    pub fn new(pins: Option<&str>) -> Self {
        let limits =
            NicLimits { max_sge: 16, max_depth: 1024, max_rd_atomic: 16, max_inline: 64, mtu: 3 };
        Self {
            limits,
            addresses: Mutex::default(),
            of_the_host: None,
            pins: pins.map(str::to_owned),
            lost: AtomicBool::new(false),
            event: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).unwrap(),
        }
    }

    /// It is removed.
    pub fn lose(&self) {
        // Relaxed: tests have one thread.
        self.lost.store(true, Ordering::Relaxed);
    }
}

impl Nic for FakeNic {
    fn name(&self) -> &str {
        "fake0"
    }

    fn limits(&self) -> NicLimits {
        self.limits
    }

    fn source(&self, gid: &Gid) -> Option<u8> {
        let index = self.addresses.lock().iter().position(|own| own == gid);
        index.and_then(|index| u8::try_from(index).ok())
    }

    fn add_address(&self, gid: &Gid) -> io::Result<()> {
        if self.is_lost() {
            return Err(io::ErrorKind::NotFound.into());
        }
        let mut addresses = self.addresses.lock();
        if addresses.contains(gid) || self.of_the_host == Some(*gid) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        addresses.push(*gid);
        Ok(())
    }

    fn remove_address(&self, gid: &Gid) {
        self.addresses.lock().retain(|own| own != gid);
    }

    fn pd(&self) -> io::Result<Arc<dyn NicPd>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn event(&self, _: usize) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn take_events(&self, _: usize, _: &mut dyn FnMut(u32)) {}

    fn pins(&self) -> Option<&str> {
        self.pins.as_deref()
    }

    fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}
