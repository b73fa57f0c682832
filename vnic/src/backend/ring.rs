// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A virtqueue that survives what drivers and front ends do to it.

use std::fs::File;
use std::io;

use vhost_user_backend::{VringMutex, VringStateGuard, VringStateMutGuard, VringT};
use virtio_queue::{DescriptorChain, Error as QueueError, Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryLoadGuard, GuestMemoryMmap};

/// Guest memory as the vhost-user crates hand it out: replaced as a whole when the map changes.
pub type Memory = GuestMemoryAtomic<GuestMemoryMmap>;
/// Guest memory as it is at one moment; it stays mapped for as long as this lives.
pub type MemoryGuard = GuestMemoryLoadGuard<GuestMemoryMmap>;
/// A descriptor chain.
pub type Chain = DescriptorChain<MemoryGuard>;

/// A virtqueue.
///
/// Wraps the ring of the `vhost-user-backend` crate in two respects:
///
/// - Guest memory is touched only while the ring runs (started *and* enabled), checked under the
///   ring's lock. The protocol thread takes that lock to stop a ring, so once the ring is stopped no
///   thread is in it and none enters.
/// - The event file descriptors that a front end sends never block a thread, and a kick that
///   somebody else consumed first does not end the thread that waited for it.
#[derive(Clone)]
pub struct Ring {
    vring: VringMutex<Memory>,
    memory: Memory,
}

impl Ring {
    /// Runs `f` if the ring runs; the ring cannot be stopped meanwhile.
    pub fn while_running<R>(&self, f: impl FnOnce(&mut Queue, &MemoryGuard) -> R) -> Option<R> {
        let mut state = self.vring.get_mut();
        if !state.get_queue().ready() || !state.is_enabled() {
            return None;
        }
        Some(f(state.get_queue_mut(), &self.memory.memory()))
    }

    /// Takes the next descriptor chain, and the memory that it lies in; `None` if there is none or
    /// the ring does not run.
    ///
    /// # Errors
    ///
    /// The ring is not where the driver said, or its index jumped. The ring is useless until the
    /// driver sets it up anew.
    pub fn pop(&self) -> Result<Option<(Chain, MemoryGuard)>, QueueError> {
        self.while_running(|queue, memory| {
            Ok(pop(queue, memory)?.map(|chain| (chain, memory.clone())))
        })
        .unwrap_or(Ok(None))
    }

    /// Returns chain `head` with `written` bytes to the driver, and interrupts it if it wants that.
    ///
    /// Does so even if the ring was stopped since the chain was taken: whoever stopped it waits for
    /// the chains in progress before it answers the front end.
    ///
    /// # Errors
    ///
    /// `head` is not an index of the ring, or the used ring is not in memory.
    pub fn complete(&self, head: u16, written: u32) -> Result<(), QueueError> {
        self.vring.add_used(head, written)?;
        if self.vring.needs_notification()? {
            self.interrupt();
        }
        Ok(())
    }

    /// Interrupts the driver.
    pub fn interrupt(&self) {
        // A full counter means that an interrupt is pending already; a closed descriptor that the
        // front end is going away.
        if let Err(error) = self.vring.signal_used_queue() {
            tracing::debug!(%error, "interrupt not delivered");
        }
    }
}

/// Takes the next chain of a running queue.
pub(super) fn pop(queue: &mut Queue, memory: &MemoryGuard) -> Result<Option<Chain>, QueueError> {
    Ok(queue.iter(memory.clone())?.next())
}

impl<'a> VringStateGuard<'a, Memory> for Ring {
    type G = <VringMutex<Memory> as VringStateGuard<'a, Memory>>::G;
}

impl<'a> VringStateMutGuard<'a, Memory> for Ring {
    type G = <VringMutex<Memory> as VringStateMutGuard<'a, Memory>>::G;
}

impl VringT<Memory> for Ring {
    fn new(memory: Memory, max_queue_size: u16) -> Result<Self, QueueError> {
        Ok(Self { vring: VringMutex::new(memory.clone(), max_queue_size)?, memory })
    }

    fn get_ref(&self) -> <Self as VringStateGuard<'_, Memory>>::G {
        self.vring.get_ref()
    }

    fn get_mut(&self) -> <Self as VringStateMutGuard<'_, Memory>>::G {
        self.vring.get_mut()
    }

    fn add_used(&self, desc_index: u16, len: u32) -> Result<(), QueueError> {
        self.vring.add_used(desc_index, len)
    }

    fn signal_used_queue(&self) -> io::Result<()> {
        self.vring.signal_used_queue()
    }

    fn enable_notification(&self) -> Result<bool, QueueError> {
        self.vring.enable_notification()
    }

    fn disable_notification(&self) -> Result<(), QueueError> {
        self.vring.disable_notification()
    }

    fn needs_notification(&self) -> Result<bool, QueueError> {
        self.vring.needs_notification()
    }

    fn set_enabled(&self, enabled: bool) {
        self.vring.set_enabled(enabled);
    }

    fn set_queue_info(
        &self,
        desc_table: u64,
        avail_ring: u64,
        used_ring: u64,
    ) -> Result<(), QueueError> {
        self.vring.set_queue_info(desc_table, avail_ring, used_ring)
    }

    fn queue_next_avail(&self) -> u16 {
        self.vring.queue_next_avail()
    }

    fn set_queue_next_avail(&self, base: u16) {
        self.vring.set_queue_next_avail(base);
    }

    fn set_queue_next_used(&self, idx: u16) {
        self.vring.set_queue_next_used(idx);
    }

    fn queue_used_idx(&self) -> Result<u16, QueueError> {
        self.vring.queue_used_idx()
    }

    fn set_queue_size(&self, num: u16) {
        self.vring.set_queue_size(num);
    }

    fn set_queue_event_idx(&self, enabled: bool) {
        self.vring.set_queue_event_idx(enabled);
    }

    fn set_queue_ready(&self, ready: bool) {
        self.vring.set_queue_ready(ready);
    }

    fn set_kick(&self, file: Option<File>) {
        self.vring.set_kick(file.map(unblock));
    }

    fn read_kick(&self) -> io::Result<bool> {
        match self.vring.read_kick() {
            // Consumed by somebody who shares it, after the wait and before the read.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            result => result,
        }
    }

    fn set_call(&self, file: Option<File>) {
        self.vring.set_call(file.map(unblock));
    }

    fn set_err(&self, file: Option<File>) {
        self.vring.set_err(file.map(unblock));
    }
}

/// Makes a descriptor that a front end sent fail where it would block.
fn unblock(file: File) -> File {
    use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

    let set = fcntl_getfl(&file).and_then(|flags| fcntl_setfl(&file, flags | OFlags::NONBLOCK));
    if let Err(error) = set {
        tracing::warn!(%error, "cannot make an event descriptor non-blocking");
    }
    file
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rustix::event::{EventfdFlags, eventfd};

    use super::*;

    #[test]
    fn a_kick_that_somebody_else_consumed_neither_blocks_nor_fails() {
        let ring = Ring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        ring.set_enabled(true);
        let kick = File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        ring.set_kick(Some(kick.try_clone().unwrap()));
        assert!(!ring.read_kick().unwrap());
        (&kick).write_all(&1u64.to_ne_bytes()).unwrap();
        assert!(ring.read_kick().unwrap());
    }

    #[test]
    fn an_interrupt_that_is_pending_already_does_not_block() {
        let ring = Ring::new(Memory::new(GuestMemoryMmap::new()), 16).unwrap();
        let call = File::from(eventfd(0, EventfdFlags::CLOEXEC).unwrap());
        ring.set_call(Some(call.try_clone().unwrap()));
        (&call).write_all(&(u64::MAX - 1).to_ne_bytes()).unwrap();
        ring.interrupt();
    }
}
