// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A meeting of two daemons: from the first word to the loss of the link.

use super::acquaint::{PeerConfig, Shared};
use crate::wire::carrier::Carrier;
use crate::wire::hello::{LANES, PORTS, Port, Token, Word};
use crate::wire::lane::Lane;
use crate::wire::link::{Link, RemotePort};
use crate::wire::secure::{Preamble, Purpose, Receiver, Secure, Sender, VERSION, dial};
use crate::wire::tcp::TcpLane;
#[cfg(feature = "verbs")]
use crate::wire::verbs::{
    device::Device,
    endpoint::{Endpoint, Settings},
    lane::Pending,
};
use std::collections::HashSet;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

/// How often an end says something, at least.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long it may say nothing before it counts as gone.
const SILENCE: Duration = Duration::from_secs(4);
/// How long lanes may take to be there.
const OPENING: Duration = Duration::from_secs(5);
/// Ports of a peer that are kept, at most.
const MOST_PORTS: usize = 1 << 16;
/// Bytes of a network's name, at most.
const MOST_NAME: usize = 256;

/// Which end has called, and where.
#[derive(Debug, Clone, Copy)]
pub(super) enum End<'a> {
    /// This one, at that address.
    Called(&'a str),
    /// The other one.
    WasCalled,
}

/// A lane that a peer has opened for a meeting.
pub(super) type Opened = (u16, Secure);

/// Meets a peer, and stays in touch until it is lost.
///
/// # Errors
///
/// Why there was no link; a link that is lost afterwards is no error.
pub(super) fn meet(
    shared: &Arc<Shared>,
    peer: &PeerConfig,
    secure: &Secure,
    end: End<'_>,
) -> io::Result<()> {
    secure.stream.set_read_timeout(Some(SILENCE))?;
    let (mut send, mut receive) = secure.split();
    let workers = shared.device.config().workers as u16;
    let token = shared.expect(end);
    let (own, opened) = token;
    let _unexpect = Unexpect { shared, token: own };
    let kind = shared.carrier.kind();
    send.send(&Word::Hello { workers, carrier: kind.into(), token: own }.bytes())?;
    let Word::Hello { workers: theirs, carrier, token: named } = hear(&mut receive)? else {
        return Err(confused("it did not say hello"));
    };
    if !(1..=LANES).contains(&theirs) {
        return Err(confused(&format!("it has {theirs} workers")));
    }
    if carrier != kind {
        return Err(confused(&format!(
            "its lanes are carried by {carrier}, ours by {kind}: choose the same --wire at both ends"
        )));
    }
    let lanes = workers.max(theirs);
    let lanes = match (&shared.carrier, end) {
        (Carrier::Tcp, End::Called(address)) => open_lanes(shared, peer, address, named, lanes)?,
        (Carrier::Tcp, End::WasCalled) => take_lanes(&opened, lanes)?,
        #[cfg(feature = "verbs")]
        (Carrier::Verbs { name, gid_index, settings }, _) => {
            let device = Device::open(name, *gid_index).map_err(io::Error::other)?;
            connect_lanes(&device, *settings, lanes, &mut send, &mut receive)?
        }
    };

    let link = Link::new(&peer.name, peer.networks.clone());
    // Whoever loses it first ends the conversation.
    let stream = secure.stream.try_clone()?;
    link.on_lost(move || {
        let _ = stream.shutdown(Shutdown::Both);
    });
    for (index, lane) in lanes.into_iter().enumerate() {
        shared.device.adopt_lane(&link, index, lane);
    }
    let why = stay(shared, peer, &link, &mut send, &mut receive);
    link.lose(&why);
    shared.device.links().remove(&link);
    shared.device.link_lost();
    tracing::warn!(peer = %peer.name, why, "peer lost");
    Ok(())
}

/// Tells of changes on one side and hears of them on the other. Why it ended.
fn stay(
    shared: &Arc<Shared>,
    peer: &PeerConfig,
    link: &Arc<Link>,
    send: &mut Sender<'_>,
    receive: &mut Receiver<'_>,
) -> String {
    thread::scope(|scope| {
        let teller = scope.spawn(|| {
            let told = tell(shared, link, send);
            link.lose(&told.map_or_else(|error| error.to_string(), |()| "this daemon ends".into()));
        });
        let heard = listen(shared, peer, link, receive);
        link.lose(&heard.map_or_else(|error| reason(&error), |()| "this daemon ends".into()));
        shared.device.gids().wake_listeners();
        // A panic of it has been told.
        let _ = teller.join();
        link.why().unwrap_or_default().to_owned()
    })
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => "it closed the connection".into(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            format!("nothing was heard for {} s", SILENCE.as_secs())
        }
        _ => error.to_string(),
    }
}

/// Tells the peer which ports there are, and again when that changes.
fn tell(shared: &Shared, link: &Link, send: &mut Sender<'_>) -> io::Result<()> {
    send.send(&Word::Ready.bytes())?;
    let gids = shared.device.gids();
    let mut known: Option<HashSet<Port>> = None;
    let mut version = gids.version();
    while !link.is_lost() && !shared.is_ending() {
        let ports: HashSet<Port> =
            gids.all().into_iter().filter(|port| link.allows(&port.network)).collect();
        if known.as_ref() == Some(&ports) {
            send.send(&Word::StillThere.bytes())?;
        } else {
            let list: Vec<Port> = ports.iter().cloned().collect();
            let mut parts = list.chunks(PORTS).peekable();
            if parts.peek().is_none() {
                send.send(&Word::Ports { more: false, ports: Vec::new() }.bytes())?;
            }
            while let Some(part) = parts.next() {
                let more = parts.peek().is_some();
                send.send(&Word::Ports { more, ports: part.to_vec() }.bytes())?;
            }
            known = Some(ports);
        }
        version = gids.wait_for_change(version, HEARTBEAT);
    }
    Ok(())
}

fn listen(
    shared: &Shared,
    peer: &PeerConfig,
    link: &Arc<Link>,
    receive: &mut Receiver<'_>,
) -> io::Result<()> {
    let (mut ports, mut found) = (Vec::new(), false);
    while !link.is_lost() && !shared.is_ending() {
        match hear(receive)? {
            Word::Ready => {
                tracing::info!(peer = %peer.name, "peer found");
                shared.device.links().add(link);
                found = true;
            }
            Word::Ports { more, ports: part } => {
                if part.iter().any(|port| port.network.len() > MOST_NAME) {
                    return Err(confused("it has a network with a name without end"));
                }
                ports.extend(part.into_iter().map(|Port { network, gid, port }| RemotePort {
                    network: network.as_str().into(),
                    gid,
                    port,
                }));
                if ports.len() > MOST_PORTS {
                    return Err(confused(&format!("it has more than {MOST_PORTS} addresses")));
                }
                if !more {
                    link.set_ports(ports.drain(..));
                    // Once, so that no peer can keep workers busy by telling about itself.
                    if std::mem::take(&mut found) {
                        shared.device.look_for_peers_again();
                    }
                }
            }
            Word::StillThere => {}
            Word::Hello { .. } | Word::Lanes(_) => return Err(confused("it said hello twice")),
        }
    }
    Ok(())
}

fn hear(receive: &mut Receiver<'_>) -> io::Result<Word> {
    Word::read(&receive.receive()?).ok_or_else(|| confused("it said something that is no word"))
}

fn confused(why: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, why)
}

/// Lanes over the host's device: each end tells the other about its own.
#[cfg(feature = "verbs")]
fn connect_lanes(
    device: &Arc<Device>,
    settings: Settings,
    count: u16,
    send: &mut Sender<'_>,
    receive: &mut Receiver<'_>,
) -> io::Result<Vec<Box<dyn Lane>>> {
    let pending: Result<Vec<_>, _> = (0..count).map(|_| device.lane(settings)).collect();
    let pending = pending.map_err(io::Error::other)?;
    let ends = pending.iter().map(|lane| lane.endpoint(device).bytes()).collect();
    send.send(&Word::Lanes(ends).bytes())?;
    let Word::Lanes(theirs) = hear(receive)? else {
        return Err(confused("it did not tell about its lanes"));
    };
    if theirs.len() != pending.len() {
        return Err(confused(&format!("it has {} lanes in place of {count}", theirs.len())));
    }
    let connect = |(lane, end): (Pending, Vec<u8>)| {
        let end = Endpoint::read(&end).map_err(io::Error::other)?;
        let lane: Box<dyn Lane> = Box::new(lane.connect(&end).map_err(io::Error::other)?);
        Ok(lane)
    };
    pending.into_iter().zip(theirs).map(connect).collect()
}

/// At the end that has called: opens lanes over TCP, and says on each which one it is.
fn open_lanes(
    shared: &Shared,
    peer: &PeerConfig,
    address: &str,
    token: Token,
    count: u16,
) -> io::Result<Vec<Box<dyn Lane>>> {
    let open = |index: u16| {
        let stream = TcpStream::connect(address)?;
        let preamble = Preamble {
            version: VERSION,
            purpose: Purpose::Lane,
            from: shared.name.clone(),
            to: peer.name.clone(),
        };
        let secure = dial(stream, &preamble, &peer.key).map_err(io::Error::other)?;
        let mut word = token.to_vec();
        word.extend(index.to_le_bytes());
        secure.split().0.send(&word)?;
        let lane: Box<dyn Lane> = Box::new(TcpLane::new(secure, 1, 0)?);
        Ok(lane)
    };
    (0..count).map(open).collect()
}

/// Which meeting a lane is for, and which lane it is.
pub(super) fn lane_of(secure: &Secure) -> io::Result<(Token, u16)> {
    let word = secure.split().1.receive()?;
    let parts = word.split_first_chunk::<16>();
    let parsed =
        parts.and_then(|(token, rest)| Some((*token, u16::from_le_bytes(rest.try_into().ok()?))));
    parsed.ok_or_else(|| confused("a lane did not say whose it is"))
}

/// At the end that was called: waits until all lanes are there.
fn take_lanes(opened: &mpsc::Receiver<Opened>, count: u16) -> io::Result<Vec<Box<dyn Lane>>> {
    let mut lanes: Vec<Option<Box<dyn Lane>>> = (0..count).map(|_| None).collect();
    while lanes.iter().any(Option::is_none) {
        let (index, secure) = opened.recv_timeout(OPENING).map_err(|error| match error {
            RecvTimeoutError::Timeout => confused("it did not open its lanes"),
            RecvTimeoutError::Disconnected => confused("this daemon ends"),
        })?;
        let place = lanes.get_mut(usize::from(index));
        let place = place.filter(|place| place.is_none());
        *place.ok_or_else(|| confused("it opened a lane that was not asked for"))? =
            Some(Box::new(TcpLane::new(secure, 0, 1)?));
    }
    Ok(lanes.into_iter().flatten().collect())
}

/// Lanes for a meeting that is over are nobody's.
struct Unexpect<'a> {
    shared: &'a Shared,
    token: Token,
}

impl Drop for Unexpect<'_> {
    fn drop(&mut self) {
        self.shared.unexpect(self.token);
    }
}
