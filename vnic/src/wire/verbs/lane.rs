// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A lane over a reliable connection of the host's device: messages are SENDs from one staging ring into another.

use super::credit::{Credits, SPARE};
use super::device::{Device, DeviceError};
use super::endpoint::{Endpoint, Settings};
use super::header::{HEAD, Header, Kind};
use super::queues::{Done, POLL, Queues, Send, What};
use super::staging::Staging;
use crate::wire::lane::{Lane, LaneError};
use rdma_sys as ib;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::io::Errno;
use std::collections::VecDeque;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

/// One SEND of so many has a completion.
const SIGNALED: u64 = 4;

/// An end of a lane that does not know the other one yet.
pub struct Pending {
    queues: Queues,
    settings: Settings,
    psn: u32,
}

/// A message that came.
#[derive(Debug, Clone, Copy)]
struct Arrived {
    slot: usize,
    len: usize,
}

/// A lane over the host's device.
pub struct VerbsLane {
    queues: Queues,
    /// Readable when the completion channel is, or the device has something to say.
    events: OwnedFd,
    credits: Credits,
    most: usize,
    /// Slots for receives come first, then those for SENDs, which are used in turn.
    receives: usize,
    sends: usize,
    /// SENDs that were written and completed.
    written: u64,
    completed: u64,
    unposted: Vec<Send>,
    arrived: VecDeque<Arrived>,
    broken: Option<LaneError>,
    /// Room for what is posted.
    wrs: Vec<ib::ibv_send_wr>,
    sges: Vec<ib::ibv_sge>,
}

#[allow(unsafe_code)] // reason: lists for a C function
// SAFETY: the pointers in `wrs` are to `sges` and `wrs` themselves, and mean nothing between calls.
unsafe impl std::marker::Send for VerbsLane {}

impl Device {
    /// An end of a lane.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]: no memory, no more queues in the device, or settings out of range.
    pub fn lane(self: &Arc<Self>, settings: Settings) -> Result<Pending, DeviceError> {
        settings.check()?;
        let each = settings.slots + SPARE;
        let staging = Staging::new(2 * each, settings.slot_bytes)
            .map_err(|error| self.error("map its staging rings", error.raw_os_error()))?;
        let mut queues = Queues::new(self, staging, each, each)?;
        for slot in 0..each as usize {
            queues.receive_into(slot)?;
        }
        let psn = getrandom::u32().unwrap_or_default() & 0xff_ffff;
        Ok(Pending { queues, settings, psn })
    }
}

impl Pending {
    /// What the other end has to know.
    pub fn endpoint(&self, device: &Device) -> Endpoint {
        Endpoint {
            qpn: self.queues.qpn(),
            gid: device.gid(),
            psn: self.psn,
            slots: self.settings.slots,
            slot_bytes: self.settings.slot_bytes,
            mtu: device.mtu(),
        }
    }

    fn events(&self) -> Result<OwnedFd, Errno> {
        let events = epoll::create(CreateFlags::CLOEXEC)?;
        for file in [self.queues.event(), self.queues.device.event()] {
            epoll::add(&events, file, EventData::new_u64(0), EventFlags::IN)?;
        }
        Ok(events)
    }

    /// Connects to the other end.
    ///
    /// # Errors
    ///
    /// [`DeviceError`]: the peer's numbers make no sense, or it cannot be reached as far as the device knows already.
    pub fn connect(self, peer: &Endpoint) -> Result<VerbsLane, DeviceError> {
        peer.check()?;
        self.queues.connect(self.psn, peer)?;
        let events = self
            .events()
            .map_err(|error| self.queues.device.error("listen to it", error.raw_os_error()))?;
        let Settings { slots, slot_bytes } = self.settings;
        let each = (slots + SPARE) as usize;
        Ok(VerbsLane {
            queues: self.queues,
            events,
            credits: Credits::new(peer.slots, slots),
            most: slot_bytes.min(peer.slot_bytes) as usize - HEAD,
            receives: each,
            sends: each,
            written: 0,
            completed: 0,
            unposted: Vec::with_capacity(each),
            arrived: VecDeque::with_capacity(each),
            broken: None,
            wrs: Vec::with_capacity(each),
            sges: Vec::with_capacity(each),
        })
    }
}

/// The library's word for a status of `ibv_wc`.
fn status_name(status: u32) -> String {
    #[allow(unsafe_code)] // reason: a C function
    // SAFETY: it takes any number, and returns a constant that ends with a zero byte.
    let name = unsafe { CStr::from_ptr(ib::ibv_wc_status_str(status)) };
    name.to_string_lossy().into_owned()
}

impl VerbsLane {
    fn breaks(&mut self, why: LaneError) {
        self.broken.get_or_insert(why);
    }

    fn fails(&mut self, error: &DeviceError) {
        self.breaks(LaneError::Broken(error.to_string()));
    }

    /// The slot of the next SEND, if it is free.
    fn free_slot(&self) -> Option<usize> {
        let under_way = self.written - self.completed;
        let slot = self.receives + (self.written % self.sends as u64) as usize;
        (under_way < self.sends as u64).then_some(slot)
    }

    /// Takes note of what the device has done, until `enough`, or until that was all.
    fn look(&mut self, enough: impl Fn(&Self) -> bool) {
        // Not one batch alone: nobody is told of what is left behind it when the lane is armed. But a peer may add to
        // it all the time.
        for _ in 0..=self.queues.most_completions() / POLL {
            if enough(self) || !self.look_at_some() {
                return;
            }
        }
    }

    /// Takes note of some of it. Whether there may be more.
    fn look_at_some(&mut self) -> bool {
        if self.broken.is_some() {
            return false;
        }
        if self.queues.device.is_lost() {
            self.breaks(LaneError::Broken("the device was removed, or has failed".into()));
            return false;
        }
        let mut dones = [None; POLL];
        let mut count = 0;
        let polled = self.queues.poll(|done| {
            dones[count] = Some(done);
            count += 1;
        });
        if let Err(error) = polled {
            self.fails(&error);
        }
        for done in dones.into_iter().flatten() {
            self.note(done);
        }
        count == POLL
    }

    /// Whether a message can be sent.
    fn has_room(&self) -> bool {
        // The last slots are for giving credits back.
        let free = self.sends as u64 - (self.written - self.completed);
        self.credits.has_room() && free > SPARE.into()
    }

    fn note(&mut self, done: Done) {
        match done.what {
            What::Sent => self.completed = done.id + 1,
            What::Received => {
                let slot = done.id as usize;
                if let Err(why) = self.take_in(slot, done.bytes) {
                    self.breaks(LaneError::Broken(why));
                }
            }
            What::Failed(status) => {
                let why = match status {
                    ib::ibv_wc_status::IBV_WC_RETRY_EXC_ERR => {
                        LaneError::Gone("it does not answer".into())
                    }
                    // Those that follow the first error.
                    ib::ibv_wc_status::IBV_WC_WR_FLUSH_ERR => {
                        LaneError::Gone("its connection ended".into())
                    }
                    status => LaneError::Broken(format!(
                        "work of the device ended with {} (status {status} of ibv_wc)",
                        status_name(status)
                    )),
                };
                self.breaks(why);
            }
        }
    }

    /// A message is in `slot`.
    fn take_in(&mut self, slot: usize, bytes: usize) -> Result<(), String> {
        if slot >= self.receives || bytes > self.queues.staging.slot_bytes() {
            return Err("the device put a message nowhere".into());
        }
        let came = &self.queues.staging.slot(slot)[..bytes];
        let header = Header::read(came).map_err(|error| error.to_string())?;
        self.credits.receive(header.given).map_err(|error| error.to_string())?;
        match header.kind {
            Kind::Message => self.arrived.push_back(Arrived { slot, len: bytes - HEAD }),
            Kind::Credits => {
                self.queues.receive_into(slot).map_err(|error| error.to_string())?;
            }
        }
        Ok(())
    }

    /// Writes a header and queues the SEND.
    fn queue(&mut self, slot: usize, header: Header, len: usize) {
        self.queues.staging.slot(slot)[..HEAD].copy_from_slice(&header.bytes());
        let number = self.written;
        self.written += 1;
        let signal = number.is_multiple_of(SIGNALED).then_some(number);
        self.unposted.push(Send { slot, len: HEAD + len, signal });
    }
}

impl Lane for VerbsLane {
    fn max_message(&self) -> usize {
        self.most
    }

    fn buffer(&mut self) -> Option<&mut [u8]> {
        if !self.has_room() {
            self.look(Self::has_room);
        }
        if self.broken.is_some() || !self.has_room() {
            return None;
        }
        let slot = self.free_slot()?;
        let most = self.most;
        Some(&mut self.queues.staging.slot(slot)[HEAD..HEAD + most])
    }

    fn send(&mut self, len: usize) {
        let slot = self.free_slot().filter(|_| self.has_room() && len <= self.most);
        let Some(slot) = slot else {
            return self.breaks(LaneError::Broken("a message was sent that had no room".into()));
        };
        let given = self.credits.send();
        self.queue(slot, Header { given, kind: Kind::Message }, len);
    }

    fn flush(&mut self) {
        if self.free_slot().is_some()
            && let Some(given) = self.credits.due()
            && let Some(slot) = self.free_slot()
        {
            self.queue(slot, Header { given, kind: Kind::Credits }, 0);
        }
        if self.unposted.is_empty() || self.broken.is_some() {
            return;
        }
        let sent = self.queues.send(&self.unposted, &mut self.wrs, &mut self.sges);
        self.unposted.clear();
        if let Err(error) = sent {
            self.fails(&error);
        }
    }

    fn receive(&mut self) -> Result<Option<&[u8]>, LaneError> {
        if self.arrived.is_empty() {
            self.look(|lane| !lane.arrived.is_empty());
        }
        let Some(&Arrived { slot, len }) = self.arrived.front() else {
            return match &self.broken {
                Some(why) => Err(why.clone()),
                None => Ok(None),
            };
        };
        Ok(Some(&self.queues.staging.slot(slot)[HEAD..HEAD + len]))
    }

    fn release(&mut self) {
        let Some(Arrived { slot, .. }) = self.arrived.pop_front() else { return };
        self.credits.release();
        if let Err(error) = self.queues.receive_into(slot) {
            self.fails(&error);
        }
    }

    fn arm(&mut self) {
        if let Err(error) = self.queues.arm() {
            self.fails(&error);
        }
    }

    fn event(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    fn acknowledge(&mut self) {
        self.queues.take_events();
        self.queues.device.hear();
    }
}
