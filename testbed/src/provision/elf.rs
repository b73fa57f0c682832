// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Which shared libraries a program needs.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use crate::error::{Doing, Error, Result};

/// Where Debian's dynamic loader looks, below the root.
const LIBRARY_FOLDERS: &[&str] = &["usr/lib/x86_64-linux-gnu", "usr/lib", "usr/lib64"];

/// The libraries and loaders that `files` need, directly or not, relative to `root`.
/// Files that are not ELF need nothing.
pub(super) fn needed(
    root: &Path,
    files: impl IntoIterator<Item = PathBuf>,
) -> Result<BTreeSet<PathBuf>> {
    let mut found = BTreeSet::new();
    let mut queue = files.into_iter().collect::<Vec<_>>();
    while let Some(file) = queue.pop() {
        let content = fs::read(root.join(&file)).at("read", &root.join(&file))?;
        if !content.starts_with(b"\x7fELF") {
            continue;
        }
        let elf = goblin::elf::Elf::parse(&content)
            .map_err(std::io::Error::other)
            .at("parse", &root.join(&file))?;
        for name in elf.libraries {
            let library = LIBRARY_FOLDERS.iter().map(|folder| Path::new(folder).join(name));
            let library = library.into_iter().find(|path| root.join(path).exists());
            let library = library.ok_or_else(|| {
                Error::unfit(
                    format!("{} needs {name}, which the Debian root lacks", file.display()),
                    "Add the package that holds it to the root's packages.",
                )
            })?;
            if found.insert(library.clone()) {
                queue.push(library);
            }
        }
    }
    Ok(found)
}
