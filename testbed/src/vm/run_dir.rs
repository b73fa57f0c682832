// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The folder of one run: sockets and logs, removed at its end.

use std::{
    env,
    path::{Path, PathBuf},
};

use crate::{
    error::{Doing, Error, Result},
    process::cleanup,
};

/// Bytes in the address of a Unix socket, with the zero that ends it.
const SOCKET_PATH_LIMIT: usize = 108;

/// A temporary folder that is gone when this is dropped, or on Ctrl-C.
#[derive(Debug)]
pub struct RunDir {
    // Dropped first: an interrupt in between finds the folder still listed.
    folder: tempfile::TempDir,
    _registered: cleanup::Registered,
}

impl RunDir {
    /// Makes one below `XDG_RUNTIME_DIR`, or the folder for temporary files.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        let runtime =
            env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let base = runtime.unwrap_or_else(env::temp_dir);
        let folder = tempfile::Builder::new().prefix("vnic-").tempdir_in(&base);
        let folder = folder.at("make a folder in", &base)?;
        let registered = cleanup::folder(folder.path().into());
        Ok(Self { folder, _registered: registered })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// The path of a socket in it.
    ///
    /// # Errors
    /// When it is longer than the address of a socket can be.
    pub fn socket(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        if path.as_os_str().len() < SOCKET_PATH_LIMIT {
            return Ok(path);
        }
        Err(Error::unfit(
            format!("{} is too long for the address of a socket", path.display()),
            "Set XDG_RUNTIME_DIR or TMPDIR to a folder with a shorter name.",
        ))
    }
}
