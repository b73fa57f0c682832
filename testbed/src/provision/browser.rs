// SPDX-License-Identifier: Apache-2.0 OR MIT
//! A browser, for tests of what is made for browsers.

use std::{
    env,
    path::{Path, PathBuf},
};

use super::{cache::Cache, host};
use crate::error::{Error, Result};

/// Names under which Chromium and its relatives are installed.
const PROGRAMS: [&str; 4] =
    ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];

/// What Debian calls the browser, and letters for it to write with.
const PACKAGES: [&str; 2] = ["chromium", "fonts-dejavu-core"];

/// Finds a browser, or installs one.
///
/// # Errors
/// When there is none and it cannot be installed, as without root rights or on another system than Debian.
pub fn find() -> Result<PathBuf> {
    if let Some(program) = installed() {
        return Ok(program);
    }
    let cache = Cache::open()?;
    let _lock = cache.lock("host-packages")?;
    host::install(&cache, &PACKAGES)?;
    installed().ok_or_else(|| {
        Error::unfit("the package chromium has no program `chromium` in it", "Install it by hand.")
    })
}

fn installed() -> Option<PathBuf> {
    let folders = env::split_paths(&env::var_os("PATH")?).collect::<Vec<_>>();
    let places = PROGRAMS.iter().flat_map(|name| folders.iter().map(move |at| at.join(name)));
    places.into_iter().find(|path: &PathBuf| Path::is_file(path))
}
