// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The thread that keeps the windows of a guest, and what it knows.

use super::{Found, Pages, map};
use crate::fabric::direct::MAX_RANGES;
use crate::session::Session;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use userfaultfd::{Event, EventBuffer, ReadWrite, Uffd};
use vnic_abi::PAGE_SIZE;
use vnic_iommu::memory::Backing;

/// Longest wait for a page that the guest was asked for.
const PATIENCE: Duration = Duration::from_secs(30);
/// Times that a page is asked for again which the guest has said is there, and is not.
const TRIES: u32 = 100;
/// How long a page that cannot be had is not asked for again.
const DENIED: Duration = Duration::from_secs(1);
/// How often to look whether a wait is over.
const LOOK: Duration = Duration::from_millis(100);
const PAGE: usize = PAGE_SIZE as usize;

/// Number of the next fault, of any keeper. Relaxed throughout: only uniqueness matters.
static NEXT_FAULT: AtomicU32 = AtomicU32::new(0);

/// A window, by the address of its first page.
struct Window {
    len: usize,
    va: u64,
    writes: bool,
    pages: Arc<dyn Pages>,
    /// A bit for each page that was put there since it was last taken away.
    there: Bits,
    /// The same for each that was ever put there: its mapping stays.
    mapped: Bits,
    /// Mappings that were made for it.
    ranges: u64,
}

/// A bit for each page of a window.
struct Bits(Box<[u64]>);

impl Bits {
    fn none(pages: usize) -> Self {
        Self(vec![0; pages.div_ceil(64)].into())
    }

    fn set(&mut self, from: usize, len: usize, value: bool) {
        for page in from / PAGE..(from + len) / PAGE {
            let bit = 1 << (page % 64);
            if value {
                self.0[page / 64] |= bit;
            } else {
                self.0[page / 64] &= !bit;
            }
        }
    }

    /// Whether any is set.
    fn any(&self, from: usize, len: usize) -> bool {
        (from / PAGE..(from + len).div_ceil(PAGE))
            .any(|page| self.0[page / 64] & (1 << (page % 64)) != 0)
    }
}

/// Somebody waits for a page.
#[derive(Debug, Clone, Copy)]
struct Fault {
    place: usize,
    /// The page is asked for to be written to.
    to_write: bool,
    /// If it may not be written to, it is of use nevertheless: the device only reads, so far.
    may_read: bool,
    tries: u32,
    end: Instant,
}

#[derive(Default)]
struct State {
    windows: BTreeMap<usize, Window>,
    /// Mappings that were made for all of them, at most [`MAX_RANGES`].
    ranges: u64,
    faults: HashMap<u32, Fault>,
    /// Answers to faults, and whether they say no.
    answers: Vec<(u32, bool)>,
    /// Pages that fail whoever touches them, and until when.
    denied: BTreeMap<usize, Instant>,
}

/// The windows of a guest.
pub struct Shadows {
    uffd: Uffd,
    rung: OwnedFd,
    stop: AtomicBool,
    state: Mutex<State>,
}

impl fmt::Debug for Shadows {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shadows").finish_non_exhaustive()
    }
}

impl Shadows {
    /// Has the thread look at everything.
    pub fn ring(&self) {
        // It can only be full, and is then heard all the same.
        let _ = rustix::io::write(&self.rung, &1u64.to_ne_bytes());
    }

    /// Pages that fail whoever touches them now.
    #[cfg(test)]
    pub(super) fn denied(&self) -> usize {
        self.state.lock().denied.len()
    }

    /// Makes a window of `len` bytes, whole pages, on `va`. Its address.
    pub(super) fn open(
        &self,
        pages: Arc<dyn Pages>,
        va: u64,
        len: usize,
        writes: bool,
    ) -> io::Result<usize> {
        let mut state = self.state.lock();
        let start = map::make(&self.uffd, len)?;
        let (there, mapped) = (Bits::none(len / PAGE), Bits::none(len / PAGE));
        let window = Window { len, va, writes, pages, there, mapped, ranges: 0 };
        state.windows.insert(start, window);
        Ok(start)
    }

    /// Ends a window, of which no device knows any more.
    pub(super) fn close(&self, start: usize, len: usize) {
        let mut state = self.state.lock();
        let Some(window) = state.windows.remove(&start) else { return };
        state.ranges -= window.ranges;
        let inside = |place: usize| (start..start + len).contains(&place);
        let faults: Vec<u32> =
            state.faults.iter().filter(|(_, it)| inside(it.place)).map(|(id, _)| *id).collect();
        for id in &faults {
            state.faults.remove(id);
        }
        state.denied.retain(|place, _| !inside(*place));
        map::remove(&self.uffd, start, len);
        drop(state);
        faults.into_iter().for_each(|id| window.pages.forget(id));
    }

    /// Fault `fault` was answered; `denied` says that the page cannot be had.
    pub fn answer(&self, fault: u32, denied: bool) {
        self.state.lock().answers.push((fault, denied));
        self.ring();
    }

    /// Takes `start..end` of address space `space` out of all windows. At the return no device reaches what was there.
    pub fn take_away(&self, space: u64, start: u64, end: u64) {
        let mut state = self.state.lock();
        for (&place, window) in &mut state.windows {
            if window.pages.space() != space {
                continue;
            }
            // Does not wrap: `whole_pages` has seen to it.
            let last = window.va + window.len as u64;
            let (from, to) = (start.max(window.va), end.min(last));
            if from >= to {
                continue;
            }
            let from = (from - window.va) as usize / PAGE * PAGE;
            let len = ((to - window.va) as usize).next_multiple_of(PAGE) - from;
            if !window.there.any(from, len) {
                continue;
            }
            window.there.set(from, len, false);
            if let Err(error) = map::take_away(place + from, len) {
                // The guest must not believe that nobody has its pages.
                tracing::error!(%error, "cannot take pages out of a window: the daemon ends");
                std::process::abort();
            }
        }
    }

    fn serve(&self, state: &mut State) {
        let now = Instant::now();
        for (id, denied) in std::mem::take(&mut state.answers) {
            if let Some(fault) = state.faults.remove(&id) {
                self.again(state, fault, denied);
            }
        }
        let late: Vec<u32> =
            state.faults.iter().filter(|(_, it)| now >= it.end).map(|(id, _)| *id).collect();
        for id in late {
            if let Some(fault) = state.faults.remove(&id) {
                if let Some((window, _)) = window_of(state, fault.place) {
                    window.pages.forget(id);
                }
                self.deny(state, fault.place);
            }
        }
        // What cannot be allowed again is tried later, and fails until then.
        state
            .denied
            .retain(|place, end| now < *end || map::allow(&self.uffd, *place, PAGE).is_err());
    }

    /// A fault was answered.
    fn again(&self, state: &mut State, mut fault: Fault, denied: bool) {
        fault.tries += 1;
        if denied && fault.to_write && fault.may_read {
            fault.to_write = false;
        } else if denied || fault.tries > TRIES {
            return self.deny(state, fault.place);
        }
        self.resolve(state, fault);
    }

    /// A device waits for the page at `fault.place`.
    fn resolve(&self, state: &mut State, fault: Fault) {
        let Some((window, va)) = window_of(state, fault.place) else { return };
        let pages = window.pages.clone();
        match pages.find(va, fault.to_write) {
            Found::Page(backing) => self.put(state, &fault, &backing),
            Found::Missing => {
                let id = NEXT_FAULT.fetch_add(1, Ordering::Relaxed);
                state.faults.insert(id, fault);
                if !pages.ask(va, fault.to_write, id) {
                    state.faults.remove(&id);
                    self.deny(state, fault.place);
                }
            }
            Found::Never => self.deny(state, fault.place),
        }
    }

    fn put(&self, state: &mut State, fault: &Fault, backing: &Backing) {
        let State { windows, ranges, denied, .. } = state;
        let place = fault.place;
        let Some((&start, window)) = windows.range_mut(..=place).next_back() else { return };
        let from = place - start;
        if !window.mapped.any(from, PAGE) {
            // Of what the whole daemon has, no guest gets more than its part.
            if *ranges >= MAX_RANGES {
                tracing::warn!("a guest has as many separate pages in windows as a port may have");
                return self.deny(state, place);
            }
            *ranges += 1;
            window.ranges += 1;
        }
        let rest = window.len - from;
        let len = rest.min(usize::try_from(backing.len).unwrap_or(rest)) / PAGE * PAGE;
        window.there.set(from, len, true);
        window.mapped.set(from, len, true);
        // What a larger page covers is not denied any more: nothing but the guest's page is behind it now.
        denied.retain(|denied, _| !(place..place + len).contains(denied));
        if let Err(error) = map::put(&self.uffd, place, len, backing, fault.to_write) {
            tracing::warn!(%error, "cannot map a page for a device of the host; raise vm.max_map_count if there are many");
            self.deny(state, place);
        }
    }

    /// Has whoever waits for the page fail. If even that cannot be, it waits for as long as its kernel lets it.
    fn deny(&self, state: &mut State, place: usize) {
        match map::deny(&self.uffd, place, PAGE) {
            Ok(()) => drop(state.denied.insert(place, Instant::now() + DENIED)),
            Err(error) => tracing::warn!(%error, "cannot refuse a page to a device of the host"),
        }
    }

    /// Takes the faults that there are.
    fn hear(&self, state: &mut State, buffer: &mut EventBuffer) {
        let events: Vec<Event> = match self.uffd.read_events(buffer) {
            Ok(events) => events.filter_map(Result::ok).collect(),
            Err(_) => return,
        };
        let end = Instant::now() + PATIENCE;
        for event in events {
            let Event::Pagefault { rw, addr, .. } = event else { continue };
            let place = addr.addr() / PAGE * PAGE;
            let Some((window, _)) = window_of(state, place) else { continue };
            // Also for a device that only reads: what it has may be written by it later.
            let (to_write, may_read) = (window.writes, rw == ReadWrite::Read);
            // The same page may be waited for by several, who are all woken together.
            let known = state.denied.contains_key(&place)
                || state.faults.values().any(|fault| fault.place == place);
            if !known {
                self.resolve(state, Fault { place, to_write, may_read, tries: 0, end });
            }
        }
    }
}

/// The window that has `place`, and what is there.
fn window_of(state: &State, place: usize) -> Option<(&Window, u64)> {
    let (start, window) = state.windows.range(..=place).next_back()?;
    let inside = place - start;
    (inside < window.len).then(|| (window, window.va + inside as u64))
}

/// The thread, until this is dropped.
#[derive(Debug)]
pub struct Keeper {
    shadows: Arc<Shadows>,
    thread: Option<JoinHandle<()>>,
}

impl Keeper {
    /// Keeps windows of `session`, or of nobody who takes anything away.
    ///
    /// # Errors
    ///
    /// userfaultfd is not allowed, or there is no thread.
    pub fn start(session: Weak<Session>) -> io::Result<Self> {
        let shadows = Arc::new(Shadows {
            uffd: map::open()?,
            rung: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            stop: AtomicBool::new(false),
            state: Mutex::default(),
        });
        let thread = thread::Builder::new().name("direct-pages".into()).spawn({
            let shadows = shadows.clone();
            move || keep(&shadows, &session)
        })?;
        Ok(Self { shadows, thread: Some(thread) })
    }

    /// The windows.
    pub fn shadows(&self) -> &Arc<Shadows> {
        &self.shadows
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `keep`.
        self.shadows.stop.store(true, Ordering::Release);
        self.shadows.ring();
        if let Some(thread) = self.thread.take()
            // It may be the last to let go of the session.
            && thread.thread().id() != thread::current().id()
        {
            // One that panicked has said so already.
            let _ = thread.join();
        }
    }
}

fn keep(shadows: &Shadows, session: &Weak<Session>) {
    let mut buffer = EventBuffer::new(64);
    let mut taken = super::invalidate::Taken::default();
    loop {
        let waits = {
            let state = shadows.state.lock();
            !(state.faults.is_empty() && state.denied.is_empty())
        };
        let time = Timespec { tv_sec: 0, tv_nsec: LOOK.as_nanos() as i64 };
        let mut files =
            [PollFd::new(&shadows.uffd, PollFlags::IN), PollFd::new(&shadows.rung, PollFlags::IN)];
        let _ = poll(&mut files, waits.then_some(&time));
        // Acquire: pairs with the Release in `drop`.
        if shadows.stop.load(Ordering::Acquire) {
            return;
        }
        let mut rung = [0; 8];
        let _ = rustix::io::read(&shadows.rung, &mut rung);
        if let Some(session) = session.upgrade() {
            // First: somebody in the guest waits for it, and whoever is served behind it finds what is new.
            taken.look(shadows, &session);
            if waits {
                session.send_deferred(Instant::now());
            }
        }
        let mut state = shadows.state.lock();
        shadows.hear(&mut state, &mut buffer);
        shadows.serve(&mut state);
    }
}
