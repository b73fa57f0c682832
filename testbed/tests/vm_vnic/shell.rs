// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A verbs program in a guest that does what the test says, when it says it.

use std::{cell::RefCell, collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use vnic_testbed::{
    guest::{Guest, Output, Running},
    workload::rdma::Device,
};

use crate::bed::{LIMIT, SHELL, until};

/// `IBV_WC_SUCCESS`.
pub const SUCCESS: u64 = 0;
/// `IBV_WC_RETRY_EXC_ERR`.
pub const RETRY_EXCEEDED: u64 = 12;

/// ACK time-out (4.096 us * 2^n) and retries: about a second until a peer counts as lost.
const PATIENCE: (u32, u32) = (16, 3);

/// A running `verbs-shell`.
pub struct Shell {
    guest: Guest,
    running: Running,
    path: String,
    /// All lines so far, and how many they are.
    script: RefCell<(String, usize)>,
}

/// What the program answered.
#[derive(Debug)]
pub struct Answer(BTreeMap<String, String>);

impl Answer {
    /// A value as text.
    pub fn text(&self, key: &str) -> Result<&str> {
        self.0.get(key).map(String::as_str).with_context(|| format!("no {key} in {self:?}"))
    }

    /// A value that is a number.
    pub fn number(&self, key: &str) -> Result<u64> {
        Ok(self.text(key)?.parse()?)
    }
}

/// A registered buffer, as a peer names it.
#[derive(Debug, Clone, Copy)]
pub struct Buffer {
    /// The slot in its own program.
    pub slot: usize,
    /// Where it begins.
    pub address: u64,
    /// The key for others.
    pub rkey: u64,
    /// How long the quickest of its registrations took.
    pub registration: Duration,
}

impl Shell {
    /// Starts the program on a device; `name` tells it from others in the guest.
    pub fn start(guest: &Guest, device: &Device, name: &str) -> Result<Self> {
        let path = format!("/tmp/{name}.script");
        guest.write_file(&path, b"", 0o600)?;
        let gid = device.gid_index.to_string();
        let running = guest.command([SHELL, &device.name, &gid, &path]).spawn()?;
        running.wait_for_output("0 ok", LIMIT)?;
        let script = RefCell::default();
        Ok(Self { guest: guest.clone(), running, path, script })
    }

    /// Its process id in the guest.
    pub fn pid(&self) -> i32 {
        self.running.pid()
    }

    /// Says something and waits for the answer.
    pub fn say(&self, command: &str) -> Result<Answer> {
        let number = self.whisper(command)?;
        let (done, refused) = (format!("{number} ok "), format!("{number} error "));
        let line = until(command, || {
            let text = self.running.output_so_far()?.stdout_text();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            let found = whole.lines().find(|l| l.starts_with(&done) || l.starts_with(&refused));
            match found {
                Some(line) => Ok(Ok(line.to_string())),
                None if self.running.has_ended()? => bail!("the program ended: {text}"),
                None => Ok(Err("no answer".into())),
            }
        })?;
        let Some(values) = line.strip_prefix(&done) else {
            bail!("`{command}` in guest {}: {line}", self.guest.name());
        };
        let values = values.split_whitespace().filter_map(|word| word.split_once('='));
        Ok(Answer(values.map(|(key, value)| (key.into(), value.into())).collect()))
    }

    /// Says something and does not wait; returns the number of the line.
    fn whisper(&self, command: &str) -> Result<usize> {
        let mut script = self.script.borrow_mut();
        script.1 += 1;
        let number = script.1;
        script.0.push_str(&format!("{number} {command}\n"));
        self.guest.write_file(&self.path, script.0.as_bytes(), 0o600)?;
        Ok(number)
    }

    /// Makes a buffer that no processor has touched. `how` is `memory` (a mapping) or `heap`.
    pub fn buffer(&self, slot: usize, how: &str, bytes: u64, times: u32) -> Result<Buffer> {
        let address = self.say(&format!("{how} {slot} {bytes}"))?.number("addr")?;
        self.register(slot, address, times)
    }

    /// As [`buffer`](Self::buffer), a mapping that is to lie on a NUMA node as long as there is room.
    pub fn buffer_on(&self, slot: usize, bytes: u64, node: u32) -> Result<Buffer> {
        let address = self.say(&format!("memory {slot} {bytes}"))?.number("addr")?;
        self.say(&format!("prefer {slot} {node}"))?;
        self.register(slot, address, 1)
    }

    fn register(&self, slot: usize, address: u64, times: u32) -> Result<Buffer> {
        let answer = self.say(&format!("register {slot} {times}"))?;
        let registration = Duration::from_nanos(answer.number("ns")?);
        Ok(Buffer { slot, address, rkey: answer.number("rkey")?, registration })
    }

    /// The status of the next completion.
    pub fn completion(&self) -> Result<u64> {
        self.say(&format!("completion {}", LIMIT.as_millis()))?.number("status")
    }

    /// Posts a WRITE of the first `bytes` of `from`, and waits until it succeeded.
    pub fn write(&self, from: &Buffer, bytes: u64, to: &Buffer, offset: u64) -> Result<()> {
        let (address, rkey) = (to.address + offset, to.rkey);
        self.say(&format!("write {} 0 {bytes} {address} {rkey}", from.slot))?;
        let status = self.completion()?;
        ensure!(status == SUCCESS, "a WRITE of {bytes} bytes completed with status {status}");
        Ok(())
    }

    /// Begins to write without an end.
    pub fn stream(&self, from: &Buffer, bytes: u64, to: &Buffer) -> Result<()> {
        self.say(&format!("stream {} {bytes} {} {}", from.slot, to.address, to.rkey))?;
        self.stream_moves()
    }

    /// Waits until a stream has got on.
    pub fn stream_moves(&self) -> Result<()> {
        let before = self.say("progress")?.number("done")?;
        until("traffic", || {
            let progress = self.say("progress")?;
            ensure!(progress.number("active")? == 1, "the stream has ended: {progress:?}");
            Ok(if progress.number("done")? > before { Ok(()) } else { Err("none yet".into()) })
        })
    }

    /// Waits until a stream has ended, and returns the status that ended it.
    pub fn stream_end(&self) -> Result<u64> {
        until("the end of the stream", || {
            let progress = self.say("progress")?;
            match (progress.number("active")?, progress.number("status")?) {
                (0, status) if status != SUCCESS => Ok(Ok(status)),
                _ => Ok(Err(format!("{progress:?}"))),
            }
        })
    }

    /// Pages of a part of a buffer that the process has.
    pub fn resident(&self, buffer: &Buffer, offset: u64, bytes: u64) -> Result<u64> {
        self.say(&format!("resident {} {offset} {bytes}", buffer.slot))?.number("pages")
    }

    /// Fails unless a part of a buffer holds what was filled in with `seed`.
    pub fn check(&self, buffer: &Buffer, offset: u64, bytes: u64, seed: u32) -> Result<()> {
        let answer = self.say(&format!("check {} {offset} {bytes} {seed}", buffer.slot))?;
        let wrong = answer.number("wrong")?;
        ensure!(wrong == 0, "{wrong} of {bytes} bytes are wrong");
        Ok(())
    }

    /// A line of `/proc/PID/status` that is a number of kB.
    pub fn kilobytes(&self, name: &str) -> Result<u64> {
        let text = self.guest.read_text(&format!("/proc/{}/status", self.pid()))?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        let value = line.and_then(|value| value.trim().strip_suffix(" kB")?.parse().ok());
        value.with_context(|| format!("no {name} in\n{text}"))
    }

    /// `kill -9`.
    pub fn kill(self) -> Result<()> {
        self.running.signal(9)?;
        self.end().map(drop)
    }

    /// Waits for an end that is not its own doing.
    pub fn ended(self) -> Result<Output> {
        self.end()
    }

    /// Says `last`, and waits for the end of the program, which must be a success.
    pub fn leave(self, last: &str) -> Result<()> {
        self.whisper(last)?;
        self.end()?.success()?;
        Ok(())
    }

    fn end(self) -> Result<Output> {
        self.running.wait(LIMIT).map_err(|error| anyhow!(error))
    }
}

/// Makes a queue pair in both programs and connects them.
pub fn connect(left: &Shell, right: &Shell) -> Result<()> {
    let (a, b) = (left.say("qp")?, right.say("qp")?);
    for (shell, peer) in [(left, b), (right, a)] {
        let (qpn, gid) = (peer.text("qpn")?, peer.text("gid")?);
        shell.say(&format!("connect {qpn} {gid} {} {}", PATIENCE.0, PATIENCE.1))?;
    }
    Ok(())
}
