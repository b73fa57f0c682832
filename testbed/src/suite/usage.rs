// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processor time that a run of a program took, in both guests and on the host.

use std::time::Duration;

use crate::{
    error::{Error, Result},
    guest::Guest,
    host::time::{Ticks, threads},
    measure::{CpuTime, cpu::Side},
    topology::Pair,
    vm::Vm,
};

/// Reads the clocks of one pair.
#[derive(Debug)]
pub(super) struct Meter {
    /// The host's threads of each guest's processors.
    processors: [Vec<u32>; 2],
}

/// What the clocks showed.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    guests: [Ticks; 2],
    /// Threads of the guests' processors, and QEMU's others.
    hosts: [(Duration, Duration); 2],
    daemon: Duration,
}

impl Meter {
    pub(super) fn new(pair: &Pair) -> Result<Self> {
        Ok(Self { processors: [pair.left.processor_threads()?, pair.right.processor_threads()?] })
    }

    pub(super) fn read(&self, pair: &Pair) -> Result<Reading> {
        let host = |vm: &Vm, processors: &[u32]| {
            let (mut vcpus, mut others) = (Duration::ZERO, Duration::ZERO);
            for thread in threads(vm.pid())? {
                let of = if processors.contains(&thread.id) { &mut vcpus } else { &mut others };
                *of += thread.ran;
            }
            Ok::<_, Error>((vcpus, others))
        };
        let daemon = match &pair.daemon {
            Some(daemon) => threads(daemon.pid())?.iter().map(|thread| thread.ran).sum(),
            None => Duration::ZERO,
        };
        let [left, right] = &self.processors;
        Ok(Reading {
            guests: [ticks(pair.left.guest())?, ticks(pair.right.guest())?],
            hosts: [host(&pair.left, left)?, host(&pair.right, right)?],
            daemon,
        })
    }
}

fn ticks(guest: &Guest) -> Result<Ticks> {
    const STAT: &str = "/proc/stat";
    let text = guest.read_text(STAT)?;
    Ticks::parse(&text).ok_or_else(|| Error::Unread {
        program: format!("{STAT} of guest {}", guest.name()),
        what: "its first line is not that of all processors".into(),
        output: text,
    })
}

impl Reading {
    /// What has run since `before`, in all.
    pub(super) fn since(&self, before: &Self) -> CpuTime {
        let side = |index: usize| {
            let guest = self.guests[index].since(before.guests[index]);
            let in_ticks = |ticks: u64| ticks as f64 * Ticks::EACH.as_nanos() as f64;
            let (vcpus, qemu) = self.hosts[index];
            let (vcpus_before, qemu_before) = before.hosts[index];
            Side {
                user: in_ticks(guest.user),
                system: in_ticks(guest.system),
                interrupts: in_ticks(guest.interrupts),
                vcpus: between(vcpus_before, vcpus),
                qemu: between(qemu_before, qemu),
            }
        };
        CpuTime {
            server: side(0),
            client: side(1),
            daemon: between(before.daemon, self.daemon),
            scatter: 0.0,
        }
    }
}

/// Nanoseconds; threads that have ended took theirs along.
fn between(before: Duration, now: Duration) -> f64 {
    now.saturating_sub(before).as_nanos() as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_readings_make_a_time() {
        let millis = Duration::from_millis;
        let ticks = Ticks { user: 100, system: 10, interrupts: 1, idle: 1000, stolen: 0 };
        let before = Reading {
            guests: [ticks; 2],
            hosts: [(millis(100), millis(50)), (millis(0), millis(9))],
            daemon: millis(7),
        };
        let busy = Ticks { user: 150, system: 12, ..ticks };
        let after = Reading {
            guests: [ticks, busy],
            hosts: [(millis(100), millis(50)), (millis(600), millis(3))],
            daemon: millis(47),
        };
        let time = after.since(&before);
        assert_eq!(time.server, Side::default());
        let client = Side { user: 500e6, system: 20e6, interrupts: 0.0, vcpus: 600e6, qemu: 0.0 };
        assert_eq!((time.client, time.daemon), (client, 40e6));
    }
}
