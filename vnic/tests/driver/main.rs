// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The daemon, driven by process guests as VMs would drive it.
//!
//! One test program for all of it, since each one links the whole testbed.

mod bench_memory;
mod bench_path;
mod common;
mod faults;
mod hostile;
mod hostile_rings;
mod hostile_tables;
mod hostile_values;
mod lifecycle;
mod limits;
mod memory_map;
mod pages;
mod rc_atomic;
mod rc_data;
mod rc_drain;
mod rc_errors;
mod rc_events;
mod regions;
mod state_machine;
mod storms;
mod victim;
mod wire;
mod wire_loss;
