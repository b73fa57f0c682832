// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A guest that is a process, with the data path of the guests' driver.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use anyhow::{Result, anyhow, ensure};
use vnic_abi::config::Features;
use vnic_abi::cqe::WcStatus;
use vnic_abi::status::Status;
use vnic_abi::wqe::Opcode;
use vnic_testbed::bench::wire::said::Operation;
use vnic_testbed::process_guest::verbs::{
    ALL_ACCESS, ConnectOptions, Cq, Endpoint, Mr, Payload, Qp, QpOptions, Request,
};
use vnic_testbed::process_guest::{Fault, GuestOptions, Layout, UserBuffer};

use super::device::{self, Address, DEPTH, Device, Memory, Pair, Place};

/// The guest.
pub struct Guest {
    endpoint: Endpoint,
    /// The address by which its peers know it.
    gid: [u8; 16],
}

impl Guest {
    /// Boots it on the port with this socket. `host` is the last part of its address, and `most` the length of the
    /// largest piece of memory that it will have. Peers know it by the address `by`, if not by its own.
    pub fn boot(socket: &Path, host: u8, most: u64, by: Option<[u8; 16]>) -> Self {
        // One such piece at a time, the memory of messages, and what queues and page tables take.
        let ram = (2 * most).next_multiple_of(2 << 20) + (64 << 20);
        let accept = Features::PIN | Features::ACKNOWLEDGE;
        let options = GuestOptions { ram, accept, ..GuestOptions::default() };
        let endpoint = Endpoint::boot_with(socket, host, options);
        let gid = by.unwrap_or(endpoint.gid);
        Self { endpoint, gid }
    }
}

fn refused(status: Status) -> anyhow::Error {
    anyhow!("the device refuses: {status:?}")
}

impl Memory for UserBuffer {
    fn fill(&self, offset: u64, len: u64, byte: u8) {
        self.write(offset, &vec![byte; len as usize]);
    }

    fn byte(&self, offset: u64) -> u8 {
        // Acquire: the program saw the completion, or an answer of the peer, before.
        self.pages().byte(offset).load(Ordering::Acquire)
    }
}

impl Device for Guest {
    type Memory = UserBuffer;
    type Region = (Mr, u64);
    type Pair = GuestPair;

    fn memory(&self, len: u64, touched: bool) -> Result<UserBuffer> {
        let fault = if touched { Fault::Present } else { Fault::Lazy };
        // Pages in disorder, as processes have them.
        Ok(self.endpoint.space().map(len, Layout::Scattered, fault, true))
    }

    fn register(&self, memory: &UserBuffer) -> Result<(Mr, u64)> {
        let mr =
            Mr::new(&self.endpoint.pd, memory.addr(), memory.len(), ALL_ACCESS).map_err(refused)?;
        Ok((mr, memory.addr()))
    }

    fn place((mr, addr): &(Mr, u64)) -> Place {
        Place { addr: *addr, lkey: mr.lkey(), rkey: mr.rkey() }
    }

    fn pair(&self) -> Result<GuestPair> {
        let queue = || Cq::try_new(&self.endpoint.ctx, DEPTH).map_err(refused);
        let (sends, receives) = (queue()?, queue()?);
        let options = QpOptions {
            sq_depth: DEPTH,
            rq_depth: DEPTH,
            max_send_sge: 1,
            max_recv_sge: 1,
            ..QpOptions::default()
        };
        let qp = Qp::try_new(&self.endpoint.pd, &sends, &receives, self.endpoint.gid, options);
        let mtu = self.endpoint.driver.config().active_mtu.into();
        Ok(GuestPair { qp: qp.map_err(refused)?, sends, receives, gid: self.gid, mtu })
    }
}

/// Its queue pair.
pub struct GuestPair {
    qp: Qp,
    sends: Arc<Cq>,
    receives: Arc<Cq>,
    gid: [u8; 16],
    mtu: u32,
}

impl Pair for GuestPair {
    fn address(&self) -> Address {
        Address { qpn: self.qp.qpn(), gid: self.gid, mtu: self.mtu }
    }

    fn connect(&mut self, peer: &Address) -> Result<()> {
        let options = ConnectOptions {
            max_rd_atomic: device::READS,
            timeout: device::TIMEOUT,
            min_rnr_timer: device::RNR_TIMER,
            ..ConnectOptions::default()
        };
        self.qp.to_init(ALL_ACCESS).map_err(refused)?;
        self.qp.to_rtr(peer.qpn, peer.gid, &options).map_err(refused)?;
        self.qp.to_rts(&options).map_err(refused)
    }

    #[inline]
    fn post(
        &mut self,
        operation: Operation,
        bytes: u64,
        local: Place,
        remote: Place,
    ) -> Result<()> {
        let opcode = match operation {
            Operation::Write => Opcode::RdmaWrite,
            Operation::Read => Opcode::RdmaRead,
            Operation::Send => Opcode::Send,
        };
        let payload = Payload::Memory(local.addr, bytes as u32, local.lkey);
        let remote = (remote.addr, remote.rkey);
        let mut qp = self.qp.hold();
        qp.stage(&Request { opcode, remote, payload, add: 0, wr_id: 0 })?;
        qp.ring();
        Ok(())
    }

    fn receive(&mut self, bytes: u64, local: Place) -> Result<()> {
        let mut qp = self.qp.hold();
        let sge = vnic_abi::wqe::Sge {
            addr: local.addr.into(),
            length: (bytes as u32).into(),
            lkey: local.lkey.into(),
        };
        qp.rq.post(0, [sge])?;
        qp.ring_for_receives();
        Ok(())
    }

    #[inline]
    fn sent(&mut self) -> Result<bool> {
        let mut queue = self.sends.hold();
        let Some(done) = queue.take() else { return Ok(false) };
        queue.publish();
        ensure!(done.status == WcStatus::Success, "a request completed with {:?}", done.status);
        self.qp.hold().sq.advance(done.wqe_count);
        Ok(true)
    }

    #[inline]
    fn received(&mut self) -> Result<bool> {
        let mut queue = self.receives.hold();
        let Some(done) = queue.take() else { return Ok(false) };
        queue.publish();
        ensure!(done.status == WcStatus::Success, "a receive completed with {:?}", done.status);
        self.qp.hold().rq.advance(done.wqe_count);
        Ok(true)
    }
}
