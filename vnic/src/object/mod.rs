// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The objects of verbs as the device holds them: typed handles, owners, keys and states.

pub mod cq;
pub mod ctx;
pub mod gid;
pub mod key;
pub mod mr;
pub mod pd;
pub mod qp;
pub mod space;
pub mod table;
