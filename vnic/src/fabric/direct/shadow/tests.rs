// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Windows as whoever touches them sees them; a thread of this process stands for the device.

use super::{Found, Keeper, Pages, ShadowWindow};
use crate::fabric::direct::window::WindowBudget;
use parking_lot::Mutex;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::io::Errno;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use vnic_abi::PAGE_SIZE;
use vnic_abi::status::Status;
use vnic_iommu::memory::Backing;

/// Pages of a window, and of each place that it can show.
const PAGES: u64 = 8;
const VA: u64 = 0x7000_0000;

/// A file with two places for each page, in which each page begins with its place.
struct Memory {
    file: Arc<File>,
    /// Which of the two is shown.
    place: AtomicU64,
    /// Pages from here on have to be asked for.
    known: AtomicU64,
    /// Pages may not be written to.
    read_only: AtomicBool,
    /// All that follows is one piece.
    large: AtomicBool,
    asked: Mutex<Vec<(u64, u32)>>,
    forgotten: Mutex<Vec<u32>>,
}

impl Memory {
    fn new(known: u64) -> Arc<Self> {
        let file = memfd_create("vnic-test", MemfdFlags::CLOEXEC).unwrap();
        ftruncate(&file, 2 * PAGES * PAGE_SIZE).unwrap();
        let file = Arc::new(File::from(file));
        for page in 0..2 * PAGES {
            file.write_all_at(&page.to_le_bytes(), page * PAGE_SIZE).unwrap();
        }
        let (place, known) = (AtomicU64::new(0), AtomicU64::new(known));
        let (asked, forgotten) = Default::default();
        let (read_only, large) = Default::default();
        Arc::new(Self { file, place, known, read_only, large, asked, forgotten })
    }

    /// What is asked for next.
    fn next_asked(&self) -> (u64, u32) {
        loop {
            if let Some(asked) = self.asked.lock().pop() {
                return asked;
            }
            std::thread::yield_now();
        }
    }
}

impl Pages for Memory {
    fn find(&self, va: u64, write: bool) -> Found {
        let page = (va - VA) / PAGE_SIZE;
        let refused = write && self.read_only.load(Ordering::SeqCst);
        if page >= self.known.load(Ordering::SeqCst) || refused {
            return Found::Missing;
        }
        let len = if self.large.load(Ordering::SeqCst) { PAGES - page } else { 1 } * PAGE_SIZE;
        let offset = (self.place.load(Ordering::SeqCst) * PAGES + page) * PAGE_SIZE;
        Found::Page(Backing { file: self.file.clone(), offset, len })
    }

    fn ask(&self, va: u64, _: bool, fault: u32) -> bool {
        self.asked.lock().push((va, fault));
        true
    }

    fn forget(&self, fault: u32) {
        self.forgotten.lock().push(fault);
    }

    fn space(&self) -> u64 {
        7
    }
}

fn open(keeper: &Keeper, memory: &Arc<Memory>) -> ShadowWindow {
    let budget = WindowBudget::new(PAGES, PAGES);
    ShadowWindow::open(keeper.shadows(), memory.clone(), VA, PAGES * PAGE_SIZE, true, &budget)
        .unwrap()
}

/// The first word of a page of the window.
fn word(window: &ShadowWindow, page: u64) -> &AtomicU64 {
    let place = window.addr().wrapping_add((page * PAGE_SIZE) as usize);
    #[allow(unsafe_code)] // reason: the memory under test
    // SAFETY: a page of the window, which lives as long as the borrow; everybody uses it as atomic words.
    unsafe {
        AtomicU64::from_ptr(place.cast())
    }
}

#[test]
fn a_touch_finds_the_page_where_it_is_and_where_it_has_moved() {
    let (keeper, memory) = (Keeper::start(Weak::new()).unwrap(), Memory::new(PAGES));
    let window = open(&keeper, &memory);
    for round in 0..4 {
        let place = round % 2;
        memory.place.store(place, Ordering::SeqCst);
        keeper.shadows().take_away(7, VA, VA + PAGES * PAGE_SIZE);
        for page in 0..PAGES {
            assert_eq!(word(&window, page).load(Ordering::SeqCst), place * PAGES + page);
        }
    }
    // What is written is in the file; what is taken away from another address space stays.
    word(&window, 3).store(99, Ordering::SeqCst);
    keeper.shadows().take_away(8, 0, u64::MAX);
    let mut bytes = [0; 8];
    memory.file.read_exact_at(&mut bytes, (PAGES + 3) * PAGE_SIZE).unwrap();
    assert_eq!(u64::from_le_bytes(bytes), 99);
    // Of a range, the pages that it touches and no other.
    memory.place.store(0, Ordering::SeqCst);
    keeper.shadows().take_away(7, VA + PAGE_SIZE + 5, VA + 2 * PAGE_SIZE + 1);
    let found: Vec<u64> = (0..4).map(|page| word(&window, page).load(Ordering::SeqCst)).collect();
    assert_eq!(found, [PAGES, 1, 2, 99]);
}

#[test]
fn a_page_that_is_not_there_is_asked_for_and_waited_for() {
    let (keeper, memory) = (Keeper::start(Weak::new()).unwrap(), Memory::new(0));
    let window = open(&keeper, &memory);
    std::thread::scope(|scope| {
        let touch = scope.spawn(|| word(&window, 5).load(Ordering::SeqCst));
        let (va, fault) = memory.next_asked();
        assert_eq!(va, VA + 5 * PAGE_SIZE);
        assert!(!touch.is_finished());
        // An answer without the page is another question.
        keeper.shadows().answer(fault, false);
        let (_, fault) = memory.next_asked();
        memory.known.store(PAGES, Ordering::SeqCst);
        keeper.shadows().answer(fault, false);
        assert_eq!(touch.join().unwrap(), 5);
    });
}

/// Touches a page as the kernel does it for a program, which learns of a refusal and lives.
fn touch(window: &ShadowWindow, page: u64) -> Result<u64, Errno> {
    let (read, write) = rustix::pipe::pipe().unwrap();
    let place = word(window, page).as_ptr().cast::<u8>();
    #[allow(unsafe_code)] // reason: the memory under test
    // SAFETY: only the kernel looks at it, which does not mind what it finds, or finds nothing.
    rustix::io::write(&write, unsafe { std::slice::from_raw_parts(place, 8) })?;
    let mut bytes = [0; 8];
    rustix::io::read(&read, &mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

#[test]
fn what_may_not_be_written_can_be_read_and_what_cannot_be_had_fails() {
    let (keeper, memory) = (Keeper::start(Weak::new()).unwrap(), Memory::new(4));
    memory.read_only.store(true, Ordering::SeqCst);
    let window = open(&keeper, &memory);
    std::thread::scope(|scope| {
        let reads = scope.spawn(|| touch(&window, 2));
        keeper.shadows().answer(memory.next_asked().1, true);
        assert_eq!(reads.join().unwrap(), Ok(2));
        // Neither to be written nor to be read.
        let fails = scope.spawn(|| touch(&window, 6));
        keeper.shadows().answer(memory.next_asked().1, true);
        keeper.shadows().answer(memory.next_asked().1, true);
        assert_eq!(fails.join().unwrap(), Err(Errno::FAULT));
        assert_eq!(keeper.shadows().denied(), 1);
        // For a while it is not even asked for.
        assert_eq!(touch(&window, 6), Err(Errno::FAULT));
        assert!(memory.asked.lock().is_empty());
    });
    // A larger page that covers it is there as any other: it is not left to the denial's end, which would make more
    // of it than the guest's page allows, and less of what is taken away.
    memory.read_only.store(false, Ordering::SeqCst);
    memory.known.store(PAGES, Ordering::SeqCst);
    memory.large.store(true, Ordering::SeqCst);
    assert_eq!(touch(&window, 5), Ok(5));
    assert_eq!(keeper.shadows().denied(), 0);
    assert_eq!(touch(&window, 6), Ok(6));
    memory.place.store(1, Ordering::SeqCst);
    keeper.shadows().take_away(7, 0, u64::MAX);
    assert_eq!(touch(&window, 6), Ok(PAGES + 6));
}

#[test]
fn a_window_that_goes_takes_its_questions_with_it() {
    let (keeper, memory) = (Keeper::start(Weak::new()).unwrap(), Memory::new(0));
    let window = open(&keeper, &memory);
    let start = window.addr().expose_provenance();
    std::thread::scope(|scope| {
        let fails = scope.spawn(move || {
            let (_read, write) = rustix::pipe::pipe().unwrap();
            let place = std::ptr::with_exposed_provenance::<u8>(start);
            #[allow(unsafe_code)] // reason: the memory under test
            // SAFETY: as in `touch`; that the memory goes meanwhile is what is tried.
            rustix::io::write(&write, unsafe { std::slice::from_raw_parts(place, 8) })
        });
        let (_, fault) = memory.next_asked();
        drop(window);
        assert_eq!(*memory.forgotten.lock(), [fault]);
        assert_eq!(fails.join().unwrap(), Err(Errno::FAULT));
    });
}

#[test]
fn ranges_that_no_process_has_are_refused() {
    let (keeper, memory) = (Keeper::start(Weak::new()).unwrap(), Memory::new(0));
    let budget = WindowBudget::new(1 << 40, 1);
    for (va, len) in
        [(u64::MAX - 4096, 4096), (u64::MAX, 1), (1 << 56, 1), (0, u64::MAX), ((1 << 56) - 1, 2)]
    {
        let opened = ShadowWindow::open(keeper.shadows(), memory.clone(), va, len, true, &budget);
        assert_eq!(opened.map(drop), Err(Status::BadSize), "{va:#x}+{len:#x}");
    }
}

/// Whoever has taken pages away sees nothing written to them any more, however it races.
#[test]
fn nothing_is_written_to_what_was_taken_away() {
    let (keeper, memory) = (Keeper::start(Weak::new()).unwrap(), Memory::new(PAGES));
    let window = open(&keeper, &memory);
    let (stop, written) = (AtomicBool::new(false), AtomicU64::new(1000));
    // Every page was written to since.
    let all_written = || {
        let since = written.load(Ordering::SeqCst);
        while written.load(Ordering::SeqCst) <= since + PAGES {
            std::thread::yield_now();
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::SeqCst) {
                let count = written.fetch_add(1, Ordering::SeqCst);
                word(&window, count % PAGES).store(count, Ordering::SeqCst);
            }
        });
        for round in 0..300u64 {
            let (old, new) = (round % 2, (round + 1) % 2);
            all_written();
            memory.place.store(new, Ordering::SeqCst);
            keeper.shadows().take_away(7, 0, u64::MAX);
            let read = |page: u64| {
                let mut bytes = [0; 8];
                let at = (old * PAGES + page) * PAGE_SIZE;
                memory.file.read_exact_at(&mut bytes, at).unwrap();
                bytes
            };
            let before: Vec<_> = (0..PAGES).map(read).collect();
            all_written();
            let after: Vec<_> = (0..PAGES).map(read).collect();
            if before != after {
                stop.store(true, Ordering::SeqCst);
            }
            assert_eq!(before, after, "round {round}");
        }
        stop.store(true, Ordering::SeqCst);
    });
}
