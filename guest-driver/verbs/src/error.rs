// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What can be wrong with a queue's layout or with a work request.

use core::fmt;

/// The memory of a queue cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LayoutError {
    /// The number of elements is not a power of two from 1 to 2^30.
    Depth(u32),
    /// The stride is not 64, 128, 256 or 512 bytes.
    Stride(u32),
    /// The memory does not begin at a multiple of 64 bytes.
    Alignment,
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Depth(depth) => write!(f, "a queue cannot have {depth} elements"),
            Self::Stride(stride) => write!(f, "a queue element cannot have {stride} bytes"),
            Self::Alignment => f.write_str("the queue's memory is not aligned to 64 bytes"),
        }
    }
}

impl core::error::Error for LayoutError {}

/// A work request cannot be posted. Nothing of it became visible to the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum PostError {
    /// Every element of the ring is in use.
    Full,
    /// More scatter or gather entries than an element holds.
    TooManySge,
    /// More inline bytes than an element holds.
    InlineTooLong,
    /// Inline data together with gather entries, or with an operation that carries none.
    InlineNotAllowed,
}

impl fmt::Display for PostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the queue is full",
            Self::TooManySge => "too many scatter/gather entries",
            Self::InlineTooLong => "too much inline data",
            Self::InlineNotAllowed => "inline data is not allowed here",
        })
    }
}

impl core::error::Error for PostError {}
