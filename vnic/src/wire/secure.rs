// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Connections between daemons that know each other's key.
//!
//! The Noise protocol (revision 34) in the pattern NNpsk0: whoever has not the pre-shared key of the pair cannot
//! finish the handshake, and learns nothing from trying; what is said afterwards is encrypted and authenticated.

use rustix::io::Errno;
use snow::StatelessTransportState;
use std::fmt;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use thiserror::Error;

/// Version of everything that daemons say to each other.
pub const VERSION: u16 = 1;

/// What every connection begins with.
const MAGIC: [u8; 8] = *b"vNICwire";
const PATTERN: &str = "Noise_NNpsk0_25519_ChaChaPoly_BLAKE2s";
/// Bytes of a name, at most.
pub const MAX_NAME: usize = 64;
/// Bytes that the protocol adds to a message.
pub const TAG: usize = 16;
/// Bytes of a message as it travels, at most.
const MOST: usize = 65535;
/// How long the other end may take for the whole handshake.
const PATIENCE: Duration =
    if cfg!(test) { Duration::from_millis(300) } else { Duration::from_secs(5) };

/// A key that two daemons share.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(..)")
    }
}

impl Key {
    /// From 64 hexadecimal digits, with white space around them. `None` if that is not what it is.
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.trim().as_bytes();
        let mut key = [0; 32];
        if digits.len() != 2 * key.len() || !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        for (byte, pair) in key.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(key))
    }
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// How two daemons get to know each other, and stay in touch.
    Control,
    /// A lane over TCP.
    Lane,
}

/// Why there is no connection.
#[derive(Debug, Error)]
pub enum SecureError {
    /// The operating system's reason.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// Something else listens there, or calls.
    #[error("the other end is no vnic daemon")]
    Stranger,
    /// Another version.
    #[error(
        "the other end speaks version {0} of the wire, this daemon version {VERSION}: run the same release on both"
    )]
    Version(u16),
    /// It means somebody else.
    #[error("it asked for a daemon called {0:?}: check the names of both daemons")]
    NotMe(String),
    /// Nobody of this name is configured.
    #[error("no [[peer]] is called {0:?}")]
    Unknown(String),
    /// The keys differ.
    #[error("the keys of both ends differ: give both the same key for this pair")]
    Key,
}

/// A connection whose other end has the key.
pub struct Secure {
    /// The stream.
    pub stream: TcpStream,
    /// The ciphers of both directions.
    pub cipher: StatelessTransportState,
}

impl fmt::Debug for Secure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secure").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// What the dialling end says first, and everybody may hear.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preamble {
    /// Version.
    pub version: u16,
    /// What for.
    pub purpose: Purpose,
    /// Who calls.
    pub from: String,
    /// Who is called.
    pub to: String,
}

impl Preamble {
    pub(crate) fn write(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend(self.version.to_le_bytes());
        bytes.push(match self.purpose {
            Purpose::Control => 0,
            Purpose::Lane => 1,
        });
        for name in [&self.from, &self.to] {
            bytes.push(name.len() as u8);
            bytes.extend(name.as_bytes());
        }
        bytes
    }

    pub(crate) fn read(stream: &mut impl Read) -> Result<Self, SecureError> {
        let head = array::<11>(stream)?;
        if head[..8] != MAGIC {
            return Err(SecureError::Stranger);
        }
        let version = u16::from_le_bytes([head[8], head[9]]);
        if version != VERSION {
            return Err(SecureError::Version(version));
        }
        let purpose = match head[10] {
            0 => Purpose::Control,
            1 => Purpose::Lane,
            _ => return Err(SecureError::Stranger),
        };
        let mut name = || {
            let len = usize::from(array::<1>(stream)?[0]);
            if len > MAX_NAME {
                return Err(SecureError::Stranger);
            }
            let mut bytes = vec![0; len];
            stream.read_exact(&mut bytes)?;
            String::from_utf8(bytes).map_err(|_| SecureError::Stranger)
        };
        Ok(Self { version, purpose, from: name()?, to: name()? })
    }
}

fn array<const N: usize>(stream: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// What the listening end answers: its version.
fn reply() -> Vec<u8> {
    [&MAGIC[..], &VERSION.to_le_bytes()].concat()
}

/// A stream whose other end has to have said everything by a time, however slowly it speaks.
struct InTime<'a> {
    stream: &'a TcpStream,
    until: Instant,
}

impl<'a> InTime<'a> {
    fn of(stream: &'a TcpStream) -> Self {
        Self { stream, until: Instant::now() + PATIENCE }
    }
}

impl Read for InTime<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        self.stream.read(into)
    }
}

/// Dials: the handshake of the end that has opened `stream`.
///
/// # Errors
///
/// [`SecureError`].
pub fn dial(mut stream: TcpStream, preamble: &Preamble, key: &Key) -> Result<Secure, SecureError> {
    prepare(&stream)?;
    let said = preamble.write();
    stream.write_all(&said)?;
    let head = array::<10>(&mut InTime::of(&stream)).map_err(refused)?;
    if head[..8] != MAGIC {
        return Err(SecureError::Stranger);
    }
    let version = u16::from_le_bytes([head[8], head[9]]);
    if version != VERSION {
        return Err(SecureError::Version(version));
    }
    let mut noise = builder(&said, key)?.build_initiator().map_err(|_| SecureError::Key)?;
    let mut room = [0; 256];
    let len = noise.write_message(&[], &mut room).map_err(|_| SecureError::Key)?;
    put(&mut stream, &room[..len])?;
    let answer = take(&mut InTime::of(&stream)).map_err(refused)?;
    prepare(&stream)?;
    noise.read_message(&answer, &mut room).map_err(|_| SecureError::Key)?;
    let cipher = noise.into_stateless_transport_mode().map_err(|_| SecureError::Key)?;
    Ok(Secure { stream, cipher })
}

/// A peer that has another key hangs up.
fn refused(error: io::Error) -> SecureError {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset => SecureError::Key,
        _ => error.into(),
    }
}

/// Answers: the handshake of the end that accepted `stream`, which is called `me`. `key_of` gives the key of a peer.
///
/// # Errors
///
/// [`SecureError`]; the other end learns no more than that it was hung up on.
pub fn answer(
    mut stream: TcpStream,
    me: &str,
    key_of: impl FnOnce(&str) -> Option<Key>,
) -> Result<(Preamble, Secure), SecureError> {
    prepare(&stream)?;
    let preamble = match Preamble::read(&mut InTime::of(&stream)) {
        Err(SecureError::Version(version)) => {
            // So that the other end can tell what is wrong; nothing is lost if it does not listen.
            let _ = stream.write_all(&reply());
            return Err(SecureError::Version(version));
        }
        other => other?,
    };
    if preamble.to != me {
        return Err(SecureError::NotMe(preamble.to));
    }
    let key = key_of(&preamble.from).ok_or_else(|| SecureError::Unknown(preamble.from.clone()))?;
    stream.write_all(&reply())?;
    let mut noise =
        builder(&preamble.write(), &key)?.build_responder().map_err(|_| SecureError::Key)?;
    let mut room = [0; 256];
    let first = take(&mut InTime::of(&stream))?;
    prepare(&stream)?;
    noise.read_message(&first, &mut room).map_err(|_| SecureError::Key)?;
    let len = noise.write_message(&[], &mut room).map_err(|_| SecureError::Key)?;
    put(&mut stream, &room[..len])?;
    let cipher = noise.into_stateless_transport_mode().map_err(|_| SecureError::Key)?;
    Ok((preamble, Secure { stream, cipher }))
}

/// What was said in the open is part of the handshake: whoever changes it on the way ends it.
fn builder<'b>(said: &'b [u8], key: &'b Key) -> Result<snow::Builder<'b>, SecureError> {
    let params = PATTERN.parse().map_err(|_| SecureError::Key)?;
    let builder = snow::Builder::new(params).prologue(said).and_then(|with| with.psk(0, &key.0));
    builder.map_err(|_| SecureError::Key)
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))
}

/// Sends a message with its length before it.
fn put(stream: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut bytes = (message.len() as u16).to_le_bytes().to_vec();
    bytes.extend(message);
    stream.write_all(&bytes)
}

fn take(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut message = vec![0; u16::from_le_bytes(array::<2>(stream)?).into()];
    stream.read_exact(&mut message)?;
    Ok(message)
}

/// The sending direction of a connection.
pub struct Sender<'a> {
    secure: &'a Secure,
    nonce: u64,
}

/// The receiving direction.
pub struct Receiver<'a> {
    secure: &'a Secure,
    nonce: u64,
}

impl Secure {
    /// Both directions, which two threads may use.
    pub fn split(&self) -> (Sender<'_>, Receiver<'_>) {
        (Sender { secure: self, nonce: 0 }, Receiver { secure: self, nonce: 0 })
    }
}

impl Sender<'_> {
    /// Sends a message.
    ///
    /// # Errors
    ///
    /// Those of the stream; `InvalidInput` if it is longer than 65519 bytes.
    pub fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let mut sealed = vec![0; (message.len() + TAG).min(MOST)];
        let len = self
            .secure
            .cipher
            .write_message(self.nonce, message, &mut sealed)
            .map_err(|_| io::Error::from(ErrorKind::InvalidInput))?;
        self.nonce += 1;
        put(&mut &self.secure.stream, &sealed[..len])
    }
}

impl Receiver<'_> {
    /// Waits for a message, as long as the stream's time-out allows.
    ///
    /// # Errors
    ///
    /// Those of the stream; `InvalidData` for what the other end has not sealed.
    pub fn receive(&mut self) -> io::Result<Vec<u8>> {
        let sealed = take(&mut &self.secure.stream)?;
        let mut message = vec![0; sealed.len()];
        let len = self
            .secure
            .cipher
            .read_message(self.nonce, &sealed, &mut message)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "a message was forged"))?;
        self.nonce += 1;
        message.truncate(len);
        Ok(message)
    }
}

/// Whether an error only means that nothing has come in time.
pub fn is_timeout(error: &io::Error) -> bool {
    let again = error.raw_os_error().map(Errno::from_raw_os_error) == Some(Errno::AGAIN);
    again || matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// Help for unit tests of this crate.
#[cfg(test)]
pub mod testing {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// A key of one byte, in hexadecimal digits, again and again.
    pub fn key(byte: &str) -> Key {
        Key::parse(&byte.repeat(32)).unwrap()
    }

    /// Both ends of a connection.
    pub fn pair() -> (Secure, Secure) {
        let (one, other) = meet("b", key("ab"), Some(key("ab")));
        (one.unwrap(), other.unwrap().1)
    }

    /// What became of both ends when a daemon called "a" called "b", which has this key for it.
    #[allow(clippy::type_complexity)] // reason: two results
    pub fn meet(
        to: &str,
        ours: Key,
        theirs: Option<Key>,
    ) -> (Result<Secure, SecureError>, Result<(Preamble, Secure), SecureError>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let preamble = Preamble {
            version: VERSION,
            purpose: Purpose::Control,
            from: "a".into(),
            to: to.into(),
        };
        let dialler =
            thread::spawn(move || dial(TcpStream::connect(address).unwrap(), &preamble, &ours));
        let answered = answer(listener.accept().unwrap().0, "b", |_| theirs);
        (dialler.join().unwrap(), answered)
    }
}

#[cfg(test)]
mod tests {
    use super::testing::{key, meet};
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn both_ends_understand_each_other_if_they_have_the_same_key() {
        let (one, other) = meet("b", key("ab"), Some(key("AB")));
        let (one, (preamble, other)) = (one.unwrap(), other.unwrap());
        assert_eq!((preamble.from.as_str(), preamble.purpose), ("a", Purpose::Control));
        let ((mut send, mut receive), (mut send_back, mut receive_there)) =
            (one.split(), other.split());
        for n in 0..100usize {
            let message = vec![n as u8; n * 600];
            send.send(&message).unwrap();
            assert_eq!(receive_there.receive().unwrap(), message);
            send_back.send(&message).unwrap();
            assert_eq!(receive.receive().unwrap(), message);
        }
    }

    #[test]
    fn nobody_gets_in_without_the_key() {
        let (one, other) = meet("b", key("ab"), Some(key("ac")));
        assert!(matches!(other, Err(SecureError::Key)), "{other:?}");
        assert!(matches!(one, Err(SecureError::Key)), "{one:?}");
        let (_, other) = meet("b", key("ab"), None);
        assert!(matches!(other, Err(SecureError::Unknown(name)) if name == "a"));
        let (_, other) = meet("c", key("ab"), Some(key("ab")));
        assert!(matches!(other, Err(SecureError::NotMe(name)) if name == "c"));
    }

    #[test]
    fn other_programs_and_other_versions_are_told_apart() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let hear = |bytes: &[u8]| {
            let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            stream.write_all(bytes).unwrap();
            drop(stream);
            answer(listener.accept().unwrap().0, "b", |_| Some(key("ab"))).map(|_| ())
        };
        assert!(matches!(hear(b"GET / HTTP/1.1\r\n"), Err(SecureError::Stranger)));
        assert!(matches!(hear(b"vNICwire\x02\x01\x00"), Err(SecureError::Version(258))));
        assert!(matches!(hear(b"vNICwire\x01\x00\x07"), Err(SecureError::Stranger)));
        assert!(matches!(hear(b"vNICwire\x01\x00\x00\xff"), Err(SecureError::Stranger)));
        assert!(matches!(hear(b"vNIC"), Err(SecureError::Io(_))));
    }

    #[test]
    fn a_caller_that_dribbles_is_hung_up_on() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let dribbler = std::thread::spawn(move || {
            let (from, to) = ("a".repeat(MAX_NAME), "b".repeat(MAX_NAME));
            let preamble = Preamble { version: VERSION, purpose: Purpose::Control, from, to };
            for byte in preamble.write() {
                if stream.write_all(&[byte]).is_err() {
                    break;
                }
                std::thread::sleep(PATIENCE / 20);
            }
        });
        let since = Instant::now();
        let answered = answer(listener.accept().unwrap().0, "b", |_| Some(key("ab")));
        assert!(matches!(answered, Err(SecureError::Io(_))), "{answered:?}");
        assert!(since.elapsed() < 3 * PATIENCE, "each byte was given time of its own");
        dribbler.join().unwrap();
    }

    #[test]
    fn what_was_changed_on_the_way_is_not_believed() {
        let (one, other) = meet("b", key("ab"), Some(key("ab")));
        let (one, (_, other)) = (one.unwrap(), other.unwrap());
        let mut sealed = vec![0; 64];
        let len = one.cipher.write_message(0, b"hello", &mut sealed).unwrap();
        sealed[3] ^= 1;
        put(&mut &one.stream, &sealed[..len]).unwrap();
        assert_eq!(other.split().1.receive().unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn a_key_is_64_hexadecimal_digits() {
        assert!(Key::parse(&format!(" {}\n", "0f".repeat(32))).is_some());
        for bad in ["", "0f", &"0g".repeat(32), &"+f".repeat(32), &"0f".repeat(33), &"é".repeat(32)]
        {
            assert!(Key::parse(bad).is_none(), "{bad}");
        }
        assert_eq!(format!("{:?}", key("ab")), "Key(..)");
    }
}
