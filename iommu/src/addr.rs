// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Guest addresses as types, so that a physical one is never taken for a virtual one.

use std::fmt;

use crate::walk::PagingMode;

/// log2 of the base page size.
pub const PAGE_SHIFT: u32 = 12;
/// Base page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// log2 of the size that a page-directory leaf maps.
pub const LARGE_PAGE_SHIFT: u32 = 21;
/// log2 of the size that a page-directory-pointer leaf maps.
pub const HUGE_PAGE_SHIFT: u32 = 30;

/// A guest-physical address, in bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gpa(pub u64);

/// A guest-virtual address, in bytes. For PASID 0 it has the value of a guest-physical address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Gva(pub u64);

macro_rules! address {
    ($name:ident) => {
        impl $name {
            /// The address `bytes` further on, or `None` where that would wrap.
            #[inline]
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(sum) => Some(Self(sum)),
                    None => None,
                }
            }

            /// The distance in bytes from `earlier` to here, or `None` if `earlier` is later.
            #[inline]
            pub const fn checked_offset_from(self, earlier: Self) -> Option<u64> {
                self.0.checked_sub(earlier.0)
            }

            /// Rounded down to a multiple of `1 << shift`. `shift` must be below 64.
            #[inline]
            pub const fn align_down(self, shift: u32) -> Self {
                Self(self.0 & !((1 << shift) - 1))
            }

            /// Rounded up to a multiple of `1 << shift`, or `None` where that would wrap.
            #[inline]
            pub const fn checked_align_up(self, shift: u32) -> Option<Self> {
                match self.0.checked_add((1 << shift) - 1) {
                    Some(sum) => Some(Self(sum).align_down(shift)),
                    None => None,
                }
            }

            /// Whether the address is a multiple of `1 << shift`.
            #[inline]
            pub const fn is_aligned(self, shift: u32) -> bool {
                self.offset_in(shift) == 0
            }

            /// The offset in bytes within the `1 << shift` sized page that holds the address.
            #[inline]
            pub const fn offset_in(self, shift: u32) -> u64 {
                self.0 & ((1 << shift) - 1)
            }

            /// The number of the 4 KiB page that holds the address.
            #[inline]
            pub const fn page(self) -> u64 {
                self.0 >> PAGE_SHIFT
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

address!(Gpa);
address!(Gva);

impl Gva {
    /// Whether the address is in the canonical lower half of `mode`, which is the user's half.
    #[inline]
    pub const fn is_canonical_user(self, mode: PagingMode) -> bool {
        self.0 >> mode.user_bits() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_refuses_to_wrap() {
        assert_eq!(Gpa(u64::MAX).checked_add(1), None);
        assert_eq!(Gva(u64::MAX - 5).checked_align_up(12), None);
        assert_eq!(Gva(0x1001).checked_align_up(12), Some(Gva(0x2000)));
        assert_eq!(Gpa(1).checked_offset_from(Gpa(2)), None);
    }

    #[test]
    fn user_half_ends_where_the_mode_says() {
        assert!(Gva((1 << 47) - 1).is_canonical_user(PagingMode::Level4));
        assert!(!Gva(1 << 47).is_canonical_user(PagingMode::Level4));
        assert!(Gva(1 << 47).is_canonical_user(PagingMode::Level5));
        assert!(!Gva(1 << 56).is_canonical_user(PagingMode::Level5));
        assert!(!Gva(u64::MAX).is_canonical_user(PagingMode::Level5));
    }
}
