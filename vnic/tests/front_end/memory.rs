// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Memory tables: what a running session makes of a new one, and which ones are refused.

use std::fs::File;
use std::os::fd::AsRawFd;

use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::pipe::pipe;
use vhost::vhost_user::VhostUserFrontend;
use vhost::{VhostBackend, VhostUserMemoryRegionInfo};
use vm_memory::{Bytes, GuestAddress};
use vnic_abi::ABI_VERSION;
use vnic_abi::ctrl::{CmdOpcode, CtxCreate, Handle, Init, PagingMode, PasidBind};
use vnic_abi::status::Status;

use crate::vm::*;
use crate::{device, server};

/// A region of its own file, which has `size` bytes.
fn module(gpa: u64, len: u64, size: u64) -> (VhostUserMemoryRegionInfo, File) {
    let file = File::from(memfd_create("module", MemfdFlags::CLOEXEC).unwrap());
    ftruncate(&file, size).unwrap();
    let region = VhostUserMemoryRegionInfo {
        guest_phys_addr: gpa,
        memory_size: len,
        // Rings are told by these addresses; nothing is there.
        userspace_addr: gpa | 1 << 46,
        mmap_offset: 0,
        mmap_handle: file.as_raw_fd(),
    };
    (region, file)
}

/// Mappings of a memfd called `name` in this process, of which the device is a part.
fn mappings(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    maps.lines().filter(|line| line.contains(&format!("/memfd:{name} "))).count()
}

/// Sends a NOP that lies at `gpa`, and tells what became of it.
fn nop_at(vm: &mut Vm, gpa: u64) -> Status {
    let len = vm.chain(&[(gpa, 8, NEXT), (REPLY, 64, WRITE)]);
    status(&vm.reply(len))
}

#[test]
fn a_session_lives_on_while_its_memory_comes_and_goes() {
    const MODULES: u64 = 64;
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    vm.load_driver();
    assert!(vm.front.get_max_mem_slots().unwrap() > MODULES);
    let at = |n: u64| MORE_RAM + n * 2 * RAM;
    let modules: Vec<_> = (0..MODULES).map(|n| module(at(n), RAM, RAM)).collect();
    for ((region, _), n) in modules.iter().zip(0..) {
        assert_eq!(nop_at(&mut vm, at(n)), Status::BadAddress);
        vm.front.add_mem_region(region).unwrap();
        // A command of zeros is none that is known; what matters is that it was read.
        assert_eq!(nop_at(&mut vm, at(n)), Status::UnknownCommand);
    }
    assert_eq!(mappings("module"), MODULES as usize);
    for ((region, _), n) in modules.iter().zip(0..) {
        vm.front.remove_mem_region(region).unwrap();
        assert_eq!(mappings("module") as u64, MODULES - n - 1);
        assert_eq!(nop_at(&mut vm, at(n)), Status::BadAddress);
    }
    // The other style: everything anew each time.
    let all = [vm.region(0, RAM), modules[0].0, modules[1].0];
    for table in [&all[..], &all[..2], &all[..1], &all[..3]] {
        vm.front.set_mem_table(table).unwrap();
        assert_eq!(mappings("module"), table.len() - 1);
        for n in 0..2 {
            let there = (n as usize) < table.len() - 1;
            let wanted = if there { Status::UnknownCommand } else { Status::BadAddress };
            assert_eq!(nop_at(&mut vm, at(n)), wanted);
        }
    }
    assert_eq!(vm.counters().pds.get(), 1);
}

/// A monitor that takes away the memory of pages that the device works in harms its own guest alone.
#[test]
fn pages_of_objects_stay_mapped_until_the_objects_go() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    let modules: Vec<_> = (0..3).map(|n| module(MORE_RAM + n * RAM, RAM, RAM)).collect();
    for (region, _) in &modules {
        vm.front.add_mem_region(region).unwrap();
    }
    let at = |n: u64| MORE_RAM + n * RAM;
    // The epoch page in one, the page table in the next, the doorbell page in the last.
    let init = Init { version: ABI_VERSION.into(), epoch_page: at(0).into(), ..Init::default() };
    assert_eq!(vm.status(CmdOpcode::Init, init), Status::Ok);
    let bind = PasidBind {
        root: at(1).into(),
        invalidation_page: INVALIDATION_PAGE.into(),
        mode: PagingMode::X86Level4.0.into(),
        ..PasidBind::default()
    };
    let pasid = vm.handle(CmdOpcode::PasidBind, bind);
    let open = |page: u64| CtxCreate {
        doorbell_page: page.into(),
        pasid: pasid.into(),
        ..CtxCreate::default()
    };
    let ctx = vm.handle(CmdOpcode::CtxCreate, open(at(2)));
    for (region, _) in &modules {
        vm.front.remove_mem_region(region).unwrap();
    }
    // The table was only walked, not kept.
    assert_eq!(mappings("module"), 2);
    // A worker polls the doorbell page all the time.
    vm.front.add_mem_region(&modules[1].0).unwrap();
    vm.kick.write(1).unwrap();
    vm.assert_alive();
    assert_eq!(vm.status(CmdOpcode::CtxCreate, open(at(2))), Status::BadAddress);
    let ctx = Handle { handle: ctx.into(), ..Handle::default() };
    assert_eq!(vm.status(CmdOpcode::CtxDestroy, ctx), Status::Ok);
    // The module that came back, and the epoch page.
    wait_for_mappings(2);
    assert_eq!(vm.status(CmdOpcode::Shutdown, Handle::default()), Status::Ok);
    wait_for_mappings(1);
}

/// A worker may hold the last reference for a moment longer.
#[track_caller]
fn wait_for_mappings(wanted: usize) {
    let limit = std::time::Instant::now() + std::time::Duration::from_millis(PATIENCE as u64);
    while mappings("module") != wanted {
        assert!(std::time::Instant::now() < limit, "{} mappings", mappings("module"));
        std::thread::yield_now();
    }
}

/// What a table can have wrong. The first region is the guest's ordinary memory.
#[test]
fn tables_that_cannot_be_used_end_the_connection_and_nothing_else() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let [changing, other] = ["a", "b"].map(|name| server(&device, dir.path(), name));
    let mut stays = Vm::boot(other.socket(), 0);
    stays.load_driver();
    let good = || module(MORE_RAM, RAM, RAM);
    let (nowhere, _write) = pipe().unwrap();
    type Change = Box<dyn Fn(&mut VhostUserMemoryRegionInfo)>;
    let changes: Vec<(&str, Change)> = vec![
        ("over the first", Box::new(|region| region.guest_phys_addr = RAM / 2)),
        ("the same as the first", Box::new(|region| region.guest_phys_addr = 0)),
        ("not at a page", Box::new(|region| region.guest_phys_addr += 8)),
        ("half a page", Box::new(|region| region.memory_size -= 2048)),
        ("an odd offset in the file", Box::new(|region| region.mmap_offset = 8)),
        ("longer than its file", Box::new(|region| region.memory_size += 4096)),
        ("behind its file", Box::new(|region| region.mmap_offset = RAM)),
        ("far behind its file", Box::new(|region| region.mmap_offset = 1 << 62)),
        ("round the end", Box::new(|region| region.guest_phys_addr = !0xfff)),
        ("a terabyte of nothing", Box::new(|region| region.memory_size = 1 << 40)),
        ("more than there are addresses", Box::new(|region| region.memory_size = 1 << 60)),
        ("a pipe", Box::new(move |region| region.mmap_handle = nowhere.as_raw_fd())),
    ];
    for (what, change) in changes {
        for slots in [true, false] {
            let mut vm = Vm::boot(changing.socket(), 0);
            vm.load_driver();
            let (mut region, _file) = good();
            change(&mut region);
            let refused = if slots {
                vm.front.add_mem_region(&region).map(drop)
            } else {
                vm.front.set_mem_table(&[vm.region(0, RAM), region]).map(drop)
            };
            assert!(refused.is_err(), "{what}, slots {slots}");
            assert!(vm.front.get_features().is_err(), "{what}, slots {slots}: not hung up upon");
            assert_eq!(stays.counters().pds.get(), 1, "{what}");
        }
    }
    // A table may also be the first one.
    let mut vm = Vm::connect(changing.socket());
    vm.negotiate(0);
    assert!(vm.front.set_mem_table(&[module(0, RAM, RAM / 2).0]).is_err());
    // Of a region that is not there, or not of that size, nothing can be removed.
    for wrong in [module(MORE_RAM, RAM, RAM).0, module(0, RAM / 2, RAM).0] {
        let mut vm = Vm::boot(changing.socket(), 0);
        vm.load_driver();
        assert!(vm.front.remove_mem_region(&wrong).is_err());
    }
    stays.assert_alive();
    Vm::boot(changing.socket(), 0).load_driver();
}

#[test]
fn regions_have_a_number_and_memory_a_size_at_which_they_end() {
    let (device, dir) = (device(), tempfile::tempdir().unwrap());
    let server = server(&device, dir.path(), "vm");
    let mut vm = Vm::boot(server.socket(), 0);
    vm.load_driver();
    let slots = vm.front.get_max_mem_slots().unwrap();
    let small: Vec<_> = (1..=slots).map(|n| module(MORE_RAM + n * RAM, 4096, 4096)).collect();
    let (last, others) = small.split_last().unwrap();
    for (region, _) in others {
        vm.front.add_mem_region(region).unwrap();
    }
    // The guest's ordinary memory is one, too.
    vm.assert_alive();
    assert!(vm.front.add_mem_region(&last.0).is_err());
    drop(vm);
    // As sparse as can be, but 8 TiB of addresses each.
    let huge = |n: u64| module((n + 1) << 43, 1 << 43, 1 << 43);
    let mut vm = Vm::boot(server.socket(), 0);
    vm.front.add_mem_region(&huge(0).0).unwrap();
    vm.memory.write_slice(&[0; 8], GuestAddress(REQUEST)).unwrap();
    vm.assert_alive();
    assert!(vm.front.add_mem_region(&huge(1).0).is_err());
    drop(vm);
    Vm::boot(server.socket(), 0).assert_alive();
}
