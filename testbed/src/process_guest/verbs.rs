// SPDX-License-Identifier: Apache-2.0 OR MIT
//! libibverbs' role: the objects of the verbs, over the driver's commands and the shared data path.
//!
//! Objects keep what they depend on alive and destroy themselves when dropped; a destruction that
//! the device refuses, for another reason than that the connection is gone, fails the test.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;

use vnic_abi::config::Features;
use vnic_abi::ctrl::{AccessFlags, CmdOpcode, Handle, MrCreateReply};
use vnic_abi::status::Status;
use vnic_abi::wqe::Sge;

use super::address_space::{AddressSpace, UserBuffer};
use super::driver::{Driver, GuestOptions, KickFd};
use super::memory::{FRAME, Layout, Pages};

mod cq;
mod held;
mod qp;
mod wr;

pub use cq::Cq;
pub use held::{HeldQp, Payload, Request};
pub use qp::{ConnectOptions, Qp, QpLayout, QpOptions, connect, connect_with};
pub use vnic_verbs::Completion;
pub use wr::SendWr;

/// Everything that a region or queue pair can allow.
pub const ALL_ACCESS: AccessFlags = AccessFlags::LOCAL_WRITE
    .union(AccessFlags::REMOTE_WRITE)
    .union(AccessFlags::REMOTE_READ)
    .union(AccessFlags::REMOTE_ATOMIC);

/// The RoCE v2 GID of an IPv4 address.
pub fn gid_of(address: Ipv4Addr) -> [u8; 16] {
    address.to_ipv6_mapped().octets()
}

/// Destroys an object, quietly if the connection is gone or the object went with its owner.
fn destroy(driver: &Driver, opcode: CmdOpcode, handle: u32) {
    let body = Handle { handle: handle.into(), ..Default::default() };
    match driver.try_call(opcode, &body, 0) {
        Err(_) | Ok((Status::Ok | Status::BadHandle | Status::BadState, _)) => {}
        Ok((status, _)) if std::thread::panicking() => eprintln!("{opcode:?}: {status:?}"),
        Ok((status, _)) => panic!("{opcode:?} of {handle:#x}: {status:?}"),
    }
}

/// A guest with one process that has opened the device: what most tests need.
pub struct Endpoint {
    /// The guest.
    pub driver: Arc<Driver>,
    /// The process's context.
    pub ctx: Arc<Context>,
    /// A protection domain.
    pub pd: Arc<Pd>,
    /// The guest's address, at index 0 of its GID table.
    pub gid: [u8; 16],
}

impl Endpoint {
    /// Boots a guest on the port at `socket`, whose last part of the address is `host`.
    ///
    /// # Panics
    ///
    /// If any step fails.
    pub fn boot(socket: &Path, host: u8) -> Self {
        Self::boot_with(socket, host, GuestOptions::default())
    }

    /// As [`boot`](Self::boot), with options.
    ///
    /// # Panics
    ///
    /// If any step fails.
    pub fn boot_with(socket: &Path, host: u8, options: GuestOptions) -> Self {
        Self::boot_at(socket, Ipv4Addr::new(10, 0, 0, host), options)
    }

    /// As [`boot_with`](Self::boot_with), with an address of any network.
    ///
    /// # Panics
    ///
    /// If any step fails.
    pub fn boot_at(socket: &Path, address: Ipv4Addr, options: GuestOptions) -> Self {
        let driver = Driver::boot_with(socket, options).expect("the guest attaches");
        Self::open_at(&driver, address)
    }

    /// A new process of a running guest, whose address this sets as in [`boot`](Self::boot).
    ///
    /// # Panics
    ///
    /// If any step fails.
    pub fn open(driver: &Arc<Driver>, host: u8) -> Self {
        Self::open_at(driver, Ipv4Addr::new(10, 0, 0, host))
    }

    fn open_at(driver: &Arc<Driver>, address: Ipv4Addr) -> Self {
        let gid = gid_of(address);
        driver.gid_set(0, gid).expect("GID_SET");
        let ctx = Context::open(driver);
        let pd = Pd::new(&ctx);
        Self { driver: Arc::clone(driver), ctx, pd, gid }
    }

    /// The process's address space.
    pub fn space(&self) -> &Arc<AddressSpace> {
        self.ctx.space()
    }

    /// A completion queue.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn cq(&self, depth: u32) -> Arc<Cq> {
        Cq::new(&self.ctx, depth)
    }

    /// A queue pair with default options and one completion queue of its own for both directions.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn qp(&self) -> Qp {
        let cq = self.cq(256);
        Qp::new(&self.pd, &cq, &cq, self.gid, QpOptions::default())
    }

    /// A buffer of present, scattered pages and a region over it that allows everything.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn region(&self, len: u64) -> (UserBuffer, Mr) {
        let buffer = self.space().buffer(len);
        let mr = Mr::of(&self.pd, &buffer, ALL_ACCESS);
        (buffer, mr)
    }

    /// As [`region`](Self::region), but no page is in the page table.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn lazy_region(&self, len: u64) -> (UserBuffer, Mr) {
        let buffer = self.space().lazy_buffer(len);
        let mr = Mr::of(&self.pd, &buffer, ALL_ACCESS);
        (buffer, mr)
    }
}

/// An opened device: a bound address space and a doorbell page.
pub struct Context {
    driver: Arc<Driver>,
    space: Arc<AddressSpace>,
    pasid: u32,
    handle: u32,
    doorbell_page: Arc<Pages>,
}

impl Context {
    /// Opens the device for a new process.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn open(driver: &Arc<Driver>) -> Arc<Self> {
        Self::try_open(driver, driver.new_space()).expect("PASID_BIND and CTX_CREATE")
    }

    /// Opens the device for the process whose memory is `space`.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn try_open(driver: &Arc<Driver>, space: Arc<AddressSpace>) -> Result<Arc<Self>, Status> {
        let pasid = driver.pasid_bind(&space)?;
        driver.serve_space(pasid, &space);
        let doorbell_page = Arc::new(driver.ram().alloc(FRAME, Layout::Scattered));
        let handle = match driver.ctx_create(pasid, doorbell_page.gpa(0)) {
            Ok(handle) => handle,
            Err(status) => {
                destroy(driver, CmdOpcode::PasidUnbind, pasid);
                return Err(status);
            }
        };
        let driver = Arc::clone(driver);
        Ok(Arc::new(Self { driver, space, pasid, handle, doorbell_page }))
    }

    /// The guest.
    pub fn driver(&self) -> &Arc<Driver> {
        &self.driver
    }

    /// The process's memory.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// The device's handle.
    pub fn handle(&self) -> u32 {
        self.handle
    }

    /// The number of the address space.
    pub fn pasid(&self) -> u32 {
        self.pasid
    }

    /// The doorbell page.
    pub fn doorbell_page(&self) -> &Arc<Pages> {
        &self.doorbell_page
    }

    /// A way to ring the doorbells of this context.
    pub fn doorbell(&self) -> Doorbell {
        let page = std::ptr::NonNull::new(self.doorbell_page.as_ptr()).expect("mapped page");
        #[allow(unsafe_code, reason = "the data path works on memory that the caller mapped")]
        // SAFETY: a whole mapped page, kept alive beside the bell, used only by atomics.
        let bell = unsafe { vnic_verbs::Doorbell::new(page, self.driver.kick()) };
        Doorbell { bell, _page: Arc::clone(&self.doorbell_page) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        destroy(&self.driver, CmdOpcode::CtxDestroy, self.handle);
        destroy(&self.driver, CmdOpcode::PasidUnbind, self.pasid);
        self.driver.forget_space(self.pasid);
    }
}

/// The doorbells of a context, with the page kept alive.
pub struct Doorbell {
    bell: vnic_verbs::Doorbell<KickFd>,
    _page: Arc<Pages>,
}

impl std::ops::Deref for Doorbell {
    type Target = vnic_verbs::Doorbell<KickFd>;

    fn deref(&self) -> &Self::Target {
        &self.bell
    }
}

/// A protection domain.
pub struct Pd {
    ctx: Arc<Context>,
    handle: u32,
}

impl Pd {
    /// Allocates a protection domain.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn new(ctx: &Arc<Context>) -> Arc<Self> {
        let handle = ctx.driver.pd_create(ctx.handle).expect("PD_CREATE");
        Arc::new(Self { ctx: Arc::clone(ctx), handle })
    }

    /// The context.
    pub fn ctx(&self) -> &Arc<Context> {
        &self.ctx
    }

    /// The device's handle.
    pub fn handle(&self) -> u32 {
        self.handle
    }
}

impl Drop for Pd {
    fn drop(&mut self) {
        destroy(&self.ctx.driver, CmdOpcode::PdDestroy, self.handle);
    }
}

/// A memory region.
pub struct Mr {
    pd: Arc<Pd>,
    keys: MrCreateReply,
}

impl Mr {
    /// Registers `length` bytes from `start`. A driver that keeps pages where they are for the device makes them
    /// present first; that they stay is up to the test.
    ///
    /// # Errors
    ///
    /// If the device refuses it.
    pub fn new(pd: &Arc<Pd>, start: u64, length: u64, access: AccessFlags) -> Result<Self, Status> {
        if pd.ctx.driver.features().contains(Features::PIN) {
            let page = start - start % FRAME;
            let len = (start + length - page).next_multiple_of(FRAME);
            let write = access.contains(AccessFlags::LOCAL_WRITE);
            pd.ctx.space.fault_in(page, len, write, len / FRAME);
        }
        let keys = pd.ctx.driver.mr_create(pd.handle, start, length, access)?;
        Ok(Self { pd: Arc::clone(pd), keys })
    }

    /// Registers the whole of `buffer`.
    ///
    /// # Panics
    ///
    /// If the device refuses it.
    pub fn of(pd: &Arc<Pd>, buffer: &UserBuffer, access: AccessFlags) -> Self {
        Self::new(pd, buffer.addr(), buffer.len(), access).expect("MR_CREATE")
    }

    /// The device's handle.
    pub fn handle(&self) -> u32 {
        self.keys.handle.get()
    }

    /// Local key.
    pub fn lkey(&self) -> u32 {
        self.keys.lkey.get()
    }

    /// Remote key.
    pub fn rkey(&self) -> u32 {
        self.keys.rkey.get()
    }

    /// An entry for `length` bytes at `addr` under this region's key.
    pub fn sge(&self, addr: u64, length: u32) -> Sge {
        Sge { addr: addr.into(), length: length.into(), lkey: self.lkey().into() }
    }
}

impl Drop for Mr {
    fn drop(&mut self) {
        destroy(&self.pd.ctx.driver, CmdOpcode::MrDestroy, self.handle());
    }
}
