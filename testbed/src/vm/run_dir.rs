// SPDX-License-Identifier: Apache-2.0 OR MIT
//! The folder of one run: sockets and logs, removed at its end.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{
    error::{Doing, Error, Result},
    process::cleanup,
};

/// Bytes in the address of a Unix socket, with the zero that ends it.
const SOCKET_PATH_LIMIT: usize = 108;

/// Start of the names of these folders.
const PREFIX: &str = "vnic-run-";

/// File in the folder that is locked while its owner lives.
const ALIVE: &str = "alive";

/// A temporary folder that is gone when this is dropped, or on Ctrl-C. What a killed process
/// leaves behind, the next one removes.
#[derive(Debug)]
pub struct RunDir {
    // Dropped first: an interrupt in between finds the folder still listed.
    folder: tempfile::TempDir,
    _alive: File,
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
        remove_abandoned(&base);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(&base);
        let folder = folder.at("make a folder in", &base)?;
        let registered = cleanup::folder(folder.path().into());
        // Locked before it has its name, or another process could take the lock for lost.
        let unnamed = folder.path().join("beginning");
        let alive = File::create(&unnamed).at("make", &unnamed)?;
        flock(&alive, FlockOperation::LockExclusive).at("lock", &unnamed)?;
        fs::rename(&unnamed, folder.path().join(ALIVE)).at("rename", &unnamed)?;
        Ok(Self { folder, _alive: alive, _registered: registered })
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

/// Removes the folders whose owner is gone. Those of other users cannot be opened, and stay.
fn remove_abandoned(base: &Path) {
    let Ok(entries) = fs::read_dir(base) else { return };
    for entry in entries.flatten() {
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Without the file, its owner has only just begun.
        let Ok(alive) = File::options().write(true).open(entry.path().join(ALIVE)) else {
            continue;
        };
        if flock(&alive, FlockOperation::NonBlockingLockExclusive).is_ok() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_abandoned_folders_are_removed() {
        let base = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let folder = base.path().join(format!("{PREFIX}{name}"));
            fs::create_dir(&folder).unwrap();
            (File::create(folder.join(ALIVE)).unwrap(), folder)
        };
        let (_, abandoned) = make("abandoned");
        let (alive, used) = make("used");
        flock(&alive, FlockOperation::LockExclusive).unwrap();
        let (_, beginning) = make("beginning");
        fs::remove_file(beginning.join(ALIVE)).unwrap();
        remove_abandoned(base.path());
        assert!(!abandoned.exists());
        assert!(used.exists() && beginning.exists());
    }
}
