// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Pages go into windows and come out of them.
//!
//! A window begins as anonymous memory under userfaultfd, so that whoever touches it waits. A page of the guest takes its
//! place as a mapping of the guest's memory file, which is put under userfaultfd at once as well: there, what is in the
//! file and not in the page table makes a *minor* fault. So a page is taken away by emptying the page table alone, and
//! there is no moment at which a touch would find anything else than the guest's page, or wait. Should the host swap the
//! page out, that is another fault, and the page is put there again.

use rustix::io::Errno;
use rustix::mm::{
    Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use std::ffi::c_void;
use std::io;
use std::ptr::null_mut;
use userfaultfd::{FeatureFlags, RegisterMode, Uffd, UffdBuilder};
use vnic_iommu::memory::Backing;

fn at(address: usize) -> *mut c_void {
    std::ptr::with_exposed_provenance_mut(address)
}

fn failed(error: userfaultfd::Error) -> io::Error {
    io::Error::other(error)
}

/// Opens userfaultfd(2) for faults of the kernel as well.
///
/// # Errors
///
/// The kernel does not allow it; says what to do about that.
pub fn open() -> io::Result<Uffd> {
    let mut builder = UffdBuilder::new();
    builder.close_on_exec(true).non_blocking(true).user_mode_only(false);
    builder.require_features(FeatureFlags::MISSING_SHMEM);
    builder.create().map_err(|error| {
        io::Error::other(format!(
            "userfaultfd is not allowed here: {error}; run as root, give CAP_SYS_PTRACE, or set vm.unprivileged_userfaultfd = 1"
        ))
    })
}

/// A window with nothing in it. Its address.
pub fn make(uffd: &Uffd, len: usize) -> io::Result<usize> {
    let (protection, flags) =
        (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
    #[allow(unsafe_code)] // reason: a mapping has no Rust owner
    // SAFETY: a new mapping where the kernel likes.
    let start = unsafe { mmap_anonymous(null_mut(), len, protection, flags) }?;
    let address = start.expose_provenance();
    if let Err(error) = uffd.register(start, len) {
        remove(uffd, address, len);
        return Err(failed(error));
    }
    Ok(address)
}

/// Ends a window. Whoever waits for a page of it fails.
pub fn remove(uffd: &Uffd, start: usize, len: usize) {
    #[allow(unsafe_code)] // reason: as above
    // SAFETY: a window of `make`, which its owner gives up.
    let unmapped = unsafe { munmap(at(start), len) };
    debug_assert!(unmapped.is_ok());
    // Nobody else does: they would wait for ever for what is not there.
    let woken = uffd.wake(at(start), len);
    debug_assert!(woken.is_ok());
}

/// Puts `len` bytes of the guest's memory at `place` of a window, and wakes who waits for them.
pub fn put(
    uffd: &Uffd,
    place: usize,
    len: usize,
    backing: &Backing,
    writable: bool,
) -> io::Result<()> {
    let mut protection = ProtFlags::READ;
    protection.set(ProtFlags::WRITE, writable);
    // Into the page table at once: to userfaultfd, all that is not there is a fault.
    let flags = MapFlags::SHARED | MapFlags::FIXED | MapFlags::POPULATE;
    #[allow(unsafe_code)] // reason: as above
    // SAFETY: the place lies in a window, as the caller knows; only devices and guests access what is there.
    unsafe { mmap(at(place), len, protection, flags, &*backing.file, backing.offset) }?;
    uffd.register_with_mode(at(place), len, RegisterMode::MISSING | RegisterMode::MINOR)
        .map_err(failed)?;
    uffd.wake(at(place), len).map_err(failed)
}

/// Takes `len` bytes at `place` of a window away: at the return no device reaches what was there.
pub fn take_away(place: usize, len: usize) -> Result<(), Errno> {
    #[allow(unsafe_code)] // reason: as above
    // SAFETY: the place lies in a window, of whose content nothing is kept but the guest's file.
    unsafe {
        madvise(at(place), len, Advice::LinuxDontNeed)
    }
}

/// Lets whoever waits for the page at `place` fail.
pub fn deny(uffd: &Uffd, place: usize, len: usize) -> io::Result<()> {
    let flags = MapFlags::PRIVATE | MapFlags::NORESERVE | MapFlags::FIXED;
    #[allow(unsafe_code)] // reason: as above
    // SAFETY: as in `put`.
    unsafe { mmap_anonymous(at(place), len, ProtFlags::empty(), flags) }?;
    uffd.wake(at(place), len).map_err(failed)
}

/// Ends a denial: whoever touches the page waits again.
pub fn allow(uffd: &Uffd, place: usize, len: usize) -> io::Result<()> {
    uffd.register(at(place), len).map_err(failed)?;
    #[allow(unsafe_code)] // reason: as above
    // SAFETY: as in `put`.
    unsafe { mprotect(at(place), len, MprotectFlags::READ | MprotectFlags::WRITE) }?;
    Ok(())
}
