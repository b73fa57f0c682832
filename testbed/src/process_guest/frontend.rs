// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The virtual machine monitor's role: vhost-user negotiation, memory table, queues.

use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserConfigFlags, VhostUserHeaderFlag, VhostUserProtocolFeatures,
};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vnic_abi::config::{Config, MAGIC, VQ_COUNT};
use zerocopy::FromBytes;

use super::dimm::Dimm;
use super::memory::Ram;
use super::virtqueue::{QUEUE_SIZE, VirtQueue};

/// `VIRTIO_F_VERSION_1`.
const VERSION_1: u64 = 1 << 32;
/// `VHOST_USER_F_PROTOCOL_FEATURES`.
const PROTOCOL_FEATURES: u64 = 1 << 30;

/// How long the daemon may take to answer one vhost-user message.
const REPLY_LIMIT: Duration = Duration::from_secs(20);

/// The connection could not be set up or used.
#[derive(Debug, thiserror::Error)]
pub enum FrontendError {
    /// The socket does not connect.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, #[source] std::io::Error),
    /// A vhost-user message failed.
    #[error("vhost-user: {0}")]
    Vhost(#[from] vhost::Error),
    /// The device lacks a feature, or is not ours.
    #[error("the device {0}")]
    Device(&'static str),
}

/// A vhost-user connection with its queues running.
pub struct Connection {
    frontend: Frontend,
    /// Answers the device's configuration space gave at connection time.
    pub config: Config,
}

impl Connection {
    /// Connects to `socket`, shares `ram` and starts `queues`, of which there are [`VQ_COUNT`].
    ///
    /// # Errors
    ///
    /// If the daemon refuses any of it.
    pub fn open(socket: &Path, ram: &Ram, queues: &[&VirtQueue]) -> Result<Self, FrontendError> {
        let stream = UnixStream::connect(socket)
            .map_err(|error| FrontendError::Connect(socket.display().to_string(), error))?;
        let limit = stream.set_read_timeout(Some(REPLY_LIMIT));
        limit.map_err(|error| FrontendError::Connect(socket.display().to_string(), error))?;
        let mut frontend = Frontend::from_stream(stream, VQ_COUNT.into());
        frontend.set_owner()?;
        let features = frontend.get_features()?;
        if features & (VERSION_1 | PROTOCOL_FEATURES) != VERSION_1 | PROTOCOL_FEATURES {
            return Err(FrontendError::Device("lacks VERSION_1 or PROTOCOL_FEATURES"));
        }
        // What QEMU does: acknowledge VERSION_1 last, when the driver did.
        frontend.set_features(PROTOCOL_FEATURES)?;
        let offered = frontend.get_protocol_features()?;
        let wanted = VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS;
        if !offered.contains(VhostUserProtocolFeatures::CONFIG) {
            return Err(FrontendError::Device("has no configuration space"));
        }
        frontend.set_protocol_features(offered & wanted)?;
        if offered.contains(VhostUserProtocolFeatures::REPLY_ACK) {
            frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        }
        let config = read_config(&mut frontend)?;
        frontend.set_features(VERSION_1 | PROTOCOL_FEATURES)?;
        set_memory(&frontend, ram, &[])?;
        for (index, queue) in queues.iter().enumerate() {
            start_queue(&mut frontend, ram, index, queue)?;
        }
        Ok(Self { frontend, config })
    }

    /// Reads the configuration space again.
    ///
    /// # Errors
    ///
    /// If the daemon does not answer.
    pub fn config(&mut self) -> Result<Config, FrontendError> {
        read_config(&mut self.frontend)
    }

    /// Sends the memory table again, as a monitor does when memory is plugged.
    ///
    /// # Errors
    ///
    /// If the daemon refuses it.
    pub fn resend_memory(&self, ram: &Ram) -> Result<(), FrontendError> {
        self.set_memory(ram, &[])
    }

    /// Sends a memory table of `ram` and these modules.
    ///
    /// # Errors
    ///
    /// If the daemon refuses it.
    pub fn set_memory(&self, ram: &Ram, dimms: &[&Dimm]) -> Result<(), FrontendError> {
        set_memory(&self.frontend, ram, dimms)
    }

    /// Adds a module to the memory table.
    ///
    /// # Errors
    ///
    /// If the daemon refuses it.
    pub fn plug(&mut self, dimm: &Dimm) -> Result<(), FrontendError> {
        self.frontend.add_mem_region(&dimm.region())?;
        Ok(())
    }

    /// Takes a module out of the memory table.
    ///
    /// # Errors
    ///
    /// If the daemon refuses it.
    pub fn unplug(&mut self, dimm: &Dimm) -> Result<(), FrontendError> {
        self.frontend.remove_mem_region(&dimm.region())?;
        Ok(())
    }

    /// Stops all queues, as a monitor does at a device reset.
    ///
    /// # Errors
    ///
    /// If the daemon refuses it.
    pub fn stop_queues(&mut self) -> Result<(), FrontendError> {
        for index in 0..usize::from(VQ_COUNT) {
            self.frontend.set_vring_enable(index, false)?;
            self.frontend.get_vring_base(index)?;
        }
        Ok(())
    }

    /// The raw front end, for tests that misuse it.
    pub fn frontend(&mut self) -> &mut Frontend {
        &mut self.frontend
    }
}

fn read_config(frontend: &mut Frontend) -> Result<Config, FrontendError> {
    let len = size_of::<Config>();
    let flags = VhostUserConfigFlags::empty();
    let (_, payload) = frontend.get_config(0, len as u32, flags, &vec![0; len])?;
    let config = Config::read_from_bytes(&payload)
        .map_err(|_| FrontendError::Device("has a short configuration space"))?;
    if config.magic.get() != MAGIC {
        return Err(FrontendError::Device("has no magic in its configuration space"));
    }
    Ok(config)
}

fn set_memory(frontend: &Frontend, ram: &Ram, dimms: &[&Dimm]) -> Result<(), FrontendError> {
    let regions: Vec<_> = ram
        .regions()
        .iter()
        .map(|region| VhostUserMemoryRegionInfo {
            guest_phys_addr: region.gpa,
            memory_size: region.len,
            userspace_addr: region.host,
            mmap_offset: region.offset,
            mmap_handle: ram.file().as_raw_fd(),
        })
        .chain(dimms.iter().map(|dimm| dimm.region()))
        .collect();
    frontend.set_mem_table(&regions)?;
    Ok(())
}

fn start_queue(
    frontend: &mut Frontend,
    ram: &Ram,
    index: usize,
    queue: &VirtQueue,
) -> Result<(), FrontendError> {
    // Rings are named by the addresses of the front end's own mapping of RAM.
    let host = |gpa| {
        let region = ram.regions().iter().find(|r| gpa >= r.gpa && gpa - r.gpa < r.len);
        region.map_or(0, |region| region.host + (gpa - region.gpa))
    };
    let [desc, avail, used] = queue.rings();
    frontend.set_vring_num(index, QUEUE_SIZE)?;
    frontend.set_vring_base(index, 0)?;
    let data = VringConfigData {
        queue_max_size: QUEUE_SIZE,
        queue_size: QUEUE_SIZE,
        flags: 0,
        desc_table_addr: host(desc),
        used_ring_addr: host(used),
        avail_ring_addr: host(avail),
        log_addr: None,
    };
    frontend.set_vring_addr(index, &data)?;
    frontend.set_vring_kick(index, queue.kick_fd())?;
    frontend.set_vring_call(index, queue.call_fd())?;
    frontend.set_vring_enable(index, true)?;
    Ok(())
}
