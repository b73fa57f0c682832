// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Short turns on the processor for guests and the daemon.
//!
//! Verbs programs spin. When there are more spinning threads than processors, whoever has work to
//! do waits for the turns of those that only spin, so the length of a turn is the latency that is
//! measured. Linux 6.12 and newer let a thread ask for a shorter one, which its children inherit.

use std::mem;

/// The shortest that Linux grants, in nanoseconds.
const SHORTEST: u64 = 100_000;

/// The first version of what `sched_setattr` takes.
#[repr(C)]
struct Attributes {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
}

/// Asks for the shortest turn for the calling thread. Older kernels ignore or refuse it, which
/// changes nothing but the latency. Makes two system calls and nothing else.
#[allow(unsafe_code)] // No crate in use here wraps this call.
pub(super) fn shorten() {
    // The policy is the ordinary one, 0.
    let attributes = Attributes {
        size: mem::size_of::<Attributes>() as u32,
        policy: 0,
        flags: 0,
        // Kept as it is: the call sets both.
        nice: rustix::process::getpriority_process(None).unwrap_or(0),
        priority: 0,
        runtime: SHORTEST,
        deadline: 0,
        period: 0,
    };
    // SAFETY: the pointer is to a live structure that says its own size; the kernel only reads it.
    unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_structure_is_what_the_kernel_expects() {
        assert_eq!(mem::size_of::<Attributes>(), 48);
    }
}
