// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Copying between guest memories: addresses ascend, and the last bytes come last.
//!
//! Programs poll the last byte of a message. All stores here are ordinary ones, which x86 makes
//! visible in program order; the block copy of the body comes before the word stores of the end.

use std::sync::atomic::{Ordering, compiler_fence};

/// From this size the body is left to the C library's block copy.
const BLOCK: usize = 256;
/// Bytes at the end that are stored one word after the other.
const TAIL: usize = 64;

/// Copies `len` bytes. An aligned 8-byte word of the destination is stored whole.
///
/// # Safety
///
/// `src` must be valid for reads and `dst` for writes of `len` bytes. The ranges may overlap, and
/// others may change both at any time: the bytes mean nothing to this process.
#[allow(unsafe_code)] // reason: guest memory is only reachable by address
#[inline]
pub unsafe fn forward(src: *const u8, dst: *mut u8, len: usize) {
    let mut at = 0;
    if len >= BLOCK {
        // End the block so that the tail begins on a word of the destination.
        let body = len - TAIL - (dst as usize + len) % 8;
        // SAFETY: `body <= len`, so both ranges are inside those of the caller; `copy` allows
        // overlap.
        unsafe { std::ptr::copy(src, dst, body) };
        // The compiler must not move the block behind the words; the processor does not.
        compiler_fence(Ordering::SeqCst);
        at = body;
    }
    // SAFETY: `at <= len`, so that what is left are the last bytes of both ranges.
    unsafe { words(src.add(at), dst.add(at), len - at) }
}

/// Copies `len` bytes, word by word.
///
/// # Safety
///
/// As [`forward`].
#[allow(unsafe_code)] // reason: as above
#[inline]
unsafe fn words(src: *const u8, dst: *mut u8, len: usize) {
    let mut at = 0;
    if (dst as usize).is_multiple_of(8) {
        while at + 32 <= len {
            for part in [0, 8, 16, 24] {
                // SAFETY: as below.
                unsafe {
                    let word = src.add(at + part).cast::<u64>().read_unaligned();
                    dst.add(at + part).cast::<u64>().write_volatile(word);
                }
            }
            at += 32;
        }
        while at + 8 <= len {
            // SAFETY: eight bytes at `at`, checked against `len`; the destination is aligned.
            unsafe {
                let word = src.add(at).cast::<u64>().read_unaligned();
                dst.add(at).cast::<u64>().write_volatile(word);
            }
            at += 8;
        }
    }
    while at < len {
        // SAFETY: every access below is at `at..at + size`, checked against `len`.
        unsafe {
            let (from, to) = (src.add(at), dst.add(at));
            if len - at >= 8 && (to as usize).is_multiple_of(8) {
                to.cast::<u64>().write_volatile(from.cast::<u64>().read_unaligned());
                at += 8;
            } else if len - at >= 4 && (to as usize).is_multiple_of(4) {
                to.cast::<u32>().write_volatile(from.cast::<u32>().read_unaligned());
                at += 4;
            } else {
                to.write_volatile(from.read_volatile());
                at += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn copies_exactly_the_bytes(src in prop::collection::vec(any::<u8>(), 0..2000), skew in 0usize..16) {
            let mut dst = vec![0xAAu8; src.len() + 32];
            #[allow(unsafe_code)] // reason: the function under test
            // SAFETY: `dst` has 16 bytes before the end beyond any skew.
            unsafe { forward(src.as_ptr(), dst.as_mut_ptr().add(skew), src.len()) };
            prop_assert_eq!(&dst[skew..skew + src.len()], &src[..]);
            prop_assert!(dst[..skew].iter().chain(&dst[skew + src.len()..]).all(|b| *b == 0xAA));
        }
    }
}
