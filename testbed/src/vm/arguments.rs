// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The QEMU command line of a machine.

use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

use vnic_guest_agent::PORT_NAME;

use super::{Accelerator, VmConfig};
use crate::provision::{image::Image, qemu::DEVICE};

/// Quick to boot, quiet, and gone at the first panic. The slow parts of an emulated machine, such
/// as self-tests and timer calibration, are left out.
const KERNEL_ARGUMENTS: &str = "console=ttyS0 quiet panic=-1 oops=panic mitigations=off nokaslr \
    tsc=reliable no_timer_check audit=0 random.trust_cpu=on cryptomgr.notests \
    rcupdate.rcu_expedited=1 8250.nr_uarts=1";

/// Queues of the vNIC's device: control, event, kick, and one to grow into.
const VNIC_SHAPE: &str = "num_vqs=4,vq_size=256,config_size=256,page-per-vq=on";

pub(super) fn of(image: &Image, config: &VmConfig, agent: &Path, serial: &Path) -> Vec<OsString> {
    let mut list = List(Vec::new());
    list.add("-nodefaults").add("-no-user-config").add("-no-reboot");
    list.option("-display", "none");
    list.option("-machine", "q35,memory-backend=ram,vmport=off,smbus=off,sata=off,usb=off");
    match config.accelerator {
        Accelerator::Kvm => list.option("-accel", "kvm").option("-cpu", "host"),
        Accelerator::Tcg => list
            .option("-accel", "tcg,thread=multi")
            .option("-cpu", "qemu64,+x2apic,+rdrand,+smep,+smap"),
    };
    list.option("-smp", config.processors.to_string());
    list.option("-m", format!("{}M", config.memory));
    // Shared, so that a vhost-user backend can map it.
    list.option("-object", format!("memory-backend-memfd,id=ram,size={}M,share=on", config.memory));
    list.option("-kernel", &image.kernel.image);
    list.option("-initrd", &image.initramfs);
    list.option("-append", format!("{KERNEL_ARGUMENTS} {}", config.kernel_arguments));
    list.option("-serial", with_path("file:", serial, ""));

    list.option("-device", "virtio-serial-pci,max_ports=2");
    list.option("-chardev", with_path("socket,id=agent,path=", agent, ""));
    list.option("-device", format!("virtserialport,chardev=agent,name={PORT_NAME}"));

    if let Some(link) = &config.link {
        let end = if link.serves { ",server=on" } else { ",server=off,reconnect-ms=50" };
        let options = format!(",addr.type=unix{end}");
        list.option("-netdev", with_path("stream,id=net,addr.path=", &link.socket, &options));
        // Without the boot ROM, which the root need not have.
        let card = format!("virtio-net-pci,netdev=net,romfile=,mac={}", link.mac_text());
        list.option("-device", card);
    }
    for (number, socket) in config.vnics.iter().enumerate() {
        let chardev = format!("socket,id=vnic{number},path=");
        list.option("-chardev", with_path(&chardev, socket, ""));
        let id = config.virtio_id;
        let device = format!("{DEVICE},virtio-id={id},{VNIC_SHAPE},chardev=vnic{number}");
        list.option("-device", device);
    }
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
        vm::Link,
    };

    #[test]
    fn a_full_command_line() {
        let kernel = Kernel {
            series: Series::Stable,
            release: "6.12".into(),
            image: "/c/vmlinuz".into(),
            modules: "/c/modules".into(),
        };
        let image = Image { kernel, initramfs: "/c/initramfs".into() };
        let mut config = VmConfig::new("left", Accelerator::Tcg);
        let socket = "/run/a,b/net".into();
        config.link = Some(Link { socket, serves: true, mac: [2, 0, 0, 0, 0, 0x1f] });
        config.vnics.push("/run/port-a".into());
        let words = of(&image, &config, Path::new("/run/agent"), Path::new("/run/serial"));
        let text = words.iter().map(|w| w.to_string_lossy()).collect::<Vec<_>>().join("\n");
        insta::assert_snapshot!(text.replace("\n-", "\n\n-"));
    }
}
