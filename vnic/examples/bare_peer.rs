// SPDX-License-Identifier: Apache-2.0 OR MIT
//! An RDMA endpoint of a host that knows nothing of the daemon: it meets a guest, and each does every operation to the other
//! (see the example `wire_guest` of the testbed).
//!
//! ```text
//! bare_peer --device rxe1 --listen 0.0.0.0:7000
//! bare_peer --device rxe1 --listen 0.0.0.0:7000 --peer 10.78.0.1    # the guest has this address there
//! bare_peer --device rxe1 --listen 0.0.0.0:7000 --own 10.0.0.9      # by which the guest knows this end
//! ```

#[allow(dead_code)] // reason: a guest does more with it
#[path = "../../testbed/examples/wire_guest/exchange.rs"]
mod exchange;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use exchange::{Here, Imm, LEN, Meet, Operation, Party, Then, Wrong, pieces};
use vnic::device::{Device, DeviceConfig};
use vnic::engine::request::{Atomic, Op, Remote};
use vnic::fabric::direct::nic::{Done, NicMr, NicPd, NicQp, Payload, Range, Work};
use vnic::fabric::direct::setup::{Addresses, DirectSettings, Odp};
use vnic_abi::cqe::WcStatus;
use vnic_abi::ctrl::{AccessFlags, AddressVector, QpAttr, QpAttrMask, QpState};

/// Longest wait for a completion.
const LIMIT: Duration = Duration::from_secs(30);

struct Bare {
    // Dropped in this order.
    qp: Arc<dyn NicQp>,
    mr: Box<dyn NicMr>,
    _pd: Arc<dyn NicPd>,
    memory: Vec<u8>,
    gid: [u8; 16],
    source: u8,
    mtu: u8,
    /// Where the peer is, if not where it says.
    peer: Option<[u8; 16]>,
    addr: u64,
    rkey: u32,
    /// Messages that have arrived and that nobody has asked for.
    arrived: Vec<Done>,
}

/// Names of work.
const SENT: u64 = 1;
const RECEIVED: u64 = 2;

impl Bare {
    fn open(device: &str, peer: Option<[u8; 16]>) -> Result<Self> {
        let engine = Device::new(DeviceConfig::default());
        let settings = DirectSettings {
            device: device.to_owned(),
            addresses: Addresses::Mapped,
            odp: Odp::Never,
            ..DirectSettings::default()
        };
        let nic = settings.open(&engine)?.nic();
        let source = nic.source(&[0; 16]).context("the device has an address")?;
        let path = format!("/sys/class/infiniband/{device}/ports/1/gids/{source}");
        let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
        let gid = text.trim().parse::<std::net::Ipv6Addr>().context("a GID")?.octets();
        let pd = nic.pd()?;
        let mut memory = vec![0; LEN as usize];
        let addr = memory.as_mut_ptr();
        let iova = addr.expose_provenance() as u64;
        let access = AccessFlags::LOCAL_WRITE
            | AccessFlags::REMOTE_WRITE
            | AccessFlags::REMOTE_READ
            | AccessFlags::REMOTE_ATOMIC;
        let mr = pd.register(addr, LEN, iova, access, false)?;
        let qp = pd.qp(0, 64, 64)?;
        let mtu = nic.limits().mtu;
        let arrived = Vec::new();
        Ok(Self { qp, mr, _pd: pd, memory, gid, source, mtu, peer, addr: 0, rkey: 0, arrived })
    }

    fn address(&self) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64
    }

    fn range(&self, len: u64) -> Range {
        Range { addr: self.address(), len: len as u32, lkey: self.mr.lkey() }
    }

    /// The completion of this kind of work.
    fn wait(&mut self, id: u64) -> Result<Done> {
        let end = Instant::now() + LIMIT;
        loop {
            if id == RECEIVED
                && let Some(done) = self.arrived.pop()
            {
                return Ok(done);
            }
            let mut found = Vec::new();
            self.qp.poll(&mut |done| found.push(done))?;
            let (own, others) = found.into_iter().partition::<Vec<_>, _>(|done| done.id == id);
            self.arrived.extend(others);
            if let Some(done) = own.first() {
                ensure!(done.status == WcStatus::Success, "completed with {:?}", done.status);
                return Ok(*done);
            }
            ensure!(Instant::now() < end, "nothing completes in {LIMIT:?}");
        }
    }
}

impl Party for Bare {
    fn here(&self) -> Here {
        let (qpn, rkey) = (self.qp.number(), self.mr.rkey());
        Here { qpn, gid: self.gid, addr: self.address(), rkey, mtu: self.mtu }
    }

    fn connect(&mut self, there: &Here) -> Result<()> {
        let access =
            AccessFlags::REMOTE_WRITE | AccessFlags::REMOTE_READ | AccessFlags::REMOTE_ATOMIC;
        let attr = QpAttr {
            path_mtu: self.mtu.min(there.mtu),
            timeout: 18,
            retry_cnt: 6,
            rnr_retry: 7,
            min_rnr_timer: 1,
            max_rd_atomic: 8,
            max_dest_rd_atomic: 8,
            access: access.bits().into(),
            dest_qpn: there.qpn.into(),
            rq_psn: there.qpn.into(),
            sq_psn: self.qp.number().into(),
            av: AddressVector {
                dgid: self.peer.unwrap_or(there.gid),
                hop_limit: 64,
                ..AddressVector::default()
            },
            ..QpAttr::default()
        };
        for state in [QpState::Init, QpState::Rtr, QpState::Rts] {
            let all = QpAttrMask::all();
            let to = |()| format!("to state {}", state.0);
            self.qp.modify(state, all, &attr, self.source).with_context(|| to(()))?;
        }
        (self.addr, self.rkey) = (there.addr, there.rkey);
        Ok(())
    }

    fn fill(&mut self, bytes: &[u8]) {
        self.memory[..bytes.len()].copy_from_slice(bytes);
    }

    fn look(&self, len: u64) -> Vec<u8> {
        // The device has written to it, which a compiler would not expect.
        std::hint::black_box(&self.memory)[..len as usize].to_vec()
    }

    fn carry_out(&mut self, operation: Operation, len: u64) -> Result<()> {
        let remote = Remote { addr: self.addr, rkey: self.rkey };
        let (op, imm) = match operation {
            Operation::Write | Operation::Inline | Operation::Gather => (Op::Write(remote), None),
            Operation::Read => (Op::Read(remote), None),
            Operation::Send => (Op::Send, None),
            Operation::FetchAdd => (Op::Atomic(remote, Atomic::FetchAdd(1)), None),
            Operation::CompareSwap(compare, swap) => {
                (Op::Atomic(remote, Atomic::CompareSwap { compare, swap }), None)
            }
            Operation::WriteImm(imm) => (Op::Write(remote), Some(imm)),
            Operation::SendImm(imm) => (Op::Send, Some(imm)),
        };
        let whole = self.range(len);
        let piece = |(start, end): (u64, u64)| Range {
            addr: whole.addr + start,
            len: (end - start) as u32,
            ..whole
        };
        let pieces = pieces(len).map(piece);
        let payload = match operation {
            Operation::Inline => Payload::Inline(&self.memory[..len as usize]),
            Operation::Gather => Payload::Ranges(&pieces),
            _ => Payload::Ranges(std::slice::from_ref(&whole)),
        };
        let work = Work { id: SENT, op, imm, solicited: false, fenced: false, payload };
        let posted = self.qp.send(&work);
        ensure!(posted.is_ok(), "cannot post: {posted:?}");
        self.wait(SENT).map(drop)
    }

    fn fails(&mut self, _: Option<Wrong>) -> Result<String> {
        bail!("this end leads as the second, and does what works")
    }

    fn receive(&mut self, len: u64) -> Result<()> {
        let posted = self.qp.receive(RECEIVED, &[self.range(len)]);
        ensure!(posted.is_ok(), "cannot post a receive: {posted:?}");
        Ok(())
    }

    fn received(&mut self) -> Result<(u64, Option<Imm>)> {
        self.wait(RECEIVED).map(|done| (done.bytes.into(), done.imm))
    }
}

fn main() -> Result<()> {
    let (mut device, mut meet, mut peer, mut own) = (None, None, None, None);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--device" => device = Some(value),
            "--listen" => meet = Some(Meet::Listen(value)),
            "--connect" => meet = Some(Meet::Connect(value)),
            "--peer" => peer = Some(gid(value.parse().context("--peer")?)),
            "--own" => own = Some(gid(value.parse().context("--own")?)),
            _ => bail!("{word} is none of --device, --listen, --connect, --peer, --own"),
        }
    }
    let mut bare = Bare::open(&device.context("--device NAME")?, peer)?;
    bare.gid = own.unwrap_or(bare.gid);
    exchange::run(&mut bare, &meet.context("--listen or --connect ADDRESS")?, Then::Leave)
}

fn gid(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    }
}
