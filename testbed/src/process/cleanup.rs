// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What has to go when the process is interrupted: children and temporary folders.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    process::Child,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};

enum Item {
    // A descriptor and not a number: numbers are used again.
    Child(OwnedFd),
    Folder(PathBuf),
}

static ITEMS: Mutex<Vec<(u64, Item)>> = Mutex::new(Vec::new());

/// Keeps something on the list of what an interrupt tidies, until it is dropped.
#[derive(Debug)]
pub struct Registered(u64);

impl Drop for Registered {
    fn drop(&mut self) {
        items().retain(|(number, _)| *number != self.0);
    }
}

/// An interrupt removes this folder and all in it.
pub fn folder(path: PathBuf) -> Registered {
    register(Item::Folder(path))
}

/// An interrupt kills this child.
///
/// # Errors
/// When the child has already been waited for.
pub fn child(child: &Child) -> io::Result<Registered> {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or(io::ErrorKind::InvalidInput)?;
    Ok(register(Item::Child(pidfd_open(pid, PidfdFlags::empty())?)))
}

fn register(item: Item) -> Registered {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    // Relaxed: only the uniqueness of the number matters.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    items().push((number, item));
    Registered(number)
}

fn items() -> std::sync::MutexGuard<'static, Vec<(u64, Item)>> {
    ITEMS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From now on SIGINT, SIGTERM and SIGHUP tidy and end the process with 128 + the signal.
/// Further calls do nothing.
///
/// # Errors
/// When the handler cannot be installed.
pub fn on_interrupt() -> io::Result<()> {
    static INSTALLED: OnceLock<()> = OnceLock::new();
    if INSTALLED.get().is_some() {
        return Ok(());
    }
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])?;
    if INSTALLED.set(()).is_ok() {
        thread::spawn(move || {
            if let Some(signal) = signals.forever().next() {
                eprintln!("interrupted: stopping the guests");
                now();
                std::process::exit(128 + signal);
            }
        });
    }
    Ok(())
}

/// Kills every registered child, then removes every registered folder.
fn now() {
    let items = items();
    for (_, item) in items.iter() {
        if let Item::Child(child) = item {
            let _ = pidfd_send_signal(child, Signal::KILL);
        }
    }
    for (_, item) in items.iter() {
        if let Item::Folder(path) = item {
            let _ = fs::remove_dir_all(path);
        }
    }
}
