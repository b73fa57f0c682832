// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The full fence of the driver's half.

/// A sequentially consistent fence, at the price of a locked instruction.
///
/// The compiler makes a fence an `mfence`, which on many processors also holds back every later
/// instruction; a locked one orders ordinary memory as well (Intel 64 and IA-32 Architectures Software
/// Developer's Manual, volume 3, section "Memory Ordering").
#[inline]
pub(crate) fn full_fence() {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    #[allow(unsafe_code, reason = "no other way to ask for the instruction")]
    // SAFETY: adds nothing to the word at the top of the stack. Not `nomem`, so that the compiler moves
    // no access across it.
    unsafe {
        core::arch::asm!("lock or dword ptr [rsp], 0", options(nostack));
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    core::sync::atomic::fence(core::sync::atomic::Ordering::SeqCst);
}
