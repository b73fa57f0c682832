// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The extra hardware of a machine, as the guest's kernel sees it.

use std::time::Duration;

use vnic_testbed::{
    Result,
    guest::Guest,
    provision::{Provision, kernel::Series, workspace::Workspace},
    vm::{
        Accelerator, Hardware, Hotplug, Node, RunDir, Vm, VmConfig,
        hardware::{DISK_MODULES, prepare_pmem},
    },
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn nodes_disks_and_memory_modules_6_12() -> Result<()> {
    nodes_disks_and_memory_modules(Series::Stable)
}

#[test]
fn nodes_disks_and_memory_modules_7_3() -> Result<()> {
    nodes_disks_and_memory_modules(Series::Backports)
}

fn nodes_disks_and_memory_modules(series: Series) -> Result<()> {
    let provision = Provision::prepare(Workspace::here())?;
    let image = provision.image(&provision.kernel(series)?, &[])?;
    let run = RunDir::new()?;
    let mut config = VmConfig::new("guest", Accelerator::choose(&provision, &image)?);
    config.processors = 4;
    config.hardware = Hardware {
        nodes: vec![Node::fast(512, 3), Node::fast(256, 1), Node::slow(256), Node::slow(0)],
        hotplug: Some(Hotplug { slots: 4, room: 1024 }),
        nvdimms: vec![128],
        disks: vec![4096, 64],
    };
    let vm = Vm::boot(&provision.qemu, &image, &run, &config)?;
    let guest = vm.guest();
    for module in DISK_MODULES {
        guest.run(["modprobe", module], LIMIT)?;
    }
    nodes_and_tiers(guest)?;
    disks(guest)?;
    persistent_memory(guest)?;
    modules(&vm)
}

fn says(guest: &Guest, line: &str) -> Result<String> {
    Ok(guest.shell(line).limit(LIMIT).run()?.stdout_text().trim().to_string())
}

fn nodes_and_tiers(guest: &Guest) -> Result<()> {
    let node = |number: u32, file: &str| {
        says(guest, &format!("cat /sys/devices/system/node/node{number}/{file}"))
    };
    for (number, processors, memory) in [(0, "0-2", 512), (1, "3", 256), (2, "", 256)] {
        assert_eq!(node(number, "cpulist")?, processors);
        let text = node(number, "meminfo")?;
        let total = text.lines().find(|line| line.contains("MemTotal")).unwrap_or_default();
        let kilobytes: u64 = total.split_whitespace().rev().nth(1).unwrap().parse().unwrap();
        // Some belongs to the firmware, the kernel itself and the guest's image.
        assert!((memory / 2..=memory).contains(&(kilobytes >> 10)), "{text}");
    }
    // The slow one is alone in its tier, below both fast ones.
    let tiers = says(guest, "cat /sys/devices/virtual/memory_tiering/memory_tier*/nodelist")?;
    let mut tiers = tiers.lines().collect::<Vec<_>>();
    tiers.sort_unstable();
    assert_eq!(tiers, ["0-1", "2"]);
    Ok(())
}

/// A disk swaps, gives back what is discarded, and the other is a disk of its own.
fn disks(guest: &Guest) -> Result<()> {
    assert_eq!(says(guest, "cat /sys/block/vda/size /sys/block/vdb/size")?, "8388608\n131072");
    says(guest, "mkswap /dev/vda && swapon -d /dev/vda")?;
    let swaps = says(guest, "cat /proc/swaps")?;
    assert!(swaps.contains("/dev/vda") && swaps.contains("4194300"), "{swaps}");
    says(guest, "swapoff /dev/vda && blkdiscard /dev/vda")?;
    let zeros = says(guest, "echo data >/dev/vdb && head -c 4096 /dev/vda | tr -d '\\0' | wc -c")?;
    assert_eq!(zeros, "0");
    assert_eq!(says(guest, "head -c 4 /dev/vdb")?, "data");
    Ok(())
}

/// A file system on it maps its pages and not copies of them.
fn persistent_memory(guest: &Guest) -> Result<()> {
    prepare_pmem(guest)?;
    says(
        guest,
        "mke2fs -b 4096 /dev/pmem0 && mkdir /tmp/pmem && \
         modprobe ext4 && mount -t ext4 -o dax=always /dev/pmem0 /tmp/pmem",
    )?;
    assert!(says(guest, "grep /tmp/pmem /proc/mounts")?.contains("dax=always"));
    says(guest, "echo kept >/tmp/pmem/file && umount /tmp/pmem")?;
    says(guest, "mount -t ext4 -o dax=always /dev/pmem0 /tmp/pmem")?;
    assert_eq!(says(guest, "cat /tmp/pmem/file; umount /tmp/pmem")?, "kept");
    Ok(())
}

/// A module is plugged in, used and unplugged; in between a second one is refused its socket.
fn modules(vm: &Vm) -> Result<()> {
    let guest = vm.guest();
    let total = || says(guest, "awk '/MemTotal/ { print $2 }' /proc/meminfo");
    let before = total()?;
    says(guest, "echo online_movable >/sys/devices/system/memory/auto_online_blocks")?;
    vm.plug_dimm("dimm0", 512, 3)?;
    says(
        guest,
        "until grep -q 'MemTotal: *524288' /sys/devices/system/node/node3/meminfo 2>/dev/null; \
         do sleep 0.05; done",
    )?;
    assert_eq!(says(guest, "cat /sys/devices/system/node/has_memory")?, "0-3");
    let error = vm.plug_dimm("dimm1", 1024, 3).unwrap_err().to_string();
    assert!(error.contains("device_add"), "{error}");
    // The failed one left nothing behind that a new attempt would trip over.
    vm.plug_dimm("dimm1", 128, 3)?;
    vm.unplug_dimm("dimm0", LIMIT)?;
    vm.unplug_dimm("dimm1", LIMIT)?;
    assert_eq!(total()?, before);
    Ok(())
}
