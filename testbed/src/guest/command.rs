// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One command in a guest, run to its end or in the background.

use std::{
    cell::RefCell,
    sync::Arc,
    time::{Duration, Instant},
};

use vnic_guest_agent::message::{Body, Exit, Reply, Request, Start};

use super::channel::{Channel, Replies};
use crate::error::{Error, Result};

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

/// How long a killed command may take to be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);

/// A command that is being prepared.
#[derive(Debug, Clone)]
#[must_use = "a command does nothing until it is run or spawned"]
pub struct Command {
    channel: Arc<Channel>,
    start: Start,
    limit: Duration,
}

impl Command {
    pub(super) fn new(channel: Arc<Channel>, argv: Vec<String>) -> Self {
        let start = Start { argv, ..Start::default() };
        Self { channel, start, limit: Duration::from_secs(60) }
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.start.env.push((name.into(), value.into()));
        self
    }

    /// Runs in this folder of the guest.
    pub fn folder(mut self, folder: impl Into<String>) -> Self {
        self.start.cwd = Some(folder.into());
        self
    }

    /// What the command reads; at most about 1 MiB. By default its input is empty.
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.start.stdin = Body::from(bytes.into());
        self
    }

    /// Longest run time, 60 s by default. The command's process group is killed after it.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs to the end, which must be a return of 0.
    ///
    /// # Errors
    /// [`Error::Failed`] and [`Error::TimedOut`], both with all that was printed;
    /// [`Error::Refused`] if it cannot be started; [`Error::Gone`] if the guest is.
    pub fn run(self) -> Result<Output> {
        let output = self.output()?;
        output.success()
    }

    /// Runs to the end, whatever it returns.
    ///
    /// # Errors
    /// As [`Command::run`], but for [`Error::Failed`].
    pub fn output(self) -> Result<Output> {
        let limit = self.limit;
        self.spawn()?.wait(limit)
    }

    /// Starts it, and returns as soon as it runs.
    ///
    /// # Errors
    /// [`Error::Refused`] if it cannot be started; [`Error::Gone`] if the guest is.
    pub fn spawn(self) -> Result<Running> {
        let line = self.start.argv.join(" ");
        let replies = self.channel.request(&format!("run `{line}`"), Request::Start(self.start))?;
        let guest = self.channel.console().guest.clone();
        let pid = match replies.next(Duration::from_secs(30))? {
            Reply::Started { pid } => pid,
            other => return Err(replies.unexpected(&other)),
        };
        let output = Output { guest, command: line, exit: None, stdout: vec![], stderr: vec![] };
        Ok(Running { channel: self.channel, replies, pid, output: RefCell::new(output) })
    }
}

/// A command that runs in the background. Dropping it kills its process group.
#[derive(Debug)]
pub struct Running {
    channel: Arc<Channel>,
    replies: Replies,
    pid: i32,
    output: RefCell<Output>,
}

impl Running {
    /// Its process id in the guest, which is also its process group.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// Sends a signal to its process group; does nothing once it has ended.
    ///
    /// # Errors
    /// When the guest is gone, or knows no such signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        let request = Request::Signal { command: self.replies.id(), signal };
        self.channel.request(&format!("send signal {signal}"), request)?.done(KILL_LIMIT)
    }

    /// Waits until its output or its error output contains `text`; servers say so when they are ready.
    ///
    /// # Errors
    /// [`Error::Failed`] when it ends before, [`Error::TimedOut`] (without killing it) after `limit`.
    pub fn wait_for_output(&self, text: &str, limit: Duration) -> Result<()> {
        let until = Instant::now() + limit;
        loop {
            let seen = self.output.borrow();
            if seen.stdout_text().contains(text) || seen.stderr_text().contains(text) {
                return Ok(());
            }
            if seen.exit.is_some() {
                return Err(seen.failed());
            }
            drop(seen);
            if !self.take_reply(until)? {
                return Err(self.timed_out(limit));
            }
        }
    }

    /// Waits for its end; after `limit` kills it.
    ///
    /// # Errors
    /// [`Error::TimedOut`] with what was printed, [`Error::Gone`] if the guest is.
    pub fn wait(self, limit: Duration) -> Result<Output> {
        if self.end(limit)? {
            return Ok(self.output.borrow().clone());
        }
        self.signal(SIGKILL)?;
        if !self.end(KILL_LIMIT)? {
            tracing::warn!(pid = self.pid, "a killed command has not ended");
        }
        Err(self.timed_out(limit))
    }

    /// Asks it to end with SIGTERM, and waits for that; after `limit` kills it. Whether it ended well is for
    /// the caller to judge.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    pub fn stop(self, limit: Duration) -> Result<Output> {
        self.signal(SIGTERM)?;
        self.wait(limit)
    }

    /// Whether it has ended, without waiting.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn has_ended(&self) -> Result<bool> {
        self.end(Duration::ZERO)
    }

    /// What it has printed so far.
    ///
    /// # Errors
    /// When the guest is gone.
    pub fn output_so_far(&self) -> Result<Output> {
        self.end(Duration::ZERO)?;
        Ok(self.output.borrow().clone())
    }

    /// Takes replies until the last; false when that has not come within `limit`.
    fn end(&self, limit: Duration) -> Result<bool> {
        let until = Instant::now() + limit;
        while self.output.borrow().exit.is_none() {
            if !self.take_reply(until)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn take_reply(&self, until: Instant) -> Result<bool> {
        let rest = until.saturating_duration_since(Instant::now());
        let Some(reply) = self.replies.next_or_none(rest)? else { return Ok(false) };
        let mut output = self.output.borrow_mut();
        match reply {
            Reply::Stdout(bytes) => output.stdout.extend_from_slice(&bytes),
            Reply::Stderr(bytes) => output.stderr.extend_from_slice(&bytes),
            Reply::Exited(exit) => output.exit = Some(exit),
            other => return Err(self.replies.unexpected(&other)),
        }
        Ok(true)
    }

    pub(crate) fn timed_out(&self, limit: Duration) -> Error {
        let output = self.output.borrow();
        Error::TimedOut {
            guest: output.guest.clone(),
            command: output.command.clone(),
            limit,
            output: output.all_text(),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if self.output.borrow().exit.is_none() {
            let request = Request::Signal { command: self.replies.id(), signal: SIGKILL };
            // Not waited for: the guest may be the one that is going.
            let _ = self.channel.request("kill a command", request);
        }
    }
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    guest: String,
    command: String,
    /// How it ended; `None` while it runs.
    pub exit: Option<Exit>,
    /// Its standard output.
    pub stdout: Vec<u8>,
    /// Its standard error.
    pub stderr: Vec<u8>,
}

impl Output {
    /// The command line, joined by spaces.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Standard output as text.
    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }

    /// Standard error as text.
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    /// Both, the output first.
    pub fn all_text(&self) -> String {
        format!("{}{}", self.stdout_text(), self.stderr_text())
    }

    /// Turns anything but a return of 0 into an error.
    ///
    /// # Errors
    /// [`Error::Failed`] with all that was printed.
    pub fn success(self) -> Result<Self> {
        if self.exit.is_some_and(Exit::success) { Ok(self) } else { Err(self.failed()) }
    }

    fn failed(&self) -> Error {
        Error::Failed {
            guest: self.guest.clone(),
            command: self.command.clone(),
            exit: self.exit.unwrap_or(Exit::Code(-1)),
            output: self.all_text(),
        }
    }
}
