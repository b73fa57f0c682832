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
/// Bytes that are stored together where the destination allows it.
#[cfg(target_arch = "x86_64")]
const WIDE: usize = 16;

/// How a piece is copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct End {
    /// Whether the message ends with it: then its last bytes are stored last.
    pub of_message: bool,
    /// How much of the caches the message takes.
    pub reach: Reach,
}

/// How far a message reaches in the hierarchy of memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// It stays in the processor's own caches.
    Near,
    /// It does not; the processor's own block copy then fetches less than stores do.
    Far,
    /// It would only push everything else out of all caches.
    Past,
}

/// Where messages of different lengths are copied.
#[derive(Debug, Clone, Copy)]
pub struct Reaches {
    /// Up to as many bytes near.
    near: u64,
    /// From as many bytes on past the caches.
    past: u64,
}

/// Bytes of a message up to which both sides of it are in a processor's own caches.
const NEAR: u64 = 256 << 10;

impl Reaches {
    /// When messages of `past` bytes and more are to pass the caches by.
    pub fn new(past: u64) -> Self {
        // Measured: only there the block copy is quicker than vectors, in whatever cache the bytes are.
        let near = if is_intel() { NEAR } else { u64::MAX };
        Self { near, past }
    }

    /// Of a message of this length.
    #[inline]
    pub const fn of(self, total: u64) -> Reach {
        if total >= self.past {
            Reach::Past
        } else if total <= self.near {
            Reach::Near
        } else {
            Reach::Far
        }
    }
}

/// Whether the processor says that Intel made it.
fn is_intel() -> bool {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        let vendor = std::arch::x86_64::__cpuid(0);
        let name = [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes);
        name.as_flattened() == b"GenuineIntel"
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    false
}

impl End {
    /// For a piece that others follow.
    pub const fn not_yet(self) -> Self {
        Self { of_message: false, ..self }
    }
}

/// Orders what passed the caches by before what is stored afterwards: the end of the message, or of the burst.
/// Once behind all pieces, for it waits until they have reached memory.
#[inline]
pub fn settle(reach: Reach) {
    #[cfg(target_arch = "x86_64")]
    if reach == Reach::Past {
        #[allow(unsafe_code)] // reason: an instruction without a safe name
        // SAFETY: a fence, which every processor of this architecture has.
        unsafe {
            std::arch::x86_64::_mm_sfence();
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = reach;
}

/// A way to copy bytes.
///
/// # Safety
///
/// As [`forward`].
#[allow(unsafe_code)] // reason: guest memory is only reachable by address
pub type Copy = unsafe fn(src: *const u8, dst: *mut u8, len: usize);

/// How pages are copied with which no message ends. Call [`settle`] behind the last of them.
#[inline]
pub fn for_pages(reach: Reach) -> Copy {
    match reach {
        Reach::Past => stream,
        #[cfg(target_arch = "x86_64")]
        Reach::Near if std::arch::is_x86_feature_detected!("avx2") => by_vectors,
        Reach::Near | Reach::Far => block,
    }
}

/// Copies a piece of a message of `len` bytes. Whoever copies pieces that are not the message's last calls [`settle`]
/// behind them.
///
/// # Safety
///
/// As [`forward`].
#[allow(unsafe_code)] // reason: guest memory is only reachable by address
pub unsafe fn piece(src: *const u8, dst: *mut u8, len: usize, end: End) {
    let body = if end.of_message { body(dst, len) } else { len };
    // SAFETY: `body <= len`, so that all ranges are inside those of the caller.
    unsafe {
        if end.reach == Reach::Near && body > VECTORS {
            block(src, dst, body);
        } else {
            for_pages(end.reach)(src, dst, body);
        }
        if end.of_message {
            settle(end.reach);
        }
        words(src.add(body), dst.add(body), len - body);
    }
}

/// Copies `len` bytes. An aligned 8-byte word of the destination is stored whole.
///
/// # Safety
///
/// `src` must be valid for reads and `dst` for writes of `len` bytes. The ranges may overlap, and
/// others may change both at any time: the bytes mean nothing to this process.
#[allow(unsafe_code)] // reason: guest memory is only reachable by address
#[inline]
pub unsafe fn forward(src: *const u8, dst: *mut u8, len: usize) {
    let body = body(dst, len);
    // SAFETY: `body <= len`, so that what is left are the last bytes of both ranges.
    unsafe {
        if body > 0 {
            block(src, dst, body);
        }
        words(src.add(body), dst.add(body), len - body);
    }
}

/// Where the last bytes begin, which are stored word by word.
#[inline]
fn body(dst: *const u8, len: usize) -> usize {
    if len < BLOCK {
        return 0;
    }
    // Ends so that the tail begins on a word of the destination.
    len - TAIL - (dst as usize + len) % 8
}

/// Bytes of a piece up to which vectors are quicker than the processor's own block copy, which takes a
/// while to begin: pages that lie apart are copied one by one.
const VECTORS: usize = 8 << 10;
/// Bytes of a vector.
#[cfg(target_arch = "x86_64")]
const VECTOR: usize = 32;

/// Copies `len` bytes.
///
/// # Safety
///
/// As [`forward`]; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // reason: as above
unsafe fn by_vectors(src: *const u8, dst: *mut u8, len: usize) {
    let whole = len / (4 * VECTOR) * (4 * VECTOR);
    // SAFETY: `whole <= len`; the processor has the vectors.
    unsafe {
        vectors(src, dst, whole);
        if whole != len {
            block(src.add(whole), dst.add(whole), len - whole);
        }
    }
}

/// Copies `len` bytes, a multiple of four vectors.
///
/// # Safety
///
/// As [`forward`]; the processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // reason: as above
#[target_feature(enable = "avx2")]
unsafe fn vectors(src: *const u8, dst: *mut u8, len: usize) {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_storeu_si256};
    for at in (0..len).step_by(4 * VECTOR) {
        // SAFETY: four vectors at `at`, which is less than `len` by as many at least.
        unsafe {
            let (from, to) = (src.add(at).cast::<__m256i>(), dst.add(at).cast::<__m256i>());
            let parts = [0, 1, 2, 3].map(|part| _mm256_loadu_si256(from.add(part)));
            for (part, value) in parts.into_iter().enumerate() {
                _mm256_storeu_si256(to.add(part), value);
            }
        }
    }
    // As in `block`.
    compiler_fence(Ordering::SeqCst);
}

/// # Safety
///
/// As [`forward`].
#[allow(unsafe_code)] // reason: as above
#[inline]
unsafe fn block(src: *const u8, dst: *mut u8, len: usize) {
    // SAFETY: the caller's; `copy` allows overlap.
    unsafe { std::ptr::copy(src, dst, len) };
    // The compiler must not move the block behind what follows; the processor does not.
    compiler_fence(Ordering::SeqCst);
}

/// Copies without a place in the caches for what is written: nothing is fetched only to be overwritten.
///
/// # Safety
///
/// As [`forward`].
#[allow(unsafe_code)] // reason: guest memory is only reachable by address
unsafe fn stream(src: *const u8, dst: *mut u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        let head = (dst as usize).wrapping_neg() % VECTOR;
        if len < head {
            // SAFETY: the caller's.
            return unsafe { block(src, dst, len) };
        }
        let whole = (len - head) / (4 * VECTOR) * (4 * VECTOR);
        let done = head + whole;
        // SAFETY: the parts follow each other within `len`. The
        // processor has the vectors, and the second part begins at a multiple of one.
        unsafe {
            block(src, dst, head);
            streamed_vectors(src.add(head), dst.add(head), whole);
            block(src.add(done), dst.add(done), len - done);
        }
        return;
    }
    // SAFETY: the caller's.
    unsafe { block(src, dst, len) }
}

/// As [`vectors`], past the caches.
///
/// # Safety
///
/// As [`forward`]; the processor has AVX2, and `dst` is a multiple of a vector.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)] // reason: as above
#[target_feature(enable = "avx2")]
unsafe fn streamed_vectors(src: *const u8, dst: *mut u8, len: usize) {
    use std::arch::x86_64::{__m256i, _mm256_loadu_si256, _mm256_stream_si256};
    for at in (0..len).step_by(4 * VECTOR) {
        // SAFETY: four vectors at `at`, which is less than `len` by as many at least.
        unsafe {
            let (from, to) = (src.add(at).cast::<__m256i>(), dst.add(at).cast::<__m256i>());
            let parts = [0, 1, 2, 3].map(|part| _mm256_loadu_si256(from.add(part)));
            for (part, value) in parts.into_iter().enumerate() {
                _mm256_stream_si256(to.add(part), value);
            }
        }
    }
    // As in `block`.
    compiler_fence(Ordering::SeqCst);
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
    #[cfg(target_arch = "x86_64")]
    if (dst as usize).is_multiple_of(WIDE) {
        use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_store_si128};
        while at + WIDE <= len {
            // SAFETY: sixteen bytes at `at`, checked against `len`; the destination is aligned.
            unsafe {
                let part = _mm_loadu_si128(src.add(at).cast::<__m128i>());
                _mm_store_si128(dst.add(at).cast::<__m128i>(), part);
            }
            // As in `block`: what follows is stored after it.
            compiler_fence(Ordering::SeqCst);
            at += WIDE;
        }
    }
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

        #[test]
        fn a_piece_is_copied_whole_whatever_its_end(
            src in prop::collection::vec(any::<u8>(), 0..5000), skew in 0usize..16,
            of_message: bool,
            reach in prop::sample::select(vec![Reach::Near, Reach::Far, Reach::Past]),
        ) {
            let mut dst = vec![0xAAu8; src.len() + 32];
            let end = End { of_message, reach };
            #[allow(unsafe_code)] // reason: the function under test
            // SAFETY: `dst` has 16 bytes before the end beyond any skew.
            unsafe { piece(src.as_ptr(), dst.as_mut_ptr().add(skew), src.len(), end) };
            prop_assert_eq!(&dst[skew..skew + src.len()], &src[..]);
            prop_assert!(dst[..skew].iter().chain(&dst[skew + src.len()..]).all(|b| *b == 0xAA));
        }
    }
}
