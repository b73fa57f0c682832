// SPDX-License-Identifier: Apache-2.0 OR MIT
//! What the ends tell each other beside the wire: a line of JSON at a time, over TCP.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use vnic_testbed::bench::wire::said::Plan;

use super::device::{Address, Place};
use super::spent::Spent;

/// Longest time without a word: a case of large messages on an emulated host takes a while.
const LIMIT: Duration = Duration::from_secs(120);

/// What is said.
#[derive(Debug, Serialize, Deserialize)]
pub enum Say {
    /// What will be measured.
    Plan(Plan),
    /// Make a queue pair.
    Pair,
    /// A queue pair.
    Here(Address),
    /// Connect it to this one.
    Connect(Address),
    /// Take it down.
    Leave,
    /// Map so many pages that nobody has touched, and register them.
    Map(u32),
    /// Where memory is that may be reached.
    At(Place),
    /// Forget them.
    Unmap,
    /// Receive so many messages of so many bytes.
    Receive { count: u64, bytes: u64 },
    /// Has this byte of what comes in been written?
    Look(u64),
    /// What has your host spent?
    Spent,
    /// So much.
    SoMuch(Spent),
    /// Done.
    Done,
}

/// A connection between the ends.
pub struct Talk {
    out: TcpStream,
    input: BufReader<TcpStream>,
}

impl Talk {
    /// Waits for the other end at this address.
    pub fn listen(address: &str) -> Result<Self> {
        let listener =
            TcpListener::bind(address).with_context(|| format!("listen at {address}"))?;
        println!("listening");
        Self::over(listener.accept()?.0)
    }

    /// Calls the other end.
    pub fn connect(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address);
        Self::over(stream.with_context(|| format!("call the other end at {address}"))?)
    }

    fn over(stream: TcpStream) -> Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(LIMIT))?;
        Ok(Self { out: stream.try_clone()?, input: BufReader::new(stream) })
    }

    /// Says something.
    pub fn say(&mut self, say: &Say) -> Result<()> {
        let line = serde_json::to_string(say)? + "\n";
        self.out.write_all(line.as_bytes()).context("tell the other end")
    }

    /// What the other end says; `None` when it has left.
    pub fn hear(&mut self) -> Result<Option<Say>> {
        let mut line = String::new();
        let read = self.input.read_line(&mut line).context("hear the other end")?;
        (read != 0).then(|| serde_json::from_str(&line).context("understand it")).transpose()
    }

    /// Says something that is answered.
    pub fn ask(&mut self, say: &Say) -> Result<Say> {
        self.say(say)?;
        match self.hear()? {
            Some(answer) => Ok(answer),
            None => bail!("the other end has left, and was asked: {say:?}"),
        }
    }

    /// Has the other end do something.
    pub fn have(&mut self, say: &Say) -> Result<()> {
        match self.ask(say)? {
            Say::Done => Ok(()),
            other => bail!("{say:?} was answered with {other:?}"),
        }
    }
}
