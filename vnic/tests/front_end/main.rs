// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The device as a vhost-user front end meets it.

mod memory;
mod vm;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use vhost::VhostBackend;
use vhost::vhost_user::VhostUserFrontend;
use vhost::vhost_user::message::{VhostUserConfigFlags, VhostUserProtocolFeatures};
use vm_memory::{Bytes, GuestAddress};
use vnic::backend::{PortServer, PortSpec};
use vnic::device::{Device, DeviceConfig};
use vnic::port::PortConfig;
use vnic_abi::ABI_VERSION;
use vnic_abi::config::{Config, MAGIC, VQ_COUNT, VQ_CTRL};
use vnic_abi::ctrl::{CmdOpcode, Counters, PagingMode, PasidBind, PdCreate};
use vnic_abi::status::Status;
use zerocopy::FromBytes;

use vm::*;

fn device() -> Arc<Device> {
    Device::start(DeviceConfig::default()).unwrap()
}

fn server(device: &Arc<Device>, dir: &Path, name: &str) -> PortServer {
    let mut config = PortConfig::new(name);
    config.mac = [2, 0, 0, 0, 0, 9];
    PortServer::start(device.clone(), PortSpec { socket: dir.join(name), config }).unwrap()
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
    fn stop(vm: &mut Vm, queue: usize) {
        vm.front.get_vring_base(queue).unwrap();
    }

    let resets: [(&str, Reset); 6] = [
        ("first ring stopped", |vm| stop(vm, 0)),
        ("another ring stopped", |vm| stop(vm, 2)),
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
        assert!(port.has_driver());
        reset(&mut vm);
        // No wait: the answer is the promise.
        assert!(!port.has_driver(), "{name}");
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
    // A worker may hold the last guest's memory for a moment longer than the connection lasts; what
    // leaks per guest would be there 29 times at the end.
    let (fds, threads) = footprints[0];
    for footprint in &footprints {
        assert!(footprint.0 < fds + 5 && footprint.1 < threads + 5, "{footprints:?}");
    }
}
