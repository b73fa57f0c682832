// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Wire types shared by the Tongtu vNIC device and its drivers.
