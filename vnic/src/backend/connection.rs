// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What one front end (a VM) sees: features, configuration space, four queues.
//!
//! # When the guest goes away
//!
//! A guest that resets the device, reboots or unloads its driver gives its memory to somebody else
//! as soon as its write to the device status is done. QEMU holds that write until every ring has
//! answered `GET_VRING_BASE`, so that answer is the promise that the device is out of the guest's
//! memory, and it must not be given early. The rings are only a part: the port's workers read and
//! write rings and payload that virtio knows nothing of.
//!
//! [`Connection::quiesce`] makes the promise. For `GET_VRING_BASE` the protocol thread first marks
//! the ring as stopped, under the ring's lock, which ends access to the ring itself ([`Ring`]); then
//! it calls `stop_vring`, and only afterwards answers. Here that waits for the command in progress,
//! lets no other begin, and shuts the port down, which waits for the workers. The driver never stops
//! one queue alone (`VIRTIO_F_RING_RESET` is not offered), so whichever ring is the first to stop
//! ends the port. `RESET_DEVICE` and `SET_FEATURES` do the same: the former is a reset by another
//! name, the latter is the first thing that a new driver makes QEMU say. `SET_VRING_ENABLE` with 0
//! stops only the ring: QEMU always lets `GET_VRING_BASE` follow before it lets the guest go on.
//!
//! QEMU stops the rings in the same way when somebody pauses the VM. The device then forgets its
//! objects, as after a reset, since it cannot tell the two apart before it must answer.
//!
//! # When the guest's memory changes
//!
//! Memory comes and goes while the guest runs: modules are plugged in and out. The crate maps what is
//! added, shows the new table to the rings and calls [`update_memory`](VhostUserBackend::update_memory);
//! the front end is answered when that returns. By then every request of a running session reaches
//! what was added. What was removed is used by no worker and by no command, but for objects that the
//! driver has put there ([`vnic_iommu::live`]). A table that cannot be used is refused, and who sent
//! it is hung up upon, since it believes in memory that the device does not have.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError};

use parking_lot::Mutex;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::VhostUserBackend;
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{Error as QueueError, QueueT};
use vm_memory::{GuestAddressSpace, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vnic_abi::config::{VQ_COUNT, VQ_CTRL, VQ_EVENT, VQ_KICK, VQ_PAGE_REQUEST};
use vnic_iommu::memory::GuestRam;
use zerocopy::IntoBytes;

use super::chain::Exchange;
use super::control;
use super::memory;
use super::rate::RateLimit;
use super::ring::{Memory, Ring};
use super::upcall::Upcalls;
use crate::ctrl::{MAX_COMMAND, Reply};
use crate::device::Device;
use crate::port::{Port, PortConfig};

/// Entries of one virtqueue, at most.
const MAX_QUEUE_SIZE: usize = 1024;

/// Thread that serves the control, event and page request queues.
const COMMAND_THREAD: usize = 0;
/// Thread that waits for kicks. The kick queue is the only one of this thread, hence its number 0.
const KICK_THREAD: usize = 1;
const KICK_IN_ITS_THREAD: u16 = 0;

/// Tells a thread of [`queues_per_thread`](VhostUserBackend::queues_per_thread) to end. The crate
/// reserves the numbers up to and including the number of queues.
pub const EXIT_EVENT: u64 = VQ_COUNT as u64 + 1;

/// One front end's connection, from `accept` to hang-up.
pub struct Connection {
    device: Arc<Device>,
    config: PortConfig,
    upcalls: Arc<Upcalls>,
    /// Held while a command is executed, and while the port is shut down.
    commands: Mutex<()>,
    /// From the first memory table to the end of the connection.
    port: Mutex<Option<Arc<Port>>>,
    /// The last memory table that was accepted.
    accepted: Mutex<GuestMemoryMmap>,
    closed: AtomicBool,
    complaints: RateLimit,
}

impl Connection {
    /// A connection to the port of `device` that `config` describes.
    pub fn new(device: Arc<Device>, config: PortConfig) -> Self {
        let upcalls = Arc::new(Upcalls::new(&config.name, &config.limits));
        Self {
            device,
            config,
            upcalls,
            commands: Mutex::new(()),
            port: Mutex::new(None),
            accepted: Mutex::new(GuestMemoryMmap::new()),
            closed: AtomicBool::new(false),
            complaints: RateLimit::new(),
        }
    }

    /// The port, once the front end has shared memory.
    pub fn port(&self) -> Option<Arc<Port>> {
        self.port.lock().clone()
    }

    /// Ends the connection: nothing touches the guest's memory when this returns, and nothing will.
    pub fn close(&self) {
        // Relaxed: whoever executes commands reads this under `commands`, which is taken below.
        self.closed.store(true, Ordering::Relaxed);
        let _none_in_progress = self.commands.lock();
        let port = self.port.lock().take();
        if let Some(port) = port {
            port.detach();
        }
        self.upcalls.clear();
    }

    /// Returns when neither a command nor a worker touches guest memory, and none will before the
    /// next driver's `Init`. See the module's text.
    fn quiesce(&self, reason: &'static str) {
        let _none_in_progress = self.commands.lock();
        if let Some(port) = self.port() {
            port.shutdown();
            tracing::debug!(port = self.config.name, reason, "port shut down");
        }
        // After the workers, so that none of them adds to it.
        self.upcalls.clear();
    }

    /// Executes commands until the queue is empty or stopped.
    fn serve_control(&self, ring: &Ring) {
        let mut empty_rounds = 0;
        loop {
            let _ = ring.while_running(|queue, memory| queue.disable_notification(&**memory));
            match self.serve_all(ring) {
                Ok(0) => empty_rounds += 1,
                Ok(_) => empty_rounds = 0,
                Err(error) => return self.complain("control queue", &error),
            }
            // A command that came before notifications were on again came without one: look. What is
            // announced and still is not there on a second look is an index that leads nowhere.
            let more = ring.while_running(|queue, memory| queue.enable_notification(&**memory));
            match more {
                Some(Ok(true)) if empty_rounds < 2 => {}
                Some(Err(error)) => return self.complain("control queue", &error),
                _ => return,
            }
        }
    }

    /// Executes commands until none is there; tells how many there were.
    fn serve_all(&self, ring: &Ring) -> Result<usize, QueueError> {
        let mut served = 0;
        loop {
            let _in_progress = self.commands.lock();
            // Relaxed: see `close`.
            if self.closed.load(Ordering::Relaxed) {
                return Ok(served);
            }
            let Some((chain, memory)) = ring.pop()? else { return Ok(served) };
            served += 1;
            let Some(port) = self.port() else { return Ok(served) };
            let exchange = Exchange::gather(chain, MAX_COMMAND, memory);
            let reply = control::answer(&exchange, &port, &self.upcalls);
            let written = reply.as_ref().map_or(0, |reply| exchange.write_reply(reply.as_bytes()));
            self.trace(reply.as_ref());
            if let Err(error) = ring.complete(exchange.head(), written) {
                self.complain("control queue", &error);
            }
        }
    }

    fn trace(&self, reply: Option<&Reply>) {
        let status = reply.map(Reply::status);
        tracing::trace!(port = self.config.name, ?status, "command");
    }

    fn complain(&self, what: &str, problem: &dyn std::fmt::Display) {
        if let Some(suppressed) = self.complaints.admit() {
            tracing::warn!(port = self.config.name, suppressed, "{what}: {problem}");
        }
    }
}

impl VhostUserBackend for Connection {
    type Bitmap = ();
    type Vring = Ring;

    fn num_queues(&self) -> usize {
        usize::from(VQ_COUNT)
    }

    fn max_queue_size(&self) -> usize {
        MAX_QUEUE_SIZE
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_F_VERSION_1
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX
            | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits()
    }

    fn acked_features(&self, features: u64) {
        tracing::debug!(port = self.config.name, features = format_args!("{features:#x}"));
        self.quiesce("features set");
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    }

    fn reset_device(&self) {
        self.quiesce("device reset");
    }

    fn set_event_idx(&self, _enabled: bool) {
        // The rings know.
    }

    fn get_config(&self, offset: u32, size: u32) -> Vec<u8> {
        let config = match self.port() {
            Some(port) => port.config_space(),
            None => self.config.config_space(self.device.config().workers),
        };
        // The front end asks for as much as it was told to, which may be more than there is.
        let mut bytes = config.as_bytes().to_vec();
        let (offset, size) = (offset as usize, size as usize);
        bytes.resize(offset.saturating_add(size).min(MAX_CONFIG), 0);
        bytes.get(offset..).unwrap_or_default().to_vec()
    }

    fn set_config(&self, _offset: u32, _buf: &[u8]) -> io::Result<()> {
        // Read-only. QEMU passes a guest's write on and cannot tell the guest that it failed.
        Ok(())
    }

    fn update_memory(&self, memory: Memory) -> io::Result<()> {
        let table = memory.memory().into_inner();
        let mut accepted = self.accepted.lock();
        if let Err(error) = memory::check(&table) {
            tracing::warn!(port = self.config.name, %error, "memory refused");
            // The rings go on in what they had until the connection is closed.
            memory.lock().unwrap_or_else(PoisonError::into_inner).replace(accepted.clone());
            return Err(io::Error::other(error));
        }
        accepted.clone_from(&table);
        tracing::debug!(port = self.config.name, regions = table.num_regions(), "memory map");
        let ram = GuestRam::new(table);
        let attached = self.port();
        match attached {
            Some(port) => {
                // Nor does a command, or a message to the driver, use what it found before.
                drop(self.commands.lock());
                self.upcalls.settle();
                port.set_memory(ram);
            }
            None => {
                let up = self.upcalls.clone();
                let port = self.device.attach(self.config.clone(), ram, up);
                *self.port.lock() = Some(port.map_err(io::Error::other)?);
            }
        }
        Ok(())
    }

    fn queues_per_thread(&self) -> Vec<u64> {
        let mut masks = vec![0; 2];
        masks[COMMAND_THREAD] = 1 << VQ_CTRL | 1 << VQ_EVENT | 1 << VQ_PAGE_REQUEST;
        masks[KICK_THREAD] = 1 << VQ_KICK;
        masks
    }

    fn stop_vring(&self, _queue_index: u32) -> io::Result<()> {
        self.quiesce("ring stopped");
        Ok(())
    }

    fn handle_event(
        &self,
        event: u16,
        _set: EventSet,
        rings: &[Ring],
        thread: usize,
    ) -> io::Result<()> {
        if u64::from(event) == EXIT_EVENT {
            // The only way out of the crate's loop that leaves no descriptor behind.
            return Err(io::Error::other("connection closed"));
        }
        let ring = rings.get(usize::from(event));
        match (thread, event, ring) {
            (COMMAND_THREAD, VQ_CTRL, Some(ring)) => self.serve_control(ring),
            (COMMAND_THREAD, VQ_EVENT, Some(ring)) => self.upcalls.event_ring(ring),
            (COMMAND_THREAD, VQ_PAGE_REQUEST, Some(ring)) => self.upcalls.page_request_ring(ring),
            // Its buffers, if a driver posts any, stay where they are.
            (KICK_THREAD, KICK_IN_ITS_THREAD, _) => {
                if let Some(port) = self.port() {
                    port.kick();
                }
            }
            _ => tracing::error!(event, thread, "unknown event"),
        }
        Ok(())
    }
}

/// Bytes of configuration space that a front end may ask for.
const MAX_CONFIG: usize = 4096;
