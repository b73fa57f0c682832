// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Length-prefixed frames: four bytes of little-endian length, then that many bytes of postcard.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

/// Longest body of a frame in bytes. Larger content is sent in several frames.
pub const MAX_BODY: usize = 1 << 20;

/// Content bytes that one frame of a file or of a stream carries.
pub const CHUNK: usize = 64 << 10;

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream failed.
    #[error("the channel failed: {0}")]
    Io(#[from] io::Error),
    /// The stream ended inside a frame.
    #[error("the channel ended inside a frame, after {got} of {want} bytes")]
    Truncated {
        /// Bytes that arrived.
        got: usize,
        /// Bytes that the frame needs.
        want: usize,
    },
    /// The length is over [`MAX_BODY`]: the two ends are out of step, or the peer is broken.
    #[error("a frame of {0} bytes is over the limit of {MAX_BODY}")]
    TooLong(usize),
    /// The body is not a message.
    #[error("a frame does not hold a message: {0}")]
    Malformed(postcard::Error),
}

/// Writes one message and flushes it.
///
/// # Errors
/// [`FrameError::TooLong`] leaves the stream untouched; any other error leaves it unusable.
pub fn write<T: Serialize>(stream: &mut impl Write, message: &T) -> Result<(), FrameError> {
    let mut frame = vec![0; 4];
    frame = postcard::to_extend(message, frame).map_err(FrameError::Malformed)?;
    let body = frame.len() - 4;
    let length =
        u32::try_from(body).ok().filter(|_| body <= MAX_BODY).ok_or(FrameError::TooLong(body))?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    stream.write_all(&frame)?;
    stream.flush()?;
    Ok(())
}

/// Reads one message; `None` when the stream ends between frames.
///
/// # Errors
/// After any error the stream is out of step and must be given up.
pub fn read<T: DeserializeOwned>(stream: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut length = [0; 4];
    match fill(stream, &mut length)? {
        0 => return Ok(None),
        4 => {}
        got => return Err(FrameError::Truncated { got, want: 4 }),
    }
    let want = u32::from_le_bytes(length) as usize;
    // Checked before the allocation: a broken length must not cost memory.
    if want > MAX_BODY {
        return Err(FrameError::TooLong(want));
    }
    let mut body = vec![0; want];
    let got = fill(stream, &mut body)?;
    if got < want {
        return Err(FrameError::Truncated { got, want });
    }
    let (message, rest) = postcard::take_from_bytes(&body).map_err(FrameError::Malformed)?;
    if !rest.is_empty() {
        return Err(FrameError::Malformed(postcard::Error::DeserializeBadEncoding));
    }
    Ok(Some(message))
}

/// Fills `buffer` as far as the stream reaches.
fn fill(stream: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buffer.len() {
        match stream.read(&mut buffer[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::{Body, Request, Start, To};

    fn start(argv: Vec<String>, stdin: Vec<u8>) -> To<Request> {
        let start =
            Start { argv, env: vec![("A".into(), "b".into())], cwd: None, stdin: stdin.into() };
        To { id: 7, body: Request::Start(start) }
    }

    proptest! {
        #[test]
        fn messages_survive_the_wire(
            argv in proptest::collection::vec(".*", 0..5),
            stdin in proptest::collection::vec(any::<u8>(), 0..2000),
            split in 1usize..64,
        ) {
            let sent = start(argv, stdin);
            let mut wire = Vec::new();
            write(&mut wire, &sent).unwrap();
            write(&mut wire, &sent).unwrap();
            // A stream delivers what it likes: read in pieces of `split` bytes.
            let mut pieces = Pieces { bytes: &wire, size: split };
            for _ in 0..2 {
                let got = read::<To<Request>>(&mut pieces).unwrap();
                prop_assert_eq!(got.as_ref(), Some(&sent));
            }
            prop_assert!(read::<To<Request>>(&mut pieces).unwrap().is_none());
        }

        #[test]
        fn a_cut_frame_is_an_error_and_never_a_message(cut in 1usize..40) {
            let mut wire = Vec::new();
            write(&mut wire, &start(vec!["echo".into(), "hello".into()], vec![1; 30])).unwrap();
            let cut = cut.min(wire.len() - 1);
            let error = read::<To<Request>>(&mut &wire[..cut]).unwrap_err();
            let truncated = matches!(error, FrameError::Truncated { .. });
            prop_assert!(truncated, "{}", error);
        }

        #[test]
        fn noise_never_panics(noise in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut stream = noise.as_slice();
            while let Ok(Some(_)) = read::<To<Request>>(&mut stream) {}
        }
    }

    #[test]
    fn an_oversized_length_is_refused_without_reading_on() {
        let wire = u32::MAX.to_le_bytes();
        let error = read::<To<Request>>(&mut wire.as_slice()).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)), "{error}");
    }

    #[test]
    fn an_oversized_message_is_not_sent() {
        let mut wire = Vec::new();
        let body = Request::Write {
            path: "/x".into(),
            mode: 0o644,
            append: false,
            data: Body::from(vec![0; MAX_BODY + 1]),
        };
        let error = write(&mut wire, &To { id: 1, body }).unwrap_err();
        assert!(matches!(error, FrameError::TooLong(_)), "{error}");
        assert!(wire.is_empty());
    }

    #[test]
    fn bytes_after_the_message_are_an_error() {
        let mut wire = Vec::new();
        write(&mut wire, &To { id: 1, body: Request::Ping }).unwrap();
        wire.push(0);
        let length = wire.len() as u32 - 4;
        wire[..4].copy_from_slice(&length.to_le_bytes());
        let error = read::<To<Request>>(&mut wire.as_slice()).unwrap_err();
        assert!(matches!(error, FrameError::Malformed(_)), "{error}");
    }

    struct Pieces<'a> {
        bytes: &'a [u8],
        size: usize,
    }

    impl Read for Pieces<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let n = buffer.len().min(self.size).min(self.bytes.len());
            let (now, later) = self.bytes.split_at(n);
            buffer[..n].copy_from_slice(now);
            self.bytes = later;
            Ok(n)
        }
    }
}
