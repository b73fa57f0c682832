// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the measuring loop needs of a device, whoever's it is. Programs are compiled for each kind of device, so that
//! nothing is called indirectly.

use anyhow::Result;
use serde::{Deserialize, Serialize};
use vnic_testbed::bench::wire::said::Operation;

/// Requests, and receives, that a queue pair holds.
pub const DEPTH: u32 = 64;

/// READs under way at a time, in each direction.
pub const READS: u8 = 8;

/// Local ACK time-out code: a second. An emulated host under load answers late, and is not gone.
pub const TIMEOUT: u8 = 18;

/// RNR timer code of 0.01 ms, so that a receiver that is late costs little.
pub const RNR_TIMER: u8 = 1;

/// Where bytes are, for either end.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Place {
    /// Address of the first.
    pub addr: u64,
    /// For the device at this end.
    pub lkey: u32,
    /// For the peer.
    pub rkey: u32,
}

/// What a peer has to know of a queue pair.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Address {
    /// Number of the queue pair.
    pub qpn: u32,
    /// Its port's address.
    pub gid: [u8; 16],
    /// Largest packets, as verbs number them.
    pub mtu: u32,
}

/// Pages of the program.
pub trait Memory {
    /// Writes so many bytes of this value.
    fn fill(&self, offset: u64, len: u64, byte: u8);

    /// What is there now.
    fn byte(&self, offset: u64) -> u8;
}

/// A device that was opened.
pub trait Device {
    /// Memory of this program.
    type Memory: Memory;
    /// Memory that the device may reach; unregistered when dropped.
    type Region;
    /// A queue pair, with completion queues of its own.
    type Pair: Pair;

    /// So many bytes, which were written to, or not touched yet.
    fn memory(&self, len: u64, touched: bool) -> Result<Self::Memory>;

    /// Registers it for all that a peer may do. Dropped before the memory.
    fn register(&self, memory: &Self::Memory) -> Result<Self::Region>;

    /// Where a region is.
    fn place(region: &Self::Region) -> Place;

    /// Makes a queue pair.
    fn pair(&self) -> Result<Self::Pair>;
}

/// A queue pair.
pub trait Pair {
    /// What the peer has to know.
    fn address(&self) -> Address;

    /// Connects it, up to ready to send.
    fn connect(&mut self, peer: &Address) -> Result<()>;

    /// Posts a request whose completion is told.
    fn post(&mut self, operation: Operation, bytes: u64, local: Place, remote: Place)
    -> Result<()>;

    /// Posts a receive.
    fn receive(&mut self, bytes: u64, local: Place) -> Result<()>;

    /// Takes a completion of a request, which must be good, if there is one.
    fn sent(&mut self) -> Result<bool>;

    /// The same of a receive.
    fn received(&mut self) -> Result<bool>;
}
