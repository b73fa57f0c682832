// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Driver-side data path of the Tongtu vNIC: post, poll, doorbell.
