// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device, open, and what its queue pairs may have.

use super::domain::Domain;
use super::pair::Pair;
use super::{address, told};
use crate::device::Device as Engine;
use crate::fabric::direct::nic::{Nic, NicLimits, NicPd};
use crate::fabric::direct::setup::{Addresses, Odp};
use crate::fabric::direct::shadow::trial::Tried;
use crate::object::gid::Gid;
use crate::port::MAX_INLINE;
use crate::wire::verbs::device::{Device, DeviceError};
use crate::wire::verbs::gid::{self, Entry};
use rdma_sys as ib;
use std::fmt;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::ptr::null_mut;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

/// The vendor that rxe says it is of (`RXE_VENDOR_ID` in Linux, drivers/infiniband/sw/rxe/rxe_param.h).
const RXE_VENDOR: u32 = 0xff_ffff;
/// Sizes of inline data to ask for: a device may have less than this one.
const INLINE: [u32; 5] = [MAX_INLINE, 256, 128, 64, 0];
/// How often to look for an address that was just given to the interface, and how long between.
const LOOKS: u32 = 40;
const LOOK: Duration = Duration::from_millis(25);

/// What keeps the device open.
#[derive(Debug)]
pub(super) struct Shared {
    pub device: Arc<Device>,
    /// Completion channels, one for each worker.
    channels: Vec<*mut ib::ibv_comp_channel>,
    /// It takes a retry count of 7 for ever.
    pub is_rxe: bool,
    /// Entries of a request's list, at most.
    pub max_sge: u32,
}

#[allow(unsafe_code)] // reason: the library's own objects
// SAFETY: libibverbs lets any thread use a channel.
unsafe impl Send for Shared {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as above.
unsafe impl Sync for Shared {}

impl Shared {
    pub fn channel(&self, worker: usize) -> *mut ib::ibv_comp_channel {
        self.channels[worker]
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        for channel in self.channels.drain(..) {
            #[allow(unsafe_code)] // reason: a C function
            // SAFETY: made in `open` and destroyed once; whatever uses it holds this and is gone.
            unsafe {
                ib::ibv_destroy_comp_channel(channel);
            }
        }
    }
}

/// How to know whether pages have to stay where they are.
#[derive(Debug, Clone)]
pub enum Judge {
    /// The device is tried, as far as that says.
    Try(Odp),
    /// They have to, for this reason.
    Known(String),
}

/// An RDMA device of the host.
pub struct VerbsNic {
    shared: Arc<Shared>,
    limits: NicLimits,
    addresses: Addresses,
    sysfs: PathBuf,
    /// Its network interface.
    interface: String,
    /// Why pages have to stay where they are.
    pins: Option<String>,
    _told: told::Listener,
}

impl fmt::Debug for VerbsNic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerbsNic").field("name", &self.name()).finish_non_exhaustive()
    }
}

impl VerbsNic {
    /// Opens the device called `name` for the queue pairs of `engine`.
    ///
    /// # Errors
    ///
    /// [`DeviceError`], which says what to do about it.
    pub fn open(
        name: &str,
        gid_index: Option<u8>,
        addresses: Addresses,
        judge: Judge,
        engine: &Arc<Engine>,
    ) -> Result<Self, DeviceError> {
        let device = Device::open(name, gid_index)?;
        let attr = query(&device)?;
        let is_rxe = attr.vendor_id == RXE_VENDOR;
        let max_sge = attr.max_sge.unsigned_abs();
        let channels = Vec::new();
        let mut shared = Shared { device: device.clone(), channels, is_rxe, max_sge };
        for _ in 0..engine.config().workers {
            shared.channels.push(channel(&device)?);
        }
        let shared = Arc::new(shared);
        let max_inline = inline(&shared)?;
        let limits = NicLimits {
            max_sge,
            max_depth: attr.max_qp_wr.unsigned_abs() / 2,
            max_rd_atomic: attr.max_qp_rd_atom.min(attr.max_qp_init_rd_atom).unsigned_abs(),
            max_inline,
            mtu: device.mtu() as u8,
        };
        let sysfs = Path::new("/sys/class/infiniband").join(name);
        let index = device.gid_index();
        let file = sysfs.join(format!("ports/{}/gid_attrs/ndevs/{index}", device.port_number()));
        let interface = std::fs::read_to_string(file)
            .map_err(|error| {
                device.error("find its network interface", error.raw_os_error().unwrap_or(0))
            })?
            .trim()
            .to_owned();
        let pins = match judge {
            Judge::Try(odp) => pins(&shared, &limits, odp),
            Judge::Known(why) => Some(why),
        };
        match &pins {
            None => tracing::info!(device = name, "direct: pinned: no"),
            Some(why) => tracing::info!(device = name, "direct: pinned: yes, because {why}"),
        }
        let told = told::Listener::start(device, Arc::downgrade(engine));
        let told = told.map_err(|error| {
            shared.device.error("listen to it", error.raw_os_error().unwrap_or(0))
        })?;
        Ok(Self { shared, limits, addresses, sysfs, interface, pins, _told: told })
    }

    fn entry(&self, gid: &Gid) -> Option<Entry> {
        let entries = gid::table(&self.sysfs, self.shared.device.port_number());
        entries.into_iter().find(|entry| entry.gid == *gid && entry.is_routable())
    }
}

fn query(device: &Device) -> Result<ib::ibv_device_attr, DeviceError> {
    #[allow(unsafe_code)] // reason: a C function
    // SAFETY: the structure is plain numbers, for which zero is a value, and the context is open.
    let (failed, attr) = unsafe {
        let mut attr: ib::ibv_device_attr = std::mem::zeroed();
        (ib::ibv_query_device(device.context(), &raw mut attr), attr)
    };
    if failed == 0 { Ok(attr) } else { Err(device.error("look at it", failed)) }
}

fn channel(device: &Device) -> Result<*mut ib::ibv_comp_channel, DeviceError> {
    #[allow(unsafe_code)] // reason: C functions
    // SAFETY: the context is open; the channel's file is open for as long as the channel is there.
    unsafe {
        let channel = ib::ibv_create_comp_channel(device.context());
        if channel.is_null() {
            return Err(device.error("make a completion channel", 0));
        }
        let file = BorrowedFd::borrow_raw((*channel).fd);
        let set = rustix::fs::fcntl_setfl(file, rustix::fs::OFlags::NONBLOCK);
        set.map_err(|error| device.error("prepare a completion channel", error.raw_os_error()))?;
        Ok(channel)
    }
}

/// Why the pages of guests have to stay where they are.
fn pins(shared: &Arc<Shared>, limits: &NicLimits, odp: Odp) -> Option<String> {
    if odp == Odp::Never {
        return Some("the configuration says so (direct.odp)".to_owned());
    }
    let domain = match Domain::with_inline(shared, limits.max_inline) {
        Ok(domain) => domain,
        Err(error) => return Some(format!("it cannot be tried: {error}")),
    };
    let moved = odp == Odp::Trust || !shared.is_rxe;
    let tried = Tried {
        pd: &domain,
        gid: shared.device.gid(),
        source: shared.device.gid_index(),
        mtu: limits.mtu,
        moved,
    };
    if let Err(why) = tried.judge() {
        return Some(why);
    }
    // An rxe that is right so far may yet be one of Linux 7.3, in which a region that requests know by another address
    // than the daemon ends the kernel: that is not tried.
    (!moved).then(|| {
        "rxe of some kernels does not survive regions at other addresses; say direct.odp = \"trust\" if yours does".to_owned()
    })
}

/// How much inline data its queue pairs take.
fn inline(shared: &Arc<Shared>) -> Result<u32, DeviceError> {
    let failed = |error: io::Error| {
        shared.device.error("make a queue pair", error.raw_os_error().unwrap_or(0))
    };
    let domain = Domain::new(shared).map_err(failed)?;
    let mut last = io::Error::from_raw_os_error(0);
    for size in INLINE {
        match Pair::new(&domain, 0, 4, 4, size) {
            Ok(_) => return Ok(size),
            Err(error) => last = error,
        }
    }
    Err(failed(last))
}

impl Nic for VerbsNic {
    fn name(&self) -> &str {
        self.shared.device.name()
    }

    fn limits(&self) -> NicLimits {
        self.limits
    }

    fn source(&self, gid: &Gid) -> Option<u8> {
        if self.addresses == Addresses::Mapped {
            return Some(self.shared.device.gid_index());
        }
        // The kernel takes an address over in its own time.
        for look in 0..LOOKS {
            if let Some(entry) = self.entry(gid) {
                return Some(entry.index);
            }
            if look + 1 < LOOKS {
                thread::sleep(LOOK);
            }
        }
        None
    }

    fn add_address(&self, gid: &Gid) -> io::Result<()> {
        match self.addresses {
            Addresses::Own => address::add(&self.interface, gid),
            Addresses::Mapped => Ok(()),
        }
    }

    fn remove_address(&self, gid: &Gid) {
        if self.addresses == Addresses::Own
            && let Err(error) = address::remove(&self.interface, gid)
        {
            tracing::warn!(%error, "cannot take an address of a guest from the host");
        }
    }

    fn pd(&self) -> io::Result<Arc<dyn NicPd>> {
        Ok(Arc::new(Domain::with_inline(&self.shared, self.limits.max_inline)?))
    }

    fn event(&self, worker: usize) -> BorrowedFd<'_> {
        #[allow(unsafe_code)] // reason: a file that the library owns
        // SAFETY: open for as long as the channel is, which is as long as this.
        unsafe {
            BorrowedFd::borrow_raw((*self.shared.channel(worker)).fd)
        }
    }

    fn take_events(&self, worker: usize, each: &mut dyn FnMut(u32)) {
        let channel = self.shared.channel(worker);
        loop {
            let (mut cq, mut own) = (null_mut(), null_mut());
            #[allow(unsafe_code)] // reason: C functions
            // SAFETY: the channel does not block. What a queue carries is the number in its `Pair`, which is not
            // destroyed before the event is acknowledged (ibv_destroy_cq(3)).
            unsafe {
                if ib::ibv_get_cq_event(channel, &raw mut cq, &raw mut own) != 0 {
                    return;
                }
                // Relaxed: set before the queue was armed.
                let number = own.cast::<AtomicU32>().as_ref().map(|it| it.load(Ordering::Relaxed));
                ib::ibv_ack_cq_events(cq, 1);
                if let Some(number) = number {
                    each(number);
                }
            }
        }
    }

    fn pins(&self) -> Option<&str> {
        self.pins.as_deref()
    }

    fn is_lost(&self) -> bool {
        self.shared.device.is_lost()
    }
}
