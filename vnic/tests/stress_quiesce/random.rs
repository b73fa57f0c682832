// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Disorder, the same in every run.

/// A small generator.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        (self.next() >> 16) % bound
    }

    /// A word of bytes below 0x80, whatever is added to it by a few atomics or taken out of its middle:
    /// nothing that was delivered looks like a trap.
    pub fn harmless(&mut self) -> u64 {
        self.next() & 0x3f3f_3f3f_3f3f_3f3f
    }
}
