// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Asks a running daemon.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{Report, Request, Response};

/// How long the daemon may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a daemon did not answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is no socket, or nobody listens on it.
    #[error("no daemon answers on {}: is `vnic run` running, and with this --control?", path.display())]
    NotRunning {
        /// Path of the control socket.
        path: PathBuf,
    },
    /// The connection failed.
    #[error("cannot talk to the daemon on {}: {cause}", path.display())]
    Io {
        /// Path of the control socket.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The answer makes no sense here.
    #[error("the daemon's answer is not understood; is it of another version? ({0})")]
    Answer(#[from] serde_json::Error),
    /// The daemon did not like the question.
    #[error("the daemon refuses: {0}")]
    Refused(String),
}

/// Asks the daemon that listens on control socket `path` for its state.
///
/// # Errors
///
/// See [`ClientError`].
pub fn query(path: &Path) -> Result<Report, ClientError> {
    let stream = UnixStream::connect(path).map_err(|cause| match cause.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
            ClientError::NotRunning { path: path.to_owned() }
        }
        _ => ClientError::Io { path: path.to_owned(), cause },
    })?;
    let answer = ask(&stream).map_err(|cause| ClientError::Io { path: path.to_owned(), cause })?;
    match serde_json::from_str(&answer)? {
        Response::Status(report) => Ok(report),
        Response::Error(error) => Err(ClientError::Refused(error)),
    }
}

fn ask(mut stream: &UnixStream) -> io::Result<String> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut request = serde_json::to_vec(&Request::Status {})?;
    request.push(b'\n');
    stream.write_all(&request)?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    Ok(answer)
}
