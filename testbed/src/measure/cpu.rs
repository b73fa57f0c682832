// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Processor time that operations take, in the guests and on the host.
//!
//! A run of a program also sets up, and measures its processor's clock before anything else, which takes
//! longer than many operations. So the same program is also run with the fewest operations that it
//! accepts, and what that takes is taken off.

use serde::{Deserialize, Serialize};

/// Nanoseconds by which the set-up of two runs of the same program differs, in each number.
const SCATTER: f64 = 50e6;

/// Processor time of one side: a guest and the process that runs it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Side {
    /// Programs in the guest, as its kernel counts them.
    pub user: f64,
    /// The guest's kernel, with its own threads.
    pub system: f64,
    /// Interrupts in the guest, and what they put off.
    pub interrupts: f64,
    /// The host's threads that run the guest's processors. All of the above is in it.
    pub vcpus: f64,
    /// Other threads of QEMU, which serve the guest's network card.
    pub qemu: f64,
}

/// Processor time of a run, or of one operation, in nanoseconds. Less than nothing is possible where two
/// runs are compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct CpuTime {
    /// The side of the program that serves, in the left guest.
    pub server: Side,
    /// The side that asks for connection, and does all the work of programs in one direction.
    pub client: Side,
    /// All threads of the vNIC's daemon.
    pub daemon: f64,
    /// What is less than this may be nothing.
    pub scatter: f64,
}

impl CpuTime {
    /// Time of one operation, from a run and a `short` one, each with its number of operations. `None`
    /// unless the first has done much more.
    pub fn per_operation((run, operations): (&Self, u64), short: (&Self, u64)) -> Option<Self> {
        let more = operations.checked_sub(short.1).filter(|&more| more >= short.1.max(1))? as f64;
        let mut time = Self::from_each(|field| (field(run) - field(short.0)) / more);
        time.scatter = SCATTER / more;
        Some(time)
    }

    /// The median of each number.
    pub fn median(of: &[Self]) -> Option<Self> {
        (!of.is_empty()).then(|| {
            Self::from_each(|field| {
                let mut all = of.iter().map(field).collect::<Vec<_>>();
                all.sort_unstable_by(f64::total_cmp);
                // With an even number of them, the one below the middle: all were measured.
                all[(all.len() - 1) / 2]
            })
        })
    }

    fn from_each(value: impl Fn(fn(&Self) -> f64) -> f64) -> Self {
        Self {
            server: Side {
                user: value(|t| t.server.user),
                system: value(|t| t.server.system),
                interrupts: value(|t| t.server.interrupts),
                vcpus: value(|t| t.server.vcpus),
                qemu: value(|t| t.server.qemu),
            },
            client: Side {
                user: value(|t| t.client.user),
                system: value(|t| t.client.system),
                interrupts: value(|t| t.client.interrupts),
                vcpus: value(|t| t.client.vcpus),
                qemu: value(|t| t.client.qemu),
            },
            daemon: value(|t| t.daemon),
            scatter: value(|t| t.scatter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(user: f64, daemon: f64) -> CpuTime {
        CpuTime { client: Side { user, ..Side::default() }, daemon, ..CpuTime::default() }
    }

    #[test]
    fn the_set_up_is_taken_off() {
        let (long, short) = (time(900e6, 50e6), time(500e6, 60e6));
        let each = CpuTime::per_operation((&long, 1005), (&short, 5)).unwrap();
        assert_eq!((each.client.user, each.daemon, each.scatter), (400e3, -10e3, 50e3));
        assert_eq!(each.server, Side::default());
        for operations in [0, 5, 9] {
            assert_eq!(CpuTime::per_operation((&long, operations), (&short, 5)), None);
        }
    }

    #[test]
    fn the_median_is_of_each_number() {
        let three = [time(1.0, 30.0), time(3.0, 10.0), time(2.0, 20.0)];
        assert_eq!(CpuTime::median(&three), Some(time(2.0, 20.0)));
        assert_eq!(CpuTime::median(&three[..2]), Some(time(1.0, 10.0)));
        assert_eq!(CpuTime::median(&[]), None);
    }
}
