// SPDX-License-Identifier: Apache-2.0 OR MIT
//! How daemons come to know each other: one of two calls, the other listens, again and again for as long as they run.
//!
//! Which one calls is decided by their names, so that there is one connection and not two.

use super::meeting::{End, Opened, lane_of, meet};
use crate::device::Device;
use crate::status::{PeerReport, WireReport};
use crate::wire::carrier::{Carrier, CarrierConfig, CarrierError};
use crate::wire::hello::Token;
use crate::wire::reach::Way;
use crate::wire::secure::{Key, Preamble, Purpose, Secure, SecureError, VERSION, answer, dial};
#[cfg(feature = "verbs")]
use crate::wire::verbs::watch::Watch;
use parking_lot::{Condvar, Mutex};
use rustix::event::{PollFd, PollFlags, poll};
use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;
use thiserror::Error;

/// Time between two calls of a peer that does not answer, at most.
const AGAIN: Duration = Duration::from_millis(500);
/// The same after it was lost: queue pairs that give up soon are still there.
const SOON: Duration = Duration::from_millis(10);
/// How often the device of the carrier is looked at. It costs a system call or two.
#[cfg(feature = "verbs")]
const LOOK: Duration = Duration::from_millis(250);
/// How long a call may ring.
const RINGING: Duration = Duration::from_secs(3);
/// Callers that are talked to at one time before they have shown that they have a key.
const STRANGERS: usize = 32;

/// Another daemon.
#[derive(Debug, Clone)]
pub struct PeerConfig {
    /// Its name, as its own configuration has it.
    pub name: String,
    /// Where it listens, `HOST:PORT`; not needed if it is the one that calls.
    pub address: Option<String>,
    /// The key of the pair.
    pub key: Key,
    /// Networks whose ports may reach each other; `None` for all.
    pub networks: Option<Vec<Arc<str>>>,
}

/// Who this daemon is to others.
#[derive(Debug, Clone)]
pub struct WireConfig {
    /// Its name.
    pub name: String,
    /// Where it listens; `None` if all its peers have names behind its own.
    pub listen: Option<SocketAddr>,
    /// Its peers.
    pub peers: Vec<PeerConfig>,
    /// What carries messages to them.
    pub carrier: CarrierConfig,
}

/// Why there is no wire.
#[derive(Debug, Error)]
pub enum WireError {
    /// Two of the same.
    #[error("two peers are called {0:?}: give each the name that its own daemon has")]
    Twice(String),
    /// Itself.
    #[error("a peer has this daemon's own name, {0:?}: set wire.name to another one")]
    Itself(String),
    /// Nowhere to call.
    #[error(
        "peer {0:?} has no address, and by its name it is this daemon that calls: add address = \"HOST:PORT\""
    )]
    NoAddress(String),
    /// Nowhere to be called.
    #[error("peer {0:?} calls this daemon, by its name: add listen = \"ADDRESS:PORT\" to [wire]")]
    NotListening(String),
    /// The address is taken or not one of this host.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// No device.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// No thread or file.
    #[error("cannot start the wire: {0}")]
    Os(#[from] io::Error),
}

/// What the threads of a wire share.
#[derive(Debug)]
pub(super) struct Shared {
    pub device: Arc<Device>,
    pub name: String,
    pub carrier: Carrier,
    peers: Vec<PeerConfig>,
    ending: AtomicBool,
    strangers: AtomicUsize,
    /// Meetings for which lanes are to come.
    expected: Mutex<HashMap<Token, mpsc::Sender<Opened>>>,
    /// Connections, so that the end can cut them.
    streams: Mutex<Vec<TcpStream>>,
    sleep: (Mutex<()>, Condvar),
    callers: Mutex<Vec<JoinHandle<()>>>,
}

impl Shared {
    pub fn is_ending(&self) -> bool {
        // Acquire: pairs with the Release in `Wire::drop`.
        self.ending.load(Ordering::Acquire)
    }

    /// A name for a meeting, and where its lanes come out.
    pub fn expect(&self, end: End<'_>) -> (Token, mpsc::Receiver<Opened>) {
        let (give, take) = mpsc::channel();
        let mut token = Token::default();
        // Only the end that was called is named by it. One that could be guessed is no key: the caller has that.
        if matches!(end, End::WasCalled) && getrandom::fill(&mut token).is_ok() {
            self.expected.lock().insert(token, give);
        }
        (token, take)
    }

    pub fn unexpect(&self, token: Token) {
        self.expected.lock().remove(&token);
    }

    fn sleep(&self, time: Duration) {
        let (lock, wake) = &self.sleep;
        let mut guard = lock.lock();
        if !self.is_ending() {
            wake.wait_for(&mut guard, time);
        }
    }

    fn peer(&self, name: &str) -> Option<&PeerConfig> {
        self.peers.iter().find(|peer| peer.name == name)
    }

    /// Has the end cut `stream`. `false` if it is there.
    fn cut_at_end(&self, stream: &TcpStream) -> bool {
        let mut streams = self.streams.lock();
        streams.retain(|held| held.peer_addr().is_ok());
        if let Ok(stream) = stream.try_clone() {
            streams.push(stream);
        }
        !self.is_ending()
    }
}

/// This daemon's part in the wire. Ends with it.
#[derive(Debug)]
pub struct Wire {
    shared: Arc<Shared>,
    end: Option<OwnedFd>,
    address: Option<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Listens, and calls.
    ///
    /// # Errors
    ///
    /// [`WireError`]; that a peer is not there is none.
    pub fn start(device: &Arc<Device>, config: WireConfig) -> Result<Self, WireError> {
        check(&config)?;
        let WireConfig { name, listen, peers, carrier } = config;
        let carrier = Carrier::open(&carrier)?;
        let listener = match listen {
            Some(address) => {
                let listening = TcpListener::bind(address);
                Some(listening.map_err(|error| WireError::Listen(address, error))?)
            }
            None => None,
        };
        let address = listener.as_ref().map(TcpListener::local_addr).transpose()?;
        let shared = Arc::new(Shared {
            device: device.clone(),
            name,
            carrier,
            peers,
            ending: AtomicBool::new(false),
            strangers: AtomicUsize::new(0),
            expected: Mutex::default(),
            streams: Mutex::default(),
            sleep: (Mutex::new(()), Condvar::new()),
            callers: Mutex::default(),
        });
        for peer in &shared.peers {
            device.reach().wire_to(peer.networks.clone());
        }
        let mut wire = Self { shared: shared.clone(), end: None, address, threads: Vec::new() };
        if let Some(listener) = listener {
            let (ended, end) = rustix::pipe::pipe().map_err(io::Error::from)?;
            wire.end = Some(end);
            let shared = shared.clone();
            wire.spawn("wire-listen", move || accept(&shared, &listener, &ended))?;
        }
        #[cfg(feature = "verbs")]
        if let Some(watch) = shared.carrier.watch() {
            let shared = shared.clone();
            wire.spawn("wire-device", move || look_after(&shared, watch))?;
        }
        for index in 0..shared.peers.len() {
            if shared.name > shared.peers[index].name {
                continue;
            }
            let shared = shared.clone();
            wire.spawn("wire-call", move || call(&shared, &shared.peers[index]))?;
        }
        Ok(wire)
    }

    fn spawn(&mut self, name: &str, what: impl FnOnce() + Send + 'static) -> io::Result<()> {
        self.threads.push(thread::Builder::new().name(name.into()).spawn(what)?);
        Ok(())
    }

    /// The state of it.
    pub fn report(&self) -> WireReport {
        let links = self.shared.device.links().all();
        let peer = |peer: &PeerConfig| {
            let link = links.iter().find(|link| *link.peer == *peer.name && !link.is_lost());
            PeerReport {
                name: peer.name.clone(),
                connected: link.is_some(),
                addresses: link.map_or(0, |link| link.addresses()),
            }
        };
        WireReport {
            name: self.shared.name.clone(),
            carrier: self.shared.carrier.name().into(),
            up: self.shared.device.reach().is_up(Way::Wire),
            listen: self.address,
            peers: self.shared.peers.iter().map(peer).collect(),
        }
    }

    /// Where it listens.
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // Release: pairs with the Acquire in `is_ending`.
        self.shared.ending.store(true, Ordering::Release);
        self.end = None;
        {
            // With the lock, so that nobody goes to sleep meanwhile.
            let _guard = self.shared.sleep.0.lock();
            self.shared.sleep.1.notify_all();
        }
        for stream in self.shared.streams.lock().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
        self.shared.expected.lock().clear();
        self.shared.device.gids().wake_listeners();
        for thread in self.threads.drain(..) {
            // A panic of it has been told.
            let _ = thread.join();
        }
        // A statement of its own: a thread that ends may look at the list.
        let callers = std::mem::take(&mut *self.shared.callers.lock());
        for thread in callers {
            let _ = thread.join();
        }
    }
}

fn check(config: &WireConfig) -> Result<(), WireError> {
    for (index, peer) in config.peers.iter().enumerate() {
        let name = || peer.name.clone();
        if peer.name == config.name {
            return Err(WireError::Itself(name()));
        }
        if config.peers[..index].iter().any(|other| other.name == peer.name) {
            return Err(WireError::Twice(name()));
        }
        if config.name < peer.name && peer.address.is_none() {
            return Err(WireError::NoAddress(name()));
        }
        if config.name > peer.name && config.listen.is_none() {
            return Err(WireError::NotListening(name()));
        }
    }
    Ok(())
}

/// Looks at the device of the carrier, and tells the ports when it goes and when it is back.
#[cfg(feature = "verbs")]
fn look_after(shared: &Shared, mut watch: Watch) {
    while !shared.is_ending() {
        let up = watch.look();
        if shared.device.reach().set(&shared.device, Way::Wire, up) {
            let device = shared.carrier.name();
            if up {
                tracing::info!(device, "the wire's device can be used again");
            } else {
                tracing::warn!(device, "the wire's device cannot be used: its ports are told");
            }
        }
        shared.sleep(LOOK);
    }
}

/// Calls a peer, again and again.
fn call(shared: &Arc<Shared>, peer: &PeerConfig) {
    let (mut told, mut pause) = (None, SOON);
    while !shared.is_ending() {
        match call_once(shared, peer) {
            Ok(()) => (told, pause) = (None, SOON),
            Err(why) => {
                // Once is enough for each reason.
                if told.as_ref() != Some(&why) && !shared.is_ending() {
                    tracing::warn!(peer = %peer.name, why, "cannot reach the peer; trying on");
                    told = Some(why);
                }
            }
        }
        shared.sleep(pause);
        pause = (2 * pause).min(AGAIN);
    }
}

fn call_once(shared: &Arc<Shared>, peer: &PeerConfig) -> Result<(), String> {
    let address = peer.address.as_deref().unwrap_or_default();
    let stream = connect(address).map_err(|error| format!("{address}: {error}"))?;
    if !shared.cut_at_end(&stream) {
        return Ok(());
    }
    let _hang_up = HangUp::of(&stream);
    let preamble = Preamble {
        version: VERSION,
        purpose: Purpose::Control,
        from: shared.name.clone(),
        to: peer.name.clone(),
    };
    let secure = dial(stream, &preamble, &peer.key).map_err(|error| match error {
        SecureError::Key => format!(
            "{address} hung up: the keys of both ends differ, or it has no [[peer]] called {:?}",
            shared.name
        ),
        other => format!("{address}: {other}"),
    })?;
    let met = meet(shared, peer, &secure, End::Called(address));
    met.map_err(|error| format!("{address}: {error}"))
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut failed = io::Error::other("no such host");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, RINGING) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Takes calls until the other end of `ended` is closed.
fn accept(shared: &Arc<Shared>, listener: &TcpListener, ended: &OwnedFd) {
    loop {
        let mut ready = [PollFd::new(listener, PollFlags::IN), PollFd::new(ended, PollFlags::IN)];
        // An interrupted wait is tried again by the loop.
        let _ = poll(&mut ready, None);
        if shared.is_ending() {
            return;
        }
        if ready[0].revents().is_empty() {
            continue;
        }
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "cannot take a call");
                shared.sleep(AGAIN);
                continue;
            }
        };
        // Relaxed: a bound, not an exact one.
        if shared.strangers.load(Ordering::Relaxed) >= STRANGERS || !shared.cut_at_end(&stream) {
            continue;
        }
        shared.strangers.fetch_add(1, Ordering::Relaxed);
        let caller = shared.clone();
        let thread = thread::Builder::new()
            .name("wire-caller".into())
            .spawn(move || hear_out(&caller, stream));
        match thread {
            Ok(thread) => {
                let mut callers = shared.callers.lock();
                callers.retain(|thread| !thread.is_finished());
                callers.push(thread);
            }
            Err(error) => {
                // Relaxed: as above.
                shared.strangers.fetch_sub(1, Ordering::Relaxed);
                tracing::warn!(%error, "cannot start a thread for a caller");
            }
        }
    }
}

fn hear_out(shared: &Arc<Shared>, stream: TcpStream) {
    let from = stream.peer_addr().map_or_else(|_| "?".into(), |address| address.to_string());
    let hang_up = HangUp::of(&stream);
    let answered =
        answer(stream, &shared.name, |name| shared.peer(name).map(|peer| peer.key.clone()));
    // Relaxed: a bound, not an exact one.
    shared.strangers.fetch_sub(1, Ordering::Relaxed);
    let (preamble, secure) = match answered {
        Ok(answered) => answered,
        Err(why) => {
            // A stranger may call as often as it likes; it does not fill the log.
            tracing::debug!(from, %why, "hung up on a caller");
            return;
        }
    };
    let Some(peer) = shared.peer(&preamble.from) else { return };
    let done = match preamble.purpose {
        Purpose::Control => meet(shared, peer, &secure, End::WasCalled),
        Purpose::Lane => hand_over(shared, secure, hang_up),
    };
    if let Err(why) = done {
        tracing::warn!(peer = %peer.name, %why, "no link to the peer");
    }
}

fn hand_over(shared: &Shared, secure: Secure, hang_up: HangUp) -> io::Result<()> {
    let (token, index) = lane_of(&secure)?;
    // A meeting that is over takes nothing.
    if let Some(meeting) = shared.expected.lock().get(&token)
        && meeting.send((index, secure)).is_ok()
    {
        hang_up.not();
    }
    Ok(())
}

/// Hangs up in the end, whoever else may hold the connection.
struct HangUp(Option<TcpStream>);

impl HangUp {
    fn of(stream: &TcpStream) -> Self {
        Self(stream.try_clone().ok())
    }

    /// The connection goes on.
    fn not(mut self) {
        self.0 = None;
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(stream) = &self.0 {
            // It may be over already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}
