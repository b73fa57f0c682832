// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How a worker that has lanes sleeps: until something comes by one of them, or somebody rings.
//!
//! A worker without lanes parks its thread. One that has some waits for their files itself, since another thread that
//! did so for it would be one more to be woken on the way of each message.

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::time::Duration;

/// What an event is of.
const RUNG: u64 = 0;
const FILE: u64 = 1;

/// What a worker listens to in its sleep.
#[derive(Debug)]
pub struct Bell {
    epoll: OwnedFd,
    rung: OwnedFd,
    listens: AtomicBool,
}

impl Bell {
    /// One that only rings.
    ///
    /// # Errors
    ///
    /// Those of the operating system: no more files.
    pub fn new() -> Result<Self, Errno> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let rung = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        epoll::add(&epoll, &rung, EventData::new_u64(RUNG), EventFlags::IN)?;
        Ok(Self { epoll, rung, listens: AtomicBool::new(false) })
    }

    /// Ends the sleep also when `file` is readable, until that is closed or [removed](Self::remove).
    ///
    /// # Errors
    ///
    /// Those of the operating system.
    pub fn add(&self, file: BorrowedFd<'_>) -> Result<(), Errno> {
        epoll::add(&self.epoll, file, EventData::new_u64(FILE), EventFlags::IN)
    }

    /// `file` does not end the sleep any more.
    pub fn remove(&self, file: BorrowedFd<'_>) {
        // One that it does not have ends no sleep.
        let _ = epoll::delete(&self.epoll, file);
    }

    /// From now on whoever rings is heard. What was told before has to be looked for after this and a full fence, and
    /// before [`Self::sleep`].
    pub fn listen(&self) {
        // Relaxed: the caller's fence pairs with that in `ring`. Either the ringer sees this, or what it told is seen
        // behind the fence.
        self.listens.store(true, Ordering::Relaxed);
    }

    /// Nobody has to ring any more.
    pub fn ignore(&self) {
        // Relaxed: a ring too many ends the next sleep early.
        self.listens.store(false, Ordering::Relaxed);
    }

    /// Ends the sleep of whoever listens. Call after the store of what there is to tell.
    pub fn ring(&self) {
        // SeqCst: pairs with the fence behind `listen`.
        fence(Ordering::SeqCst);
        // Relaxed: ordered by the fence.
        if self.listens.load(Ordering::Relaxed) {
            // It can only be full, and is then heard all the same.
            let _ = rustix::io::write(&self.rung, &1u64.to_ne_bytes());
        }
    }

    /// Sleeps until somebody rings, a file is readable, or the time is over. Whether a file may be readable: if not, nobody has
    /// to ask each of them.
    pub fn sleep(&self, time: Option<Duration>) -> bool {
        let mut events = [const { std::mem::MaybeUninit::<Event>::uninit() }; 8];
        let time = time.map(|time| Timespec {
            tv_sec: time.as_secs().try_into().unwrap_or(i64::MAX),
            tv_nsec: time.subsec_nanos().into(),
        });
        let Ok((ready, _)) = epoll::wait(&self.epoll, &mut events, time.as_ref()) else {
            // Whatever ended it: the worker looks at everything.
            return true;
        };
        let mut files = false;
        for event in ready {
            if event.data.u64() == RUNG {
                let mut rung = [0; 8];
                let _ = rustix::io::read(&self.rung, &mut rung);
            } else {
                files = true;
            }
        }
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;
    use std::sync::Arc;
    use std::time::Instant;

    #[test]
    fn a_ring_ends_the_sleep_once() {
        let bell = Arc::new(Bell::new().unwrap());
        bell.ring();
        bell.listen();
        let since = Instant::now();
        bell.sleep(Some(Duration::from_millis(20)));
        assert!(since.elapsed() >= Duration::from_millis(20), "nobody listened to the first ring");
        let other = bell.clone();
        let ringer = std::thread::spawn(move || other.ring());
        assert!(!bell.sleep(None), "there is no file");
        ringer.join().unwrap();
        let since = Instant::now();
        assert!(!bell.sleep(Some(Duration::from_millis(20))));
        assert!(since.elapsed() >= Duration::from_millis(20), "it was heard once");
    }

    #[test]
    fn a_file_ends_it_for_as_long_as_it_is_open() {
        let bell = Bell::new().unwrap();
        let file = eventfd(1, EventfdFlags::CLOEXEC).unwrap();
        bell.add(file.as_fd()).unwrap();
        bell.listen();
        assert!(bell.sleep(None), "it is readable");
        bell.ring();
        assert!(bell.sleep(None), "as well");
        drop(file);
        let since = Instant::now();
        bell.sleep(Some(Duration::from_millis(20)));
        assert!(since.elapsed() >= Duration::from_millis(20), "it is closed");
    }
}
