// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One of two ends that may be on different hosts, a process guest: see [`exchange`]. The end that leads prints a line of
//! JSON for each operation.
//!
//! ```text
//! wire_guest --socket a.sock --address 10.0.0.1 --listen 0.0.0.0:7000
//! wire_guest --socket b.sock --address 10.0.0.2 --connect 10.77.0.1:7000
//! ```

mod exchange;

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use exchange::{Here, Imm, LEN, Meet, Operation, Party, Then, Wrong, pieces};
use vnic_abi::config::Features;
use vnic_abi::cqe::{CqeFlags, WcStatus};
use vnic_abi::event::EventKind;
use vnic_testbed::process_guest::verbs::{
    ALL_ACCESS, ConnectOptions, Endpoint, Mr, Pd, Qp, SendWr,
};
use vnic_testbed::process_guest::{GuestOptions, UserBuffer};

struct Options {
    socket: PathBuf,
    address: Ipv4Addr,
    meet: Meet,
    then: Then,
}

struct Guest {
    endpoint: Endpoint,
    qp: Qp,
    memory: Arc<UserBuffer>,
    /// Held by whoever moves the memory, and by the program while it writes to it: a kernel would see to that.
    still: Arc<Mutex<()>>,
    mr: Mr,
    /// Of the other end.
    addr: u64,
    rkey: u32,
}

impl Guest {
    fn of(endpoint: Endpoint) -> Self {
        let qp = endpoint.qp();
        // No page is there, unless the device wants them kept: every first access faults.
        let (memory, mr) = endpoint.lazy_region(LEN);
        let (memory, still) = (Arc::new(memory), Arc::default());
        Self { endpoint, qp, memory, still, mr, addr: 0, rkey: 0 }
    }
}

impl Party for Guest {
    fn here(&self) -> Here {
        Here {
            qpn: self.qp.qpn(),
            gid: self.qp.gid(),
            addr: self.memory.addr(),
            rkey: self.mr.rkey(),
            mtu: self.endpoint.driver.config().active_mtu,
        }
    }

    fn connect(&mut self, there: &Here) -> Result<()> {
        let options = ConnectOptions { max_rd_atomic: 8, timeout: 16, ..ConnectOptions::default() };
        let refused = |status| anyhow::anyhow!("the device refuses: {status:?}");
        self.qp.to_init(ALL_ACCESS).map_err(refused)?;
        self.qp.to_rtr(there.qpn, there.gid, &options).map_err(refused)?;
        self.qp.to_rts(&options).map_err(refused)?;
        (self.addr, self.rkey) = (there.addr, there.rkey);
        Ok(())
    }

    fn fill(&mut self, bytes: &[u8]) {
        let _still = self.still.lock();
        self.memory.write(0, bytes);
    }

    fn look(&self, len: u64) -> Vec<u8> {
        self.memory.read(0, len)
    }

    fn carry_out(&mut self, operation: Operation, len: u64) -> Result<()> {
        let sges = [self.mr.sge(self.memory.addr(), len as u32)];
        let (addr, rkey) = (self.addr, self.rkey);
        let piece = |(start, end): (u64, u64)| {
            self.mr.sge(self.memory.addr() + start, (end - start) as u32)
        };
        let wr = match operation {
            Operation::Write => SendWr::write(&sges, addr, rkey),
            Operation::Read => SendWr::read(&sges, addr, rkey),
            Operation::Send => SendWr::send(&sges),
            Operation::FetchAdd => SendWr::fetch_add(&sges, addr, rkey, 1),
            Operation::CompareSwap(old, new) => SendWr::compare_swap(&sges, addr, rkey, old, new),
            Operation::WriteImm(imm) => SendWr::write(&sges, addr, rkey).imm(imm),
            Operation::SendImm(imm) => SendWr::send(&sges).imm(imm),
            Operation::Inline => SendWr::write(&[], addr, rkey).inline(&self.look(len)),
            Operation::Gather => SendWr::write(&pieces(len).map(piece), addr, rkey),
        };
        self.qp.post_send(&wr);
        let done = self.qp.send_cq.wait();
        ensure!(done.status == WcStatus::Success, "completed with {:?}", done.status);
        Ok(())
    }

    fn fails(&mut self, wrong: Option<Wrong>) -> Result<String> {
        let sges = [self.mr.sge(self.memory.addr(), 8)];
        let right = SendWr::write(&sges, self.addr, self.rkey);
        loop {
            match wrong {
                None => self.qp.post_send(&right),
                // The bits that are no index in any device.
                Some(Wrong::Key) => {
                    self.qp.post_send(&SendWr::write(&sges, self.addr, self.rkey ^ 0xff));
                }
                Some(Wrong::Length) => {
                    self.qp.post_send(&right.clone().unsignaled());
                    let long = [self.mr.sge(self.memory.addr(), u32::MAX)];
                    self.qp.post_send(&SendWr::write(&long, self.addr, self.rkey));
                }
            }
            let done = self.qp.send_cq.wait();
            if wrong.is_some() || done.status != WcStatus::Success {
                return Ok(format!("{:?}", done.status));
            }
        }
    }

    fn receive(&mut self, len: u64) -> Result<()> {
        self.qp.post_recv(len, &[self.mr.sge(self.memory.addr(), len as u32)]);
        Ok(())
    }

    fn received(&mut self) -> Result<(u64, Option<Imm>)> {
        let done = self.qp.recv_cq.wait();
        ensure!(done.status == WcStatus::Success, "{:?}", done.status);
        ensure!(done.wr_id == u64::from(done.byte_len), "the receive for {} bytes", done.wr_id);
        let imm = done.flags.contains(CqeFlags::WITH_IMM).then_some(done.imm);
        Ok((done.byte_len.into(), imm))
    }
}

fn main() -> Result<()> {
    let options = options()?;
    let guest = GuestOptions {
        init: Some(Features::ATOMIC),
        accept: Features::PIN | Features::ACKNOWLEDGE | Features::PORT_EVENTS,
        ..GuestOptions::default()
    };
    let endpoint = Endpoint::boot_at(&options.socket, options.address, guest);
    let mut guest = Guest::of(endpoint);
    match options.then {
        Then::Restless => {}
        Then::Survive => return survive(guest, &options),
        then => return exchange::run(&mut guest, &options.meet, then),
    }
    let (memory, still) = (guest.memory.clone(), guest.still.clone());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let restless = scope.spawn(|| disturb(&memory, &still, &ended));
        let done = exchange::run(&mut guest, &options.meet, options.then);
        ended.store(true, Ordering::Relaxed);
        println!("moved {}", restless.join().unwrap_or_default());
        done
    })
}

/// Goes on with new objects, in the same process, when the host's device is back.
fn survive(mut guest: Guest, options: &Options) -> Result<()> {
    exchange::run(&mut guest, &options.meet, Then::Survive)?;
    let driver = guest.endpoint.driver.clone();
    let fatal = driver.wait_async(EventKind::QpFatal, guest.qp.cookie());
    println!("{{\"event\":\"{:?}\"}}", EventKind(fatal.kind.get()));
    for kind in [EventKind::PortDown, EventKind::PortUp] {
        // Nothing else carries the port.
        driver.wait_async(kind, 0);
        println!("{{\"event\":\"{kind:?}\"}}");
    }
    // What is lost is still there, and goes when whoever made it likes.
    let ctx = guest.endpoint.ctx.clone();
    let again = Endpoint { driver, pd: Pd::new(&ctx), ctx, gid: guest.endpoint.gid };
    let mut again = Guest::of(again);
    drop(guest);
    exchange::run(&mut again, &options.meet, Then::Follow)
}

/// Between two moves of the memory, so that something can be done with it.
const PAUSE: Duration = Duration::from_millis(100);

/// Moves memory and takes it out of the page table, until `ended`. How often.
fn disturb(memory: &UserBuffer, still: &Mutex<()>, ended: &AtomicBool) -> u64 {
    let mut times = 0;
    while !ended.load(Ordering::Relaxed) {
        {
            let _still = still.lock();
            memory.migrate();
        }
        std::thread::sleep(PAUSE);
        memory.page_out();
        std::thread::sleep(PAUSE);
        times += 1;
    }
    times
}

fn options() -> Result<Options> {
    let (mut socket, mut address, mut meet, mut then) = (None, None, None, Then::Leave);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let what = match word.as_str() {
            "--both" => Some(Then::Follow),
            "--wrong-key" => Some(Then::Misuse(Wrong::Key)),
            "--wrong-length" => Some(Then::Misuse(Wrong::Length)),
            "--outlive" => Some(Then::Outlive),
            "--survive" => Some(Then::Survive),
            "--restless" => Some(Then::Restless),
            _ => None,
        };
        if let Some(what) = what {
            then = what;
            continue;
        }
        let value = words.next().with_context(|| format!("{word} needs a value"))?;
        match word.as_str() {
            "--socket" => socket = Some(value.into()),
            "--host" => {
                let host = value.parse().context("--host")?;
                address = Some(Ipv4Addr::new(10, 0, 0, host));
            }
            "--address" => address = Some(value.parse().context("--address")?),
            "--listen" => meet = Some(Meet::Listen(value)),
            "--connect" => meet = Some(Meet::Connect(value)),
            _ => {
                bail!(
                    "{word} is none of --socket, --host, --address, --listen, --connect, --both, --wrong-key, --wrong-length, --outlive, --survive, --restless"
                )
            }
        }
    }
    Ok(Options {
        socket: socket.context("--socket PATH")?,
        address: address.context("--host NUMBER or --address ADDRESS")?,
        meet: meet.context("either --listen ADDRESS or --connect ADDRESS")?,
        then,
    })
}
