// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device as a vhost-user front end meets it, with the driver's half of the control queue.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vhost::vhost_user::{Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};
use vnic::backend::{PortServer, PortSpec};
use vnic::device::{Device, DeviceConfig};
use vnic::port::PortConfig;
use vnic_abi::ABI_VERSION;
use vnic_abi::config::{Config, MAGIC, VQ_COUNT, VQ_CTRL};
use vnic_abi::ctrl::{
    CmdHeader, CmdOpcode, Counters, CtxCreate, HandleReply, Init, PagingMode, PasidBind, PdCreate,
    ReplyHeader,
};
use vnic_abi::status::Status;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const RAM: u64 = 1 << 20;
/// More RAM, which a front end adds later.
const MORE_RAM: u64 = 1 << 30;
const RING_SIZE: u16 = 16;
const REQUEST: u64 = 0x8_0000;
const REPLY: u64 = 0x9_0000;
const TABLE: u64 = 0xa_0000;
const EPOCH_PAGE: u64 = 0xb_0000;
const DOORBELL_PAGE: u64 = 0xc_0000;
const PAGE_TABLE: u64 = 0xd_0000;
const INVALIDATION_PAGE: u64 = 0xe_0000;

const EVENT_IDX: u64 = 1 << 29;
const INDIRECT: u64 = 1 << 28;
const PROTOCOL: u64 = 1 << 30;
const VERSION_1: u64 = 1 << 32;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT_DESC: u16 = 4;

/// Upper bound of any wait in milliseconds; a test that reaches it fails.
const PATIENCE: i32 = 20_000;

fn device() -> Arc<Device> {
    Device::start(DeviceConfig::default()).unwrap()
}

fn server(device: &Arc<Device>, dir: &Path, name: &str) -> PortServer {
    let mut config = PortConfig::new(name);
    config.mac = [2, 0, 0, 0, 0, 9];
    PortServer::start(device.clone(), PortSpec { socket: dir.join(name), config }).unwrap()
}

/// One descriptor: address, length, flags. The link follows from the position.
type Descriptor = (u64, u32, u16);

/// A VM: its RAM, its front end, and the driver's half of the control queue.
struct Vm {
    front: Frontend,
    memory: GuestMemoryMmap,
    kick: EventFd,
    call: EventFd,
    idle: Vec<EventFd>,
    avail: u16,
}

impl Vm {
    /// Connects, negotiates, shares the RAM and starts all rings.
    fn boot(socket: &Path, features: u64) -> Self {
        let mut vm = Self::connect(socket);
        vm.negotiate(features);
        vm.share(0, RAM);
        vm.start_rings();
        vm
    }

    fn connect(socket: &Path) -> Self {
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

    fn negotiate(&mut self, features: u64) {
        self.front.set_owner().unwrap();
        let offered = self.front.get_features().unwrap();
        assert_eq!(offered & features, features);
        let protocol = self.front.get_protocol_features().unwrap();
        // Without REPLY_ACK first, since it is not in force before this call ends.
        self.front.set_protocol_features(protocol).unwrap();
        self.front.set_hdr_flags(vhost::vhost_user::message::VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(self.front.get_queue_num().unwrap(), u64::from(VQ_COUNT));
        self.front.set_features(features | PROTOCOL | VERSION_1).unwrap();
    }

    fn region(&self, start: u64, len: u64) -> VhostUserMemoryRegionInfo {
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

    fn share(&mut self, start: u64, len: u64) {
        self.front.set_mem_table(&[self.region(start, len)]).unwrap();
    }

    /// Plugs more RAM in.
    fn plug(&mut self) {
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

    fn ring(queue: u16) -> (u64, u64, u64) {
        let base = 0x1_0000 * u64::from(queue);
        (base, base + 0x4000, base + 0x8000)
    }

    /// Starts rings that hold nothing, as a new driver does.
    fn start_rings(&mut self) {
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

    fn write<T: IntoBytes + Immutable>(&self, value: T, address: u64) {
        self.memory.write_slice(value.as_bytes(), GuestAddress(address)).unwrap();
    }

    fn read_u16(&self, address: u64) -> u16 {
        self.memory.read_obj(GuestAddress(address)).unwrap()
    }

    fn write_table(&self, table: u64, descriptors: &[Descriptor]) {
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
    fn post(&mut self, head: u16) -> u32 {
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

    fn wait_for_call(&self) {
        let epoll = Epoll::new().unwrap();
        let event = EpollEvent::new(EventSet::IN, 0);
        epoll.ctl(ControlOperation::Add, self.call.as_raw_fd(), event).unwrap();
        assert_eq!(epoll.wait(PATIENCE, &mut [event]).unwrap(), 1, "no answer");
        self.call.read().unwrap();
    }

    fn chain(&mut self, descriptors: &[Descriptor]) -> u32 {
        self.write_table(Self::ring(VQ_CTRL).0, descriptors);
        self.post(0)
    }

    /// Sends `request`, with `room` bytes for the reply, and returns the reply.
    fn exchange(&mut self, request: &[u8], room: u32) -> Vec<u8> {
        self.memory.write_slice(request, GuestAddress(REQUEST)).unwrap();
        let len = self.chain(&[(REQUEST, request.len() as u32, NEXT), (REPLY, room, WRITE)]);
        assert!(len <= room);
        self.reply(len)
    }

    fn reply(&self, len: u32) -> Vec<u8> {
        let mut reply = vec![0; len as usize];
        self.memory.read_slice(&mut reply, GuestAddress(REPLY)).unwrap();
        reply
    }

    fn command<T: IntoBytes + Immutable>(&mut self, opcode: CmdOpcode, body: T) -> Vec<u8> {
        self.exchange(&request(opcode, body), 256)
    }

    fn status<T: IntoBytes + Immutable>(&mut self, opcode: CmdOpcode, body: T) -> Status {
        status(&self.command(opcode, body))
    }

    fn handle<T: IntoBytes + Immutable>(&mut self, opcode: CmdOpcode, body: T) -> u32 {
        let reply = self.command(opcode, body);
        assert_eq!(status(&reply), Status::Ok);
        HandleReply::read_from_bytes(&reply[8..]).unwrap().handle.get()
    }

    #[track_caller]
    fn assert_alive(&mut self) {
        assert_eq!(self.status(CmdOpcode::Nop, ()), Status::Ok);
    }

    /// Starts the device and creates a context and a protection domain.
    fn load_driver(&mut self) {
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

    fn counters(&mut self) -> Counters {
        let reply = self.command(CmdOpcode::QueryCounters, ());
        assert_eq!(status(&reply), Status::Ok);
        Counters::read_from_bytes(&reply[8..]).unwrap()
    }
}

fn ram(start: u64, len: u64) -> GuestMemoryMmap {
    let file = File::from(memfd_create("guest", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, len).unwrap();
    let range = (GuestAddress(start), len as usize, Some(FileOffset::new(file, 0)));
    GuestMemoryMmap::from_ranges_with_files([range]).unwrap()
}

fn request<T: IntoBytes + Immutable>(opcode: CmdOpcode, body: T) -> Vec<u8> {
    let header = CmdHeader { opcode: opcode.0.into(), reserved: 0.into() };
    [header.as_bytes(), body.as_bytes()].concat()
}

#[track_caller]
fn status(reply: &[u8]) -> Status {
    Status(ReplyHeader::read_from_prefix(reply).expect("a reply").0.status.get())
}

#[test]
fn a_front_end_negotiates_and_reads_the_configuration_space() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::connect(server.socket());
    vm.negotiate(INDIRECT | EVENT_IDX);
    let protocol = vm.front.get_protocol_features().unwrap();
    assert!(protocol.contains(
        VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    ));

    let mut config = |offset: u32, size: u32| {
        let buffer = vec![0; size as usize];
        vm.front.get_config(offset, size, VhostUserConfigFlags::empty(), &buffer).unwrap().1
    };
    let whole = config(0, 256);
    let (fields, rest) = Config::read_from_prefix(&whole).unwrap();
    assert_eq!(fields.magic.get(), MAGIC);
    assert_eq!(fields.version.get(), ABI_VERSION);
    assert_eq!(fields.mac, [2, 0, 0, 0, 0, 9]);
    assert_eq!(fields.num_workers.get(), 1);
    assert!(rest.iter().all(|&byte| byte == 0));
    assert_eq!(config(8, 4), ABI_VERSION.to_le_bytes());
    assert_eq!(config(250, 100), [0; 100]);
    assert_eq!(config(4095, 1), [0]);
}

#[test]
fn commands_are_answered_with_and_without_event_index() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    for features in [0, EVENT_IDX, INDIRECT | EVENT_IDX] {
        let mut vm = Vm::boot(server.socket(), features);
        // More than the ring holds, so that indices wrap.
        for _ in 0..3 * RING_SIZE {
            assert_eq!(vm.command(CmdOpcode::Nop, ()), [0; 8]);
        }
        assert_eq!(vm.status(CmdOpcode(0x999), ()), Status::UnknownCommand);
        assert_eq!(vm.status(CmdOpcode::PdCreate, PdCreate::default()), Status::BadState);
        assert_eq!(vm.command(CmdOpcode::QueryCounters, ()).len(), 8 + size_of::<Counters>());
        vm.load_driver();
    }
}

#[test]
fn malformed_chains_are_answered_or_returned_and_the_queue_lives_on() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), INDIRECT);
    let nop = request(CmdOpcode::Nop, ());
    vm.memory.write_slice(&nop, GuestAddress(REQUEST)).unwrap();
    let read = (REQUEST, 8, NEXT);
    let reply = (REPLY, 64, WRITE);

    // No room for a reply, or too little.
    for chain in [
        &[(REQUEST, 8, 0)][..],
        &[read, (REPLY, 7, WRITE)],
        &[read, (REPLY, 0, WRITE)],
        &[read, (RAM - 4, 64, WRITE)],
        &[read, (u64::MAX - 4, 64, WRITE)],
        &[(0, 0, 0)],
        // More than 2^32 bytes, where the chain is cut off; a link to nowhere before any room.
        &[(REQUEST, u32::MAX, NEXT), reply],
        &[(REQUEST, 8, NEXT); 16],
    ] {
        assert_eq!(vm.chain(chain), 0, "{chain:?}");
        vm.assert_alive();
        vm.memory.write_slice(&nop, GuestAddress(REQUEST)).unwrap();
    }

    for (chain, expected) in [
        (&[(REQUEST, 4, NEXT), reply][..], Status::Malformed),
        (&[reply], Status::Malformed),
        (&[(REQUEST, 0, NEXT), reply], Status::Malformed),
        // Longer than any command.
        (&[(REQUEST, 4097, NEXT), reply], Status::Malformed),
        (&[(REQUEST, u32::MAX - 64, NEXT), reply], Status::Malformed),
        (&[(REQUEST, 8, NEXT), (REQUEST, 4089, NEXT), reply], Status::Malformed),
        // A readable descriptor after the writable one; a chain that has no end.
        (&[(REPLY, 64, WRITE | NEXT), (REQUEST, 8, 0)], Status::Malformed),
        (&[read, (REPLY, 64, WRITE | NEXT), (0, 0, 0x8000)], Status::Malformed),
        // Outside memory.
        (&[(RAM - 4, 8, NEXT), reply], Status::BadAddress),
        (&[(u64::MAX, 8, NEXT), reply], Status::BadAddress),
        (&[read, (RAM, 8, WRITE | NEXT), reply], Status::BadAddress),
    ] {
        let len = vm.chain(chain);
        assert_eq!(status(&vm.reply(len)), expected, "{chain:?}");
        vm.assert_alive();
        vm.memory.write_slice(&nop, GuestAddress(REQUEST)).unwrap();
    }

    // A request and a reply in pieces.
    let len = vm.chain(&[
        (REQUEST, 3, NEXT),
        (REQUEST + 3, 5, NEXT),
        (REPLY, 1, WRITE | NEXT),
        (REPLY + 1, 7, WRITE),
    ]);
    assert_eq!(vm.reply(len), [0; 8]);

    // A loop: descriptor 1 links to itself.
    vm.write_table(0, &[read, (REPLY, 64, WRITE | NEXT)]);
    vm.write(1u16, 16 + 14);
    let len = vm.post(0);
    assert_eq!(status(&vm.reply(len)), Status::Malformed);
    // A head that the table does not have.
    let (_, _, used) = Vm::ring(VQ_CTRL);
    let before = vm.read_u16(used + 2);
    vm.write(RING_SIZE + 5, Vm::ring(VQ_CTRL).1 + 4 + 2 * u64::from(vm.avail % RING_SIZE));
    vm.avail += 1;
    vm.write(vm.avail, Vm::ring(VQ_CTRL).1 + 2);
    vm.kick.write(1).unwrap();
    // It cannot be returned, so the used index stays behind by one from here on.
    vm.write_table(0, &[read, reply]);
    vm.write(0u16, Vm::ring(VQ_CTRL).1 + 4 + 2 * u64::from(vm.avail % RING_SIZE));
    vm.avail += 1;
    vm.write(vm.avail, Vm::ring(VQ_CTRL).1 + 2);
    vm.kick.write(1).unwrap();
    vm.wait_for_call();
    assert_eq!(vm.read_u16(used + 2), before + 1);
}

#[test]
fn indirect_tables_are_followed_once() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), INDIRECT);
    vm.memory.write_slice(&request(CmdOpcode::Nop, ()), GuestAddress(REQUEST)).unwrap();
    vm.write_table(TABLE, &[(REQUEST, 8, NEXT), (REPLY, 64, WRITE)]);
    let len = vm.chain(&[(TABLE, 32, INDIRECT_DESC)]);
    assert_eq!(vm.reply(len), [0; 8]);
    // Not a multiple of a descriptor, outside memory, a table in a table.
    assert_eq!(vm.chain(&[(TABLE, 31, INDIRECT_DESC)]), 0);
    assert_eq!(vm.chain(&[(RAM, 32, INDIRECT_DESC)]), 0);
    vm.write_table(TABLE, &[(TABLE, 16, INDIRECT_DESC)]);
    assert_eq!(vm.chain(&[(TABLE, 16, INDIRECT_DESC)]), 0);
    // A table far longer than any ring whose every entry links to itself.
    for entry in 0..0x1000 {
        vm.write_table(TABLE + 16 * entry, &[(REQUEST, 1, NEXT)]);
        vm.write(entry as u16, TABLE + 16 * entry + 14);
    }
    assert_eq!(vm.chain(&[(TABLE, 0x1_0000, INDIRECT_DESC)]), 0);
    vm.assert_alive();
}

#[test]
fn a_command_whose_reply_does_not_fit_is_not_executed() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    vm.load_driver();
    let bind = PasidBind {
        root: PAGE_TABLE.into(),
        invalidation_page: INVALIDATION_PAGE.into(),
        mode: PagingMode::X86Level4.0.into(),
        ..PasidBind::default()
    };
    let bind = request(CmdOpcode::PasidBind, bind);
    let before = vm.counters();
    assert_eq!(status(&vm.exchange(&bind, 15)), Status::Malformed);
    assert!(vm.exchange(&bind, 7).is_empty());
    assert_eq!(vm.counters(), before);
    assert_eq!(status(&vm.exchange(&bind, 16)), Status::Ok);
    assert_ne!(vm.counters(), before);
}

/// What ends a driver: the device must have let go of everything when the front end is answered.
#[test]
fn a_reset_ends_everything_before_it_is_answered() {
    type Reset = fn(&mut Vm);
    let resets: [(&str, Reset); 6] = [
        ("first ring stopped", |vm| drop(vm.front.get_vring_base(0).unwrap())),
        ("another ring stopped", |vm| drop(vm.front.get_vring_base(2).unwrap())),
        ("device reset", |vm| vm.front.reset_device().unwrap()),
        ("features set", |vm| vm.front.set_features(PROTOCOL | VERSION_1).unwrap()),
        ("all stopped", |vm| {
            for queue in 0..usize::from(VQ_COUNT) {
                vm.front.set_vring_enable(queue, false).unwrap();
            }
            for queue in 0..usize::from(VQ_COUNT) {
                vm.front.get_vring_base(queue).unwrap();
            }
        }),
        ("all stopped and reset", |vm| {
            for queue in 0..usize::from(VQ_COUNT) {
                vm.front.get_vring_base(queue).unwrap();
            }
            vm.front.reset_device().unwrap();
        }),
    ];
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    for (name, reset) in resets {
        vm.load_driver();
        let port = server.port().unwrap();
        assert!(port.snapshot().driver);
        reset(&mut vm);
        // No wait: the answer is the promise.
        assert!(!port.snapshot().driver, "{name}");
        assert_eq!(port.counters(), Counters::default(), "{name}");
        // The next driver begins from nothing.
        vm.front.set_features(PROTOCOL | VERSION_1).unwrap();
        for queue in 0..usize::from(VQ_COUNT) {
            vm.front.get_vring_base(queue).unwrap();
        }
        vm.start_rings();
        assert_eq!(vm.status(CmdOpcode::PdCreate, PdCreate::default()), Status::BadState);
    }
}

#[test]
fn memory_that_is_plugged_in_later_is_reached() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    vm.load_driver();
    let nop = request(CmdOpcode::Nop, ());
    let chain = [(MORE_RAM, 8, NEXT), (REPLY, 64, WRITE)];
    let len = vm.chain(&chain);
    assert_eq!(status(&vm.reply(len)), Status::BadAddress);
    vm.plug();
    vm.memory.write_slice(&nop, GuestAddress(MORE_RAM)).unwrap();
    let len = vm.chain(&chain);
    assert_eq!(vm.reply(len), [0; 8]);
    // What the driver holds has not been lost.
    assert_eq!(vm.counters().pds.get(), 1);
}

#[test]
fn a_second_front_end_waits_for_the_first_to_go() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut first = Vm::boot(server.socket(), 0);
    let socket: PathBuf = server.socket().to_owned();
    let second = Vm::connect(&socket);
    first.load_driver();
    assert_eq!(server.connections(), 1);
    drop(first);
    assert_ne!(second.front.get_features().unwrap(), 0);
    assert_eq!(server.connections(), 2);
}

#[test]
fn ports_do_not_mind_each_other() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let [a, b] = ["a", "b"].map(|name| server(&device, dir.path(), name));
    let mut stays = Vm::boot(b.socket(), 0);
    stays.load_driver();
    for _ in 0..5 {
        let mut comes = Vm::boot(a.socket(), 0);
        comes.load_driver();
        drop(comes);
        assert_eq!(stays.counters().pds.get(), 1);
    }
    drop(stays);
    let mut next = Vm::boot(b.socket(), 0);
    assert_eq!(next.counters(), Counters::default());
    next.load_driver();
}

#[test]
fn a_server_that_stops_hangs_up_and_detaches() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    vm.load_driver();
    let socket = server.socket().to_owned();
    server.stop();
    assert!(vm.front.get_features().is_err());
    assert!(!socket.exists());
    assert!(device.ports().is_empty());
    device.shutdown();
}

/// A front end that talks nonsense loses its connection and nothing else.
#[test]
fn nonsense_on_the_socket_ends_that_connection() {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;

    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    for bytes in [&[0xff; 64][..], b"GET / HTTP/1.1\r\n\r\n", &[1, 0, 0, 0], &[]] {
        let mut stream = UnixStream::connect(server.socket()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        // Hung up upon, with or without a word.
        let ended = stream.read_to_end(&mut Vec::new());
        assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock));
    }
    Vm::boot(server.socket(), 0).assert_alive();
}

/// Descriptors and threads of a process.
fn footprint(pid: u32) -> (usize, usize) {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{pid}/{what}")).unwrap().count();
    (count("fd"), count("task"))
}

#[test]
fn guests_that_come_and_go_leave_nothing_in_the_daemon() {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("vm");
    struct Killed(std::process::Child);
    impl Drop for Killed {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    let daemon = Command::new(env!("CARGO_BIN_EXE_vnic"))
        .args(["run", "--ready", "--control"])
        .arg(dir.path().join("control"))
        .arg("--socket")
        .arg(&socket)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut daemon = Killed(daemon);
    let mut line = String::new();
    BufReader::new(daemon.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "ready\n");
    let mut footprints = vec![];
    for _ in 0..30 {
        // A connection is served when the one before it is cleared away.
        let mut vm = Vm::boot(&socket, EVENT_IDX);
        vm.load_driver();
        footprints.push(footprint(daemon.0.id()));
    }
    assert!(footprints.iter().all(|footprint| *footprint == footprints[0]), "{footprints:?}");
}
