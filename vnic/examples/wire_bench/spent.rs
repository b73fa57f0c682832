// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What a host has spent so far, on whatever: time of its processors on the program, the daemon and the kernel, and
//! packets of its RDMA devices.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Nanoseconds of a tick of /proc/stat, of which there are always 100 a second (proc_stat(5), USER_HZ).
const TICK: u64 = 10_000_000;

/// Where the kernel shows its RDMA devices.
const SYSFS: &str = "/sys/class/infiniband";

/// What counts packets that the first port of a device sent: of rxe, and of devices that are hardware.
const COUNTERS: [&str; 2] = ["hw_counters/sent_pkts", "counters/port_xmit_packets"];

/// Since the boot of one host, or of several together.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Spent {
    /// Nanoseconds that processors were busy.
    pub busy: u64,
    /// Packets that RDMA devices sent; `None` where they do not count them.
    pub packets: Option<u64>,
}

impl Spent {
    /// By this host.
    pub fn here() -> Result<Self> {
        let text = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let busy = parse(&text).context("understand /proc/stat")?;
        Ok(Self { busy, packets: packets(Path::new(SYSFS)) })
    }

    /// By both.
    pub fn and(self, other: Self) -> Self {
        let packets = self.packets.zip(other.packets).map(|(one, two)| one + two);
        Self { busy: self.busy + other.busy, packets }
    }

    /// For each of so many operations, since `before`: nanoseconds, and packets.
    pub fn each(self, before: Self, count: u64) -> (f64, Option<f64>) {
        let count = count as f64;
        let packets = self.packets.zip(before.packets);
        let packets = packets.map(|(now, before)| now.saturating_sub(before) as f64 / count);
        (self.busy.saturating_sub(before.busy) as f64 / count, packets)
    }
}

/// Of all devices together.
fn packets(folder: &Path) -> Option<u64> {
    let mut sum = None;
    for device in fs::read_dir(folder).ok()?.flatten() {
        let port = device.path().join("ports/1");
        let texts = COUNTERS.iter().filter_map(|name| fs::read_to_string(port.join(name)).ok());
        let counted = texts.filter_map(|text| text.trim().parse::<u64>().ok()).next()?;
        sum = Some(sum.unwrap_or(0) + counted);
    }
    sum
}

fn parse(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let ticks = line.split_whitespace().map(|field| field.parse::<u64>().ok());
    let ticks = ticks.collect::<Option<Vec<_>>>()?;
    // user nice system idle iowait irq softirq
    let busy = [0, 1, 2, 5, 6].into_iter().map(|index| ticks.get(index).copied());
    Some(busy.sum::<Option<u64>>()? * TICK)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_is_not_being_busy() {
        let text = "cpu  1 2 4 1000 1000 8 16 1000 1000 1000\ncpu0 9 9 9 9\n";
        assert_eq!(parse(text), Some(31 * TICK));
        assert_eq!(parse("cpu  1 2\n"), None);
        assert_eq!(parse("intr 1\n"), None);
    }

    #[test]
    fn packets_are_counted_if_all_devices_do() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(packets(folder.path()), None);
        for (device, counter) in [("rxe0", COUNTERS[0]), ("mlx5_0", COUNTERS[1])] {
            let path = folder.path().join(device).join("ports/1").join(counter);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "21\n").unwrap();
        }
        assert_eq!(packets(folder.path()), Some(42));
        fs::create_dir(folder.path().join("silent")).unwrap();
        assert_eq!(packets(folder.path()), None);
    }

    #[test]
    fn what_is_spent_is_shared_out() {
        let at = |busy, packets| Spent { busy, packets };
        let (before, now) = (at(10, Some(1)).and(at(10, Some(2))), at(120, Some(9)));
        assert_eq!(now.each(before, 10), (10.0, Some(0.6)));
        assert_eq!(now.each(at(0, None), 10), (12.0, None));
    }
}
