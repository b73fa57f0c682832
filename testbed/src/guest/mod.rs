// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Commands and files inside a guest.
//!
//! ```no_run
//! # use std::time::Duration;
//! # fn show(guest: &vnic_testbed::guest::Guest) -> vnic_testbed::Result<()> {
//! let limit = Duration::from_secs(10);
//! print!("{}", guest.run(["ibv_devinfo", "-v"], limit)?.stdout_text());
//! let server = guest.command(["ib_write_lat", "-d", "rxe0"]).spawn()?;
//! server.wait_for_output("Waiting for client", limit)?;
//! # Ok(())
//! # }
//! ```

mod channel;
mod command;
mod place;

use std::{os::unix::net::UnixStream, sync::Arc, time::Duration};

use vnic_guest_agent::{
    frame::CHUNK,
    message::{Body, Reply, Request},
};

use self::channel::{Channel, Replies};
pub use self::{
    command::{Command, Output, Running},
    place::Place,
};
use crate::{
    error::{Error, Result},
    vm::Console,
};

/// Longest wait for the agent's own answers, which need no program to run.
const AGENT_LIMIT: Duration = Duration::from_secs(30);

/// The inside of a guest. Clones speak to the same guest, from any thread.
#[derive(Debug, Clone)]
pub struct Guest {
    channel: Arc<Channel>,
}

impl Guest {
    pub(crate) fn connect(stream: UnixStream, console: Arc<Console>) -> Result<Self> {
        Ok(Self { channel: Channel::start(stream, console)? })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.channel.console().guest
    }

    /// Asks the agent for a sign of life.
    ///
    /// # Errors
    /// When none comes within `limit`.
    pub fn ping(&self, limit: Duration) -> Result<()> {
        self.request("answer a ping", Request::Ping)?.done(limit)
    }

    /// Prepares a command: program and arguments. The program is looked up in the guest's `PATH`.
    pub fn command<I>(&self, argv: I) -> Command
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        Command::new(self.channel.clone(), argv.into_iter().map(Into::into).collect())
    }

    /// Prepares a line for the guest's shell.
    pub fn shell(&self, line: impl Into<String>) -> Command {
        self.command(["/bin/sh".into(), "-c".into(), line.into()])
    }

    /// Runs a command to its end, which must be a return of 0.
    ///
    /// # Errors
    /// As [`Command::run`].
    pub fn run<I>(&self, argv: I, limit: Duration) -> Result<Output>
    where
        I: IntoIterator,
        I::Item: Into<String>,
    {
        self.command(argv).limit(limit).run()
    }

    /// Writes a file, making missing folders. `mode` is used if the file is new.
    ///
    /// # Errors
    /// When the guest refuses, or is gone.
    pub fn write_file(&self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        let mut append = false;
        // An empty file is one empty chunk.
        let mut chunks = content.chunks(CHUNK).collect::<Vec<_>>();
        if chunks.is_empty() {
            chunks.push(&[]);
        }
        for chunk in chunks {
            let data = Body::from(chunk.to_vec());
            let request = Request::Write { path: path.into(), mode, append, data };
            self.request(&format!("write {path}"), request)?.done(AGENT_LIMIT)?;
            append = true;
        }
        Ok(())
    }

    /// Reads a whole file, those of `/proc` and `/sys` included.
    ///
    /// # Errors
    /// When the guest refuses, or is gone.
    pub fn read_file(&self, path: &str) -> Result<Vec<u8>> {
        let replies = self.request(&format!("read {path}"), Request::Read { path: path.into() })?;
        let mut content = Vec::new();
        loop {
            match replies.next(AGENT_LIMIT)? {
                Reply::Data(data) => content.extend_from_slice(&data),
                Reply::Done => return Ok(content),
                other => return Err(replies.unexpected(&other)),
            }
        }
    }

    /// Reads a whole file as text, without white space at its end.
    ///
    /// # Errors
    /// When the guest refuses, or is gone.
    pub fn read_text(&self, path: &str) -> Result<String> {
        Ok(String::from_utf8_lossy(&self.read_file(path)?).trim_end().to_string())
    }

    /// The kernel's log.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn dmesg(&self) -> Result<String> {
        Ok(self.run(["dmesg"], AGENT_LIMIT)?.stdout_text())
    }

    fn request(&self, doing: &str, request: Request) -> Result<Replies> {
        self.channel.request(doing, request)
    }
}

impl Replies {
    /// Waits for the answer that carries nothing.
    fn done(&self, limit: Duration) -> Result<()> {
        match self.next(limit)? {
            Reply::Done => Ok(()),
            other => Err(self.unexpected(&other)),
        }
    }

    fn unexpected(&self, reply: &Reply) -> Error {
        let cause = match reply {
            Reply::Failed(cause) => cause.clone(),
            other => format!("it answered {other:?}"),
        };
        self.refused(cause)
    }
}
