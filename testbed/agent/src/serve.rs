// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Reads requests from the port and answers each from a thread of its own.

use std::{
    collections::HashMap,
    fs::File,
    io,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rustix::process::{Pid, Signal};
use vnic_guest_agent::{
    frame,
    message::{Reply, Request, To},
};

use crate::{command, files};

/// Replies that wait for the port; a full queue holds the commands back, as a full pipe would.
const REPLIES: usize = 16;

/// Where a request's replies go.
#[derive(Clone)]
pub struct Replies {
    id: u64,
    queue: SyncSender<To<Reply>>,
}

impl Replies {
    /// Queues a reply, waiting while the port is busy.
    pub fn send(&self, body: Reply) {
        // The writer lives as long as the agent, whose end needs no further reply.
        let _ = self.queue.send(To { id: self.id, body });
    }

    /// Ends the request by its result.
    pub fn finish(&self, result: io::Result<()>) {
        self.send(match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(error.to_string()),
        });
    }
}

/// The process groups that run now, by the number of the request that started them.
#[derive(Clone, Default)]
pub struct Groups(Arc<Mutex<HashMap<u64, Pid>>>);

impl Groups {
    /// Remembers the group that request `id` started.
    pub fn insert(&self, id: u64, group: Pid) {
        self.lock().insert(id, group);
    }

    /// Forgets a group before its leader is reaped, after which the number may be used again.
    pub fn forget(&self, id: u64) {
        self.lock().remove(&id);
    }

    fn signal(&self, id: u64, signal: i32) -> io::Result<()> {
        let signal = Signal::from_named_raw(signal)
            .ok_or_else(|| io::Error::other(format!("no signal has the number {signal}")))?;
        // Held across the call: `forget` cannot let the number be reused in between.
        let groups = self.lock();
        match groups.get(&id) {
            Some(&group) => match rustix::process::kill_process_group(group, signal) {
                Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
                Err(error) => Err(error.into()),
            },
            None => Ok(()),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until the channel breaks.
pub fn run(port: File) -> io::Result<()> {
    let (queue, replies) = sync_channel(REPLIES);
    let writer = port.try_clone()?;
    thread::spawn(move || write(writer, replies));
    let groups = Groups::default();
    let mut port = port;
    loop {
        match frame::read::<To<Request>>(&mut port) {
            Ok(Some(To { id, body })) => {
                let replies = Replies { id, queue: queue.clone() };
                let groups = groups.clone();
                match body {
                    // Files in order, so that the chunks of one arrive as they were sent.
                    Request::Write { path, mode, append, data } => {
                        replies.finish(files::write(&path, mode, append, &data));
                    }
                    Request::Signal { command, signal } => {
                        replies.finish(groups.signal(command, signal));
                    }
                    Request::Ping => replies.send(Reply::Done),
                    Request::Read { path } => {
                        thread::spawn(move || replies.finish(files::read(&path, &replies)));
                    }
                    Request::Start(start) => command::start(id, start, &groups, replies),
                }
            }
            // The port reads as ended while no host is connected.
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Err(error) => return Err(io::Error::other(error)),
        }
    }
}

fn write(mut port: File, replies: Receiver<To<Reply>>) {
    for reply in replies {
        if let Err(error) = frame::write(&mut port, &reply) {
            eprintln!("vnic-guest-agent: cannot reply to the host: {error}");
            std::process::exit(1);
        }
    }
}
