// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A worker: polls the doorbells of its contexts, gives queue pairs their turns, and sleeps when
//! there is nothing to do.
//!
//! Going to sleep is a Dekker-style agreement with drivers: the worker sets `need_kick` in every
//! doorbell page, issues a full fence and looks at the bitmaps once more; a driver sets its bit with
//! a full fence and then looks at `need_kick`. One of the two sees the other.

use crate::device::Device;
use crate::engine::core::Core;
use crate::engine::doorbells::Doorbells;
use crate::engine::recent::Recent;
use crate::engine::requester;
use crate::engine::schedule::Schedule;
use crate::engine::timer::Half;
use crate::fabric::direct::done;
use crate::fabric::relay::lanes::{self as relay, Open};
use crate::object::qp::Qp;
use crate::wire::bell::Bell;
use parking_lot::Mutex;
use rustix::io::Errno;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};
use std::thread::{JoinHandle, Thread};
use std::time::Instant;

/// Turns between two looks at the doorbells: bounds a pass, and with it grace periods.
const TURNS: usize = 8;
/// Passes in a row that may do without the doorbells.
const MOST_WITHOUT_DOORBELLS: u32 = 8;
/// Idle passes after one that had something to do without doorbells, in which there may be more of it.
const EXPECTING: u32 = 3;
/// Idle passes between two looks at the clock.
const CLOCK: u32 = 16;

/// What other threads tell a worker.
#[derive(Debug, Default)]
pub struct Handle {
    thread: OnceLock<Thread>,
    stop: AtomicBool,
    /// Queue pairs to look at.
    inbox: Mutex<Vec<Arc<Qp>>>,
    /// Queue pairs whose responders owe something to another daemon.
    debts: Mutex<Vec<Arc<Qp>>>,
    /// Lanes to other daemons that are this worker's from now on.
    lanes: Mutex<Vec<Open>>,
    /// Queue pairs that go direct from now on.
    direct: Mutex<Vec<Arc<Qp>>>,
    /// What it listens to in its sleep, once it has had a lane or a queue pair that goes direct.
    bell: OnceLock<Bell>,
    has_mail: AtomicBool,
    /// How often the contexts changed, or the lines of their doorbells that are this worker's.
    version: AtomicU64,
}

impl Handle {
    /// Ends a sleep.
    pub fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// Ends the worker.
    pub fn stop(&self) {
        // Release: pairs with the Acquire in the worker's loop.
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Lets the worker look at `qp`.
    pub fn push(&self, qp: Arc<Qp>) {
        self.inbox.lock().push(qp);
        // SeqCst: `unpark` follows; the worker that parks after it returns at once.
        self.has_mail.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Lets the worker look at what the responder of `qp` owes another daemon.
    pub fn owe(&self, qp: Arc<Qp>) {
        self.debts.lock().push(qp);
        self.notify();
    }

    /// Gives the worker a lane.
    pub fn adopt(&self, lane: Open) {
        self.lanes.lock().push(lane);
        self.notify();
    }

    /// Lets the worker look at what the host's queue pair of `qp` has done, for as long as that goes direct.
    pub fn watch_direct(&self, qp: Arc<Qp>) {
        self.direct.lock().push(qp);
        self.notify();
    }

    fn notify(&self) {
        // SeqCst: as in `push`.
        self.has_mail.store(true, Ordering::SeqCst);
        self.wake();
    }

    /// Lets the worker look again at which contexts and sessions there are.
    pub fn refresh(&self) {
        // Release: pairs with the Acquire in the worker's `reload`.
        self.version.fetch_add(1, Ordering::Release);
        self.wake();
    }
}

/// Starts worker `index` of `device`, and waits until its thread runs under its name.
///
/// # Errors
///
/// Those of the operating system.
pub fn spawn(device: Arc<Device>, index: usize) -> std::io::Result<JoinHandle<()>> {
    let (started, starting) = std::sync::mpsc::sync_channel::<()>(1);
    let thread = std::thread::Builder::new().name(format!("worker-{index}")).spawn({
        let device = device.clone();
        move || {
            drop(started);
            let _all_or_nothing = AbortOnPanic;
            Worker::new(device, index).run();
        }
    })?;
    // The other end is dropped, which is the message.
    let _ = starting.recv();
    // Set once per worker; a kick before now finds the worker not yet asleep.
    let _ = device.handle(index).thread.set(thread.thread().clone());
    Ok(thread)
}

/// Ends the daemon with a worker that panicked: without it, every control thread would wait for its
/// grace period for ever, and a guest would see its queues stand still and never learn why.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            tracing::error!("a worker panicked: the daemon ends");
            std::process::abort();
        }
    }
}

/// A worker without a thread. [`spawn`] gives it one; benches step it by hand.
pub struct Worker {
    index: usize,
    core: Core,
    schedule: Schedule,
    doorbells: Doorbells,
    recent: Recent,
    /// Passes since the doorbells were looked at.
    without_doorbells: u32,
    /// Passes for which elements are expected to come without a doorbell, since the last ones did.
    expecting: u32,
    version: u64,
}

impl Worker {
    /// Worker `index` of `device`.
    pub fn new(device: Arc<Device>, index: usize) -> Self {
        Self {
            index,
            core: Core::new(device, index),
            schedule: Schedule::default(),
            doorbells: Doorbells::default(),
            recent: Recent::default(),
            without_doorbells: 0,
            expecting: 0,
            version: 0,
        }
    }

    fn run(mut self) {
        let device = self.core.device.clone();
        let handle = device.handle(self.index);
        device.grace().wake(self.index);
        let mut idle_since = Instant::now();
        let mut idle_passes = 0u32;
        // Acquire: pairs with the Release in `stop`.
        while !handle.stop.load(Ordering::Acquire) {
            if self.answer(&device) || self.step(&device) {
                idle_passes = 0;
                continue;
            }
            std::hint::spin_loop();
            idle_passes = idle_passes.wrapping_add(1);
            if idle_passes == 1 {
                idle_since = Instant::now();
            } else if idle_passes.is_multiple_of(CLOCK)
                && idle_since.elapsed() >= device.config().spin
            {
                // Who has just asked to be woken looks once more, and need not wait that long again for nothing.
                idle_passes = if self.sleep(handle) { CLOCK - 1 } else { 0 };
            }
        }
        device.grace().sleep(self.index);
    }

    /// A short pass: the turn of a queue pair whose next element comes as soon as it is expected. `true` if one did.
    #[inline]
    fn answer(&mut self, device: &Device) -> bool {
        let Self { core, recent, schedule, .. } = self;
        if self.expecting == 0
            || self.without_doorbells >= MOST_WITHOUT_DOORBELLS
            || !schedule.is_empty()
        {
            return false;
        }
        device.grace().quiescent(self.index);
        let Some(qp) = recent.look_out() else { return false };
        (self.expecting, self.without_doorbells) = (EXPECTING, self.without_doorbells + 1);
        core.watch.set_others_wait(false);
        let step = requester::run(core, qp);
        if step.more {
            schedule.push_after(qp, step.cost);
        }
        true
    }

    /// A pass: takes note of what changed, and looks at everything once. `true` if anything was done.
    #[inline]
    pub fn step(&mut self, device: &Device) -> bool {
        device.grace().quiescent(self.index);
        let handle = device.handle(self.index);
        self.reload(handle);
        self.pass(handle)
    }

    /// One look at everything. `true` if anything was done.
    fn pass(&mut self, handle: &Handle) -> bool {
        let Self { doorbells, recent, schedule, core, .. } = self;
        // Where nobody waits, the first that has something to do has its turn without standing in line.
        let mut free = schedule.is_empty();
        core.watch.set_others_wait(!free);
        let mut serve = |qp: &Arc<Qp>| {
            if !std::mem::take(&mut free) {
                core.watch.set_others_wait(true);
                return schedule.push(qp);
            }
            let step = requester::run(core, qp);
            if step.more {
                schedule.push_after(qp, step.cost);
            }
        };
        let mut busy = recent.poll(&mut serve);
        // Doorbells need not be looked at every time that there is something to do without, nor when there will
        // be soon: a line that stays with the driver is rung at no cost.
        let expected = self.expecting > 0;
        self.expecting = if busy { EXPECTING } else { self.expecting.saturating_sub(1) };
        self.without_doorbells += 1;
        if !(busy || expected) || self.without_doorbells > MOST_WITHOUT_DOORBELLS {
            self.without_doorbells = 0;
            let mut renewed = false;
            #[allow(unsafe_code)] // reason: that this is a pass is known here
            // SAFETY: `step` has announced the pass, and announces the next one after this.
            let rang = unsafe {
                doorbells.poll(|qp| {
                    if !qp.is_idle() {
                        renewed |= recent.note(qp);
                        serve(qp);
                    }
                })
            };
            busy |= rang;
            if renewed {
                self.expecting = 0;
                core.watch.clear();
                recent.qps().for_each(|qp| core.watch.add(qp));
            }
        }
        // Relaxed: a hint; mail is found at the next pass at the latest.
        if handle.has_mail.load(Ordering::Relaxed) {
            busy = true;
            // Cleared before the look, so that later mail sets it again.
            handle.has_mail.store(false, Ordering::SeqCst);
            // A statement of its own: the lock is not held while queue pairs may be dropped.
            let mail = std::mem::take(&mut *handle.inbox.lock());
            for qp in mail {
                schedule.push(&qp);
            }
            let lanes = std::mem::take(&mut *handle.lanes.lock());
            lanes.into_iter().for_each(|lane| adopt(core, handle, lane));
            let direct = std::mem::take(&mut *handle.direct.lock());
            direct.into_iter().for_each(|qp| adopt_direct(core, handle, qp));
            let debts = std::mem::take(&mut *handle.debts.lock());
            core.indebted.extend(debts);
        }
        if !core.timers.is_empty() {
            let indebted = &mut core.indebted;
            core.timers.expire(Instant::now(), |qp, half| match half {
                Half::Send => schedule.push(&qp),
                Half::Receive => indebted.push(qp),
            });
        }
        if !core.lanes.is_empty() {
            busy |= relay::poll(core, |qp| schedule.push(qp));
        } else if !core.indebted.is_empty() {
            // Without a lane nothing is owed: whoever it was owed to comes again by another one.
            core.indebted.clear();
        }
        if !core.direct.is_empty() {
            busy |= done::poll(core, |qp| schedule.push(qp));
        }
        let mut cost = 0;
        for _ in 0..TURNS {
            core.watch.set_others_wait(schedule.others_wait());
            let ran = schedule.turn(|qp| {
                let step = requester::run(core, qp);
                cost += step.cost;
                (step.cost, step.more)
            });
            if !ran {
                break;
            }
            busy = true;
            // Somebody else may have something to do meanwhile.
            if cost >= core.chunk {
                break;
            }
        }
        busy
    }

    /// Takes over a new list of contexts.
    fn reload(&mut self, handle: &Handle) {
        // Acquire: pairs with the Release in `update`.
        let version = handle.version.load(Ordering::Acquire);
        if version == self.version {
            return;
        }
        self.renew(version);
    }

    #[cold]
    fn renew(&mut self, version: u64) {
        self.version = version;
        self.recent.clear();
        self.core.watch.clear();
        self.doorbells.renew(&self.core.device.contexts(), self.index);
        let live = self.core.device.live_sessions();
        self.core.slots.retain(|uid| live.contains(&uid));
    }

    /// Sleeps until a kick, mail, a change of contexts, a message by a lane, or a timer, unless there is something to look at
    /// first. Whether it has to be called again after one look, since it has only just asked to be told of completions.
    fn sleep(&mut self, handle: &Handle) -> bool {
        let has_lanes = !(self.core.lanes.is_empty() && self.core.direct.is_empty());
        let bell = handle.bell.get().filter(|_| has_lanes);
        if let Some(bell) = bell {
            bell.listen();
        }
        self.doorbells.set_need_kick(self.index, true);
        // SeqCst: pairs with the driver's SeqCst OR of its doorbell bit, see the module's text.
        fence(Ordering::SeqCst);
        let work = self.doorbells.any()
            || handle.has_mail.load(Ordering::SeqCst)
            || handle.version.load(Ordering::SeqCst) != self.version
            || handle.stop.load(Ordering::SeqCst)
            || self.core.lanes.arm();
        let again = !work && done::arm(&mut self.core);
        if !(work || again) {
            let device = self.core.device.clone();
            self.recent.clear();
            self.core.watch.clear();
            device.grace().sleep(self.index);
            let time = self.core.timers.next(Instant::now());
            let files = match (bell, time) {
                (Some(bell), time) => bell.sleep(time),
                (None, Some(time)) => {
                    std::thread::park_timeout(time);
                    false
                }
                (None, None) => {
                    std::thread::park();
                    false
                }
            };
            device.grace().wake(self.index);
            if files {
                self.core.lanes.acknowledge();
                done::acknowledge(&mut self.core);
            }
            forget_lost(&mut self.core, handle);
            // Pages of contexts that were removed meanwhile are not ours to write.
            self.reload(handle);
        }
        self.doorbells.set_need_kick(self.index, false);
        if let Some(bell) = bell {
            bell.ignore();
        }
        again
    }
}

/// Has the worker wake when `file` is readable.
fn listen(handle: &Handle, file: BorrowedFd<'_>) -> Result<(), Errno> {
    if handle.bell.get().is_none() {
        // Set once: only the worker itself does.
        let _ = handle.bell.set(Bell::new()?);
    }
    handle.bell.get().map_or(Ok(()), |bell| bell.add(file))
}

/// Lets go of devices that are lost. Their files are readable for ever, and would keep the worker awake.
fn forget_lost(core: &mut Core, handle: &Handle) {
    let worker = core.worker;
    core.nics.retain(|nic| {
        let lost = nic.is_lost();
        if lost && let Some(bell) = handle.bell.get() {
            bell.remove(nic.event(worker));
        }
        !lost
    });
}

/// Takes over a queue pair that goes direct.
#[cold]
fn adopt_direct(core: &mut Core, handle: &Handle, qp: Arc<Qp>) {
    let Some(nic) = qp.direct.as_ref().map(|direct| direct.nic().clone()) else { return };
    if !core.nics.iter().any(|known| Arc::ptr_eq(known, &nic)) {
        if let Err(error) = listen(handle, nic.event(core.worker)) {
            tracing::error!(%error, "a worker cannot listen to a device of the host, and may sleep through what that has done");
        }
        core.nics.push(nic);
    }
    core.direct.add(qp);
}

/// Takes a lane over. Whom nothing would wake when something comes by it does not have it.
#[cold]
fn adopt(core: &mut Core, handle: &Handle, lane: Open) {
    match listen(handle, lane.lane.event()) {
        Ok(()) => core.lanes.adopt(lane),
        Err(error) => lane.link.lose(&format!("a worker cannot listen to it: {error}")),
    }
}
