// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Runs one program: its input, its output as it comes, its end.

use std::{
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, Command, Stdio},
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{OFlags, fcntl_getfl, fcntl_setfl},
    process::{Pid, PidfdFlags, pidfd_open},
};
use vnic_guest_agent::{
    frame::CHUNK,
    message::{Exit, Reply, Start},
};

use crate::serve::{Groups, Replies};

/// Chunks read from each pipe after the program has ended; the largest pipe of Linux holds 16.
const LAST_CHUNKS: usize = 32;

/// Starts the program at once, and follows it from a thread.
pub fn start(id: u64, start: Start, groups: &Groups, replies: Replies) {
    let (child, pid) = match spawn(&start) {
        Ok(started) => started,
        Err(error) => return replies.finish(Err(error)),
    };
    replies.send(Reply::Started { pid: pid.as_raw_nonzero().get() });
    let groups = groups.clone();
    // Registered before the thread runs: a signal that follows at once finds the group.
    groups.insert(id, pid);
    thread::spawn(move || {
        let end = follow(child, pid, start.stdin.into_vec(), &replies, || groups.forget(id));
        match end {
            Ok(exit) => replies.send(Reply::Exited(exit)),
            Err(error) => replies.finish(Err(error)),
        }
    });
}

fn spawn(start: &Start) -> io::Result<(Child, Pid)> {
    let [program, arguments @ ..] = start.argv.as_slice() else {
        return Err(io::Error::other("the command is empty"));
    };
    let mut command = Command::new(program);
    command
        .args(arguments)
        .envs(start.env.iter().map(|(name, value)| (name, value)))
        .stdin(if start.stdin.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if let Some(cwd) = &start.cwd {
        command.current_dir(cwd);
    }
    let child = command.spawn().map_err(|error| {
        io::Error::new(error.kind(), format!("cannot start {program}: {error}"))
    })?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let pid = pid.ok_or_else(|| io::Error::other("the kernel gave no process id"))?;
    Ok((child, pid))
}

/// Passes input and output until the program itself has ended.
///
/// A grandchild may keep the pipes open, so the end is the program's and not the pipes'; what
/// was written before it is still drained.
fn follow(
    mut child: Child,
    pid: Pid,
    stdin: Vec<u8>,
    replies: &Replies,
    before_reaping: impl FnOnce(),
) -> io::Result<Exit> {
    let ended = pidfd_open(pid, PidfdFlags::empty())?;
    let mut input = Input { pipe: non_blocking(child.stdin.take())?, data: stdin, sent: 0 };
    let mut stdout = Pipe { file: non_blocking(child.stdout.take())?, wrap: Reply::Stdout };
    let mut stderr = Pipe { file: non_blocking(child.stderr.take())?, wrap: Reply::Stderr };
    loop {
        let mut fds = vec![PollFd::new(&ended, PollFlags::IN)];
        fds.extend(stdout.file.iter().chain(&stderr.file).map(|f| PollFd::new(f, PollFlags::IN)));
        fds.extend(input.pipe.iter().map(|f| PollFd::new(f, PollFlags::OUT)));
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        // Looked at before the pipes: whatever it wrote is then in them.
        let last = !fds[0].revents().is_empty();
        input.feed();
        // Bounded: a grandchild that writes on is not waited for.
        for _ in 0..if last { LAST_CHUNKS } else { 1 } {
            if !stdout.pass(replies)? & !stderr.pass(replies)? {
                break;
            }
        }
        if last {
            before_reaping();
            let status = child.wait()?;
            let signal = status.signal().map(Exit::Signal);
            return Ok(status.code().map(Exit::Code).or(signal).unwrap_or(Exit::Code(-1)));
        }
    }
}

fn non_blocking<T: Into<OwnedFd>>(pipe: Option<T>) -> io::Result<Option<File>> {
    let Some(pipe) = pipe else { return Ok(None) };
    let fd: OwnedFd = pipe.into();
    let flags = fcntl_getfl(fd.as_fd())?;
    fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?;
    Ok(Some(File::from(fd)))
}

struct Input {
    pipe: Option<File>,
    data: Vec<u8>,
    sent: usize,
}

impl Input {
    fn feed(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        match pipe.write(&self.data[self.sent..]) {
            Ok(n) => self.sent += n,
            Err(error) if would_block(&error) => {}
            // A program may leave its input unread.
            Err(_) => self.sent = self.data.len(),
        }
        if self.sent == self.data.len() {
            self.pipe = None;
        }
    }
}

struct Pipe {
    file: Option<File>,
    wrap: fn(vnic_guest_agent::message::Body) -> Reply,
}

impl Pipe {
    /// Passes one chunk on; false when there is none now.
    fn pass(&mut self, replies: &Replies) -> io::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        let mut data = vec![0; CHUNK];
        match file.read(&mut data) {
            Ok(0) => {
                self.file = None;
                Ok(false)
            }
            Ok(n) => {
                data.truncate(n);
                replies.send((self.wrap)(data.into()));
                Ok(true)
            }
            Err(error) if would_block(&error) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
