// SPDX-License-Identifier: Apache-2.0 OR MIT
//! rdma-core provider for the Tongtu vNIC: what libibverbs loads into a program of the guest.
//!
//! Control operations go through libibverbs to the kernel module. Posting and polling does not: it
//! works on the queues that the module lets the process map, through [`vnic_verbs`], without a
//! system call.
//!
//! # Building and installing
//!
//! A build fits one private interface of libibverbs and so one distribution release. It needs
//! `VNIC_RDMA_CORE_SRC` and `VNIC_GUEST_ROOT`, see `build.rs`; `cargo xtask provider` sets both.
//! For private interface 34 (Debian 13) the guest then has
//!
//! | file | content |
//! |---|---|
//! | `/etc/libibverbs.d/vnic.driver` | one line: `driver vnic` |
//! | `/usr/lib/x86_64-linux-gnu/libibverbs/libvnic-rdmav34.so` | this library (`libvnic_provider.so`) |
//!
//! # How the files hang together
//!
//! `device` is found by libibverbs when it matches a device of the system, and makes a `context`;
//! that names the operations in `pd`, `mr`, `cq` and `qp`. `post` and `wr` are the two ways to post,
//! `poll` the two ways to poll.
//!
//! # Panics
//!
//! None is meant to be possible. One that happens stops at the `extern "C"` function, which aborts
//! the process: the unwinding never reaches C.
#![allow(unsafe_code, reason = "every operation is called by C, with C's pointers")]

mod context;
mod cq;
mod device;
mod errno;
mod ffi;
mod lock;
mod mapping;
mod mr;
mod pd;
mod poll;
mod post;
mod qp;
mod table;
#[cfg(test)]
mod tests;
mod wr;
