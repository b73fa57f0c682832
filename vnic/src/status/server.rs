// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Answers on the control socket.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use super::{Report, Request, Response};
use crate::backend::socket::{BoundSocket, SocketError};

/// Bytes of one request, at most.
const MAX_REQUEST: u64 = 4096;
/// Clients at one time, at most.
const MAX_CLIENTS: usize = 32;
/// How long a client may take to ask, or to take the answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Makes the report when somebody asks.
type Source = dyn Fn() -> Report + Send + Sync;

/// Serves the control socket in threads of its own, until dropped.
pub struct ControlServer {
    /// Here and not with the threads, so that it goes when this goes.
    _socket: BoundSocket,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    source: Box<Source>,
    stop: OwnedFd,
    stopping: AtomicBool,
    clients: AtomicUsize,
}

impl ControlServer {
    /// Listens on `path`, for this user alone, and answers with what `source` says.
    ///
    /// # Errors
    ///
    /// The socket cannot be had, or the system is out of descriptors or threads.
    pub fn start(
        path: &Path,
        source: impl Fn() -> Report + Send + Sync + 'static,
    ) -> Result<Self, SocketError> {
        let socket = BoundSocket::bind(path)?;
        let io_error = |cause| SocketError::Io { path: path.to_owned(), cause };
        fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io_error)?;
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| io_error(error.into()))?;
        let listener = socket.listener().try_clone().map_err(io_error)?;
        let shared = Arc::new(Shared {
            source: Box::new(source),
            stop,
            stopping: AtomicBool::new(false),
            clients: AtomicUsize::new(0),
        });
        let thread = thread::Builder::new()
            .name("control".to_owned())
            .spawn({
                let shared = shared.clone();
                move || shared.serve(&listener)
            })
            .map_err(io_error)?;
        Ok(Self { _socket: socket, shared, thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        // Relaxed: the event below orders it.
        self.shared.stopping.store(true, Ordering::Relaxed);
        if rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes()).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, listener: &UnixListener) {
        // Relaxed: see `drop`.
        while !self.stopping.load(Ordering::Relaxed) {
            let mut fds = [
                PollFd::from_borrowed_fd(listener.as_fd(), PollFlags::IN),
                PollFd::from_borrowed_fd(self.stop.as_fd(), PollFlags::IN),
            ];
            let _ = poll(&mut fds, None);
            if fds[0].revents().is_empty() {
                continue;
            }
            match listener.accept() {
                Ok((stream, _)) => self.admit(stream),
                Err(error) => {
                    tracing::warn!(%error, "cannot take a client of the control socket");
                    // Out of descriptors, most likely: let others finish.
                    thread::sleep(Duration::from_millis(100));
                }
            }
        }
    }

    fn admit(self: &Arc<Self>, stream: UnixStream) {
        // Relaxed: a limit that may be off by those who come and go right now.
        if self.clients.fetch_add(1, Ordering::Relaxed) >= MAX_CLIENTS {
            self.clients.fetch_sub(1, Ordering::Relaxed);
            return;
        }
        let shared = self.clone();
        let spawned = thread::Builder::new().name("control-client".to_owned()).spawn(move || {
            if let Err(error) = shared.answer(&stream) {
                tracing::debug!(%error, "client of the control socket");
            }
            let _ = stream.shutdown(Shutdown::Both);
            shared.clients.fetch_sub(1, Ordering::Relaxed);
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "cannot serve a client of the control socket");
            self.clients.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn answer(&self, stream: &UnixStream) -> io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut reader = BufReader::new(stream);
        loop {
            let mut line = Vec::new();
            reader.by_ref().take(MAX_REQUEST).read_until(b'\n', &mut line)?;
            if line.is_empty() {
                return Ok(());
            }
            let complete = line.ends_with(b"\n");
            let mut answer = serde_json::to_vec(&self.respond(&line))?;
            answer.push(b'\n');
            (&*stream).write_all(&answer)?;
            // The rest of a line that is too long would be taken for a line.
            if !complete {
                return Ok(());
            }
        }
    }

    fn respond(&self, line: &[u8]) -> Response {
        match serde_json::from_slice(line) {
            Ok(Request::Status {}) => Response::Status((self.source)()),
            Err(error) => {
                Response::Error(format!(r#"not a request ({error}); try {{"request":"status"}}"#))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::query;

    fn report() -> Report {
        Report { version: "0".to_owned(), pid: 1, workers: 3, ports: vec![], wire: None }
    }

    #[test]
    fn answers_status_and_refuses_the_rest_on_one_connection() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let server = ControlServer::start(&path, report).unwrap();
        assert_eq!(query(&path).unwrap(), report());

        let mut stream = UnixStream::connect(&path).unwrap();
        stream
            .write_all(b"{\"request\":\"reboot\"}\n\xff\xfe\n{\"request\":\"status\"}\n")
            .unwrap();
        let lines: Vec<String> =
            BufReader::new(&stream).lines().take(3).map(Result::unwrap).collect();
        assert!(lines[0].starts_with("{\"error\":"), "{}", lines[0]);
        assert!(lines[1].starts_with("{\"error\":"), "{}", lines[1]);
        assert!(lines[2].starts_with("{\"status\":"), "{}", lines[2]);

        drop(server);
        assert!(!path.exists());
    }

    #[test]
    fn a_line_without_end_is_answered_and_hung_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let _server = ControlServer::start(&path, report).unwrap();
        let mut stream = UnixStream::connect(&path).unwrap();
        stream.write_all(&[b'x'; MAX_REQUEST as usize]).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.lines().count(), 1);
        assert!(answer.starts_with("{\"error\":"));
    }

    #[test]
    fn others_may_not_ask() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("control");
        let _server = ControlServer::start(&path, report).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
