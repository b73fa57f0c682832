// SPDX-License-Identifier: Apache-2.0 OR MIT
//! Kernel modules for the guests, built in the root against its kernel headers.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
};

use walkdir::WalkDir;

use super::{
    cache::{Cache, Key},
    kernel::Kernel,
    logged,
    progress::Step,
    root::{Access, Root},
};
use crate::error::{Doing, Error, Result};

/// Builds the modules of the folder `source`, which holds a Kbuild `Makefile` (or `Kbuild`) and is
/// left untouched, or finds those built before. Returns the `.ko` files.
pub(super) fn build(
    cache: &Cache,
    root: &Root,
    kernel: &Kernel,
    name: &str,
    source: &Path,
) -> Result<Vec<PathBuf>> {
    let key = Key::new("kmod", 1).text(&root.key()).text(&kernel.release).path(source)?;
    let folder = cache.get(&format!("kmod-{name}"), &key, |at| {
        let step = Step::start(format!("building {name} for {}", kernel.release));
        let work = at.join("work");
        copy_tree(source, &work)?;
        let headers = format!("/lib/modules/{}/build", kernel.release);
        let jobs = format!("-j{}", thread::available_parallelism().map_or(1, usize::from));
        let inside = root.inside().mount(&work, "work", Access::ReadWrite);
        let arguments = [jobs.as_str(), "-C", &headers, "M=/host/work", "modules"];
        let command = inside.command("make", &arguments);
        let log = cache.log(&format!("kmod-{name}"));
        logged::run(command, &format!("building {name} for {}", kernel.release), &log, &step)?;
        for module in modules_in(&work)? {
            let to = at.join(module.file_name().unwrap_or_default());
            fs::copy(&module, &to).at("copy", &module)?;
        }
        fs::remove_dir_all(&work).at("remove", &work)?;
        step.done();
        Ok(())
    })?;
    let modules = modules_in(&folder)?;
    if modules.is_empty() {
        return Err(Error::unfit(
            format!("{} builds no module", source.display()),
            "Its Makefile must name one in obj-m.",
        ));
    }
    Ok(modules)
}

fn modules_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in WalkDir::new(folder).sort_by_file_name() {
        let entry = entry.map_err(std::io::Error::from).at("read", folder)?;
        if entry.path().extension() == Some("ko".as_ref()) {
            found.push(entry.into_path());
        }
    }
    Ok(found)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from).follow_links(true) {
        let entry = entry.map_err(std::io::Error::from).at("read", from)?;
        let target = to.join(entry.path().strip_prefix(from).unwrap_or(Path::new("")));
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target).at("make", &target)?;
        } else {
            fs::copy(entry.path(), &target).at("copy", entry.path())?;
        }
    }
    Ok(())
}
