// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Error numbers, as the verbs report them.

use core::ffi::c_int;
use core::fmt;
use core::ptr;

use vnic_verbs::{LayoutError, PostError};

/// An error number of the C library; never 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Errno(c_int);

impl Errno {
    pub(crate) const INVAL: Self = Self(libc::EINVAL);
    pub(crate) const NOMEM: Self = Self(libc::ENOMEM);
    pub(crate) const OPNOTSUPP: Self = Self(libc::EOPNOTSUPP);
    /// The kernel module answered something that this library cannot work with.
    pub(crate) const PROTO: Self = Self(libc::EPROTO);
    pub(crate) const BUSY: Self = Self(libc::EBUSY);

    /// The outcome of a `ibv_cmd` function: 0, an error number, or -1 with `errno` set.
    pub(crate) fn check(outcome: c_int) -> Result<(), Self> {
        match outcome {
            0 => Ok(()),
            1.. => Err(Self(outcome)),
            _ => Err(Self::last()),
        }
    }

    /// The error of the last failed call to the C library.
    pub(crate) fn last() -> Self {
        // SAFETY: the location is the calling thread's own.
        match unsafe { *libc::__errno_location() } {
            0 => Self(libc::EIO),
            number => Self(number),
        }
    }

    pub(crate) fn get(self) -> c_int {
        self.0
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errno({})", self.0)
    }
}

impl From<PostError> for Errno {
    fn from(error: PostError) -> Self {
        match error {
            PostError::Full => Self::NOMEM,
            _ => Self::INVAL,
        }
    }
}

impl From<LayoutError> for Errno {
    fn from(_: LayoutError) -> Self {
        Self::PROTO
    }
}

/// The result of an operation that returns a number.
pub(crate) fn to_code(outcome: Result<(), Errno>) -> c_int {
    match outcome {
        Ok(()) => 0,
        Err(error) => error.get(),
    }
}

/// The result of an operation that returns an object, or null with `errno` set.
pub(crate) fn to_pointer<T>(outcome: Result<*mut T, Errno>) -> *mut T {
    match outcome {
        Ok(object) => object,
        Err(error) => {
            // SAFETY: the location is the calling thread's own.
            unsafe { *libc::__errno_location() = error.get() };
            ptr::null_mut()
        }
    }
}
