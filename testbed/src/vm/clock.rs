// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The rate of the time-stamp counter, told to guests that would measure it wrong.
//!
//! Under TCG a guest's counter is the host's. A guest measures its rate in some milliseconds of its
//! boot, against a timer that QEMU emulates, and on a busy host it may be off by a factor: its clock
//! then runs several times too fast, and its watchdogs bark at nothing.

use std::{
    arch::x86_64::{__cpuid, _rdtsc},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use super::Accelerator;

/// Long enough for an error far below the 1 % that the guest corrects later.
const MEASURED: Duration = Duration::from_millis(50);

/// Bit of `CPUID.80000007H:EDX` that says that the rate of the counter never changes (AMD64 manual
/// volume 3, appendix E.4.6; Intel SDM volume 2, CPUID).
const INVARIANT: u32 = 1 << 8;

/// What to add to the kernel's command line, with a space before it.
pub(super) fn kernel_argument(accelerator: Accelerator) -> String {
    static RATE: OnceLock<Option<u64>> = OnceLock::new();
    match (accelerator, RATE.get_or_init(kilohertz)) {
        (Accelerator::Tcg, Some(rate)) => format!(" tsc_early_khz={rate}"),
        _ => String::new(),
    }
}

/// The rate of this machine's counter; `None` if it has no steady one.
fn kilohertz() -> Option<u64> {
    if __cpuid(0x8000_0000).eax < 0x8000_0007 || __cpuid(0x8000_0007).edx & INVARIANT == 0 {
        return None;
    }
    let (first, since) = both();
    thread::sleep(MEASURED);
    let (last, until) = both();
    let nanoseconds = until.duration_since(since).as_nanos();
    let ticks = u128::from(last.checked_sub(first)?);
    u64::try_from(ticks * 1_000_000 / nanoseconds.max(1)).ok()
}

/// Counter and clock at one moment: of several tries the one in which least time went by.
fn both() -> (u64, Instant) {
    let look = || {
        let before = counter();
        let now = Instant::now();
        (counter().saturating_sub(before), before, now)
    };
    let tries = [look(), look(), look(), look(), look()];
    let [first, ..] = tries;
    let (_, counter, now) = tries.into_iter().min_by_key(|(took, ..)| *took).unwrap_or(first);
    (counter, now)
}

fn counter() -> u64 {
    #[allow(unsafe_code)] // reason: the counter is only reachable by its instruction
    // SAFETY: it reads a counter that every x86-64 processor has, and touches no memory.
    unsafe {
        _rdtsc()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_measurements_agree_within_a_percent() {
        let (Some(one), Some(other)) = (kilohertz(), kilohertz()) else { return };
        assert!(one.abs_diff(other) * 100 < one, "{one} kHz and {other} kHz");
        assert!(kernel_argument(Accelerator::Tcg).starts_with(" tsc_early_khz="));
        assert_eq!(kernel_argument(Accelerator::Kvm), "");
    }
}
