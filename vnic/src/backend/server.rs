// SPDX-License-Identifier: Apache-2.0 OR MIT
//! One listening socket per port, one connection at a time, for ever.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use vhost::vhost_user::{Error as VhostUserError, Listener};
use vhost_user_backend::{Error as DaemonError, ShutdownHandle, VhostUserDaemon};
use vm_memory::{GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;

use super::connection::{Connection, EXIT_EVENT};
use super::socket::{BoundSocket, SocketError};
use crate::device::Device;
use crate::port::{Port, PortConfig};

/// How long the server waits before it tries again to take a connection that it could not take, for
/// want of descriptors or memory.
const RETRY: Duration = Duration::from_millis(200);

/// A port and the socket by which a VM attaches to it.
#[derive(Debug, Clone)]
pub struct PortSpec {
    /// Path of the vhost-user socket.
    pub socket: PathBuf,
    /// The port.
    pub config: PortConfig,
}

/// Why a port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The socket.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// Descriptors or threads have run out.
    #[error("cannot serve port {port}: {cause}")]
    Resources {
        /// Name of the port.
        port: String,
        /// Why.
        cause: io::Error,
    },
}

/// Serves one port.
///
/// A second front end that connects while one is served waits in the socket's backlog, and is served
/// when the first one has gone.
pub struct PortServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    device: Arc<Device>,
    config: PortConfig,
    socket: BoundSocket,
    stop: OwnedFd,
    stopping: AtomicBool,
    connections: AtomicU64,
    current: Mutex<Option<Current>>,
}

struct Current {
    connection: Arc<Connection>,
    hang_up: Option<ShutdownHandle>,
}

impl PortServer {
    /// Listens on the socket of `spec` and serves it in a thread of its own.
    ///
    /// # Errors
    ///
    /// The socket cannot be had, or the system is out of descriptors or threads.
    pub fn start(device: Arc<Device>, spec: PortSpec) -> Result<Self, ServerError> {
        let socket = BoundSocket::bind(&spec.socket)?;
        let name = spec.config.name.clone();
        let resources = |cause| ServerError::Resources { port: name.clone(), cause };
        let stop = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| resources(error.into()))?;
        device.reach().serve(&spec.config.network);
        let shared = Arc::new(Shared {
            device,
            config: spec.config,
            socket,
            stop,
            stopping: AtomicBool::new(false),
            connections: AtomicU64::new(0),
            current: Mutex::new(None),
        });
        let thread = thread::Builder::new()
            .name(format!("port-{name}"))
            .spawn({
                let shared = shared.clone();
                move || shared.serve()
            })
            .map_err(resources)?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The device that it is a port of.
    pub fn device(&self) -> &Arc<Device> {
        &self.shared.device
    }

    /// The port's configuration.
    pub fn config(&self) -> &PortConfig {
        &self.shared.config
    }

    /// Path of the socket.
    pub fn socket(&self) -> &Path {
        self.shared.socket.path()
    }

    /// Whether a front end is connected.
    pub fn connected(&self) -> bool {
        self.shared.current.lock().is_some()
    }

    /// Front ends so far.
    pub fn connections(&self) -> u64 {
        // Relaxed: a statistic.
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// The port of the connected front end, once it has shared its memory.
    pub fn port(&self) -> Option<Arc<Port>> {
        self.shared.current.lock().as_ref().and_then(|current| current.connection.port())
    }

    /// Hangs up, detaches the port, stops listening and removes the socket.
    pub fn stop(mut self) {
        self.finish();
    }

    fn finish(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        // Release pairs with Acquire in `serve_one`: either it sees this, or the handle that it put
        // into `current` is seen here.
        self.shared.stopping.store(true, Ordering::Release);
        if let Some(Current { hang_up: Some(handle), .. }) = &*self.shared.current.lock() {
            handle.shutdown();
        }
        if let Err(error) = rustix::io::write(&self.shared.stop, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot wake the server of a port");
        }
        if thread.join().is_err() {
            tracing::error!(port = self.shared.config.name, "the server of this port panicked");
        }
    }
}

impl Drop for PortServer {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Shared {
    fn serve(&self) {
        let name = &self.config.name;
        tracing::info!(port = name, socket = %self.socket.path().display(), "listening");
        // Relaxed: the wake-up by `stop` orders it.
        while !self.stopping.load(Ordering::Relaxed) {
            if !self.wait(None) {
                continue;
            }
            if let Err(error) = self.serve_one() {
                tracing::error!(port = name, %error, "cannot serve a connection");
                self.wait_to_retry();
            }
        }
    }

    /// Waits for a front end, or to be stopped; tells whether a front end is there.
    fn wait(&self, timeout: Option<Duration>) -> bool {
        let listener = self.socket.listener().as_fd();
        ready(&[listener, self.stop.as_fd()], timeout) == Some(0)
    }

    fn wait_to_retry(&self) {
        ready(&[self.stop.as_fd()], Some(RETRY));
    }

    /// Serves one front end until it goes away.
    fn serve_one(&self) -> Result<(), Failure> {
        let name = &self.config.name;
        let connection = Arc::new(Connection::new(self.device.clone(), self.config.clone()));
        let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
        let mut daemon = VhostUserDaemon::new(name.clone(), connection.clone(), memory)?;
        // The threads of `daemon` run from here on, and are joined when it is dropped.
        let exit = ExitEvent::register(&daemon)?;
        let mut listener = Listener::from(self.socket.listener().try_clone()?);
        // A front end is waiting, and it is answered as soon as it is accepted: what others see of
        // this must be in place before. Relaxed: a statistic.
        self.connections.fetch_add(1, Ordering::Relaxed);
        *self.current.lock() = Some(Current { connection: connection.clone(), hang_up: None });
        let served = daemon.start(&mut listener);
        if served.is_ok() {
            let hang_up = daemon.shutdown_handle();
            if let Some(current) = &mut *self.current.lock() {
                current.hang_up.clone_from(&hang_up);
            }
            // Acquire pairs with Release in `finish`.
            if self.stopping.load(Ordering::Acquire)
                && let Some(handle) = hang_up
            {
                handle.shutdown();
            }
            tracing::info!(port = name, "front end connected");
            self.log_end(daemon.wait());
        }
        connection.close();
        *self.current.lock() = None;
        exit.notify();
        drop(daemon);
        drop(exit);
        Ok(served?)
    }

    fn log_end(&self, end: Result<(), DaemonError>) {
        let name = &self.config.name;
        match end {
            Ok(())
            | Err(DaemonError::HandleRequest(
                VhostUserError::Disconnected | VhostUserError::PartialMessage,
            )) => tracing::info!(port = name, "front end gone"),
            Err(error) => tracing::warn!(port = name, %error, "front end broke the protocol"),
        }
    }
}

/// Waits until one of `fds` is readable and tells which is the first; `None` after `timeout`.
fn ready(fds: &[BorrowedFd<'_>], timeout: Option<Duration>) -> Option<usize> {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    let mut polled: Vec<PollFd<'_>> =
        fds.iter().map(|fd| PollFd::from_borrowed_fd(*fd, PollFlags::IN)).collect();
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) => polled.iter().position(|fd| !fd.revents().is_empty()),
        Err(_) => None,
    }
}

/// What ends the queue threads of a connection.
///
/// The crate takes an event for that from its back end, but never closes it; a descriptor per
/// connection would be lost.
struct ExitEvent {
    event: OwnedFd,
}

impl ExitEvent {
    fn register(daemon: &VhostUserDaemon<Arc<Connection>>) -> Result<Self, Failure> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|error| Failure::Io(error.into()))?;
        for handler in daemon.get_epoll_handlers() {
            handler.register_listener(event.as_raw_fd(), EventSet::IN, EXIT_EVENT)?;
        }
        Ok(Self { event })
    }

    /// Ends all of them: nobody reads the event, so each of them sees it.
    fn notify(&self) {
        if let Err(error) = rustix::io::write(&self.event, &1u64.to_ne_bytes()) {
            tracing::error!(%error, "cannot end the threads of a connection");
        }
    }
}

/// Why a connection could not be served at all.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Daemon(DaemonError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Self {
        Self::Daemon(error)
    }
}
