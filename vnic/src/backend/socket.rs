// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Takes over the path of a listening socket.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Why there is no socket. Each message names the way out.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// The directory is missing.
    #[error("directory {} does not exist: create it, or choose another path for the socket", .0.display())]
    NoDirectory(PathBuf),
    /// Another process answers there.
    #[error("another process listens on {}: stop it, or choose another path", .0.display())]
    InUse(PathBuf),
    /// Something else has that name.
    #[error("{} exists and is not a socket: remove it, or choose another path", .0.display())]
    NotASocket(PathBuf),
    /// The path does not fit into a socket address.
    #[error("the path {} is too long for a UNIX socket (107 bytes at most): choose a shorter one", .0.display())]
    TooLong(PathBuf),
    /// The system refuses.
    #[error("cannot listen on {}: {cause}", path.display())]
    Io {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
}

/// A listening socket that removes its path when dropped.
#[derive(Debug)]
pub struct BoundSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the socket that was bound, so that no other is removed.
    identity: Option<(u64, u64)>,
}

impl BoundSocket {
    /// Listens on `path`, in place of a socket that nobody listens on any more.
    ///
    /// # Errors
    ///
    /// See [`SocketError`].
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let io_error = |cause| SocketError::Io { path: path.to_owned(), cause };
        if rustix::net::SocketAddrUnix::new(path).is_err() {
            return Err(SocketError::TooLong(path.to_owned()));
        }
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.is_dir() {
            return Err(SocketError::NoDirectory(parent.to_owned()));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(_) => return Err(SocketError::InUse(path.to_owned())),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    fs::remove_file(path).map_err(io_error)?;
                }
                Err(error) => return Err(io_error(error)),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io_error(error)),
        }
        let listener = UnixListener::bind(path).map_err(io_error)?;
        Ok(Self { listener, path: path.to_owned(), identity: identity(path) })
    }

    /// The socket.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        if self.identity.is_some() && self.identity == identity(&self.path) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    fs::symlink_metadata(path).ok().map(|found| (found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_removed_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists());
        let bound = BoundSocket::bind(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(bound);
        assert!(!path.exists());
    }

    #[test]
    fn a_socket_in_use_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let first = BoundSocket::bind(&path).unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::InUse(_))));
        UnixStream::connect(&path).unwrap();
        drop(first);
    }

    #[test]
    fn only_sockets_are_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("precious");
        fs::write(&path, "data").unwrap();
        assert!(matches!(BoundSocket::bind(&path), Err(SocketError::NotASocket(_))));
        assert_eq!(fs::read(&path).unwrap(), b"data");
        let missing = dir.path().join("no/such/dir/s");
        assert!(matches!(BoundSocket::bind(&missing), Err(SocketError::NoDirectory(_))));
        let long = dir.path().join("x".repeat(120));
        assert!(matches!(BoundSocket::bind(&long), Err(SocketError::TooLong(_))));
    }

    #[test]
    fn a_socket_that_took_our_place_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let ours = BoundSocket::bind(&path).unwrap();
        fs::rename(&path, dir.path().join("moved")).unwrap();
        let theirs = UnixListener::bind(&path).unwrap();
        drop(ours);
        assert!(path.exists());
        drop(theirs);
    }
}
