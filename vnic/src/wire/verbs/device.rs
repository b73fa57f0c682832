// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Opening an RDMA device of the host.

use super::endpoint::{BadEndpoint, BadSettings};
use super::events::DeviceEvent;
use super::gid::{self, Entry, Gid};
use rdma_sys as ib;
use rustix::process::{Resource, getrlimit};
use std::ffi::CStr;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

/// Where the kernel shows its RDMA devices.
const SYSFS: &str = "/sys/class/infiniband";
/// The port of a device, as nearly all have one.
const PORT: u8 = 1;

/// Why a device cannot be used.
#[derive(Debug, Error)]
pub enum DeviceError {
    /// The library does not know any.
    #[error(
        "cannot list RDMA devices: {0}; is libibverbs installed, and ib_uverbs loaded (modprobe ib_uverbs)?"
    )]
    List(io::Error),
    /// It is not there.
    #[error(
        "there is no RDMA device {name:?} here, but {there}; an rxe device is made by: rdma link add {name} type rxe netdev INTERFACE"
    )]
    Absent {
        /// What was asked for.
        name: String,
        /// What there is.
        there: String,
    },
    /// It does not open.
    #[error("cannot open RDMA device {name}: {error}; may this user open /dev/infiniband/uverbs*?")]
    Open {
        /// Its name.
        name: String,
        /// Why.
        error: io::Error,
    },
    /// Its port is not active.
    #[error(
        "port {PORT} of RDMA device {0} is not active: bring its network interface up (ip link set INTERFACE up)"
    )]
    Down(String),
    /// No address of the right kind.
    #[error("RDMA device {0} has no RoCE v2 address: give its network interface an IP address")]
    NoGid(String),
    /// Not the one that was asked for.
    #[error("RDMA device {name} has no address with GID index {index}; it has {there}")]
    NotThatGid {
        /// Its name.
        name: String,
        /// What was asked for.
        index: u8,
        /// What there is.
        there: String,
    },
    /// Not of the kind that travels.
    #[error(
        "the address of RDMA device {name} with GID index {index} is of the kind {kind}, which is not routed: choose a RoCE v2 one, or none"
    )]
    WrongKind {
        /// Its name.
        name: String,
        /// What was asked for.
        index: u8,
        /// What kind it is.
        kind: String,
    },
    /// A lane that is too small or too large.
    #[error(transparent)]
    Settings(#[from] BadSettings),
    /// The other end of a lane is none.
    #[error(transparent)]
    Peer(#[from] BadEndpoint),
    /// Memory of a lane that cannot be registered.
    #[error(
        "RDMA device {name}: cannot register {kib} KiB of staging rings: {error}; {limit}, or choose fewer or smaller slots"
    )]
    Register {
        /// Its name.
        name: String,
        /// How much.
        kib: usize,
        /// Why not.
        error: io::Error,
        /// The limit that may be the reason, and what to do about it.
        limit: String,
    },
    /// Something else.
    #[error("RDMA device {name}: cannot {doing}: {error}")]
    Verbs {
        /// Its name.
        name: String,
        /// What was tried.
        doing: &'static str,
        /// Why not.
        error: io::Error,
    },
}

/// A device of the host, open, with one of its addresses.
#[derive(Debug)]
pub struct Device {
    name: String,
    context: *mut ib::ibv_context,
    gid: Entry,
    mtu: u32,
    lost: AtomicBool,
}

#[allow(unsafe_code)] // reason: the library's own object
// SAFETY: libibverbs lets any thread use a context, also several at a time (ibv_open_device(3), rdma-core's
// Documentation/libibverbs.md).
unsafe impl Send for Device {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device called `name`, and finds an address for its port, or takes that with the index.
    ///
    /// # Errors
    ///
    /// [`DeviceError`], which says what to do about it.
    pub fn open(name: &str, gid_index: Option<u8>) -> Result<Arc<Self>, DeviceError> {
        let context = open(name)?;
        // Closes it if anything fails from here on.
        let mut device = Self {
            name: name.to_owned(),
            context,
            gid: Entry { index: 0, gid: [0; 16], kind: String::new() },
            mtu: 1,
            lost: AtomicBool::new(false),
        };
        device.do_not_block()?;
        let port = device.port()?;
        if port.state != ib::ibv_port_state::IBV_PORT_ACTIVE {
            return Err(DeviceError::Down(device.name.clone()));
        }
        device.mtu = port.active_mtu;
        device.gid = address(name, &Path::new(SYSFS).join(name), gid_index)?;
        Ok(Arc::new(device))
    }

    /// Readable when the device has something to say: see [`Self::hear`].
    pub fn event(&self) -> BorrowedFd<'_> {
        #[allow(unsafe_code)] // reason: a file that the library owns
        // SAFETY: open until `drop`.
        unsafe {
            BorrowedFd::borrow_raw((*self.context).async_fd)
        }
    }

    fn do_not_block(&self) -> Result<(), DeviceError> {
        rustix::fs::fcntl_setfl(self.event(), rustix::fs::OFlags::NONBLOCK)
            .map_err(|error| self.error("prepare its events", error.raw_os_error()))
    }

    /// Takes note of what the device has to say, and tells the log.
    pub fn hear(&self) {
        while let Some(event) = self.next_event() {
            event.log(&self.name);
            if event == DeviceEvent::Fatal {
                // Relaxed: whoever misses it now sees it at the next look.
                self.lost.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Whether it was removed, or has failed for good.
    pub fn is_lost(&self) -> bool {
        // Relaxed: as above.
        self.lost.load(Ordering::Relaxed)
    }

    /// It was removed, or has failed for good.
    pub(crate) fn lose(&self) {
        // Relaxed: as above.
        self.lost.store(true, Ordering::Relaxed);
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The library's own, open for as long as this lives.
    pub fn context(&self) -> *mut ib::ibv_context {
        self.context
    }

    /// Its port, from 1.
    pub fn port_number(&self) -> u8 {
        PORT
    }

    /// Index of its address.
    pub fn gid_index(&self) -> u8 {
        self.gid.index
    }

    /// Its address.
    pub fn gid(&self) -> Gid {
        self.gid.gid
    }

    /// The largest packets of its port, as verbs number them.
    pub fn mtu(&self) -> u32 {
        self.mtu
    }

    fn port(&self) -> Result<ib::ibv_port_attr, DeviceError> {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: the structure is plain numbers, for which zero is a value, and the context is open.
        let (failed, attr) = unsafe {
            let mut attr: ib::ibv_port_attr = std::mem::zeroed();
            (ib::___ibv_query_port(self.context, PORT, &raw mut attr), attr)
        };
        if failed == 0 { Ok(attr) } else { Err(self.error("look at its port", failed)) }
    }

    /// Whether its port is active.
    ///
    /// # Errors
    ///
    /// [`DeviceError`] if it does not say, as one that was removed.
    pub fn is_active(&self) -> Result<bool, DeviceError> {
        Ok(self.port()?.state == ib::ibv_port_state::IBV_PORT_ACTIVE)
    }

    /// An error of something that was tried with it; `number` is the library's, or 0 if that is in `errno`.
    pub(crate) fn error(&self, doing: &'static str, number: i32) -> DeviceError {
        let error = match number {
            0 => io::Error::last_os_error(),
            number => io::Error::from_raw_os_error(number.abs()),
        };
        DeviceError::Verbs { name: self.name.clone(), doing, error }
    }

    /// The error in `errno` after the registration of so many bytes.
    pub(super) fn not_registered(&self, bytes: usize) -> DeviceError {
        let error = io::Error::last_os_error();
        let limit = match getrlimit(Resource::Memlock).current {
            Some(limit) => {
                format!("raise RLIMIT_MEMLOCK (ulimit -l), which is {} KiB", limit >> 10)
            }
            None => "RLIMIT_MEMLOCK is not the reason: free memory".to_owned(),
        };
        DeviceError::Register { name: self.name.clone(), kib: bytes >> 10, error, limit }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        #[allow(unsafe_code)] // reason: a C function
        // SAFETY: opened in `open` and closed once; whatever was made with it holds the device and is gone.
        let failed = unsafe { ib::ibv_close_device(self.context) };
        debug_assert_eq!(failed, 0);
    }
}

fn address(name: &str, folder: &Path, asked: Option<u8>) -> Result<Entry, DeviceError> {
    let entries = gid::table(folder, PORT);
    let (name, there) = (name.to_owned(), list(&entries));
    match (gid::choose(&entries, asked), asked) {
        (Some(entry), _) if entry.is_routable() => Ok(entry.clone()),
        (Some(entry), _) => {
            Err(DeviceError::WrongKind { name, index: entry.index, kind: entry.kind.clone() })
        }
        (None, Some(index)) => Err(DeviceError::NotThatGid { name, index, there }),
        (None, None) => Err(DeviceError::NoGid(name)),
    }
}

fn list(entries: &[Entry]) -> String {
    let each = |entry: &Entry| format!("{} ({})", entry.index, entry.kind);
    let all: Vec<String> = entries.iter().map(each).collect();
    if all.is_empty() { "none".to_owned() } else { all.join(", ") }
}

fn open(name: &str) -> Result<*mut ib::ibv_context, DeviceError> {
    let mut count = 0;
    #[allow(unsafe_code)] // reason: a C function
    // SAFETY: `count` is written; the list is freed below.
    let list = unsafe { ib::ibv_get_device_list(&raw mut count) };
    if list.is_null() {
        return Err(DeviceError::List(io::Error::last_os_error()));
    }
    let mut names = Vec::new();
    let mut opened = None;
    for index in 0..count.max(0) as usize {
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: the list has `count` devices, each with a name that ends with a zero byte.
        let (device, found) = unsafe {
            let device = *list.add(index);
            (device, CStr::from_ptr(ib::ibv_get_device_name(device)))
        };
        let found = found.to_string_lossy().into_owned();
        if found == name {
            #[allow(unsafe_code)] // reason: as above
            // SAFETY: a device of the list, which is not freed yet.
            let context = unsafe { ib::ibv_open_device(device) };
            opened = Some((context, io::Error::last_os_error()));
        }
        names.push(found);
    }
    #[allow(unsafe_code)] // reason: as above
    // SAFETY: a list of `ibv_get_device_list`, freed once. Devices that are open stay.
    unsafe {
        ib::ibv_free_device_list(list);
    }
    match opened {
        Some((context, _)) if !context.is_null() => Ok(context),
        Some((_, error)) => Err(DeviceError::Open { name: name.to_owned(), error }),
        None => {
            let there = if names.is_empty() { "none at all".to_owned() } else { names.join(", ") };
            Err(DeviceError::Absent { name: name.to_owned(), there })
        }
    }
}

/// Names of the RDMA devices that the kernel shows.
pub fn present() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(SYSFS).into_iter().flatten();
    entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_that_is_not_there_is_named_with_what_there_is() {
        let error = Device::open("rxe-that-nobody-made", None).unwrap_err().to_string();
        let says = error.contains("rxe-that-nobody-made") && error.contains("rdma link add");
        // Where there is no RDMA at all, the library already says so.
        assert!(says || error.contains("modprobe ib_uverbs"), "{error}");
    }

    #[test]
    fn an_address_of_another_kind_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ports = dir.path().join("ports/1");
        for folder in ["gids", "gid_attrs/types"] {
            std::fs::create_dir_all(ports.join(folder)).unwrap();
        }
        let named = |asked| address("rxe0", dir.path(), asked).unwrap_err().to_string();
        assert!(named(None).contains("has no RoCE v2 address"));
        std::fs::write(ports.join("gids/0"), "fe80:0000:0000:0000:0000:0000:0000:0001").unwrap();
        std::fs::write(ports.join("gid_attrs/types/0"), "IB/RoCE v1").unwrap();
        assert!(named(None).contains("has no RoCE v2 address"));
        assert!(named(Some(0)).contains("of the kind IB/RoCE v1"));
        assert!(named(Some(3)).contains("it has 0 (IB/RoCE v1)"));
    }
}
