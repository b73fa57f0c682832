// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The QEMU command line of a machine.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use vnic_guest_agent::PORT_NAME;

use super::{
    Accelerator, AgentEnd, Files, Hardware, VmConfig,
    config::{LinkSocket, PortEnd, SerialPort, Share},
};
use crate::provision::{image::Image, qemu::DEVICE};

/// Quick to boot, quiet, and gone at the first panic. The slow parts of an emulated machine, such
/// as self-tests and timer calibration, are left out.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr \
    tsc=reliable no_timer_check audit=0 random.trust_cpu=on cryptomgr.notests \
    rcupdate.rcu_expedited=1 8250.nr_uarts=1";

/// Queues of the vNIC's device: control, event, kick, and one to grow into.
const VNIC_SHAPE: &str = "num_vqs=4,vq_size=256,config_size=256,page-per-vq=on";

pub(super) fn of(image: &Image, config: &VmConfig, files: &Files) -> Vec<OsString> {
    let mut list = List(Vec::new());
    list.add("-nodefaults").add("-no-user-config").add("-no-reboot");
    list.option("-display", "none");
    let mut machine = "q35,vmport=off,smbus=off,sata=off,usb=off".to_string();
    if config.hardware.nodes.is_empty() {
        machine.push_str(",memory-backend=ram");
    } else {
        machine.push_str(",hmat=on");
    }
    if !config.hardware.nvdimms.is_empty() {
        machine.push_str(",nvdimm=on");
    }
    list.option("-machine", machine);
    match config.accelerator {
        Accelerator::Kvm => list.option("-accel", "kvm").option("-cpu", "host"),
        Accelerator::Tcg => {
            let own = if config.virtualization { ",+svm,+npt" } else { "" };
            list.option("-accel", "tcg,thread=multi")
                .option("-cpu", format!("qemu64,+x2apic,+rdrand,+smep,+smap,+pdpe1gb{own}"))
        }
    };
    list.option("-smp", config.processors.to_string());
    list.memory(config);
    list.option("-kernel", &image.kernel.image);
    list.option("-initrd", &image.initramfs);
    list.option("-append", format!("{KERNEL_ARGUMENTS} {}", config.kernel_arguments));
    list.option("-serial", with_path("file:", &files.serial, ""));

    // Only the old layout has ports to tell devices by.
    let layout = if config.port_notify { ",disable-modern=on,disable-legacy=off" } else { "" };
    // The first one is kept for a console.
    let ports = 2 + config.ports.len();
    list.option("-device", format!("virtio-serial-pci,max_ports={ports}{layout}"));
    let agent = match &files.agent {
        AgentEnd::Socket(path) => with_path("socket,id=agent,path=", path, ""),
        AgentEnd::Device(path) => with_path("pipe,id=agent,path=", path, ""),
    };
    list.option("-chardev", agent);
    list.option("-device", format!("virtserialport,chardev=agent,name={PORT_NAME}"));
    list.ports(&config.ports);

    let end = ",server=on,wait=off";
    list.option("-chardev", with_path("socket,id=monitor,path=", &files.monitor, end));
    list.option("-mon", "chardev=monitor,mode=control");

    list.disks(&files.disks, layout);
    if let Some(link) = &config.link {
        let end = if link.serves { ",server=on" } else { ",server=off,reconnect-ms=50" };
        let netdev = match &link.socket {
            LinkSocket::Unix(path) => {
                let options = format!(",addr.type=unix{end}");
                with_path("stream,id=net,addr.path=", path, &options)
            }
            LinkSocket::Tcp(host, port) => {
                let address = format!("addr.type=inet,addr.host={host},addr.port={port}");
                format!("stream,id=net,{address}{end}").into()
            }
            LinkSocket::User => "user,id=net".into(),
        };
        list.option("-netdev", netdev);
        // Without the boot ROM, which the root need not have.
        let card = format!("virtio-net-pci,netdev=net,romfile=,mac={}{layout}", link.mac_text());
        list.option("-device", card);
    }
    for (number, socket) in config.vnics.iter().enumerate() {
        let chardev = format!("socket,id=vnic{number},path=");
        list.option("-chardev", with_path(&chardev, socket, ""));
        let id = config.virtio_id;
        let device = format!("{DEVICE},virtio-id={id},{VNIC_SHAPE},chardev=vnic{number}");
        list.option("-device", device);
    }
    list.shares(&config.shares);
    list.0
}

struct List(Vec<OsString>);

impl List {
    fn add(&mut self, word: impl AsRef<OsStr>) -> &mut Self {
        self.0.push(word.as_ref().into());
        self
    }

    fn option(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.add(name).add(value)
    }
}

impl List {
    fn memory(&mut self, config: &VmConfig) {
        let hardware = &config.hardware;
        let start = hardware.memory(config.memory);
        match hardware.sockets() {
            None => self.option("-m", format!("{start}M")),
            Some(sockets) => {
                let (slots, most) = (sockets.slots, start + sockets.room);
                self.option("-m", format!("{start}M,slots={slots},maxmem={most}M"))
            }
        };
        let huge = config.huge_pages;
        if hardware.nodes.is_empty() {
            self.backend("ram", start, huge);
        } else {
            self.nodes(hardware, huge);
        }
        for (number, size) in hardware.nvdimms.iter().enumerate() {
            self.backend(&format!("nvdimm{number}"), *size, false);
            self.option("-device", format!("nvdimm,id=pmem{number},memdev=nvdimm{number}"));
        }
    }

    /// Memory that a vhost-user backend can map, because it is shared.
    fn backend(&mut self, name: &str, size: u32, huge: bool) {
        let mut object = format!("memory-backend-memfd,id={name},size={size}M,share=on");
        if huge {
            // All at once, so that a lack of pages is told at the start and kills nobody later.
            object.push_str(",hugetlb=on,hugetlbsize=2M,prealloc=on");
        }
        self.option("-object", object);
    }

    fn nodes(&mut self, hardware: &Hardware, huge: bool) {
        let nodes = || hardware.nodes.iter().enumerate();
        let with_processors = || nodes().filter(|(_, node)| node.processors != 0);
        let nearest = with_processors().next().map_or(0, |(number, _)| number);
        let mut processor = 0;
        for (number, node) in nodes() {
            let mut option = format!("node,nodeid={number}");
            if node.memory != 0 {
                self.backend(&format!("ram{number}"), node.memory, huge);
                option.push_str(&format!(",memdev=ram{number}"));
            }
            if node.processors == 0 {
                option.push_str(&format!(",initiator={nearest}"));
            } else {
                let last = processor + node.processors - 1;
                option.push_str(&format!(",cpus={processor}-{last},initiator={number}"));
                processor = last + 1;
            }
            self.option("-numa", option);
        }
        // What lies at another node's processors takes half as long again.
        for (from, _) in with_processors() {
            for (to, node) in nodes() {
                let far = node.processors != 0 && from != to;
                let (more, less) = if far { (3, 2) } else { (1, 1) };
                let pair = format!("hmat-lb,initiator={from},target={to},hierarchy=memory");
                let latency = node.latency * more / less;
                self.option("-numa", format!("{pair},data-type=access-latency,latency={latency}"));
                let bandwidth = node.bandwidth * less / more;
                self.option(
                    "-numa",
                    format!("{pair},data-type=access-bandwidth,bandwidth={bandwidth}M"),
                );
            }
        }
    }

    fn ports(&mut self, ports: &[SerialPort]) {
        for (number, port) in ports.iter().enumerate() {
            let chardev = match &port.to {
                PortEnd::Socket(path) => {
                    let before = format!("socket,id=port{number},path=");
                    with_path(&before, path, ",server=on,wait=off")
                }
                PortEnd::File(path) => with_path(&format!("file,id=port{number},path="), path, ""),
            };
            self.option("-chardev", chardev);
            let device = format!("virtserialport,chardev=port{number},name={}", port.name);
            self.option("-device", device);
        }
    }

    fn shares(&mut self, shares: &[Share]) {
        for (number, share) in shares.iter().enumerate() {
            let before = format!("local,id=share{number},path=");
            // Who owns what is of no interest, and links are followed by the guest.
            let after = ",security_model=none,readonly=on";
            self.option("-fsdev", with_path(&before, &share.folder, after));
            let device = format!("virtio-9p-pci,fsdev=share{number},mount_tag={}", share.tag);
            self.option("-device", device);
        }
    }

    fn disks(&mut self, files: &[std::path::PathBuf], layout: &str) {
        for (number, file) in files.iter().enumerate() {
            // What a disk holds need not outlive the machine, so nothing is ever flushed.
            let before = format!(
                "driver=file,node-name=disk{number},discard=unmap,cache.no-flush=on,filename="
            );
            self.option("-blockdev", with_path(&before, file, ""));
            self.option(
                "-device",
                format!("virtio-blk-pci,id=drive{number},drive=disk{number},discard=on{layout}"),
            );
        }
    }
}

/// A path inside an option, where QEMU wants a comma doubled.
fn with_path(before: &str, path: &Path, after: &str) -> OsString {
    let path = path.to_string_lossy().replace(',', ",,");
    format!("{before}{path}{after}").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        provision::kernel::{Kernel, Series},
        vm::{Hotplug, Link, Node},
    };

    fn text(config: &VmConfig) -> String {
        let kernel = Kernel {
            series: Series::Stable,
            release: "6.12".into(),
            image: "/c/vmlinuz".into(),
            modules: "/c/modules".into(),
        };
        let image = Image { kernel, initramfs: "/c/initramfs".into() };
        let disk = |number| format!("/run/disk,{number}").into();
        let files = Files {
            agent: AgentEnd::Socket("/run/agent".into()),
            monitor: "/run/qmp".into(),
            serial: "/run/serial".into(),
            disks: (0..config.hardware.disks.len()).map(disk).collect(),
        };
        let words = of(&image, config, &files);
        let text = words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join("\n");
        text.replace("\n-", "\n\n-")
    }

    #[test]
    fn a_full_command_line() {
        let mut config = VmConfig::new("left", Accelerator::Tcg);
        let socket = LinkSocket::Unix("/run/a,b/net".into());
        config.link = Some(Link { socket, serves: true, mac: [2, 0, 0, 0, 0, 0x1f] });
        config.vnics.push("/run/port-a".into());
        insta::assert_snapshot!(text(&config));
    }

    #[test]
    fn memory_of_huge_pages() {
        let mut config = VmConfig::new("left", Accelerator::Kvm);
        config.huge_pages = true;
        let without_nodes = text(&config);
        config.hardware.nodes = vec![Node::fast(512, 2), Node::slow(256), Node::slow(0)];
        let with_nodes = text(&config);
        let objects = |text: &str| {
            let of = |line: &&str| line.contains("memory-backend") || line.contains("hugetlb");
            text.lines().filter(of).collect::<Vec<_>>().join("\n")
        };
        let both = format!("{}\n\n{}", objects(&without_nodes), objects(&with_nodes));
        insta::assert_snapshot!(both, @r"
        q35,vmport=off,smbus=off,sata=off,usb=off,memory-backend=ram
        memory-backend-memfd,id=ram,size=1024M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on

        memory-backend-memfd,id=ram0,size=512M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on
        memory-backend-memfd,id=ram1,size=256M,share=on,hugetlb=on,hugetlbsize=2M,prealloc=on
        ");
    }

    #[test]
    fn all_the_extra_hardware() {
        let mut config = VmConfig::new("left", Accelerator::Tcg);
        config.processors = 4;
        config.hardware = Hardware {
            nodes: vec![Node::fast(512, 2), Node::fast(256, 2), Node::slow(1024), Node::slow(0)],
            hotplug: Some(Hotplug { slots: 8, room: 4096 }),
            nvdimms: vec![256, 128],
            disks: vec![2048, 64],
        };
        insta::assert_snapshot!(text(&config));
    }

    #[test]
    fn devices_are_told_by_ports_but_the_vnic() {
        let mut config = VmConfig::new("left", Accelerator::Kvm);
        config.port_notify = true;
        config.link =
            Some(Link { socket: LinkSocket::User, serves: true, mac: [2, 0, 0, 0, 0, 1] });
        config.vnics.push("/run/port-a".into());
        config.hardware.disks = vec![64];
        let text = text(&config);
        let told = |name: &str| {
            let found = text.lines().find(|line| line.starts_with(name)).unwrap();
            found.contains(",disable-modern=on,disable-legacy=off")
        };
        assert!(["virtio-serial-pci", "virtio-net-pci", "virtio-blk-pci"].into_iter().all(told));
        assert!(!told(DEVICE), "it has no old layout");
    }

    #[test]
    fn sockets_without_nodes() {
        let mut config = VmConfig::new("left", Accelerator::Kvm);
        config.hardware.hotplug = Some(Hotplug { slots: 2, room: 1024 });
        insta::assert_snapshot!(text(&config));
    }
}
