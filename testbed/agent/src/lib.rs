// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The channel between the testbed and the agent that runs inside a guest.
//!
//! Both ends speak in frames ([`frame`]) that carry the messages of [`message`] over one
//! virtio-serial port. The host numbers its requests; every reply repeats the number, so that
//! any number of commands share the channel.

pub mod frame;
pub mod message;

/// Name of the virtio-serial port, as QEMU and the guest's sysfs show it.
pub const PORT_NAME: &str = "vnic.agent";

/// Kernel argument that makes a guest print [`PROBE_MARKER`] on its console and power off.
pub const PROBE_ARGUMENT: &str = "vnic.probe";

/// What a probed guest prints once user space runs.
pub const PROBE_MARKER: &str = "vnic-guest-reached-user-space";
