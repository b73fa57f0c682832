// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest RAM: a memfd, its frames, and mappings of frames into this process.

use std::fs::File;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{
    Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, MmapRegion,
    VolatileMemory, VolatileSlice,
};

use super::frames::Frames;
pub use super::frames::Layout;
use super::large_pages;
use super::mapping::Mapping;

/// Size of a frame in bytes.
pub const FRAME: u64 = 4096;

/// Size of a large page in bytes.
pub const LARGE_PAGE: u64 = 2 << 20;

/// Where the part of RAM behind the first region begins: above 4 GiB, as a PC has it.
pub const HIGH_BASE: u64 = 1 << 32;

/// A region of guest-physical memory.
#[derive(Debug, Clone, Copy)]
pub struct Region {
    /// Guest-physical address of the first byte.
    pub gpa: u64,
    /// Length in bytes.
    pub len: u64,
    /// Offset in the memfd.
    pub offset: u64,
    /// Where this process maps the region.
    pub host: u64,
}

/// The RAM of a guest. Clones share it.
#[derive(Clone)]
pub struct Ram {
    inner: Arc<Inner>,
}

struct Inner {
    file: Arc<File>,
    memory: Arc<GuestMemoryMmap>,
    regions: Vec<Region>,
    frames: Mutex<Frames>,
}

impl Ram {
    /// RAM of `len` bytes: one half at guest-physical 0, the other above 4 GiB.
    ///
    /// # Panics
    ///
    /// If the host refuses the memory.
    pub fn new(len: u64) -> Self {
        let fd = memfd_create("vnic-guest-ram", MemfdFlags::CLOEXEC).expect("memfd_create");
        Self::of(File::from(fd), len)
    }

    /// As [`new`](Self::new), in large pages of the host, whatever its setting for memfds is.
    ///
    /// # Errors
    ///
    /// If this process may not mount a file system of its own (which no other process sees), or the host knows no
    /// large pages.
    ///
    /// # Panics
    ///
    /// If the host refuses the memory.
    pub fn in_large_pages(len: u64) -> rustix::io::Result<Self> {
        let ram = Self::of(large_pages::file()?, len);
        // Large pages come to who touches them in a large mapping first; those of processes are small.
        for region in ram.regions() {
            for at in (0..region.len).step_by(LARGE_PAGE as usize) {
                let place = GuestAddress(region.gpa + at);
                ram.memory().write_obj(0u8, place).expect("in the region");
            }
        }
        Ok(ram)
    }

    fn of(file: File, len: u64) -> Self {
        let half = len / 2 / FRAME * FRAME;
        assert!(half > 0, "RAM of {len} bytes is too small");
        let file = Arc::new(file);
        file.set_len(2 * half).expect("size the memfd");
        let mut regions = Vec::new();
        let mapped = [(0, 0), (HIGH_BASE, half)].map(|(gpa, offset)| {
            let file_offset = FileOffset::from_arc(Arc::clone(&file), offset);
            let mapping = MmapRegion::from_file(file_offset, half as usize).expect("map the memfd");
            regions.push(Region { gpa, len: half, offset, host: mapping.as_ptr() as u64 });
            let region = vm_memory::GuestRegionMmap::new(mapping, GuestAddress(gpa));
            region.expect("guest-physical addresses do not wrap")
        });
        let memory = GuestMemoryMmap::from_regions(mapped.into()).expect("regions are disjoint");
        let frames = Frames::new((2 * half / FRAME) as usize, (half / FRAME) as usize);
        Self {
            inner: Arc::new(Inner {
                file,
                memory: Arc::new(memory),
                regions,
                frames: Mutex::new(frames),
            }),
        }
    }

    /// The memfd.
    pub fn file(&self) -> &Arc<File> {
        &self.inner.file
    }

    /// The mapped memory, for whoever wants it by guest-physical address.
    pub fn memory(&self) -> &Arc<GuestMemoryMmap> {
        &self.inner.memory
    }

    /// The regions, in ascending order.
    pub fn regions(&self) -> &[Region] {
        &self.inner.regions
    }

    /// A page-aligned guest-physical address outside RAM, in the hole between the regions.
    pub fn hole(&self) -> u64 {
        self.inner.regions[0].len
    }

    /// The first address behind all RAM.
    pub fn end(&self) -> u64 {
        self.inner.regions.iter().map(|region| region.gpa + region.len).max().unwrap_or(0)
    }

    /// Frames that nobody holds.
    pub fn free_frames(&self) -> usize {
        self.inner.frames.lock().unwrap_or_else(PoisonError::into_inner).free()
    }

    /// Calls `with` with the 64-bit word at `gpa`.
    ///
    /// # Panics
    ///
    /// If `gpa` is not an aligned address in RAM.
    pub fn word<R>(&self, gpa: u64, with: impl FnOnce(&AtomicU64) -> R) -> R {
        let slice = self
            .inner
            .memory
            .get_slice(GuestAddress(gpa), 8)
            .unwrap_or_else(|error| panic!("no RAM at {gpa:#x}: {error}"));
        with(slice.get_atomic_ref(0).expect("aligned word"))
    }

    /// Reads `buf.len()` bytes at `gpa`.
    ///
    /// # Panics
    ///
    /// If they are not in RAM.
    pub fn read(&self, gpa: u64, buf: &mut [u8]) {
        self.inner.memory.read_slice(buf, GuestAddress(gpa)).expect("read of guest RAM");
    }

    /// Writes `buf` at `gpa`.
    ///
    /// # Panics
    ///
    /// If it is not in RAM.
    pub fn write(&self, gpa: u64, buf: &[u8]) {
        self.inner.memory.write_slice(buf, GuestAddress(gpa)).expect("write of guest RAM");
    }

    /// Zeroed frames for at least `len` bytes, mapped into this process.
    ///
    /// # Panics
    ///
    /// If the guest is out of memory.
    pub fn alloc(&self, len: u64, layout: Layout) -> Pages {
        let unit = if layout == Layout::Large { LARGE_PAGE } else { FRAME };
        let count = (len.max(1).next_multiple_of(unit) / FRAME) as usize;
        let frames = self
            .inner
            .frames
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(count, layout)
            .unwrap_or_else(|| panic!("guest out of memory: {count} frames wanted"));
        let mapping = Mapping::of_frames(&self.inner.file, &frames, unit);
        mapping.slice().write_slice(&vec![0; mapping.len], 0).expect("whole mapping");
        Pages { ram: self.clone(), frames: Mutex::new(frames), mapping }
    }

    fn gpa_of_frame(&self, frame: usize) -> u64 {
        let offset = frame as u64 * FRAME;
        let region = self
            .inner
            .regions
            .iter()
            .find(|region| offset >= region.offset && offset - region.offset < region.len)
            .expect("frame of this RAM");
        region.gpa + (offset - region.offset)
    }
}

/// Frames of a guest's RAM, mapped side by side in this process. Freed when dropped.
pub struct Pages {
    ram: Ram,
    /// Frames by page; a page may move to another frame.
    frames: Mutex<Vec<usize>>,
    mapping: Mapping,
}

impl Pages {
    /// Address of the first byte in this process.
    pub fn addr(&self) -> u64 {
        self.mapping.ptr as u64
    }

    /// A pointer to the first byte. The device writes behind it at any time.
    pub fn as_ptr(&self) -> *mut u8 {
        self.mapping.ptr
    }

    /// Length in bytes, a multiple of the frame size.
    pub fn len(&self) -> u64 {
        self.mapping.len as u64
    }

    /// Never: an allocation has one frame at least.
    pub fn is_empty(&self) -> bool {
        self.mapping.len == 0
    }

    fn frames(&self) -> MutexGuard<'_, Vec<usize>> {
        self.frames.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Guest-physical address of each frame, in virtual order.
    pub fn gpas(&self) -> Vec<u64> {
        self.frames().iter().map(|&frame| self.ram.gpa_of_frame(frame)).collect()
    }

    /// Guest-physical address of each of `count` frames from number `first` on.
    ///
    /// # Panics
    ///
    /// If there are fewer.
    pub fn gpas_of(&self, first: usize, count: usize) -> Vec<u64> {
        let frames = self.frames();
        let frames = &frames[first..first + count];
        frames.iter().map(|&frame| self.ram.gpa_of_frame(frame)).collect()
    }

    /// Moves the page at index `page` to another frame, contents included. Nobody may write to the
    /// page meanwhile: the caller took it away from the device.
    ///
    /// # Panics
    ///
    /// If there is no such page, or no free frame.
    pub fn migrate(&self, page: usize) {
        let mut frames = self.frames();
        let mut allocator = self.ram.inner.frames.lock().unwrap_or_else(PoisonError::into_inner);
        let new = allocator.take(1, Layout::Scattered).expect("guest out of memory")[0];
        let mut content = vec![0; FRAME as usize];
        self.read(page as u64 * FRAME, &mut content);
        self.ram.write(self.ram.gpa_of_frame(new), &content);
        self.mapping.replace(&self.ram.inner.file, page * FRAME as usize, &[new]);
        let old = std::mem::replace(&mut frames[page], new);
        // What a device that still uses the old frame writes or reads must not pass for right.
        self.ram.write(self.ram.gpa_of_frame(old), &[0xdb; FRAME as usize]);
        allocator.put(old);
    }

    /// Guest-physical address of the byte at `offset`.
    ///
    /// # Panics
    ///
    /// If `offset` is behind the end.
    pub fn gpa(&self, offset: u64) -> u64 {
        self.ram.gpa_of_frame(self.frames()[(offset / FRAME) as usize]) + offset % FRAME
    }

    /// The bytes for volatile access.
    pub fn slice(&self) -> VolatileSlice<'_> {
        self.mapping.slice()
    }

    /// Copies out `buf.len()` bytes at `offset`.
    ///
    /// # Panics
    ///
    /// If they leave the allocation.
    pub fn read(&self, offset: u64, buf: &mut [u8]) {
        self.slice().read_slice(buf, offset as usize).expect("read within the pages");
    }

    /// Copies `buf` to `offset`.
    ///
    /// # Panics
    ///
    /// If it leaves the allocation.
    pub fn write(&self, offset: u64, buf: &[u8]) {
        self.slice().write_slice(buf, offset as usize).expect("write within the pages");
    }

    /// The aligned 64-bit word at `offset`.
    ///
    /// # Panics
    ///
    /// If it is not aligned, or leaves the allocation.
    pub fn word(&self, offset: u64) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.len());
        let word = self.mapping.ptr.wrapping_add(offset as usize).cast();
        #[allow(unsafe_code, reason = "a view of memory that has no Rust owner")]
        // SAFETY: within the pages and aligned by the assertion, since pages are aligned; mapped for
        // as long as `self` lives. Everybody accesses the memory atomically or volatilely.
        unsafe {
            AtomicU64::from_ptr(word)
        }
    }

    /// The byte at `offset`.
    ///
    /// # Panics
    ///
    /// If it leaves the allocation.
    pub fn byte(&self, offset: u64) -> &AtomicU8 {
        assert!(offset < self.len());
        let byte = self.mapping.ptr.wrapping_add(offset as usize);
        #[allow(unsafe_code, reason = "as above")]
        // SAFETY: as for `word`; a byte is always aligned.
        unsafe {
            AtomicU8::from_ptr(byte)
        }
    }

    /// An acquiring load of the aligned 64-bit word at `offset`; pairs with the device's release.
    pub fn load64(&self, offset: u64) -> u64 {
        self.slice().load(offset as usize, Ordering::Acquire).expect("aligned word")
    }

    /// A releasing store of the aligned 64-bit word at `offset`; pairs with the device's acquire.
    pub fn store64(&self, offset: u64, value: u64) {
        self.slice().store(value, offset as usize, Ordering::Release).expect("aligned word");
    }

    /// As [`load64`](Self::load64), 32 bits.
    pub fn load32(&self, offset: u64) -> u32 {
        self.slice().load(offset as usize, Ordering::Acquire).expect("aligned word")
    }

    /// As [`store64`](Self::store64), 32 bits.
    pub fn store32(&self, offset: u64, value: u32) {
        self.slice().store(value, offset as usize, Ordering::Release).expect("aligned word");
    }

    /// As [`load64`](Self::load64), 16 bits.
    pub fn load16(&self, offset: u64) -> u16 {
        self.slice().load(offset as usize, Ordering::Acquire).expect("aligned word")
    }

    /// As [`store64`](Self::store64), 16 bits.
    pub fn store16(&self, offset: u64, value: u16) {
        self.slice().store(value, offset as usize, Ordering::Release).expect("aligned word");
    }
}

impl Drop for Pages {
    fn drop(&mut self) {
        let frames = self.frames();
        let mut allocator = self.ram.inner.frames.lock().unwrap_or_else(PoisonError::into_inner);
        for &frame in frames.iter() {
            allocator.put(frame);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scattered_pages_are_contiguous_for_the_process_only() {
        let ram = Ram::new(1 << 20);
        let pages = ram.alloc(16 * FRAME, Layout::Scattered);
        let data: Vec<u8> = (0..pages.len()).map(|i| (i % 251) as u8).collect();
        pages.write(0, &data);
        let mut seen = Vec::new();
        for gpa in pages.gpas() {
            let mut frame = vec![0; FRAME as usize];
            ram.read(gpa, &mut frame);
            seen.extend(frame);
        }
        assert_eq!(seen, data);
        assert!(pages.gpas().windows(2).any(|pair| pair[1] != pair[0] + FRAME));
    }

    #[test]
    fn large_pages_are_aligned_everywhere() {
        let ram = Ram::new(16 << 20);
        let _one = ram.alloc(FRAME, Layout::Linear);
        let large = ram.alloc(LARGE_PAGE + 1, Layout::Large);
        assert_eq!(large.len(), 2 * LARGE_PAGE);
        assert!(large.addr().is_multiple_of(LARGE_PAGE) && large.gpa(0).is_multiple_of(LARGE_PAGE));
        assert!(large.gpas().windows(2).all(|pair| pair[1] == pair[0] + FRAME));
        large.write(2 * LARGE_PAGE - 4, b"last");
    }

    #[test]
    fn frames_come_back() {
        let ram = Ram::new(1 << 20);
        let before = ram.free_frames();
        let linear = ram.alloc(5 * FRAME, Layout::Linear);
        assert!(linear.gpas().windows(2).all(|pair| pair[1] == pair[0] + FRAME));
        assert_eq!(ram.free_frames(), before - 5);
        drop(linear);
        assert_eq!(ram.free_frames(), before);
    }

    #[test]
    fn both_regions_are_ram_and_the_hole_is_not() {
        let ram = Ram::new(1 << 20);
        ram.write(HIGH_BASE, b"high");
        let mut buf = [0; 4];
        ram.read(HIGH_BASE, &mut buf);
        assert_eq!(&buf, b"high");
        assert!(ram.memory().get_slice(GuestAddress(ram.hole()), 8).is_err());
    }
}
