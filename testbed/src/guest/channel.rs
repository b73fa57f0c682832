// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The host's end of the channel: requests out, replies sorted by the request that they belong to.

use std::{
    collections::HashMap,
    net::Shutdown,
    os::unix::net::UnixStream,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use vnic_guest_agent::{
    frame,
    message::{Reply, Request, To},
};

use crate::{
    error::{Doing, Error, Result},
    vm::Console,
};

/// One channel, shared by everyone who speaks to the guest.
#[derive(Debug)]
pub(super) struct Channel {
    console: Arc<Console>,
    writer: Mutex<UnixStream>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    senders: HashMap<u64, Sender<Reply>>,
    /// Why nothing arrives any more.
    closed: Option<String>,
}

impl Channel {
    pub(super) fn start(stream: UnixStream, console: Arc<Console>) -> Result<Arc<Self>> {
        let reader = stream.try_clone().doing(|| "copy the agent's channel".into())?;
        let waiting = Mutex::default();
        let channel = Arc::new(Self { console, writer: Mutex::new(stream), waiting });
        // Weak: the last user of the channel ends it, and its reader with it.
        let weak = Arc::downgrade(&channel);
        thread::spawn(move || read(reader, &weak));
        Ok(channel)
    }

    pub(super) fn console(&self) -> &Console {
        &self.console
    }

    /// Sends a request. `doing` completes "guest x cannot ...".
    pub(super) fn request(self: &Arc<Self>, doing: &str, request: Request) -> Result<Replies> {
        let (sender, receiver) = channel();
        let id = {
            let mut waiting = lock(&self.waiting);
            if let Some(cause) = &waiting.closed {
                return Err(self.console.gone(doing, cause));
            }
            waiting.next += 1;
            let id = waiting.next;
            waiting.senders.insert(id, sender);
            id
        };
        let replies = Replies { id, doing: doing.into(), receiver, channel: self.clone() };
        let sent = frame::write(&mut *lock(&self.writer), &To { id, body: request });
        match sent {
            Ok(()) => Ok(replies),
            Err(frame::FrameError::Io(error)) => {
                Err(self.console.gone(doing, &format!("its channel broke: {error}")))
            }
            Err(error) => Err(replies.refused(error.to_string())),
        }
    }

    fn deliver(&self, reply: To<Reply>) {
        let mut waiting = lock(&self.waiting);
        let last = reply.body.is_last();
        if let Some(sender) = waiting.senders.get(&reply.id) {
            // Nobody listens to a request that was given up.
            let _ = sender.send(reply.body);
        }
        if last {
            waiting.senders.remove(&reply.id);
        }
    }

    /// Wakes everyone who waits: their senders are gone.
    fn close(&self, cause: String) {
        let mut waiting = lock(&self.waiting);
        waiting.closed = Some(cause);
        waiting.senders.clear();
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        let _ = lock(&self.writer).shutdown(Shutdown::Both);
    }
}

fn read(mut stream: UnixStream, channel: &Weak<Channel>) {
    let cause = loop {
        match frame::read::<To<Reply>>(&mut stream) {
            Ok(Some(reply)) => match channel.upgrade() {
                Some(channel) => channel.deliver(reply),
                None => return,
            },
            Ok(None) => break "its machine has ended".to_string(),
            Err(error) => break error.to_string(),
        }
    };
    if let Some(channel) = channel.upgrade() {
        channel.close(cause);
    }
}

/// The replies to one request.
#[derive(Debug)]
pub(super) struct Replies {
    id: u64,
    doing: String,
    receiver: Receiver<Reply>,
    channel: Arc<Channel>,
}

impl Replies {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The next reply.
    pub(super) fn next(&self, limit: Duration) -> Result<Reply> {
        self.next_or_none(limit)?.ok_or_else(|| {
            self.channel.console.gone(&self.doing, &format!("it has not answered for {limit:?}"))
        })
    }

    /// The next reply, or `None` when there is none within `limit`.
    pub(super) fn next_or_none(&self, limit: Duration) -> Result<Option<Reply>> {
        match self.receiver.recv_timeout(limit) {
            Ok(reply) => Ok(Some(reply)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => {
                let cause = lock(&self.channel.waiting).closed.clone();
                let cause = cause.unwrap_or_else(|| "the request has ended".into());
                Err(self.channel.console.gone(&self.doing, &cause))
            }
        }
    }

    pub(super) fn refused(&self, cause: String) -> Error {
        let guest = self.channel.console.guest.clone();
        Error::Refused { guest, doing: self.doing.clone(), cause }
    }
}

impl Drop for Replies {
    fn drop(&mut self) {
        lock(&self.channel.waiting).senders.remove(&self.id);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No holder leaves these half changed.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
