// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Two ends find each other over TCP, connect a queue pair each, and carry out every operation in many sizes with the
//! contents checked. What an end is, a process guest or a program of a host, is behind [`Party`].

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};

/// Bytes of each end's memory, and of the largest message.
pub const LEN: u64 = 1 << 20;
const SIZES: [u64; 9] = [1, 8, 63, 1024, 4097, 65_536, 100_000, (1 << 20) - 1, 1 << 20];
/// Requests of 8 bytes that are timed, of each kind.
const TIMED: usize = 500;

/// A queue pair and memory, as the other end has to know them.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub struct Here {
    /// Number, which is that of the first packet as well.
    pub qpn: u32,
    /// Address.
    pub gid: [u8; 16],
    /// Where its memory is.
    pub addr: u64,
    /// The key of that.
    pub rkey: u32,
    /// Largest packets, as verbs number them.
    pub mtu: u8,
}

/// What is to be done with the first bytes of both memories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// From here to there.
    Write,
    /// From there to here.
    Read,
    /// From here to where the other end waits for it.
    Send,
    /// One more there, and what was there to here.
    FetchAdd,
    /// If the first is there, the second in its place; and what was there to here.
    CompareSwap(u64, u64),
    /// As `Write`, and the other end, where it waits for something, is told this.
    WriteImm(Imm),
    /// As `Send`, and this with it.
    SendImm(Imm),
    /// As `Write`, of bytes that go with the request.
    Inline,
    /// As `Write`, of memory that the request names in several pieces.
    Gather,
}

/// Immediate data.
pub type Imm = [u8; 4];

/// Where the pieces of `len` bytes begin and end, for [`Operation::Gather`].
pub fn pieces(len: u64) -> [(u64, u64); 3] {
    let (a, b) = (len / 3 + 1, len / 2 + 1);
    [(0, a), (a, b), (b, len)]
}

/// An end.
pub trait Party {
    /// What the other end has to know.
    fn here(&self) -> Here;
    /// Connects the queue pair.
    fn connect(&mut self, there: &Here) -> Result<()>;
    /// Writes to its memory.
    fn fill(&mut self, bytes: &[u8]);
    /// Looks at its memory.
    fn look(&self, len: u64) -> Vec<u8>;
    /// Posts a request, and waits until it is done.
    fn carry_out(&mut self, operation: Operation, len: u64) -> Result<()>;
    /// Posts a receive for `len` bytes.
    fn receive(&mut self, len: u64) -> Result<()>;
    /// Waits for the message that takes it. Its bytes, and what came with it.
    fn received(&mut self) -> Result<(u64, Option<Imm>)>;
    /// Writes until that fails, or once in this wrong way. The status that comes of it.
    fn fails(&mut self, wrong: Option<Wrong>) -> Result<String>;
}

/// A wrong request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// With a key that is none.
    Key,
    /// Longer than a message may be, behind one of which nobody wants to hear.
    Length,
}

/// What the leader does when everything has been done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Then {
    /// It leaves.
    Leave,
    /// Has the other end do everything as well.
    Follow,
    /// The same, while its memory moves all the time.
    Restless,
    /// Does something wrong.
    Misuse(Wrong),
    /// Lets the other end leave, and writes to it.
    Outlive,
    /// Writes until the device of its host is gone.
    Survive,
}

/// How the ends find each other.
#[derive(Debug, Clone)]
pub enum Meet {
    /// Waits at this address, and follows.
    Listen(String),
    /// Calls this address, and leads.
    Connect(String),
}

/// What the ends tell each other.
#[derive(Debug, Serialize, Deserialize)]
enum Say {
    /// Queue pair and memory.
    Here(Here),
    /// Fill your memory with this pattern.
    Fill { seed: u64, len: u64 },
    /// Does your memory hold this pattern?
    Check { seed: u64, len: u64 },
    /// Post a receive for so much.
    Receive { len: u64 },
    /// Has it come?
    Received { seed: u64, len: u64, imm: Option<Imm> },
    /// It is your turn to lead.
    Lead,
    /// Yes.
    Done,
    /// No: why.
    Wrong(String),
}

struct Talk {
    out: TcpStream,
    input: BufReader<TcpStream>,
}

impl Talk {
    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(60)))?;
        Ok(Self { out: stream.try_clone()?, input: BufReader::new(stream) })
    }

    fn say(&mut self, say: &Say) -> Result<()> {
        let line = serde_json::to_string(say)? + "\n";
        self.out.write_all(line.as_bytes()).context("tell the other end")
    }

    /// What the other end says; `None` when it has left.
    fn hear(&mut self) -> Result<Option<Say>> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line).context("hear the other end")?;
        (read != 0).then(|| serde_json::from_str(&line).context("understand it")).transpose()
    }

    /// Has the other end do something.
    fn ask(&mut self, say: &Say) -> Result<()> {
        self.say(say)?;
        match self.hear()? {
            Some(Say::Done) => Ok(()),
            Some(Say::Wrong(why)) => bail!("{say:?}: {why}"),
            other => bail!("{say:?} was answered with {other:?}"),
        }
    }
}

/// Meets the other end and does everything: whoever called leads.
pub fn run(party: &mut dyn Party, meet: &Meet, then: Then) -> Result<()> {
    let (mut talk, leads) = match meet {
        Meet::Listen(address) => {
            let listener = TcpListener::bind(address)?;
            println!("listening");
            (Talk::over(listener.accept()?.0)?, false)
        }
        Meet::Connect(address) => (Talk::over(TcpStream::connect(address)?)?, true),
    };
    talk.say(&Say::Here(party.here()))?;
    let Some(Say::Here(there)) = talk.hear()? else { bail!("nobody is there") };
    party.connect(&there).context("connect")?;
    // Nobody sends before both can receive.
    talk.ask(&Say::Done).or_else(|error| if leads { Err(error) } else { Ok(()) })?;
    if !leads {
        return follow(party, &mut talk);
    }
    lead(party, &mut talk)?;
    match then {
        Then::Leave => {}
        Then::Follow | Then::Restless => {
            talk.say(&Say::Lead)?;
            follow(party, &mut talk)?;
        }
        Then::Misuse(wrong) => {
            println!("{{\"op\":\"misuse\",\"status\":\"{}\"}}", party.fails(Some(wrong))?);
        }
        Then::Survive => {
            println!("{{\"op\":\"writing\"}}");
            println!("{{\"op\":\"survive\",\"status\":\"{}\"}}", party.fails(None)?);
        }
        Then::Outlive => {
            drop(talk);
            println!("{{\"op\":\"outlive\",\"status\":\"{}\"}}", party.fails(None)?);
        }
    }
    println!("{{\"op\":\"all\"}}");
    Ok(())
}

/// Bytes that differ by `seed`.
fn pattern(seed: u64, len: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

fn compare(party: &dyn Party, seed: u64, len: u64) -> Result<()> {
    let (found, wanted) = (party.look(len), pattern(seed, len));
    match found.iter().zip(&wanted).position(|(found, wanted)| found != wanted) {
        None => Ok(()),
        Some(at) => bail!("byte {at} of {len} is {} and not {}", found[at], wanted[at]),
    }
}

fn follow(party: &mut dyn Party, talk: &mut Talk) -> Result<()> {
    while let Some(say) = talk.hear()? {
        let done = match say {
            Say::Fill { seed, len } => {
                party.fill(&pattern(seed, len));
                Ok(())
            }
            Say::Check { seed, len } => compare(party, seed, len),
            Say::Receive { len } => party.receive(len),
            Say::Received { seed, len, imm } => {
                let (bytes, with) = party.received()?;
                ensure!((bytes, with) == (len, imm), "a message of {bytes} bytes with {with:?}");
                compare(party, seed, len)
            }
            Say::Done => Ok(()),
            // Whoever led has seen it all, and leaves when this is over.
            Say::Lead => return lead(party, talk),
            other => bail!("{other:?}"),
        };
        talk.say(&done.map_or_else(|why| Say::Wrong(format!("{why:#}")), |()| Say::Done))?;
    }
    Ok(())
}

fn lead(party: &mut dyn Party, talk: &mut Talk) -> Result<()> {
    let mut seed = 0;
    for len in SIZES {
        seed += 1;
        party.fill(&pattern(seed, len));
        party.carry_out(Operation::Write, len).context("WRITE")?;
        talk.ask(&Say::Check { seed, len })?;
        println!("{{\"op\":\"write\",\"bytes\":{len}}}");

        seed += 1;
        talk.ask(&Say::Fill { seed, len })?;
        party.carry_out(Operation::Read, len).context("READ")?;
        compare(party, seed, len).context("READ")?;
        println!("{{\"op\":\"read\",\"bytes\":{len}}}");

        seed += 1;
        party.fill(&pattern(seed, len));
        talk.ask(&Say::Receive { len })?;
        party.carry_out(Operation::Send, len).context("SEND")?;
        talk.ask(&Say::Received { seed, len, imm: None })?;
        println!("{{\"op\":\"send\",\"bytes\":{len}}}");
    }
    let word = pattern(seed, 8);
    let first = u64::from_le_bytes(word.try_into().unwrap_or_default());
    for n in 0..100u64 {
        party.carry_out(Operation::FetchAdd, 8).context("FETCH_ADD")?;
        let found = party.look(8);
        ensure!(found == first.wrapping_add(n).to_le_bytes(), "FETCH_ADD {n} found {found:?}");
    }
    println!("{{\"op\":\"fetch_add\",\"times\":100}}");
    swap(party, first.wrapping_add(100))?;
    variants(party, talk, &mut seed)?;
    time("write", || party.carry_out(Operation::Write, 8))?;
    time("read", || party.carry_out(Operation::Read, 8))
}

/// Exchanges the other end's first word, which is `there`, if it is what was expected.
fn swap(party: &mut dyn Party, mut there: u64) -> Result<()> {
    for n in 0..20u64 {
        let (new, expected) = (there.rotate_left(7) ^ n, there ^ (n % 2));
        party.carry_out(Operation::CompareSwap(expected, new), 8).context("CMP_AND_SWP")?;
        let found = party.look(8);
        ensure!(found == there.to_le_bytes(), "CMP_AND_SWP {n} found {found:?} and not {there:#x}");
        if expected == there {
            there = new;
        }
    }
    println!("{{\"op\":\"cmp_swap\",\"times\":20}}");
    Ok(())
}

/// The other kinds of WRITE and SEND.
fn variants(party: &mut dyn Party, talk: &mut Talk, seed: &mut u64) -> Result<()> {
    for len in [8, 4097, 65_536] {
        let imm = (*seed as u32 ^ 0xfedc_ba98).to_be_bytes();
        for operation in [Operation::SendImm(imm), Operation::WriteImm(imm)] {
            *seed += 1;
            talk.ask(&Say::Receive { len })?;
            party.fill(&pattern(*seed, len));
            party.carry_out(operation, len).with_context(|| format!("{operation:?}"))?;
            talk.ask(&Say::Received { seed: *seed, len, imm: Some(imm) })?;
        }
        *seed += 1;
        party.fill(&pattern(*seed, len));
        party.carry_out(Operation::Gather, len).context("gather")?;
        talk.ask(&Say::Check { seed: *seed, len })?;
    }
    for len in [1, 8, 31] {
        *seed += 1;
        party.fill(&pattern(*seed, len));
        party.carry_out(Operation::Inline, len).context("inline")?;
        talk.ask(&Say::Check { seed: *seed, len })?;
    }
    println!("{{\"op\":\"variants\"}}");
    Ok(())
}

/// Times requests of 8 bytes one by one, from the post to the completion.
fn time(op: &str, mut request: impl FnMut() -> Result<()>) -> Result<()> {
    let mut times: Vec<u128> = Vec::new();
    for _ in 0..TIMED {
        let since = Instant::now();
        request()?;
        times.push(since.elapsed().as_nanos());
    }
    times.sort_unstable();
    let at = |percent: usize| times[times.len() * percent / 100] as f64 / 1000.0;
    let (p50, p99) = (at(50), at(99));
    println!("{{\"op\":\"{op}_completion\",\"bytes\":8,\"p50_us\":{p50},\"p99_us\":{p99}}}");
    Ok(())
}
