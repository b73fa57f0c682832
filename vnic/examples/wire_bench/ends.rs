// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The end that leads and measures, and the one that follows.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use vnic_testbed::bench::wire::said::{Operation, Plan, Said};

use super::device::{Device, Memory, Pair, Place};
use super::measure::{self, Case, Other};
use super::spent::Spent;
use super::talk::{Say, Talk};

/// What the ends' memory holds that others read.
const LEADER: u8 = 0x11;
const FOLLOWER: u8 = 0x22;

/// Memory of an end: half of it is sent, and what comes goes into the other half.
struct Halves<D: Device> {
    // Before the memory.
    region: D::Region,
    memory: D::Memory,
    len: u64,
}

impl<D: Device> Halves<D> {
    fn new(device: &D, plan: &Plan, content: u8) -> Result<Self> {
        let largest = plan.sizes.iter().copied().max().unwrap_or_default().max(8);
        let len = largest.next_multiple_of(4096);
        let memory = device.memory(2 * len, true)?;
        memory.fill(0, len, content);
        memory.fill(len, len, 0);
        Ok(Self { region: device.register(&memory)?, memory, len })
    }

    fn outgoing(&self) -> Place {
        D::place(&self.region)
    }

    fn incoming(&self) -> Place {
        incoming(D::place(&self.region), self.len)
    }

    /// Whether the last of so many bytes has come.
    fn has_come(&self, bytes: u64, content: u8) -> Result<()> {
        let found = self.memory.byte(self.len + bytes - 1);
        ensure!(found == content, "byte {} is {found:#x} and not {content:#x}", bytes - 1);
        Ok(())
    }
}

fn incoming(place: Place, len: u64) -> Place {
    Place { addr: place.addr + len, ..place }
}

struct Far<'a> {
    talk: &'a mut Talk,
    one_machine: bool,
}

impl Other for Far<'_> {
    fn receive(&mut self, count: u64, bytes: u64) -> Result<()> {
        self.talk.have(&Say::Receive { count, bytes })
    }

    fn received(&mut self) -> Result<()> {
        match self.talk.hear()? {
            Some(Say::Done) => Ok(()),
            other => bail!("messages were answered with {other:?}"),
        }
    }

    fn spent(&mut self) -> Result<Spent> {
        let own = Spent::here()?;
        if self.one_machine {
            return Ok(own);
        }
        match self.talk.ask(&Say::Spent)? {
            Say::SoMuch(theirs) => Ok(own.and(theirs)),
            other => bail!("being asked what its host spent, the other end says {other:?}"),
        }
    }
}

fn print(said: &Said) -> Result<()> {
    println!("{}", serde_json::to_string(said)?);
    Ok(())
}

/// Measures all of a plan.
pub fn lead<D: Device>(device: &D, talk: &mut Talk, plan: &Plan) -> Result<()> {
    let Say::At(far) = talk.ask(&Say::Plan(plan.clone()))? else { bail!("no memory there") };
    let near = Halves::new(device, plan, LEADER)?;
    let (mut pair, _) = connected(device, talk)?;
    for &bytes in &plan.sizes {
        for operation in Operation::ALL {
            let (local, remote) = match operation {
                Operation::Read => (near.incoming(), far),
                Operation::Write | Operation::Send => (near.outgoing(), incoming(far, near.len)),
            };
            let limit = Duration::from_millis(plan.millis);
            let case = Case { operation, bytes, local, remote, limit };
            let mut other = Far { talk, one_machine: plan.one_machine };
            let named = || format!("{operation} of {bytes} bytes");
            let latency = case.latency(&mut pair, &mut other).with_context(named)?;
            match operation {
                Operation::Read => near.has_come(bytes, FOLLOWER).with_context(named)?,
                _ => other.talk.have(&Say::Look(bytes)).with_context(named)?,
            }
            print(&latency)?;
            print(&case.throughput(&mut pair, &mut other).with_context(named)?)?;
        }
    }
    if plan.pages > 0 {
        let Say::At(cold) = talk.ask(&Say::Map(plan.pages))? else { bail!("no pages there") };
        let mut touch = || measure::touch(&mut pair, plan.pages, near.outgoing(), cold);
        print(&Said::Touched { first: touch()?, again: touch()? })?;
        talk.have(&Say::Unmap)?;
    }
    talk.have(&Say::Leave)?;
    drop(pair);
    let mut nanos = Vec::new();
    for _ in 0..plan.connections {
        nanos.push(connected(device, talk)?.1.as_nanos() as u64);
        talk.have(&Say::Leave)?;
    }
    if !nanos.is_empty() {
        print(&Said::Connected { nanos })?;
    }
    for &bytes in &plan.regions {
        print(&Said::Registered { bytes, nanos: register(device, bytes, plan.registrations)? })?;
    }
    print(&Said::End)
}

/// A queue pair here and there, and how long it took to make and connect this one.
fn connected<D: Device>(device: &D, talk: &mut Talk) -> Result<(D::Pair, Duration)> {
    let since = Instant::now();
    let mut pair = device.pair()?;
    let made = since.elapsed();
    let Say::Here(peer) = talk.ask(&Say::Pair)? else { bail!("no queue pair there") };
    let since = Instant::now();
    pair.connect(&peer)?;
    let took = made + since.elapsed();
    talk.have(&Say::Connect(pair.address()))?;
    Ok((pair, took))
}

fn register<D: Device>(device: &D, bytes: u64, times: u32) -> Result<Vec<u64>> {
    let memory = device.memory(bytes, true)?;
    let mut nanos = Vec::new();
    for _ in 0..times {
        let since = Instant::now();
        let region = device.register(&memory)?;
        nanos.push(since.elapsed().as_nanos() as u64);
        drop(region);
    }
    Ok(nanos)
}

/// Does what it is told until the other end leaves.
pub fn follow<D: Device>(device: &D, talk: &mut Talk, plan: &Plan) -> Result<()> {
    let near = Halves::new(device, plan, FOLLOWER)?;
    talk.say(&Say::At(near.outgoing()))?;
    let (mut pair, mut cold) = (None, None);
    while let Some(say) = talk.hear()? {
        let answer = match say {
            Say::Pair => Say::Here(pair.insert(device.pair()?).address()),
            Say::Connect(peer) => {
                pair.as_mut().context("there is no queue pair")?.connect(&peer)?;
                Say::Done
            }
            Say::Leave => {
                pair = None;
                Say::Done
            }
            Say::Map(pages) => {
                let memory = device.memory(u64::from(pages) * 4096, false)?;
                let region = device.register(&memory)?;
                let at = Say::At(D::place(&region));
                cold = Some((region, memory));
                at
            }
            Say::Unmap => {
                cold = None;
                Say::Done
            }
            Say::Receive { count, bytes } => {
                let pair = pair.as_mut().context("there is no queue pair")?;
                let ready = || talk.say(&Say::Done);
                measure::receive(pair, (count, bytes), near.incoming(), ready)?;
                Say::Done
            }
            Say::Look(bytes) => {
                near.has_come(bytes, LEADER)?;
                Say::Done
            }
            Say::Spent => Say::SoMuch(Spent::here()?),
            other => bail!("{other:?} is nothing to do"),
        };
        talk.say(&answer)?;
    }
    drop(cold);
    Ok(())
}
