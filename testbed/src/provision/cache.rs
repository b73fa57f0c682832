// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Built things, kept by the hash of what they were built from.
//!
//! A thing is built under a temporary name and renamed when it is whole, so an interrupted build
//! never looks finished. A lock per thing lets a second run wait for the first instead of
//! building the same twice.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::error::{Doing, Error, Result};

/// Hash of the inputs of a build.
#[derive(Debug, Clone)]
pub struct Key(Sha256);

impl Key {
    /// Starts a key; `kind` and `version` tell this build from others of the same inputs.
    pub fn new(kind: &str, version: u32) -> Self {
        Self(Sha256::new()).text(kind).text(&version.to_string())
    }

    /// Adds a text.
    #[must_use]
    pub fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    /// Adds bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        // With its length first, so that no two lists of inputs hash the same.
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// Adds a file's content, or names and contents of all files under a folder.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn path(mut self, path: &Path) -> Result<Self> {
        for entry in WalkDir::new(path).sort_by_file_name() {
            let entry = entry.map_err(|error| Error::Io {
                doing: format!("read {}", path.display()),
                source: error.into(),
            })?;
            if entry.file_type().is_file() {
                let name = entry.path().strip_prefix(path).unwrap_or(entry.path());
                let content = fs::read(entry.path()).at("read", entry.path())?;
                self = self.text(&name.to_string_lossy()).bytes(&content);
            }
        }
        Ok(self)
    }

    /// The first 16 hexadecimal digits.
    pub fn digits(&self) -> String {
        self.0.clone().finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// A folder of built things.
#[derive(Debug, Clone)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// `$XDG_CACHE_HOME/tongtu-vnic`, or `~/.cache/tongtu-vnic`.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open() -> Result<Self> {
        let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
        let base = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
        let base = base.or_else(home).ok_or_else(|| {
            Error::unfit(
                "neither XDG_CACHE_HOME nor HOME is set",
                "Set one to a folder to build in.",
            )
        })?;
        Self::at(base.join("tongtu-vnic"))
    }

    /// A cache in a folder of the caller's choice.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn at(folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder).at("make", &folder)?;
        Ok(Self { folder })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of the thing `kind` built from the inputs in `key`; `build` fills it when it is
    /// not there yet.
    ///
    /// # Errors
    /// Those of `build`, after which the next call starts anew.
    pub fn get(
        &self,
        kind: &str,
        key: &Key,
        build: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let name = format!("{kind}-{}", key.digits());
        let built = self.folder.join(&name);
        if built.exists() {
            return Ok(built);
        }
        let _lock = self.lock(&name)?;
        if built.exists() {
            return Ok(built);
        }
        let unfinished = self.folder.join(format!("{name}.unfinished"));
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).at("remove", &unfinished)?;
        }
        fs::create_dir(&unfinished).at("make", &unfinished)?;
        build(&unfinished)?;
        fs::rename(&unfinished, &built).at("finish", &built)?;
        Ok(built)
    }

    /// Waits until no other process holds the lock `name`, and holds it until the file is closed.
    ///
    /// # Errors
    /// When the lock file cannot be made.
    pub fn lock(&self, name: &str) -> Result<File> {
        let path = self.folder.join(format!("{name}.lock"));
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.at("open", &path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            eprintln!("waiting for another run that holds {}", path.display());
            flock(&file, FlockOperation::LockExclusive).at("lock", &path)?;
        }
        Ok(file)
    }

    /// The file that keeps the output of building `kind`.
    pub fn log(&self, kind: &str) -> PathBuf {
        self.folder.join(format!("{kind}.log"))
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicU32, Ordering},
        thread,
    };

    use super::*;

    fn cache() -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::at(folder.path().join("cache")).unwrap();
        (folder, cache)
    }

    #[test]
    fn a_failed_build_is_not_kept_and_the_next_starts_clean() {
        let (_folder, cache) = cache();
        let key = Key::new("thing", 1);
        let failed = cache.get("thing", &key, |at| {
            fs::write(at.join("half"), "").unwrap();
            Err(Error::unfit("broken", "Mend it."))
        });
        assert!(failed.is_err());
        let built = cache.get("thing", &key, |at| {
            assert!(!at.join("half").exists());
            fs::write(at.join("whole"), "").at("write", at)
        });
        assert!(built.unwrap().join("whole").exists());
    }

    #[test]
    fn two_runs_build_once() {
        let (_folder, cache) = cache();
        let built = AtomicU32::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let key = Key::new("thing", 1).text("input");
                    // Relaxed: joining the scope orders the count before the assertion.
                    let build = |_: &Path| {
                        built.fetch_add(1, Ordering::Relaxed);
                        Ok(())
                    };
                    cache.get("thing", &key, build).unwrap();
                });
            }
        });
        assert_eq!(built.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn keys_tell_inputs_apart() {
        let digits = |parts: &[&str]| {
            parts.iter().fold(Key::new("k", 1), |key, part| key.text(part)).digits()
        };
        assert_ne!(digits(&["ab", "c"]), digits(&["a", "bc"]));
        assert_ne!(digits(&["a"]), digits(&["a", ""]));
        assert_eq!(digits(&["a"]), digits(&["a"]));
        assert_ne!(Key::new("k", 1).digits(), Key::new("k", 2).digits());
    }

    #[test]
    fn a_folder_key_follows_names_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let digits = || Key::new("k", 1).path(folder.path()).unwrap().digits();
        fs::write(folder.path().join("a"), "1").unwrap();
        let first = digits();
        fs::write(folder.path().join("a"), "2").unwrap();
        let second = digits();
        fs::rename(folder.path().join("a"), folder.path().join("b")).unwrap();
        let third = digits();
        assert!(first != second && second != third && first != third);
    }
}
