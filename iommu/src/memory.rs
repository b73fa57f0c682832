// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VM's RAM as the device sees it: guest-physical ranges with a host mapping behind each.

use std::fmt;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    VolatileSlice,
};

use crate::addr::Gpa;

/// A shared view of a VM's RAM. Cloning is one reference count.
///
/// The view is immutable: when the VM's memory map changes, a new view takes its place, see
/// [`LiveRam`](crate::live::LiveRam). The mappings stay in place until the last clone is dropped.
#[derive(Clone)]
pub struct GuestRam {
    inner: Arc<Inner>,
}

struct Inner {
    /// Sorted by `start`, not overlapping.
    regions: Box<[Region]>,
    /// Owns the mappings that `regions` points into.
    memory: Arc<GuestMemoryMmap>,
}

struct Region {
    start: u64,
    /// Bytes. `start + len` may be 2^64 at most, so offsets are compared, never ends.
    len: u64,
    host: NonNull<u8>,
    mapping: Mapping,
}

/// Keeps one region of RAM mapped, and no other: what is part of no view any more is unmapped when
/// the last of these is dropped.
#[derive(Clone)]
pub struct Mapping(Arc<GuestRegionMmap>);

impl PartialEq for Mapping {
    /// Whether both keep the same region.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mapping({:#x}+{:#x})", self.0.start_addr().0, self.0.len())
    }
}

#[allow(unsafe_code)] // reason: a raw pointer suppresses the auto traits of its owner
// SAFETY: `host` points into a mapping owned by `memory`, which is itself Send and Sync; the
// pointer is only an address, and every access through it is atomic, volatile or the caller's.
unsafe impl Send for Region {}
#[allow(unsafe_code)] // reason: as above
// SAFETY: as for `Send`; a `Region` is never written after construction.
unsafe impl Sync for Region {}

/// A host address of guest RAM with the number of bytes that are valid behind it.
///
/// The bytes belong to the guest and change at any time: use atomic or volatile access, copy once.
/// The mapping is kept alive by the [`GuestRam`] that made the pointer (or any clone of it), or by
/// the region's [`Mapping`]; the type does not track that, so whoever stores one stores such an owner
/// beside it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct HostPtr {
    ptr: NonNull<u8>,
    len: usize,
}

#[allow(unsafe_code)] // reason: NonNull suppresses Send, and pointers travel inside queue state
// SAFETY: a `HostPtr` is an address and a length. It grants nothing by itself; dereferencing it is
// unsafe wherever it happens, and guest RAM is shared between threads by nature.
unsafe impl Send for HostPtr {}

impl HostPtr {
    /// Nothing.
    pub(crate) const EMPTY: Self = Self { ptr: NonNull::dangling(), len: 0 };

    pub(crate) const fn from_parts(ptr: NonNull<u8>, len: usize) -> Self {
        Self { ptr, len }
    }

    /// What follows `offset` in the small page at the exposed address `page`, which is not 0.
    #[inline]
    pub(crate) fn of_page(page: usize, offset: usize) -> Self {
        let page: *mut u8 = std::ptr::with_exposed_provenance_mut(page);
        let ptr = NonNull::new(page.wrapping_add(offset)).unwrap_or(NonNull::dangling());
        Self { ptr, len: crate::addr::PAGE_SIZE as usize - offset }
    }

    /// The same without the first `bytes`; empty if there are not as many.
    #[inline]
    pub(crate) fn skip(self, bytes: usize) -> Self {
        let bytes = bytes.min(self.len);
        #[allow(unsafe_code)] // reason: pointer arithmetic inside one mapping
        // SAFETY: not past the end of what the pointer is valid for.
        let ptr = unsafe { self.ptr.add(bytes) };
        Self { ptr, len: self.len - bytes }
    }

    /// The same, but at most `len` bytes.
    #[inline]
    pub(crate) fn first(self, len: usize) -> Self {
        Self { len: self.len.min(len), ..self }
    }

    /// Adds `next` if it begins where this ends. `false` if it does not, or this is empty.
    ///
    /// The two may be of different mappings that happen to touch; each byte is then still one of its own.
    #[inline]
    pub(crate) fn join(&mut self, next: Self) -> bool {
        let touches = self.len != 0 && self.ptr.as_ptr().wrapping_add(self.len) == next.as_ptr();
        if touches {
            self.len += next.len;
        }
        touches
    }

    /// The same with the `bytes` before it, which lie in the same page.
    #[inline]
    pub(crate) fn back(self, bytes: usize) -> Self {
        #[allow(unsafe_code)] // reason: as above
        // SAFETY: the page lies in one mapping from its beginning on.
        let ptr = unsafe { self.ptr.sub(bytes) };
        Self { ptr, len: self.len + bytes }
    }

    /// The address of the first byte.
    #[inline]
    pub const fn as_ptr(self) -> *mut u8 {
        self.ptr.as_ptr()
    }

    /// The address of the first byte, known not to be null.
    #[inline]
    pub const fn as_non_null(self) -> NonNull<u8> {
        self.ptr
    }

    /// The number of bytes that may be accessed.
    #[inline]
    pub const fn len(self) -> usize {
        self.len
    }

    /// Whether no byte may be accessed.
    #[inline]
    pub const fn is_empty(self) -> bool {
        self.len == 0
    }
}

impl fmt::Debug for HostPtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostPtr({:p}, {:#x})", self.ptr, self.len)
    }
}

/// Where bytes of RAM lie in a file that other mappings can be made of.
#[derive(Debug, Clone)]
pub struct Backing {
    /// The file.
    pub file: Arc<File>,
    /// Where in it the first byte is.
    pub offset: u64,
    /// Bytes that follow in the same region, the first included.
    pub len: u64,
}

impl Backing {
    /// Whether `next` is what lies `len` bytes behind the first byte of this.
    pub fn is_followed_by(&self, len: u64, next: &Self) -> bool {
        Arc::ptr_eq(&self.file, &next.file) && self.offset.checked_add(len) == Some(next.offset)
    }
}

impl GuestRam {
    /// A view of all regions of `memory`.
    pub fn new(memory: Arc<GuestMemoryMmap>) -> Self {
        let mut regions: Vec<Region> = shared_regions(&memory)
            .filter_map(|region| {
                Some(Region {
                    start: region.start_addr().0,
                    len: region.len(),
                    host: NonNull::new(region.as_ptr())?,
                    mapping: Mapping(region),
                })
            })
            .collect();
        regions.sort_unstable_by_key(|region| region.start);
        Self { inner: Arc::new(Inner { regions: regions.into_boxed_slice(), memory }) }
    }

    /// The mapped memory behind the view.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.inner.memory
    }

    /// The host address of `len` bytes at `gpa`, if all of them lie in one region.
    ///
    /// `None` for anything that leaves RAM, crosses into another region or wraps.
    #[inline]
    pub fn host_ptr(&self, gpa: Gpa, len: usize) -> Option<HostPtr> {
        let found = self.contiguous(gpa)?;
        (found.len >= len).then_some(HostPtr { ptr: found.ptr, len })
    }

    /// The host address of `gpa` with every byte that follows it in the same region.
    #[inline]
    pub fn contiguous(&self, gpa: Gpa) -> Option<HostPtr> {
        let (region, offset) = self.find(gpa)?;
        #[allow(unsafe_code)] // reason: pointer arithmetic inside one mapping
        // SAFETY: `offset < len`, and the region is one mapping of `len` bytes.
        let ptr = unsafe { region.host.add(offset as usize) };
        Some(HostPtr { ptr, len: (region.len - offset) as usize })
    }

    /// The region that `gpa` lies in, and how far from its start.
    #[inline]
    fn find(&self, gpa: Gpa) -> Option<(&Region, u64)> {
        // Two or three regions in most VMs, hundreds in one with many modules.
        let above = self.inner.regions.partition_point(|region| region.start <= gpa.0);
        let region = self.inner.regions.get(above.checked_sub(1)?)?;
        let offset = gpa.0 - region.start;
        (offset < region.len).then_some((region, offset))
    }

    /// As [`host_ptr`](Self::host_ptr), with what keeps the pointer valid beyond this view.
    pub fn pin(&self, gpa: Gpa, len: usize) -> Option<(HostPtr, Mapping)> {
        let host = self.host_ptr(gpa, len)?;
        Some((host, self.find(gpa)?.0.mapping.clone()))
    }

    /// Where in a file the byte at `gpa` is; `None` for what is no RAM, or is RAM that nobody else can map.
    pub fn backing(&self, gpa: Gpa) -> Option<Backing> {
        let (region, inside) = self.find(gpa)?;
        let file = region.mapping.0.file_offset()?;
        let offset = file.start().checked_add(inside)?;
        Some(Backing { file: file.arc().clone(), offset, len: region.len - inside })
    }

    /// Whether `len` bytes at `gpa` lie in one region of RAM.
    #[inline]
    pub fn contains(&self, gpa: Gpa, len: usize) -> bool {
        self.host_ptr(gpa, len).is_some()
    }

    /// The 64-bit word at `gpa` as an atomic, if it is in RAM and naturally aligned.
    ///
    /// The guest writes the word at any time; only atomic access to it is sound.
    #[inline]
    pub fn atomic_u64(&self, gpa: Gpa) -> Option<&AtomicU64> {
        let host = self.host_ptr(gpa, size_of::<u64>())?;
        let ptr = host.as_ptr().cast::<u64>();
        if !ptr.is_aligned() {
            return None;
        }
        #[allow(unsafe_code)] // reason: a word of guest RAM has no Rust owner
        // SAFETY: eight aligned bytes inside a mapping that `self` keeps alive for the borrow. Other
        // accesses by this process are atomic or volatile; the guest's are outside the Rust model.
        Some(unsafe { AtomicU64::from_ptr(ptr) })
    }

    /// One atomic load of the aligned 64-bit word at `gpa`.
    ///
    /// Acquire: pairs with the guest's release when it publishes what the word points to (a CPU's
    /// page-table entry, a generation number).
    #[inline]
    pub fn read_u64(&self, gpa: Gpa) -> Option<u64> {
        self.atomic_u64(gpa).map(|word| word.load(Ordering::Acquire))
    }

    /// One atomic store to the aligned 64-bit word at `gpa`; `None` if it is not in RAM.
    ///
    /// Release: pairs with the Acquire of [`read_u64`](Self::read_u64) or of the guest's CPU.
    #[inline]
    pub fn write_u64(&self, gpa: Gpa, value: u64) -> Option<()> {
        self.atomic_u64(gpa).map(|word| word.store(value, Ordering::Release))
    }

    /// Copies `buf.len()` bytes out of RAM; `None`, with `buf` unspecified, if they leave RAM.
    pub fn read(&self, gpa: Gpa, buf: &mut [u8]) -> Option<()> {
        self.inner.memory.read_slice(buf, GuestAddress(gpa.0)).ok()
    }

    /// Copies `buf` into RAM; `None` if it leaves RAM, with what fits possibly written.
    pub fn write(&self, gpa: Gpa, buf: &[u8]) -> Option<()> {
        self.inner.memory.write_slice(buf, GuestAddress(gpa.0)).ok()
    }

    /// `len` bytes at `gpa` for volatile access, if they lie in one region.
    pub fn volatile(&self, gpa: Gpa, len: usize) -> Option<VolatileSlice<'_>> {
        let host = self.host_ptr(gpa, len)?;
        #[allow(unsafe_code)] // reason: a view of memory that has no Rust owner
        // SAFETY: the range was just checked, and `self` is borrowed for as long as the view lives.
        Some(unsafe { volatile_slice(host) })
    }
}

/// The regions of `memory`, each as its shared owner.
fn shared_regions(memory: &GuestMemoryMmap) -> impl Iterator<Item = Arc<GuestRegionMmap>> {
    let mut rest = memory.clone();
    // `GuestMemoryMmap` hands an owner out only when it gives the region up.
    std::iter::from_fn(move || {
        let (start, len) = rest.iter().next().map(|region| (region.start_addr(), region.len()))?;
        let (left, region) = rest.remove_region(start, len).ok()?;
        rest = left;
        Some(region)
    })
}

/// A volatile view of `host`.
///
/// # Safety
///
/// The mapping that `host` leads into stays for all of `'a`.
#[allow(unsafe_code)] // reason: the lifetime is the caller's to vouch for
pub(crate) unsafe fn volatile_slice<'a>(host: HostPtr) -> VolatileSlice<'a> {
    // SAFETY: `GuestRam` checked the range, and the caller vouches that the mapping stays for `'a`. A volatile slice tolerates that the guest changes the bytes.
    unsafe { VolatileSlice::new(host.as_ptr(), host.len()) }
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.inner.regions.iter().map(|r| format!("{:#x}+{:#x}", r.start, r.len)))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ram() -> GuestRam {
        let ranges = [(GuestAddress(0), 0x4000), (GuestAddress(0x10_0000), 0x2000)];
        GuestRam::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()))
    }

    #[test]
    fn ranges_stay_inside_one_region() {
        let ram = ram();
        assert_eq!(ram.host_ptr(Gpa(0x3ff0), 0x10).unwrap().len(), 0x10);
        assert!(ram.host_ptr(Gpa(0x3ff0), 0x11).is_none());
        assert!(ram.host_ptr(Gpa(0x4000), 0).is_none());
        assert!(ram.host_ptr(Gpa(0xf_ffff), 2).is_none());
        assert!(ram.host_ptr(Gpa(u64::MAX), 2).is_none());
        assert!(ram.host_ptr(Gpa(0x10_0000), usize::MAX).is_none());
        assert_eq!(ram.contiguous(Gpa(0x10_1000)).unwrap().len(), 0x1000);
    }

    #[test]
    fn a_region_stays_mapped_for_whoever_pinned_it() {
        let ram = ram();
        let (low, high) = (ram.pin(Gpa(0x1000), 8).unwrap(), ram.pin(Gpa(0x10_0000), 8).unwrap());
        assert!(ram.pin(Gpa(0x3fff), 2).is_none());
        assert!(low.1 != high.1 && low.1 == ram.pin(Gpa(0), 1).unwrap().1);
        let regions = [&low.1, &high.1].map(|mapping| Arc::downgrade(&mapping.0));
        drop((ram, low));
        // The other region does not stay with it.
        assert!(regions[0].upgrade().is_none());
        high.0.as_ptr();
        assert!(regions[1].upgrade().is_some());
    }

    #[test]
    fn many_regions_are_told_apart() {
        let start = |n: u64| n * 0x3000;
        let ranges: Vec<_> = (0..100).map(|n| (GuestAddress(start(n)), 0x2000)).collect();
        let ram = GuestRam::new(Arc::new(GuestMemoryMmap::from_ranges(&ranges).unwrap()));
        for n in 0..100 {
            assert_eq!(ram.contiguous(Gpa(start(n) + 0x1ff8)).unwrap().len(), 8);
            assert!(ram.contiguous(Gpa(start(n) + 0x2000)).is_none());
            ram.write_u64(Gpa(start(n)), n).unwrap();
        }
        assert!((0..100).all(|n| ram.read_u64(Gpa(start(n))) == Some(n)));
    }

    #[test]
    fn words_are_aligned_and_shared() {
        let ram = ram();
        assert!(ram.atomic_u64(Gpa(4)).is_none());
        ram.write_u64(Gpa(0x10_0008), 7).unwrap();
        assert_eq!(ram.clone().read_u64(Gpa(0x10_0008)), Some(7));
        let mut bytes = [0; 8];
        ram.read(Gpa(0x10_0008), &mut bytes).unwrap();
        assert_eq!(u64::from_le_bytes(bytes), 7);
    }
}
