// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A VM as the device sees it: RAM, a vhost-user front end, the driver's half of the control queue.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vnic_abi::ABI_VERSION;
use vnic_abi::config::{VQ_COUNT, VQ_CTRL};
use vnic_abi::ctrl::{
    CmdHeader, CmdOpcode, Counters, CtxCreate, HandleReply, Init, PagingMode, PasidBind, PdCreate,
    ReplyHeader,
};
use vnic_abi::status::Status;
use zerocopy::{FromBytes, Immutable, IntoBytes};

pub const RAM: u64 = 1 << 20;
/// More RAM, which a front end adds later.
pub const MORE_RAM: u64 = 1 << 30;
pub const RING_SIZE: u16 = 16;
pub const REQUEST: u64 = 0x8_0000;
pub const REPLY: u64 = 0x9_0000;
pub const TABLE: u64 = 0xa_0000;
pub const EPOCH_PAGE: u64 = 0xb_0000;
pub const DOORBELL_PAGE: u64 = 0xc_0000;
pub const PAGE_TABLE: u64 = 0xd_0000;
pub const INVALIDATION_PAGE: u64 = 0xe_0000;

pub const EVENT_IDX: u64 = 1 << 29;
pub const INDIRECT: u64 = 1 << 28;
pub const PROTOCOL: u64 = 1 << 30;
pub const VERSION_1: u64 = 1 << 32;

pub const NEXT: u16 = 1;
pub const WRITE: u16 = 2;
pub const INDIRECT_DESC: u16 = 4;

/// Upper bound of any wait in milliseconds; a test that reaches it fails.
pub const PATIENCE: i32 = 20_000;

/// One descriptor: address, length, flags. The link follows from the position.
pub type Descriptor = (u64, u32, u16);

/// A VM: its RAM, its front end, and the driver's half of the control queue.
pub struct Vm {
    pub front: Frontend,
    pub memory: GuestMemoryMmap,
    pub kick: EventFd,
    call: EventFd,
    idle: Vec<EventFd>,
    pub avail: u16,
}

impl Vm {
    /// Connects, negotiates, shares the RAM and starts all rings.
    pub fn boot(socket: &Path, features: u64) -> Self {
        let mut vm = Self::connect(socket);
        vm.negotiate(features);
        vm.share(0, RAM);
        vm.start_rings();
        vm
    }

    pub fn connect(socket: &Path) -> Self {
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        Self {
            front: Frontend::connect(socket, u64::from(VQ_COUNT)).unwrap(),
            memory: ram(0, RAM),
            kick: event(),
            call: event(),
            idle: (0..2 * VQ_COUNT).map(|_| event()).collect(),
            avail: 0,
        }
    }

    pub fn negotiate(&mut self, features: u64) {
        self.front.set_owner().unwrap();
        let offered = self.front.get_features().unwrap();
        assert_eq!(offered & features, features);
        let protocol = self.front.get_protocol_features().unwrap();
        // Without REPLY_ACK first, since it is not in force before this call ends.
        self.front.set_protocol_features(protocol).unwrap();
        self.front.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(self.front.get_queue_num().unwrap(), u64::from(VQ_COUNT));
        self.front.set_features(features | PROTOCOL | VERSION_1).unwrap();
    }

    pub fn region(&self, start: u64, len: u64) -> VhostUserMemoryRegionInfo {
        let region = self.memory.find_region(GuestAddress(start)).unwrap();
        let file = vm_memory::GuestMemoryRegion::file_offset(region).unwrap();
        VhostUserMemoryRegionInfo {
            guest_phys_addr: start,
            memory_size: len,
            userspace_addr: self.memory.get_host_address(GuestAddress(start)).unwrap() as u64,
            mmap_offset: 0,
            mmap_handle: file.file().as_raw_fd(),
        }
    }

    pub fn share(&mut self, start: u64, len: u64) {
        self.front.set_mem_table(&[self.region(start, len)]).unwrap();
    }

    /// Plugs more RAM in.
    pub fn plug(&mut self) {
        let more = ram(MORE_RAM, RAM);
        let region = more.iter().next().unwrap();
        let file = vm_memory::GuestMemoryRegion::file_offset(region).unwrap().clone();
        let mapping = vm_memory::GuestRegionMmap::from_range(
            GuestAddress(MORE_RAM),
            RAM as usize,
            Some(file),
        );
        self.memory = self.memory.insert_region(Arc::new(mapping.unwrap())).unwrap();
        let info = self.region(MORE_RAM, RAM);
        self.front.add_mem_region(&info).unwrap();
    }

    pub fn ring(queue: u16) -> (u64, u64, u64) {
        let base = 0x1_0000 * u64::from(queue);
        (base, base + 0x4000, base + 0x8000)
    }

    /// Starts rings that hold nothing, as a new driver does.
    pub fn start_rings(&mut self) {
        self.avail = 0;
        let host = self.memory.get_host_address(GuestAddress(0)).unwrap() as u64;
        for queue in 0..VQ_COUNT {
            let (desc, avail, used) = Self::ring(queue);
            self.memory.write_slice(&[0; 0x1_0000], GuestAddress(desc)).unwrap();
            let at = usize::from(queue);
            let (kick, call) = if queue == VQ_CTRL {
                (&self.kick, &self.call)
            } else {
                (&self.idle[2 * at], &self.idle[2 * at + 1])
            };
            self.front.set_vring_num(at, RING_SIZE).unwrap();
            self.front.set_vring_base(at, 0).unwrap();
            let config = VringConfigData {
                queue_max_size: RING_SIZE,
                queue_size: RING_SIZE,
                flags: 0,
                desc_table_addr: host + desc,
                used_ring_addr: host + used,
                avail_ring_addr: host + avail,
                log_addr: None,
            };
            self.front.set_vring_addr(at, &config).unwrap();
            self.front.set_vring_call(at, call).unwrap();
            self.front.set_vring_kick(at, kick).unwrap();
            self.front.set_vring_enable(at, true).unwrap();
        }
    }

    pub fn write<T: IntoBytes + Immutable>(&self, value: T, address: u64) {
        self.memory.write_slice(value.as_bytes(), GuestAddress(address)).unwrap();
    }

    pub fn read_u16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    pub fn write_table(&self, table: u64, descriptors: &[Descriptor]) {
        for (at, &(address, len, flags)) in descriptors.iter().enumerate() {
            let entry = table + 16 * at as u64;
            self.write(address, entry);
            self.write(len, entry + 8);
            self.write(flags, entry + 12);
            self.write(at as u16 + 1, entry + 14);
        }
    }

    /// Posts a chain that begins at descriptor `head` and returns the length that the device says
    /// it wrote.
    pub fn post(&mut self, head: u16) -> u32 {
        let (_, avail, used) = Self::ring(VQ_CTRL);
        self.write(head, avail + 4 + 2 * u64::from(self.avail % RING_SIZE));
        // With EVENT_IDX: interrupt when this one is used.
        self.write(self.avail, avail + 4 + 2 * u64::from(RING_SIZE));
        self.avail = self.avail.wrapping_add(1);
        self.write(self.avail, avail + 2);
        self.kick.write(1).unwrap();
        self.wait_for_call();
        assert_eq!(self.read_u16(used + 2), self.avail);
        let element = used + 4 + 8 * u64::from(self.avail.wrapping_sub(1) % RING_SIZE);
        assert_eq!(self.read_u16(element), head);
        self.memory.read_obj(GuestAddress(element + 4)).unwrap()
    }

    pub fn wait_for_call(&self) {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.call.as_raw_fd(), event).unwrap();
        assert_eq!(epoll.wait(PATIENCE, &mut [event]).unwrap(), 1, "no answer");
        self.call.read().unwrap();
    }

    pub fn chain(&mut self, descriptors: &[Descriptor]) -> u32 {
        self.write_table(Self::ring(VQ_CTRL).0, descriptors);
        self.post(0)
    }

    /// Sends `request`, with `room` bytes for the reply, and returns the reply.
    pub fn exchange(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.memory.write_slice(request, GuestAddress(REQUEST)).unwrap();
        let len = self.chain(&[(REQUEST, request.len() as u32, NEXT), (REPLY, room, WRITE)]);
        assert!(len <= room);
        self.reply(len)
    }

    pub fn reply(&self, len: u32) -> Vec<u8> {
        let mut reply = vec![0; len as usize];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        reply
    }

    pub fn command<T: IntoBytes + Immutable>(&mut self, opcode: CmdOpcode, body: T) -> Vec<u8> {
        self.exchange(&request(opcode, body), 256)
    }

    pub fn status<T: IntoBytes + Immutable>(&mut self, opcode: CmdOpcode, body: T) -> Status {
        status(&self.command(opcode, body))
    }

    pub fn handle<T: IntoBytes + Immutable>(&mut self, opcode: CmdOpcode, body: T) -> u32 {
        let reply = self.command(opcode, body);
        assert_eq!(status(&reply), Status::Ok);
        HandleReply::read_from_bytes(&reply[8..]).unwrap().handle.get()
    }

    #[track_caller]
    pub fn assert_alive(&mut self) {
        assert_eq!(self.status(CmdOpcode::Nop, ()), Status::Ok);
    }

    /// Starts the device and creates a context and a protection domain.
    pub fn load_driver(&mut self) {
        let init =
            Init { version: ABI_VERSION.into(), epoch_page: EPOCH_PAGE.into(), ..Init::default() };
        assert_eq!(self.status(CmdOpcode::Init, init), Status::Ok);
        let bind = PasidBind {
            root: PAGE_TABLE.into(),
            invalidation_page: INVALIDATION_PAGE.into(),
            mode: PagingMode::X86Level4.0.into(),
            ..PasidBind::default()
        };
        let pasid = self.handle(CmdOpcode::PasidBind, bind);
        let ctx = CtxCreate {
            doorbell_page: DOORBELL_PAGE.into(),
            pasid: pasid.into(),
            ..CtxCreate::default()
        };
        let ctx = self.handle(CmdOpcode::CtxCreate, ctx);
        self.handle(CmdOpcode::PdCreate, PdCreate { ctx: ctx.into(), ..PdCreate::default() });
        assert_eq!(self.counters().pds.get(), 1);
    }

    pub fn counters(&mut self) -> Counters {
        let reply = self.command(CmdOpcode::QueryCounters, ());
        assert_eq!(status(&reply), Status::Ok);
        Counters::read_from_bytes(&reply[8..]).unwrap()
    }
}

pub fn ram(start: u64, len: u64) -> GuestMemoryMmap {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, len).unwrap();
    let range = (GuestAddress(start), len as usize, Some(FileOffset::new(file, 0)));
    GuestMemoryMmap::from_ranges_with_files([range]).unwrap()
}

pub fn request<T: IntoBytes + Immutable>(opcode: CmdOpcode, body: T) -> Vec<u8> {
    let header = CmdHeader { opcode: opcode.0.into(), reserved: 0.into() };
    [header.as_bytes(), body.as_bytes()].concat()
}

#[track_caller]
pub fn status(reply: &[u8]) -> Status {
    Status(ReplyHeader::read_from_prefix(reply).expect("a reply").0.status.get())
}
