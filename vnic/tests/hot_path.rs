// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the path of a request does not do: allocate, and call the operating system.
//!
//! A worker is stepped by hand, so that posting, working and polling are one thread, which can be watched.

#[path = "../benches/rig/mod.rs"]
mod rig;

use rig::{Load, Work, direct};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread.
    static ALLOCATED: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

#[allow(unsafe_code)] // reason: how an allocator is wrapped
// SAFETY: passes everything on to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // A thread that ends has no counter any more.
        let _ = ALLOCATED.try_with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        // SAFETY: the caller's.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn requests_allocate_nothing() {
    for work in Work::ALL {
        let mut load = Load::new(work, 4);
        // Whatever grows with use has grown then.
        load.run(2000);
        let before = ALLOCATED.get();
        load.run(10_000);
        assert_eq!(ALLOCATED.get() - before, 0, "{work:?}");
    }
    for work in direct::Work::ALL {
        let mut load = direct::Load::new(work, 4);
        load.run(2000);
        let before = ALLOCATED.get();
        load.run(10_000);
        assert_eq!(ALLOCATED.get() - before, 0, "direct {work:?}");
    }
    // The counter counts.
    let before = ALLOCATED.get();
    drop(std::hint::black_box(Box::new(7)));
    assert_eq!(ALLOCATED.get() - before, 1);
}

/// Runs `work` in a process of its own that dies of any system call but `read`, `write` and its end.
#[allow(unsafe_code)] // reason: no library has a safe name for these calls
fn survives_without_calls(work: impl FnOnce()) -> bool {
    // SAFETY: the child uses nothing but memory of its own copy, and ends without unwinding. Another
    // thread of the parent may hold a lock of the allocator: the work has to allocate nothing.
    match unsafe { libc::fork() } {
        0 => {
            // SAFETY: plain numbers. From here on the kernel kills at any other call.
            unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_STRICT) };
            work();
            // SAFETY: ends this process, which has one thread.
            unsafe { libc::syscall(libc::SYS_exit, 0) };
            unreachable!()
        }
        child => {
            assert!(child > 0, "fork");
            let mut status = 0;
            // SAFETY: a child of this process, and a place for its status.
            let waited = unsafe { libc::waitpid(child, &mut status, 0) };
            waited == child && libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
        }
    }
}

#[test]
fn requests_make_no_system_call() {
    for work in Work::ALL {
        let mut load = Load::new(work, 4);
        load.run(2000);
        assert!(survives_without_calls(|| load.run(10_000)), "{work:?}");
    }
    // What the host's device itself does is not the daemon's.
    for work in direct::Work::ALL {
        let mut load = direct::Load::new(work, 4);
        load.run(2000);
        assert!(survives_without_calls(|| load.run(10_000)), "direct {work:?}");
    }
    // The watch bites.
    assert!(!survives_without_calls(|| drop(std::hint::black_box(std::fs::metadata("/")))));
}
