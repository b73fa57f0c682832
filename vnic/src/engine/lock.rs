// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The lock of what workers use all the time: halves of queue pairs, and completion queues.

use spin::mutex::SpinMutex;
use spin::relax::Yield;

/// A lock that is free nearly always, held for a burst at most, and given back by an ordinary store.
///
/// A lock that lets waiters sleep is given back by an exchange, to see whether any do. That makes the
/// processor wait until everything stored under the lock has arrived, which for completions is a trip to
/// the driver's processor and back.
pub type Lock<T> = SpinMutex<T, Yield>;
